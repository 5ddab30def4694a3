#!/usr/bin/env bash
# bootloader.sh FILE: PyInstaller's bootloader for hardened hosts, from its source package.
#
# bootloader.patch makes it unpack into a folder that may execute and has room: RHEL hosts hardened by
# CIS or STIG mount /tmp and /var/tmp noexec, where the ordinary one dies with "failed to map segment".
# With zlib linked in it needs nothing of a host but glibc.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
output=$(readlink -m "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
source "$here/zig.sh"
export PYI_STATIC_ZLIB=1

phase "downloading PyInstaller's sources"
# pip compiles a bootloader only to learn the package's metadata; ours is the one below.
python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-binary pyinstaller \
    --require-hashes --requirement "$here/bootloader.lock" --dest "$work"
tar -xf "$work"/pyinstaller-*.tar.gz -C "$work"
cd "$work"/pyinstaller-*/
patch --silent --strip=1 --input="$here/bootloader.patch"
cd bootloader
phase "compiling PyInstaller's bootloader"
python3 ./waf distclean configure all
install -m 755 ../PyInstaller/bootloader/Linux-*/run "$output"
