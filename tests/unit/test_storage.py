"""A bucket that runs already: its URL, the settings, and what is refused where files would be lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from installer import cli
from installer import plan as plans
from installer.backup import arrival
from installer.checks import inside, others
from installer.commands import backup
from installer.core import errors, layout
from installer.core.runner import Runner
from installer.engine.podman import Podman
from installer.release import compose, env_history, envfile, external, masks, render, storage
from installer.services import bucket, reach
from installer.upgrade import plan as upgrades
from tests.unit.test_arrival import COMPOSE, THEIRS, VARIABLES, made
from tests.unit.test_external import computed
from tests.unit.test_options import asked

SECRET = "s3/cret+key"
URL = "s3://AKIDIFY:s3%2Fcret%2Bkey@s3.intranet:9000/dify-files?region=seoul"
THERE = storage.settings(storage.checked(URL))
OTHER = storage.settings(storage.checked("s3://AKIDIFY:x@10.0.0.9/others"))
PLACE = "S3 at s3.intranet:9000, bucket dify-files"


def test_a_url_says_where_and_as_whom() -> None:
    found = storage.checked(URL)
    assert (found.host, found.port, found.tls, found.key, found.secret) == (
        "s3.intranet",
        9000,
        True,
        "AKIDIFY",
        SECRET,
    )
    assert (found.bucket, found.region, found.endpoint) == ("dify-files", "seoul", "https://s3.intranet:9000")
    assert SECRET not in repr(found) + storage.in_words(found)
    usual = storage.checked("s3://k:s@10.0.0.9/dify")
    assert (usual.port, usual.region, usual.endpoint) == (443, "us-east-1", "https://10.0.0.9")
    plain = storage.checked("s3://k:s@10.0.0.9/dify?tls=disable")
    assert (plain.port, plain.tls, plain.endpoint) == (80, False, "http://10.0.0.9")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://k:secret@h/dify", "shape"),
        ("s3:///dify", "shape"),
        ("s3://k:secret@localhost/dify", "the container itself"),
        ("s3://k:secret@[fd00::9]/dify", "IPv4 alone"),
        ("s3://k:secret@redis/dify", "a service of Dify's own"),
        ("s3://k:secret@h:0/dify", "port"),
        ("s3://k@h/dify", "no secret key"),
        ("s3://:secret@h/dify", "no access key"),
        ("s3://k:secret%20s@h/dify", "a space, a quote"),
        ("s3://k:secret@h", "name of a bucket"),
        ("s3://k:secret@h/Dify", "name of a bucket"),
        ("s3://k:secret@h/dify/below", "name of a bucket"),
        ("s3://k:secret@h/dify?region=a%20b", "name of a region"),
        ("s3://k:secret@h/dify?region=", "name of a region"),
        ("s3://k:secret@h/dify?tls=no", "tls=no is not known"),
        ("s3://k:secret@h/dify?style=virtual", "style, which nobody would read"),
        # A key that is not encoded.
        ("s3://k:sec/ret@h/dify", "port"),
        ("s3://k:12/secret@h/dify", "no access key"),
    ],
)
def test_a_wrong_url_is_refused_without_its_key(url: str, why: str) -> None:
    with pytest.raises(errors.UsageError, match=why) as caught:
        storage.checked(url)
    assert caught.value.remedy
    assert "secret" not in (caught.value.message + caught.value.remedy).replace("secret key", "")


def test_it_comes_from_the_environment_or_the_answer_file_alone(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.cli, ["install", "--ip", "10.0.0.5", "--storage-url", URL, "--dry-run"])
    assert result.exit_code != 0
    assert "s3%2Fcret" not in result.output + str(result.exception)
    with pytest.raises(errors.UsageError, match="DIFY_INSTALLER_STORAGE_URL"):
        asked(["--storage-url", URL])
    by_environment = asked([], {"DIFY_INSTALLER_STORAGE_URL": URL}).asked.values
    answers = tmp_path / "answers.yaml"
    answers.write_text(f"storage-url: {URL}\n")
    assert asked(["--config", str(answers)]).asked.values == by_environment
    assert by_environment["S3_SECRET_KEY"] == SECRET
    with pytest.raises(errors.UsageError, match="--set S3_REGION=… says what"):
        asked(["--set", "S3_REGION=x"], {"DIFY_INSTALLER_STORAGE_URL": URL})


def test_both_programs_read_the_same_bucket(project: Path) -> None:
    env = computed(THERE, project)
    document = compose.load(project / "docker-compose.yaml")
    choice = render.Choice(variables=env.resolved, selinux=False, ca_bundle=True)
    services = yaml.safe_load(render.render(document, choice))["services"]

    def seen(service: str, *keys: str) -> list[str]:
        environment = services[service]["environment"]
        return [envfile.expand(environment[key], env.resolved) for key in keys]

    for name in ("api", "worker"):
        assert seen(name, "STORAGE_TYPE", "S3_ENDPOINT", "S3_BUCKET_NAME", "S3_ADDRESS_STYLE") == [
            *("s3", "https://s3.intranet:9000", "dify-files", "path")
        ]
        assert seen(name, "S3_REGION", "S3_ACCESS_KEY", "S3_SECRET_KEY") == ["seoul", "AKIDIFY", SECRET]
        # boto3's client compares with these.
        assert services[name]["environment"]["REQUESTS_CA_BUNDLE"] == "/etc/company-ca/ca-bundle.pem"
    daemon = ("PLUGIN_STORAGE_TYPE", "PLUGIN_STORAGE_OSS_BUCKET", "S3_ENDPOINT", "S3_USE_PATH_STYLE", "S3_USE_AWS")
    assert seen("plugin_daemon", *daemon) == ["aws_s3", "dify-files", "https://s3.intranet:9000", "true", "false"]
    assert seen("plugin_daemon", "AWS_REGION", "AWS_ACCESS_KEY", "AWS_SECRET_KEY") == ["seoul", "AKIDIFY", SECRET]
    added = yaml.safe_load(render.override(document, choice))["services"]
    assert envfile.expand(added["api"]["environment"]["S3_ADDRESS_STYLE"], env.resolved) == "path"


def test_what_the_settings_say_is_what_was_asked_for() -> None:
    env = computed(THERE)
    assert storage.find(env.resolved) == storage.checked(URL)
    assert external.in_words(env.resolved) == [f"{PLACE}, as AKIDIFY, TLS"]
    assert external.find_addresses(env.resolved) == {("s3.intranet", 9000)}
    for secret in (SECRET, "s3%2Fcret%2Bkey"):
        assert secret in env.secrets
        assert secret not in str(masks.without_secrets(env.resolved))
    # A cluster keeps its files in one as well, and has rows of its own.
    assert external.rows_in_words(env.resolved) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"STORAGE_TYPE": "opendal"},
        {"S3_ENDPOINT": ""},
        {"S3_ENDPOINT": "https://h:x"},
        {"S3_ENDPOINT": "ftp://h"},
        {"S3_USE_AWS_MANAGED_IAM": "true"},
    ],
)
def test_what_is_no_server_with_a_key_is_not_asked(changed: dict[str, str]) -> None:
    assert storage.find({**THERE, **changed}) is None


def test_without_it_nothing_is_different(project: Path) -> None:
    env = computed({}, project)
    choice = render.Choice(variables=env.resolved, selinux=False)
    services = yaml.safe_load(render.render(compose.load(project / "docker-compose.yaml"), choice))["services"]
    assert "S3_ADDRESS_STYLE" not in services["api"]["environment"]
    assert list(plans.check_storage(env, None, key_is_new=True)) == []


def existing(values: dict[str, str], place: layout.Installation) -> env_history.Existing:
    return env_history.Existing(path=place.env, text=computed(values).text)


def refuses(before: env_history.Existing | None, after: dict[str, str], place: layout.Installation) -> str:
    with pytest.raises(errors.PreflightFailed, match="do not go there by themselves") as caught:
        plans.require_one_place_of_files(before, computed(after), place, filled=False)
    plans.require_one_place_of_files(before, computed(after), place, filled=True)
    assert "--storage-filled" in caught.value.remedy
    return caught.value.message


def test_files_are_not_left_behind(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path)
    ours = existing({}, place)
    plans.require_one_place_of_files(ours, computed(THERE), place, filled=False)
    plans.require_one_place_of_files(None, computed(THERE), place, filled=False)
    kept = place.volumes / "app/storage"
    kept.mkdir(parents=True)
    # Upstream's own mark is no file of anybody's.
    (kept / ".init_permissions").touch()
    plans.require_one_place_of_files(ours, computed(THERE), place, filled=False)
    (kept / "privkeys").mkdir()
    assert PLACE in refuses(ours, THERE, place)
    theirs = existing(THERE, place)
    plans.require_one_place_of_files(theirs, computed(THERE), place, filled=False)
    assert "bucket others" in refuses(theirs, OTHER, place)
    assert str(place.volumes) in refuses(theirs, {}, place)


def test_packages_of_plugins_are_files_too(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path)
    (place.volumes / "plugin_daemon/plugin/one").mkdir(parents=True)
    assert str(place.volumes) in refuses(existing({}, place), THERE, place)


@pytest.mark.usefixtures("bundle")
def test_a_backup_does_not_come_beside_a_bucket_that_is_not_its_own() -> None:
    for theirs, where in ((THEIRS, "are in it"), (envfile.edit(THEIRS, OTHER), "bucket others")):
        with pytest.raises(errors.BackupRefused, match="do not go into that bucket by themselves") as caught:
            arrival.require_suitable(made(theirs), {**VARIABLES, **THERE}, COMPOSE)
        assert where in caught.value.message and PLACE in caught.value.message
        assert "--storage-filled" in caught.value.remedy
        arrival.require_suitable(made(theirs), {**VARIABLES, **THERE}, COMPOSE, filled=True)
    # Its own is where the files are.
    own = made(envfile.edit(THEIRS, {**THERE, "S3_SECRET_KEY": "older"}))
    arrival.require_suitable(own, {**VARIABLES, **THERE}, COMPOSE)
    # Without one here, the backup's goes on.
    arrival.require_suitable(own, VARIABLES, COMPOSE)


@pytest.mark.usefixtures("bundle")
@pytest.mark.parametrize("head", [{"ours": True, "dify": "1.11.3"}, {}])
def test_the_bucket_stays_as_it_is_here_and_else_comes_with_the_backup(tmp_path: Path, head: dict[str, object]) -> None:
    place = layout.Installation(tmp_path)
    place.project.mkdir()
    back_up = made(envfile.edit(THEIRS, {**OTHER, "OWN": "1"}), head)
    for here, expected in ((THERE, THERE), ({}, OTHER)):
        place.env.write_text(computed(here).text)
        written = envfile.parse(arrival.text_for(back_up, place, THEIRS))
        assert {key: written[key] for key in storage.KEYS} == expected
        assert written["OWN"] == "1"


def test_a_backup_and_an_upgrade_say_that_the_files_are_not_theirs() -> None:
    told = backup.files_not_in_it(storage.checked(URL))
    assert PLACE in told and "rows without their files do" in told
    env = computed(THERE)
    found = [each for each in upgrades.told_of_others(env.resolved) if each.level == "info"]
    assert PLACE in found[0].seen
    assert list(upgrades.told_of_others({})) == []


def test_a_finding_says_what_the_bucket_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = bucket.Seen(holds_a_dify=True, warnings=(("keeps versions", "leave it"),))
    monkeypatch.setattr(reach, "require_not_here", lambda *_: None)
    monkeypatch.setattr(bucket, "look", lambda *_, **__: seen)
    found = list(plans.check_storage(computed(THERE), None, key_is_new=False))
    assert [each.level for each in found] == ["ok", "warning"]
    assert f"{PLACE}, as AKIDIFY, TLS: files can be kept there; it holds the files of a Dify" in found[0].seen
    begins = list(plans.check_storage(computed(THERE), None, key_is_new=False, begins=True))
    assert "goes on with the files" in begins[1].seen
    names = plans.Names(listed=(), answering=())
    assert [each.check for each in plans.warn_of_names(computed(THERE), names)] == ["storage"]


def test_it_is_asked_for_from_inside_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside, "find_container", lambda *_: "dify_api_1")
    monkeypatch.setattr(inside, "ask_inside", lambda *_, **__: [{"kind": "ok", "detail": "it lets us connect"}])
    (found,) = others.check(THERE, [], Path("probe.py"), Podman(Runner()))
    assert (found.check, found.level) == ("api reaches S3 at s3.intranet:9000", "ok")
