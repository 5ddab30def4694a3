"""`push` against a registry that fails in every way that is known of registries."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import gzip
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import zstandard
from click.testing import CliRunner

from installer import cli
from installer.bundle import manifest
from installer.commands import push
from installer.core import errors, layout
from installer.core.console import Console
from installer.registry import blobs, client, credentials, forms, manifests, reference
from tests.unit.fake_registry import PASSWORD, USER, FakeRegistry, Fault, running
from tests.unit.test_manifest import EXAMPLE
from tests.unit.test_schema import SCHEMA
from tests.unit.test_verify import tarred

QUIET = Console(silent=True)
LOGIN = credentials.Login(USER, PASSWORD)
PIECE = 64 * 1024
# Bytes that no compression makes smaller: three pieces and a rest.
BIG = random.Random(1).randbytes(3 * PIECE + 1000)
SMALL = b"the files of a small layer" * 100
OTHER = b"other files"


def hashed(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclasses.dataclass
class Bundle:
    archive: Path
    manifest: manifest.Manifest
    out: Path


def image(name: str, *layers: bytes) -> tuple[manifest.Image, bytes]:
    config = json.dumps({"rootfs": {"diff_ids": [f"sha256:{hashed(layer)}" for layer in layers]}, "n": name}).encode()
    made = manifest.Image(
        reference=name,
        id=hashed(config),
        digest="",
        size=sum(map(len, layers)),
        layers=tuple(map(hashed, layers)),
        archive=0,
        index=0,
    )
    return made, config


def archive_of(
    folder: Path,
    images: list[tuple[manifest.Image, bytes]],
    layers: tuple[bytes, ...],
    compression: manifest.Compression = "none",
) -> Bundle:
    packed = {hashed(each): each for each in layers}
    if compression == "zstd":
        packed = {name: zstandard.ZstdCompressor().compress(each) for name, each in packed.items()}
    made = [dataclasses.replace(each, index=number) for number, (each, _) in enumerate(images)]
    wanted = {layer for each in made for layer in each.layers}
    members = {f"{layer}.tar": packed.get(layer, b"") for layer in sorted(wanted)}
    members |= {f"{each.id}.json": config for each, config in images}
    members[layout.ARCHIVE_INDEX] = manifest.archive_index(made)
    path = folder / "dify-images.tar"
    described = dataclasses.replace(
        tarred(path, members), layers={hashed(each): len(each) for each in layers}, compression=compression
    )
    bundle = dataclasses.replace(EXAMPLE, images=tuple(made), archives=(described,), store=None, plugins=None)
    return Bundle(path, bundle, folder / "images.json")


IMAGES = [image("docker.io/dify/api:1.0", BIG, SMALL), image("docker.io/library/web:2", BIG, OTHER)]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return archive_of(tmp_path, IMAGES, (BIG, SMALL, OTHER))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRegistry]:
    monkeypatch.setattr(client, "WAITS", (0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(blobs, "PIECE_BYTES", PIECE)
    monkeypatch.setattr(blobs, "SMALLEST_PIECE", PIECE // 8)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with running() as registry:
        yield registry


def run(
    bundle: Bundle,
    fake: FakeRegistry,
    form: forms.Form = "gzip",
    login: credentials.Login | None = LOGIN,
    *,
    dry_run: bool = False,
) -> push.Pushed:
    asked = push.Asked(
        registry=reference.checked_registry(f"{fake.host}/own"),
        archive=bundle.archive,
        form=form,
        login=login,
        authorities=None,
        plain_http=True,
        out=bundle.out,
    )
    return push.push(asked, QUIET, dry_run=dry_run, bundle=bundle.manifest)


def assert_complete(fake: FakeRegistry, form: forms.Form = "gzip") -> None:
    """What is in the registry are the images: each layer has its diff ID, each configuration is the image's ID."""
    unpack: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.decompress,
        "tar": bytes,
        "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
    }
    for made, _ in IMAGES:
        path, _, tag = made.reference.removeprefix("docker.io/").partition(":")
        kind, content = fake.manifests[f"own/{path}", tag]
        document = json.loads(content)
        there = fake.blobs[f"own/{path}"]
        assert kind == document["mediaType"] == manifests.TYPES[form][0]
        assert document["config"]["digest"] == f"sha256:{made.id}"
        assert hashed(there[document["config"]["digest"]]) == made.id
        assert tuple(hashed(unpack[form](there[each["digest"]])) for each in document["layers"]) == made.layers
        assert [len(there[each["digest"]]) for each in document["layers"]] == [
            each["size"] for each in document["layers"]
        ]
    assert not fake.uploads


