#!/usr/bin/env bash
# pack.sh PREFIX ARCHIVE: leaves out what no program needs, strips, and packs; the same bytes each time.
# What is unpacked runs from any folder.
set -euo pipefail

echo "== packing"
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -a "$1" "$copy/py313"
cd "$copy"
lib=py313/lib/python3.13
rm -rf "$lib"/{idlelib,turtledemo,tkinter,test,pydoc_data} "$lib"/config-3.13-* py313/share
rm -f py313/bin/{idle3,pydoc3}* py313/bin/python3*-config
find py313 -depth -type d -name __pycache__ -exec rm -r {} +
find py313 -type f \( -name '*.so' -o -name '*.so.1.0' -o -name python3.13 \) -exec strip --strip-unneeded {} +
tar --sort=name --mtime=@1735689600 --owner=0 --group=0 --numeric-owner --mode=u+rwX,go=rX,go-w --create py313 |
    xz --threads=1 -6e > "$2"
