"""Packages of plugins: read, proved, signed, fetched, chosen; and copied out of their image."""

from __future__ import annotations

import dataclasses
import http.server
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from build.failure import BuildError
from build.plugins import choose, gather, marketplace, package, signature
from build.plugins.package import Daemon
from installer.bundle import manifest
from installer.core import digest, errors, layout
from installer.images import plugins
from tests.unit.test_manifest import EXAMPLE

DAEMON = Daemon(
    image="docker.io/langgenius/dify-plugin-daemon:0.5.2-local", dify="1.11.3", architecture="amd64", largest=52428800
)
DESCRIBED = {
    "author": "somebody",
    "name": "answers",
    "version": "0.1.0",
    "meta": {"arch": ["amd64", "arm64"], "runner": {"version": "3.12"}, "minimum_dify_version": None},
}


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    """The key of an owner; short, to be made soon."""
    return rsa.generate_private_key(65537, 2048)


def write_package(path: Path, requirements: str | None = "dify_plugin\n", **changes: object) -> Path:
    """Write a package that nobody has signed; `changes` of its manifest, those of `meta` with the others."""
    described = json.loads(json.dumps(DESCRIBED))
    for name, value in changes.items():
        (described["meta"] if name in described["meta"] else described)[name] = value
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.yaml", yaml.safe_dump(described))
        archive.writestr("main.py", "print('answers')\n")
        if requirements is not None:
            archive.writestr("requirements.txt", requirements)
    return path


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not a plugin package"),
        (b"PK", "not a plugin package"),
        (None, "not a plugin package"),
        ({"author": "Some Body"}, "not a valid author"),
        ({"name": "../answers"}, "not a valid name"),
        ({"version": "1"}, "not a valid version"),
        ({"meta": 1}, "not a plugin package"),
    ],
)
def test_what_is_no_package_is_told(tmp_path: Path, content: bytes | dict[str, object] | None, told: str) -> None:
    path = tmp_path / "x.difypkg"
    if isinstance(content, dict):
        write_package(path, **content)  # type: ignore[arg-type]
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(BuildError, match=told):
        package.read(path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ""),
        ({"requirements": None}, "no requirements.txt: it needs a later plugin daemon than 0.5.2-local"),
        ({"minimum_dify_version": "1.12.0"}, "needs Dify 1.12.0 or later, this is 1.11.3"),
        ({"minimum_dify_version": "1.9.10"}, ""),
        ({"arch": ["arm64"]}, "it is for arm64, the server is amd64"),
    ],
)
def test_what_the_daemon_cannot_install_is_told(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    found = package.read(write_package(tmp_path / "x.difypkg", **changes))  # type: ignore[arg-type]
    obstacle = package.find_obstacle(found, DAEMON)
    assert told in obstacle if told else obstacle == ""


def test_a_package_that_is_too_large_is_told(tmp_path: Path) -> None:
    found = package.read(write_package(tmp_path / "x.difypkg"))
    assert "the daemon takes 10 B at most" in package.find_obstacle(found, dataclasses.replace(DAEMON, largest=10))


def test_difys_key_is_one() -> None:
    assert signature.dify_key().key_size == 4096


def test_a_signed_package_is_known_and_a_changed_one_is_not(tmp_path: Path, key: rsa.RSAPrivateKey) -> None:
    unsigned, signed = write_package(tmp_path / "a.difypkg"), tmp_path / "b.difypkg"
    keys = {"Dify": signature.dify_key(), "owner": key.public_key()}
    assert signature.find_signer(unsigned, keys) is None
    signature.sign(unsigned, key, signed)
    assert signature.find_signer(signed, keys) == "owner"
    assert signature.find_signer(signed, {"Dify": signature.dify_key()}) is None
    with zipfile.ZipFile(signed) as archive:
        assert archive.namelist()[-1] == ".verification.dify.json"
        comment = archive.comment
        contents = {name: archive.read(name) for name in archive.namelist()}
    again = tmp_path / "c.difypkg"
    signature.sign(signed, key, again)
    assert again.read_bytes() == signed.read_bytes()
    contents["main.py"] += b"#"
    with zipfile.ZipFile(again, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
        archive.comment = comment
    assert signature.find_signer(again, keys) is None


def test_the_public_key_is_what_the_daemon_reads(key: rsa.RSAPrivateKey) -> None:
    text = signature.public_pem(key.public_key())
    assert text.startswith(b"-----BEGIN RSA PUBLIC KEY-----\n")
    assert text.endswith(b"-----END RSA PUBLIC KEY-----\n")


@pytest.mark.parametrize("content", [b"", b"no key", "ec"])
def test_what_is_no_key_of_an_owner_is_told(tmp_path: Path, content: bytes | str, key: rsa.RSAPrivateKey) -> None:
    path = tmp_path / "key.pem"
    if isinstance(content, str):
        content = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1)
    path.write_bytes(content)
    with pytest.raises(BuildError, match="private key") as caught:
        signature.load_private_key(path)
    assert "openssl genrsa" in caught.value.remedy


class Marketplace:
    """A server that answers like Dify's marketplace; `asked` are the paths."""

    def __init__(self, versions: dict[str, bytes]) -> None:
        self.asked: list[str] = []
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.asked.append(self.path)
                base = "/api/v1/plugins/somebody/answers/"
                listed = {"data": {"versions": [{"version": version} for version in versions]}}
                answers = {f"{base}versions?page=1&page_size=100": json.dumps(listed).encode()}
                answers |= {f"{base}{version}/download": content for version, content in versions.items()}
                found = answers.get(self.path)
                self.send_response(404 if found is None else 200)
                self.end_headers()
                self.wfile.write(found or b"")

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def as_bytes(tmp_path: Path, key: rsa.RSAPrivateKey | None, **changes: object) -> bytes:
    path = write_package(tmp_path / "made.difypkg", **changes)  # type: ignore[arg-type]
    if key is not None:
        signature.sign(path, key, path)
    return path.read_bytes()


@pytest.fixture
def offered(tmp_path: Path, key: rsa.RSAPrivateKey, monkeypatch: pytest.MonkeyPatch) -> Iterator[Marketplace]:
    """A marketplace with four versions, whose signature is Dify's: the newest needs a later daemon."""
    monkeypatch.setattr(signature, "dify_key", key.public_key)
    versions = {
        "0.9.0": as_bytes(tmp_path, key, version="0.9.0"),
        "0.10.0": as_bytes(tmp_path, key, version="0.10.0"),
        "0.11.0": as_bytes(tmp_path, key, version="0.11.0", requirements=None),
        "0.1.0": as_bytes(tmp_path, None, version="0.1.0"),
    }
    made = Marketplace(versions)
    yield made
    made.server.shutdown()


def wanted(*names: str, offered: Marketplace, owner: rsa.RSAPrivateKey | None = None) -> choose.Wanted:
    return choose.Wanted(plugins=names, marketplace=offered.url, owner=owner)


def test_the_newest_that_works_is_taken_once(tmp_path: Path, offered: Marketplace) -> None:
    (one,) = choose.choose(wanted("somebody/answers", offered=offered), DAEMON, tmp_path / "kept")
    assert (one.package.identity, one.signer) == ("somebody/answers:0.10.0", "Dify")
    before = len(offered.asked)
    choose.choose(wanted("somebody/answers:0.10.0", offered=offered), DAEMON, tmp_path / "kept")
    assert len(offered.asked) == before


def test_a_version_that_cannot_work_is_refused_with_one_that_does(tmp_path: Path, offered: Marketplace) -> None:
    with pytest.raises(BuildError, match=r"no requirements\.txt") as caught:
        choose.choose(wanted("somebody/answers:0.11.0", offered=offered), DAEMON, tmp_path / "kept")
    assert "0.10.0" in caught.value.remedy


def test_what_the_marketplace_gives_must_be_signed_by_dify(
    tmp_path: Path, offered: Marketplace, key: rsa.RSAPrivateKey
) -> None:
    for owner in (None, key):
        with pytest.raises(BuildError, match="not signed by Dify"):
            choose.choose(wanted("somebody/answers:0.1.0", offered=offered, owner=owner), DAEMON, tmp_path / "kept")


def test_a_kept_package_that_has_changed_is_told(tmp_path: Path, offered: Marketplace) -> None:
    kept = tmp_path / "kept"
    choose.choose(wanted("somebody/answers:0.9.0", offered=offered), DAEMON, kept)
    next(kept.glob("*.difypkg")).write_bytes(b"another")
    with pytest.raises(BuildError, match="not the file that an earlier build has fetched"):
        choose.choose(wanted("somebody/answers:0.9.0", offered=offered), DAEMON, kept)


def test_a_package_of_ones_own_is_signed_with_the_owners_key(
    tmp_path: Path, offered: Marketplace, key: rsa.RSAPrivateKey
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    write_package(folder / "one.difypkg", name="one")
    write_package(folder / "two.difypkg", name="two")
    with pytest.raises(BuildError, match="not signed by Dify") as caught:
        choose.choose(wanted(str(folder), offered=offered), DAEMON, tmp_path / "kept")
    assert "--plugin-key" in caught.value.remedy
    owner = rsa.generate_private_key(65537, 2048)
    chosen = choose.choose(wanted(str(folder), offered=offered, owner=owner), DAEMON, tmp_path / "kept")
    assert [(each.package.plugin, each.signer) for each in chosen] == [
        ("somebody/one", "owner"),
        ("somebody/two", "owner"),
    ]
    assert signature.find_signer(chosen[0].package.path, {"owner": owner.public_key()}) == "owner"


@pytest.mark.parametrize("name", ["answers", "../x/y", "a/b:", "a b", ""])
def test_what_names_no_plugin_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(errors.UsageError):
        choose.choose(choose.Wanted(plugins=(name,)), DAEMON, tmp_path)


def test_two_versions_of_a_plugin_are_told(tmp_path: Path, offered: Marketplace) -> None:
    names = ("somebody/answers:0.9.0", "somebody/answers:0.10.0")
    with pytest.raises(errors.UsageError, match="wanted twice"):
        choose.choose(wanted(*names, offered=offered), DAEMON, tmp_path / "kept")


def test_a_marketplace_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="cannot be had") as caught:
        marketplace.fetch("somebody/answers", "0.1.0", "http://127.0.0.1:1", tmp_path)
    assert "PLUGINS=none" in caught.value.remedy


# -- on the server


def brought(contents: dict[str, bytes]) -> manifest.Manifest:
    """Return a manifest with these files of plugins."""
    found = tuple(
        manifest.File(path=path, size=len(content), sha256=digest.hash_bytes(content), executable=False)
        for path, content in contents.items()
    )
    return dataclasses.replace(
        EXAMPLE, plugins=manifest.Plugins(image=EXAMPLE.images[0].reference, packages=(), others=found)
    )


def test_the_image_of_the_plugins_is_needed_until_its_files_are_there(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path)
    bundle = brought({"wheels/a.whl": b"a", "packages/b.difypkg": b"b"})
    assert plugins.needed_images(bundle, place) == bundle.images
    for path, content in (("wheels/a.whl", b"a"), ("packages/b.difypkg", b"x")):
        (place.plugins / path).parent.mkdir(parents=True)
        (place.plugins / path).write_bytes(content)
    assert [file.path for file in plugins.find_missing(bundle, place)] == ["packages/b.difypkg"]
    (place.plugins / "packages/b.difypkg").write_bytes(b"b")
    assert plugins.needed_images(bundle, place) == ()
    assert plugins.needed_images(dataclasses.replace(bundle, plugins=None), place) == bundle.images


def test_a_zip_with_two_files_of_a_name_is_no_package(tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("manifest.yaml", "a")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("manifest.yaml", "b")
    (tmp_path / "x.difypkg").write_bytes(made.getvalue())
    with pytest.raises(BuildError, match="two files of one name"):
        package.read(tmp_path / "x.difypkg")


def file_of_plugins(path: Path, key: rsa.RSAPrivateKey, tmp_path: Path) -> gather.Gathered:
    """Write a file of plugins with one package and one wheel."""
    packed = write_package(tmp_path / "somebody-answers_0.1.0.difypkg")
    signature.sign(packed, key, packed)
    chosen = [choose.Chosen(package.read(packed), "owner")]
    contents = {"packages/somebody-answers_0.1.0.difypkg": packed.read_bytes(), "wheels/a.whl": b"wheel"}
    made = gather.Gathered(gather.describe(chosen, contents), contents)
    gather.as_file(made, DAEMON, path)
    return made


def test_a_file_of_plugins_is_put_into_the_install_folder(tmp_path: Path, key: rsa.RSAPrivateKey) -> None:
    path, place = tmp_path / "plugins.tar", layout.Installation(tmp_path / "dify")
    place.project.mkdir(parents=True)
    made = file_of_plugins(path, key, tmp_path)
    described = plugins.add_bundle(path, place)
    assert described.plugins == made.described
    assert [each.identity for each in described.plugins.packages] == ["somebody/answers:0.1.0"]
    assert (place.plugins / "wheels/a.whl").read_bytes() == b"wheel"


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "missing"])
def test_a_file_of_plugins_that_is_damaged_changes_nothing(tmp_path: Path, key: rsa.RSAPrivateKey, damage: str) -> None:
    path, place = tmp_path / "plugins.tar", layout.Installation(tmp_path / "dify")
    file_of_plugins(path, key, tmp_path)
    data = path.read_bytes()
    path.write_bytes(
        {"cut": data[:3000], "changed": data.replace(b"wheel\0", b"whole\0"), "empty": b""}.get(damage, data)
    )
    if damage == "missing":
        path.unlink()
    with pytest.raises(errors.BundleDamaged):
        plugins.add_bundle(path, place)
    assert not place.plugins.exists()