@pytest.mark.parametrize("form", forms.FORMS)
@pytest.mark.parametrize("auth", ["", "basic", "bearer"])
def test_images_arrive_and_a_second_push_sends_nothing(
    bundle: Bundle, fake: FakeRegistry, form: forms.Form, auth: str
) -> None:
    fake.auth = auth
    done = run(bundle, fake, form)
    assert_complete(fake, form)
    assert (done.blobs_sent, done.blobs_mounted) == (5, 1)
    written = json.loads(bundle.out.read_text())
    jsonschema.validate(written, SCHEMA)
    assert [each["pull"] for each in written["images"]] == [
        f"{fake.host}/own/dify/api:1.0",
        f"{fake.host}/own/library/web:2",
    ]
    fake.asked.clear()
    bundle.out.unlink()
    again = run(bundle, fake, form)
    assert [row.state for row in again.rows] == ["there", "there"]
    assert not fake.count("PATCH") and not fake.count("PUT")
    assert [row.digest for row in again.rows] == [row.digest for row in done.rows]


def test_a_mount_asks_for_a_token_of_both_repositories(bundle: Bundle, fake: FakeRegistry) -> None:
    fake.auth = "bearer"
    run(bundle, fake)
    assert any(len(scope) == 2 and scope[1].endswith(":pull") for scope in fake.scopes)


def test_the_same_bundle_gives_the_same_bytes(bundle: Bundle, fake: FakeRegistry) -> None:
    first = [row.digest for row in run(bundle, fake).rows]
    fake.manifests.clear()
    fake.blobs.clear()
    bundle.out.unlink()
    assert [row.digest for row in run(bundle, fake).rows] == first


def test_layers_that_are_stored_compressed_are_sent_as_well(tmp_path: Path, fake: FakeRegistry) -> None:
    run(archive_of(tmp_path, IMAGES, (BIG, SMALL, OTHER), "zstd"), fake)
    assert_complete(fake)


def test_the_parts_of_an_archive_are_one(tmp_path: Path, fake: FakeRegistry) -> None:
    """The second part leaves the big layer, which both images have, to the first one."""
    parts = []
    for number, (one, own) in enumerate(zip(IMAGES, ((BIG, SMALL), (OTHER,)), strict=True)):
        folder = tmp_path / str(number)
        folder.mkdir()
        part = archive_of(folder, [one], own)
        described = dataclasses.replace(part.manifest.archives[0], name=f"dify-images.{number + 1}.tar")
        part.archive.rename(tmp_path / described.name)
        parts.append((dataclasses.replace(part.manifest.images[0], archive=number), described))
    images, archives = zip(*parts, strict=True)
    whole = dataclasses.replace(EXAMPLE, images=images, archives=archives, store=None, plugins=None)
    assert run(Bundle(tmp_path, whole, tmp_path / "images.json"), fake).blobs_mounted == 1
    assert_complete(fake)


def test_without_mounts_a_blob_is_sent_twice(bundle: Bundle, fake: FakeRegistry) -> None:
    fake.mounts = False
    assert run(bundle, fake).blobs_mounted == 0
    assert_complete(fake)


