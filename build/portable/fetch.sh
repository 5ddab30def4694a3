#!/usr/bin/env bash
# fetch.sh FOLDER: the sources of CPython and of the libraries that go into it, from Debian's archive.
# Upstream's tarballs are pinned in sources.sha256. What Debian adds to CPython, its security patches,
# follows Debian: the newest revision of the pinned upstream version.
# The machine's own apt configuration is read for its mirror, and otherwise left alone.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"

mirror() {
    if [ -n "${DEBIAN_MIRROR:-}" ]; then
        echo "$DEBIAN_MIRROR"
    elif grep -q '^ID=debian$' /etc/os-release; then
        apt-get indextargets --format '$(SITE)' | grep -v security | head -n 1
    else
        echo "this is not Debian: name a Debian mirror with DEBIAN_MIRROR=URL" >&2
        exit 1
    fi
}

private_apt() {
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg site
    [ -f "$keyring" ] || { echo "$keyring is missing: apt-get install debian-archive-keyring" >&2; exit 1; }
    site=$(mirror)
    mkdir -p apt/lists/partial apt/archives/partial
    for release in bookworm trixie; do
        echo "deb-src [signed-by=$keyring] $site $release main"
    done > apt/sources.list
    cat > apt/apt.conf <<CONF
Dir::Etc::SourceList "$PWD/apt/sources.list";
Dir::Etc::SourceParts "-";
Dir::State::Lists "$PWD/apt/lists";
Dir::Cache "$PWD/apt";
APT::Sandbox::User "root";
CONF
    export APT_CONFIG=$PWD/apt/apt.conf
    apt-get update -qq
}

# The index may name a revision that the mirror no longer has: try the next older one then.
newest() {
    local package=$1 upstream=$2 version
    for version in $(apt-cache showsrc --only-source "$package" | awk '$1 == "Version:" {print $2}' | grep -F "$upstream" | sort -rVu); do
        if apt-get source -qq --download-only "$package=$version" 2>/dev/null; then
            return
        fi
    done
    echo "Debian has no source of $package $upstream any more: update sources.sha256" >&2
    exit 1
}

echo "== downloading the sources"
private_apt
newest python3.13 3.13.5-
newest openssl 3.5.7-
newest zlib really1.3.1-
newest xz-utils 5.8.1-
newest bzip2 1.0.8-
newest libffi 3.4.4-
sha256sum --check --quiet "$here/sources.sha256"
