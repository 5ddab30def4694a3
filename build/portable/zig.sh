# Sourced with $here and $work set: puts a C compiler for glibc 2.28 onto the path, as CC, AR and RANLIB.
#
# It is zig's (the wheel ziglang), which links against the symbols of any glibc version.
machine=$(uname -m)
mkdir -p "$work/bin"
echo "== downloading zig's compiler"
python3 -m venv "$work/zig"
"$work/zig/bin/pip" install --quiet --disable-pip-version-check --require-hashes --requirement "$here/zig.lock"
zig=$("$work/zig/bin/python" -c 'import pathlib, ziglang; print(pathlib.Path(ziglang.__file__).parent / "zig")')
export ZIG_GLOBAL_CACHE_DIR=$work/cache ZIG_LOCAL_CACHE_DIR=$work/cache

# Source on standard input ("-"): zig hands it straight to clang, which knows no glibc version in a target.
cat > "$work/bin/cc-portable" <<SCRIPT
#!/bin/sh
target=$machine-linux-gnu.2.28
for argument; do
    [ "\$argument" = - ] && target=$machine-linux-gnu
done
exec "$zig" cc -target "\$target" -fno-sanitize=undefined -Wno-date-time "\$@"
SCRIPT
for tool in ar ranlib; do
    printf '#!/bin/sh\nexec "%s" %s "$@"\n' "$zig" "$tool" > "$work/bin/$tool-portable"
done
chmod +x "$work"/bin/*
export PATH=$work/bin:$PATH CC=cc-portable AR=ar-portable RANLIB=ranlib-portable
export SOURCE_DATE_EPOCH=1735689600 LC_ALL=C TZ=UTC

# Lines that begin so tell whoever reads the log what goes on, and where objects are counted (build/portable_python.py).
phase() {
    echo "== $*"
}
