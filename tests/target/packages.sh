#!/usr/bin/env bash
# packages.sh [demo|bench|cluster]: installs what the tests need, or the demo alone, or the tests and the benchmark or
# the test cluster, on Debian or Ubuntu, unless it is there already.
set -euo pipefail

python=${PYTHON:-python3}
packages=(
    podman crun netavark aardvark-dns uidmap             # the build pulls and saves with podman
    docker-registry                                      # from a real registry
    mmdebstrap debian-archive-keyring systemd-container  # target machines and stand-in images
    python3-venv git xz-utils gzip
    binutils                                             # PyInstaller strips what it freezes
)
if [ "${1:-}" != demo ]; then
    packages+=(
        docker.io         # docker must take the archive, too
        squashfs-tools    # image stores
        openssh-client    # Ansible
        zstd age          # backups are opened by standard tools
        postgresql redis-server   # a company's own, beside Dify
        python3-swift             # an S3 server (OpenStack Swift), likewise
        make patch perl   # the bootloader, and the portable Python where none is given
    )
fi
if [ "${1:-}" = bench ]; then
    packages+=(skopeo)    # sends images into a registry by hand
fi
if [ "${1:-}" = cluster ]; then
    packages+=(
        etcd-server containerd runc containernetworking-plugins
        catatonit               # the first process of the node and of each pod
        dnsmasq-base            # names of Services
        conntrack iptables      # kube-proxy
        ipset                   # network policies
        curl iproute2 procps openssl
    )
fi
# Debian's own Python has its library in a package of its own, which PyInstaller needs to freeze it.
packages+=($("$python" -c '
import sys
from ctypes.util import find_library
name = "python%d.%d" % sys.version_info[:2]
print("" if sys.base_prefix != "/usr" or find_library(name) else "lib" + name)'))

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
export DEBIAN_FRONTEND=noninteractive
cd "$(dirname "$0")/../.."
echo "these packages are missing and are installed: ${missing[*]}"
exec "$python" -m tests.target.steps "installing ${#missing[@]} Debian packages" 30 .cache/packages.log \
    bash -c 'apt-get update && apt-get install -y --no-install-recommends "$@"' packages "${missing[@]}"
