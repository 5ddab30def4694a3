#!/usr/bin/env bash
# build.sh SOURCES PREFIX: CPython 3.13 with a shared libpython that needs glibc 2.28 and nothing else of a
# host: zlib, bzip2, xz, libffi and OpenSSL are linked in. About 8 minutes of processor time.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
sources=$(readlink -f "$1")
prefix=$(readlink -m "$2")
# Paths end up in the result (sysconfig): these are the same on every machine, so that the bytes are, too.
work=/var/tmp/portable-python
exec 9> "$work.lock"
flock 9
trap 'rm -rf "$work"' EXIT
rm -rf "$work"
mkdir -m 700 "$work"
home=/opt/py313
deps=$work/deps
mkdir -p "$deps/lib" "$deps/include"
source "$here/zig.sh"
export CFLAGS="-O2 -fPIC -g0 -fstack-protector-strong -ffile-prefix-map=$work=."

unpack() {  # unpack NAME PATTERN: into a folder of its own, and go there
    mkdir -p "$work/$1"
    tar -xf "$sources"/$2 -C "$work/$1" --strip-components=1
    cd "$work/$1"
    part=$((part + 1))
    phase "configuring $1, $part of 6"
}

compile() {  # compile NAME ARGUMENTS...: make, after a look at how many objects that will be
    local name=$1 count
    shift
    count=$(make --dry-run "$@" 2>/dev/null | grep -c -- ' -c ') || true
    phase "compiling $name, $part of 6, $count objects in $work/$name"
    make "-j$(nproc)" "$@"
}

part=0

unpack zlib 'zlib_*.orig.tar.gz'
./configure --static --prefix="$deps"
compile zlib libz.a
cp libz.a "$deps/lib"
cp zlib.h zconf.h "$deps/include"

unpack bzip2 'bzip2_*.orig.tar.gz'
compile bzip2 libbz2.a CC="$CC" AR="$AR" RANLIB="$RANLIB" CFLAGS="$CFLAGS -D_FILE_OFFSET_BITS=64"
cp libbz2.a "$deps/lib"
cp bzlib.h "$deps/include"

unpack xz 'xz-utils_*.orig.tar.xz'
./configure --prefix="$deps" --disable-shared --with-pic --disable-nls --disable-doc --disable-scripts \
    --disable-xz --disable-xzdec --disable-lzmadec --disable-lzmainfo
compile xz all
make install

# Trampolines in files of their own would need a folder that may be executed.
unpack libffi 'libffi_*.orig.tar.gz'
./configure --prefix="$deps" --libdir="$deps/lib" --disable-shared --with-pic --disable-docs \
    --disable-multi-os-directory --disable-exec-static-tramp
compile libffi all
make install

# A configuration folder that no host has: RHEL's openssl.cnf is written for Red Hat's patched library.
unpack openssl 'openssl_3.5*.orig.tar.gz'
./Configure "linux-$machine" no-shared no-tests no-apps no-docs no-dso no-engine no-module no-legacy \
    no-autoload-config --prefix=/nonexistent --openssldir=/nonexistent/ssl --libdir=lib -fPIC
compile openssl build_libs
cp libssl.a libcrypto.a "$deps/lib"
cp -r include/openssl "$deps/include"

unpack python 'python3.13_*.orig.tar.xz'
mkdir "$work/debian"
tar -xf "$sources"/python3.13_*.debian.tar.xz -C "$work/debian"
# Security fixes that Debian has put onto this version; its other patches are about Debian.
for patch in $(grep -E '^(CVE-|ssl-|dict-|traverse-)' "$work/debian/debian/patches/series"); do
    patch --silent --strip=1 --input="$work/debian/debian/patches/$patch"
done
env PKG_CONFIG=false ./configure --prefix="$home" --enable-shared --without-static-libpython \
    --disable-test-modules --without-ensurepip --with-openssl="$deps" --with-ssl-default-suites=openssl \
    --with-readline=no --with-dbmliborder= CPPFLAGS="-I$deps/include" LDFLAGS="-L$deps/lib" \
    ZLIB_CFLAGS="-I$deps/include" ZLIB_LIBS="-L$deps/lib -lz" \
    BZIP2_CFLAGS="-I$deps/include" BZIP2_LIBS="-L$deps/lib -lbz2" \
    LIBLZMA_CFLAGS="-I$deps/include" LIBLZMA_LIBS="-L$deps/lib -llzma" \
    LIBFFI_CFLAGS="-I$deps/include" LIBFFI_LIBS="-L$deps/lib -lffi" \
    OPENSSL_LIBS="-lssl -lcrypto -lpthread -ldl"
# zig's linker knows -soname and not its short form, and links no library out of libraries alone
# (libpython3.so, which nothing here needs).
sed -i 's/-Wl,-h\$/-Wl,-soname,$/' Makefile
options=(PY3LIBRARY= "LINKFORSHARED=-Xlinker -export-dynamic -Wl,-rpath,'\$\$ORIGIN/../lib'")
compile python "${options[@]}" all
phase "installing python"
make "${options[@]}" install DESTDIR="$work/installed"
# What is linked in has licences of its own, which go where the executable does: build/licenses.py.
licenses=$work/installed$home/licenses
mkdir "$licenses"
keep_license() {  # keep_license NAME FILE...: as NAME-VERSION/FILE
    local folder
    folder=$licenses/$1-$(basename "$sources"/$2 | sed -E 's/^[^_]+_(.*)\.orig\..*$/\1/; s/.*\+really//')
    mkdir "$folder"
    cp "${@:3}" "$folder"
}
cd "$work"
keep_license zlib 'zlib_*.orig.tar.gz' zlib/LICENSE
keep_license bzip2 'bzip2_*.orig.tar.gz' bzip2/LICENSE
keep_license xz 'xz-utils_*.orig.tar.xz' xz/COPYING xz/COPYING.0BSD
keep_license libffi 'libffi_*.orig.tar.gz' libffi/LICENSE
keep_license openssl 'openssl_3.5*.orig.tar.gz' openssl/LICENSE.txt
rm -rf "$prefix"
mkdir -p "$(dirname "$prefix")"
mv "$work/installed$home" "$prefix"