def test_a_dry_run_sends_nothing(bundle: Bundle, fake: FakeRegistry) -> None:
    done = run(bundle, fake, dry_run=True)
    assert [row.state for row in done.rows] == ["missing", "missing"]
    assert not fake.blobs and not fake.manifests and not fake.uploads and not bundle.out.exists()


@pytest.mark.parametrize("auth", ["basic", "bearer"])
@pytest.mark.parametrize("login", [None, credentials.Login(USER, "wrong")])
def test_a_wrong_login_is_refused_before_the_first_byte(
    bundle: Bundle, fake: FakeRegistry, auth: str, login: credentials.Login | None
) -> None:
    fake.auth = auth
    with pytest.raises(errors.RegistryFailed) as caught:
        run(bundle, fake, login=login)
    assert ("does not take" if login else "wants a login") in caught.value.message
    assert "--registry-user" in caught.value.remedy
    assert not fake.count("PATCH") and not fake.count("PUT") and not bundle.out.exists()


def test_a_token_that_has_expired_is_renewed(bundle: Bundle, fake: FakeRegistry) -> None:
    fake.auth = "bearer"
    fake.faults = [Fault("PATCH", "uploads", 401, {"WWW-Authenticate": f'Bearer realm="http://{fake.host}/token"'})]
    run(bundle, fake)
    assert_complete(fake)


def denied(message: str, **more: Any) -> bytes:
    return json.dumps({"errors": [{"code": "DENIED", "message": message, **more}]}).encode()


@pytest.mark.parametrize(
    ("fault", "told", "helps"),
    [
        (
            Fault("POST", "uploads", 403, body=denied("not yours")),
            "may not push to own/dify/api (403): not yours",
            "Harbo",
        ),
        (Fault("POST", "uploads", 404, body=denied("no project")), "no repository own/dify/api (404)", "project"),
        (Fault("GET", "/v2/", 404), "is no registry (404)", "port"),
        (Fault("POST", "uploads", 500, times=99), "status 500", "log"),
        (Fault("POST", "uploads", 429, {"Retry-After": "7200"}), "wait 7200 s", "wait so long"),
    ],
)
def test_what_is_refused_is_told_before_the_first_byte(
    bundle: Bundle, fake: FakeRegistry, fault: Fault, told: str, helps: str
) -> None:
    fake.faults = [fault]
    with pytest.raises(errors.RegistryFailed) as caught:
        run(bundle, fake)
    assert told in caught.value.message
    assert helps in caught.value.remedy
    assert not fake.count("PATCH")


