"""Makes RPMs of podman and what it needs from a Debian root, and takes podman away there: a host for the real dnf."""

from __future__ import annotations

import subprocess
from pathlib import Path

# RPM's name -> what it requires and the Debian packages whose files it holds; libraries stay where they are.
RPMS = {
    "podman": (("conmon", "netavark"), ("podman", "golang-github-containers-common")),
    "conmon": ((), ("conmon",)),
    "netavark": ((), ("netavark", "aardvark-dns")),
}
SPEC = """\
%global debug_package %{{nil}}
%global __os_install_post %{{nil}}
%global _build_id_links none
Name: {name}
Version: {version}
Release: 1
Summary: {name}
License: Apache-2.0
AutoReqProv: no
{requires}
%description
Files of Debian's package.
%install
mkdir -p %{{buildroot}}
cd / && tar -cf - -T /srv/{name}.files | tar -xf - -C %{{buildroot}}
%files -f /srv/{name}.files
"""
FOLDER = "/srv/rpms"
# The key that the RPMs are signed with: rpm does not know it until it is imported.
KEY = "/srv/RPM-GPG-KEY-test"
SIGNER = "Packages of the tests"
REPOSITORY = "[medium]\nname=An installation medium\nbaseurl=file:///srv/rpms\nenabled=1\ngpgcheck=0\n"


def furnish(root: Path) -> None:
    """Leave a root without podman, but with RPMs of it in FOLDER, which is a repository that dnf may be told of."""
    (root / "srv").mkdir(exist_ok=True)
    for name, (requires, packages) in RPMS.items():
        files = _files(root, packages)
        (root / f"srv/{name}.files").write_text("".join(f"{file}\n" for file in files))
        needs = "".join(f"Requires: {each}\n" for each in requires)
        (root / f"srv/{name}.spec").write_text(SPEC.format(name=name, version="5.4.2", requires=needs))
        _inside(root, ["rpmbuild", "-bb", "--quiet", "--define", f"_rpmdir {FOLDER}", f"/srv/{name}.spec"])
    for name in RPMS:
        for file in (root / f"srv/{name}.files").read_text().splitlines():
            (root / file.lstrip("/")).unlink()
    # As RHEL's do: dnf finds packages in one folder.
    for rpm in (root / FOLDER.lstrip("/")).glob("*/*.rpm"):
        rpm.rename(rpm.parent.parent / rpm.name)
    _sign(root)
    _inside(root, ["createrepo_c", "--quiet", FOLDER])


def _sign(root: Path) -> None:
    """Sign the RPMs with a key that is made for this root."""
    gpg = ["gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
    _inside(root, [*gpg, "--quick-generate-key", SIGNER, "rsa3072", "sign", "never"])
    _inside(root, [*gpg, "--armor", "--output", KEY, "--export", SIGNER])
    packages = [f"{FOLDER}/{rpm.name}" for rpm in (root / FOLDER.lstrip("/")).glob("*.rpm")]
    _inside(root, ["rpmsign", "--define", f"_gpg_name {SIGNER}", "--addsign", *packages])
    _inside(root, ["gpgconf", "--kill", "all"])


def _files(root: Path, packages: tuple[str, ...]) -> list[str]:
    listed = _inside(root, ["dpkg", "--listfiles", *packages]).split()
    wanted = sorted({name for name in listed if not name.startswith("/usr/share/doc")})
    return [name for name in wanted if (path := root / name.lstrip("/")).is_symlink() or path.is_file()]


def _inside(root: Path, command: list[str]) -> str:
    return subprocess.run(["chroot", str(root), *command], check=True, capture_output=True, text=True).stdout
