#!/usr/bin/env bash
# Installs what the tests and the demo need, on Debian or Ubuntu, unless it is there already.
set -euo pipefail

packages=(
    podman crun netavark aardvark-dns uidmap             # the build pulls and saves with podman
    docker-registry                                      # from a real registry
    docker.io                                            # and docker must take the archive, too
    squashfs-tools                                       # image stores
    mmdebstrap debian-archive-keyring systemd-container  # target machines and stand-in images
    python3-venv git xz-utils gzip
    binutils make patch perl                             # the bootloader, and the portable Python where none is given
)

missing=()
for package in "${packages[@]}"; do
    dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "these packages are missing, and installing them needs root: ${missing[*]}" >&2
    exit 1
fi
echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