@pytest.mark.parametrize(
    "fault",
    [
        Fault("PATCH", "uploads", 500, times=2),
        Fault("PATCH", "uploads", 429, {"Retry-After": "0"}),
        Fault("PUT", "uploads", 503),
        Fault("PUT", "manifests", 502),
        Fault("HEAD", "blobs", 503),
        Fault("PATCH", "uploads", cut=PIECE // 2),
        Fault("PATCH", "uploads", cut=0, times=2),
        Fault("PUT", "uploads", cut=0),
        Fault("GET", "manifests", cut=0),
    ],
    ids=lambda fault: f"{fault.method}-{fault.status or 'cut'}",
)
def test_what_passes_is_waited_for(bundle: Bundle, fake: FakeRegistry, fault: Fault) -> None:
    fake.faults = [fault]
    run(bundle, fake)
    assert_complete(fake)


def test_a_blob_goes_on_where_the_connection_broke(bundle: Bundle, fake: FakeRegistry) -> None:
    fake.faults = [Fault("PATCH", "uploads", cut=PIECE // 2, skip=1)]
    run(bundle, fake, "tar")
    assert_complete(fake, "tar")
    # Each layer and each configuration begun once, the big one not again; two more are the checks of the right.
    assert fake.count("POST", "uploads/") - fake.count("POST", "mount=") == 2 + 5


def test_a_forgotten_upload_is_begun_again(bundle: Bundle, fake: FakeRegistry) -> None:
    fake.faults = [Fault("PATCH", "uploads", 404, skip=2, forget=True)]
    run(bundle, fake)
    assert_complete(fake)


def test_a_registry_that_forgets_always_is_told(bundle: Bundle, fake: FakeRegistry) -> None:
    fake.faults = [Fault("PATCH", "uploads", 404, times=99, forget=True)]
    with pytest.raises(errors.RegistryFailed, match="forgotten"):
        run(bundle, fake)
    assert not fake.manifests


def test_pieces_become_smaller_than_a_proxys_limit(bundle: Bundle, fake: FakeRegistry) -> None:
    fake.limit = PIECE // 4
    run(bundle, fake)
    assert_complete(fake)


def test_a_limit_that_is_too_small_is_told_with_who_has_it(bundle: Bundle, fake: FakeRegistry) -> None:
    fake.limit = 10
    with pytest.raises(errors.RegistryFailed) as caught:
        run(bundle, fake)
    assert "Server: nginx/1.2.3" in caught.value.message and "413" in caught.value.message
    assert "client_max_body_size" in caught.value.remedy


def test_a_registry_that_names_itself_wrongly_is_asked_at_its_own_address(bundle: Bundle, fake: FakeRegistry) -> None:
    """As behind a proxy that does not tell it of https, or of the port."""
    fake.named = "http://127.0.0.1:9"
    fake.auth = "basic"
    run(bundle, fake)
    assert_complete(fake)


def test_a_registry_without_pieces_gets_the_whole(bundle: Bundle, fake: FakeRegistry) -> None:
    fake.takes_pieces = False
    run(bundle, fake)
    assert_complete(fake)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("PATCH", "uploads", 500, body=denied("x", detail={"Enclosed": {"Err": 28}}), times=99),
        Fault("PATCH", "uploads", 507, times=99),
        Fault("PUT", "uploads", 403, body=denied("will exceed the configured upper limit of 1 GiB"), times=99),
    ],
    ids=["disk", "507", "quota"],
)
def test_a_full_disk_there_is_told_at_once(bundle: Bundle, fake: FakeRegistry, fault: Fault) -> None:
    fake.faults = [fault]
    with pytest.raises(errors.RegistryFailed) as caught:
        run(bundle, fake)
    assert "has no room" in caught.value.message
    assert "make room" in caught.value.remedy
    assert not fake.uploads


@pytest.mark.parametrize("form", forms.FORMS)
@pytest.mark.parametrize("whole", [False, True])
def test_a_flipped_byte_is_never_committed(bundle: Bundle, fake: FakeRegistry, form: forms.Form, whole: bool) -> None:
    fake.takes_pieces = not whole
    data = bytearray(bundle.archive.read_bytes())
    data[data.index(SMALL) + 100] ^= 1
    bundle.archive.write_bytes(data)
    with pytest.raises(errors.BundleDamaged) as caught:
        run(bundle, fake, form)
    assert hashed(SMALL)[:12] in caught.value.message
    unchanged = {hashed(each) for each in (BIG, OTHER)}
    if form == "tar":
        assert {name.removeprefix("sha256:") for there in fake.blobs.values() for name in there} - {
            each.id for each, _ in IMAGES
        } <= unchanged
    assert [name for name, _ in fake.manifests] == ["own/library/web"]
    written = json.loads(bundle.out.read_text())
    assert not written["passed"]
    assert [each["state"] for each in written["images"]] == ["failed", "sent"]


def test_after_a_failure_the_same_command_sends_the_rest(bundle: Bundle, fake: FakeRegistry) -> None:
    fake.faults = [Fault("PUT", "manifests", 403, times=1)]
    with pytest.raises(errors.RegistryFailed):
        run(bundle, fake)
    fake.asked.clear()
    run(bundle, fake)
    assert_complete(fake)
    assert fake.count("PATCH") <= 1


def test_an_image_that_was_under_the_tag_is_named(bundle: Bundle, fake: FakeRegistry) -> None:
    other = b'{"another": "image"}'
    fake.manifests["own/dify/api", "1.0"] = (manifests.DOCKER, other)
    done = run(bundle, fake)
    assert [row.replaced for row in done.rows] == [f"sha256:{hashed(other)}", ""]
    assert "replaces sha256:" in push.as_text(done, bundle.out, dry_run=False)


def test_a_manifest_that_is_not_read_back_is_told(bundle: Bundle, fake: FakeRegistry) -> None:
    fake.faults = [Fault("GET", "manifests", 200, body=b"{}", skip=2)]
    with pytest.raises(errors.RegistryFailed, match="is not what was put there"):
        run(bundle, fake)


@pytest.mark.parametrize("form", ["gzip", "tar"])
def test_layers_of_a_base_are_found_by_its_images_json(tmp_path: Path, fake: FakeRegistry, form: forms.Form) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    base = archive_of(folder, IMAGES, (BIG, SMALL, OTHER))
    run(base, fake, form)
    newer = archive_of(tmp_path, [image("docker.io/dify/new:2.0", BIG, b"newer")], (b"newer",))
    with pytest.raises(errors.RegistryFailed, match="leaves the layer"):
        run(newer, fake, form)
    newer.out.write_bytes(base.out.read_bytes())
    done = run(newer, fake, form)
    assert done.blobs_mounted == 1
    assert ("own/dify/new", "2.0") in fake.manifests


def test_a_file_that_is_not_ours_is_not_replaced(bundle: Bundle, fake: FakeRegistry) -> None:
    bundle.out.write_text('{"mine": 1}')
    with pytest.raises(errors.UsageError, match="would be replaced"):
        run(bundle, fake)
    assert bundle.out.read_text() == '{"mine": 1}'


def test_a_registry_that_does_not_answer_is_told(bundle: Bundle, fake: FakeRegistry) -> None:
    fake.host = "127.0.0.1:1"
    with pytest.raises(errors.RegistryFailed, match="does not answer"):
        run(bundle, fake)


def test_the_progress_never_goes_backwards(bundle: Bundle, fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    class Told:
        def update(self, n: int) -> None:
            steps.append(n)

    class Watched(Console):
        def progress(self, label: str, total: int, *, unit: str = "B") -> Any:  # noqa: ARG002 - as the console's
            steps.append(-total)
            return contextlib.nullcontext(Told())

    monkeypatch.setattr("tests.unit.test_push.QUIET", Watched(silent=True))
    fake.faults = [Fault("PATCH", "uploads", 404, skip=2, forget=True)]
    run(bundle, fake)
    assert min(steps[1:]) > 0
    assert sum(steps) == 0


# -- names


@pytest.mark.parametrize(
    ("text", "host", "prefix"),
    [
        ("registry.example.com", "registry.example.com", ""),
        ("10.0.0.5:5000/dify/", "10.0.0.5:5000", "dify"),
        ("[fd00::1]:5000/a/b-c", "[fd00::1]:5000", "a/b-c"),
    ],
)
def test_a_registry_is_named(text: str, host: str, prefix: str) -> None:
    assert reference.checked_registry(text) == reference.Registry(host, prefix)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("https://registry/x", "URL"),
        ("user@registry/x", "@"),
        ("registry/Dify", "capital letters"),
        ("registry/a//b", "has ''"),
        ("registry/a b", "has 'a b'"),
        ("registry:99999", "valid port"),
        ("", "not a host"),
    ],
)
def test_a_name_that_no_registry_takes_is_refused(text: str, told: str) -> None:
    with pytest.raises(errors.UsageError) as caught:
        reference.checked_registry(text)
    assert told in caught.value.message


def test_images_keep_their_paths_and_their_registry_where_they_must() -> None:
    names = ["docker.io/a/b:1", "quay.io/a/b:1", "localhost/own:2", "quay.io:443/c/d@sha256:" + "0" * 64]
    found = reference.places(reference.Registry("r", "p"), [image(name)[0] for name in names])
    assert [(place.repository, place.tag) for place in found] == [
        ("p/docker.io/a/b", "1"),
        ("p/quay.io/a/b", "1"),
        ("p/own", "2"),
        ("p/c/d", "sha256-" + "0" * 64),
    ]


# -- credentials


def auth_file(path: Path, **entries: str) -> Path:
    auths = {key: {"auth": base64.b64encode(text.encode()).decode()} for key, text in entries.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": auths}))
    return path


REGISTRY = reference.Registry("r.example:5000", "team/dify")


def test_the_most_specific_login_of_an_auth_file_is_taken(tmp_path: Path) -> None:
    file = auth_file(tmp_path / "a.json", **{"r.example:5000": "host:1", "r.example:5000/team": "team:2"})
    assert credentials.find(REGISTRY, "", "", file, {}) == credentials.Login("team", "2")
    docker = auth_file(tmp_path / "b.json", **{"https://r.example:5000/v1/": "docker:a:b"})
    assert credentials.find(REGISTRY, "", "", docker, {}) == credentials.Login("docker", "a:b")


def test_the_usual_files_are_asked_in_podmans_order(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    assert credentials.find(reference.Registry("nobody.example", ""), "", "", None, environ) is None
    auth_file(tmp_path / ".docker/config.json", **{"r.example:5000": "docker:1"})
    assert credentials.find(REGISTRY, "", "", None, environ) == credentials.Login("docker", "1")
    auth_file(tmp_path / "run/containers/auth.json", **{"r.example:5000": "podman:2"})
    assert credentials.find(REGISTRY, "", "", None, environ) == credentials.Login("podman", "2")
    assert credentials.find(REGISTRY, "docker", "", None, environ) == credentials.Login("docker", "1")


def test_half_a_login_is_refused(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    with pytest.raises(errors.UsageError, match="no user"):
        credentials.find(REGISTRY, "", "secret", None, environ)
    with pytest.raises(errors.UsageError, match="no password for me"):
        credentials.find(REGISTRY, "me", "", None, environ)
    with pytest.raises(errors.UsageError, match="has no password"):
        credentials.find(REGISTRY, "", "", auth_file(tmp_path / "x.json", other="a:b"), environ)
    assert "secret" not in repr(credentials.Login("me", "secret"))


# -- the command line


def test_a_push_without_a_registry_says_so() -> None:
    shown = CliRunner().invoke(cli.cli, ["push"])
    assert isinstance(shown.exception, errors.UsageError)
    assert shown.exception.message == "--registry: is missing"


def test_a_password_on_the_command_line_is_refused() -> None:
    shown = CliRunner().invoke(cli.cli, ["push", "--registry", "r.example", "--registry-password", "correct horse"])
    assert isinstance(shown.exception, errors.UsageError)
    assert "--registry-password-file" in shown.exception.message
    assert "DIFY_INSTALLER_REGISTRY_PASSWORD" in shown.exception.message


@pytest.mark.parametrize("how", ["environment", "standard input", "file"])
def test_the_password_comes_from(how: str, bundle: Bundle, fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("installer.bundle.verify.check_embedded", lambda _: bundle.manifest)
    fake.auth = "basic"
    secret = bundle.archive.with_name("password")
    secret.write_text(PASSWORD + "\n")
    secret.chmod(0o600)
    command = ["push", "--registry", f"{fake.host}/own", "--registry-user", USER, "--plain-http"]
    command += ["--images", str(bundle.archive), "--out", str(bundle.out), "--json"]
    if how != "environment":
        command += ["--registry-password-file", str(secret) if how == "file" else "-"]
    variables = {"DIFY_INSTALLER_REGISTRY_PASSWORD": PASSWORD} if how == "environment" else {}
    done = CliRunner().invoke(cli.cli, command, env=variables, input=PASSWORD + "\n")
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout) == json.loads(bundle.out.read_text())
    assert_complete(fake)
