"""A PostgreSQL with pgvector that runs already: its URL, the settings, what is refused, and a real one without it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from installer import plan as plans
from installer.backup import arrival
from installer.commands import backup
from installer.core import errors, layout
from installer.release import compose, env_history, envfile, external, masks, render
from installer.services import pgvector, reach
from installer.upgrade import plan as upgrades
from tests.target.servers import Postgres
from tests.unit.test_arrival import COMPOSE, THEIRS, VARIABLES, made
from tests.unit.test_external import URL as ROWS
from tests.unit.test_external import computed
from tests.unit.test_options import asked
from tests.unit.test_services import SECRET, database, wanted

PASSWORD = "p@ss/w:rd"
URL = "postgresql://vec:p%40ss%2Fw%3Ard@vectors.intranet:5433/vectors"
THERE = external.vector_settings(external.checked_vectors(URL))
OTHER = external.vector_settings(external.checked_vectors(URL.replace("5433", "5434")))

__all__ = ["database"]


def test_the_settings_are_those_of_the_url_and_no_container_is_left() -> None:
    env = computed(THERE)
    assert external.find_vectors(env.resolved) == external.checked_vectors(URL)
    assert not {"pgvector", "weaviate"} & set(compose.active_profiles(env.resolved))
    assert "postgresql" in compose.active_profiles(env.resolved)
    assert external.in_words(env.resolved) == [
        "PostgreSQL at vectors.intranet:5433, vectors with the vectors, as vec, verify-full"
    ]
    assert external.find_addresses(env.resolved) == {("vectors.intranet", 5433)}
    assert PASSWORD in env.secrets
    assert PASSWORD not in str(masks.without_secrets(env.resolved))
    assert external.find_vectors({"VECTOR_STORE": "pgvector", "PGVECTOR_HOST": "pgvector"}) is None
    assert external.find_vectors({"VECTOR_STORE": "weaviate", "PGVECTOR_HOST": "other"}) is None


def test_all_profiles_may_be_those_of_others() -> None:
    rows = external.database_settings(external.checked_database(ROWS))
    assert compose.active_profiles(computed({**THERE, **rows}).resolved) == ()


def test_a_service_of_difys_own_is_no_server_of_others() -> None:
    with pytest.raises(errors.UsageError, match="a service of Dify's own"):
        external.checked_vectors("postgresql://u:secret@pgvector/n")
    with pytest.raises(errors.UsageError, match="DIFY_INSTALLER_VECTOR_URL"):
        asked(["--vector-url", URL])
    assert asked([], {"DIFY_INSTALLER_VECTOR_URL": URL}).asked.values["PGVECTOR_PASSWORD"] == PASSWORD
    with pytest.raises(errors.UsageError, match="give both the same sslmode"):
        asked([], {"DIFY_INSTALLER_VECTOR_URL": URL, "DIFY_INSTALLER_DB_URL": f"{ROWS}?sslmode=require"})


def rendered(values: dict[str, str], project: Path) -> tuple[dict[str, dict[str, dict[str, str]]], dict[str, str]]:
    env = computed(values, project)
    choice = render.Choice(variables=env.resolved, selinux=False, ca_bundle=True)
    services = yaml.safe_load(render.render(compose.load(project / "docker-compose.yaml"), choice))["services"]
    return services, dict(env.resolved)


def test_the_api_compares_and_its_own_database_is_not_asked_for_tls(project: Path) -> None:
    services, variables = rendered(THERE, project)
    for name in ("api", "worker"):
        environment = services[name]["environment"]
        assert (environment["PGSSLMODE"], environment["PGSSLROOTCERT"]) == (
            "verify-full",
            "/etc/company-ca/ca-bundle.pem",
        )
        assert envfile.expand(environment["DB_EXTRAS"], variables) == "sslmode=disable"
        assert envfile.expand(environment["PGVECTOR_HOST"], variables) == "vectors.intranet"
    # Its driver would take them for its own database.
    assert not {"PGSSLMODE", "PGSSLROOTCERT"} & set(services["plugin_daemon"]["environment"])
    assert not {"pgvector", "weaviate"} & set(services)


def test_rows_of_others_keep_their_own_word(project: Path) -> None:
    services, variables = rendered({**THERE, **external.database_settings(external.checked_database(ROWS))}, project)
    extras = envfile.expand(services["api"]["environment"]["DB_EXTRAS"], variables)
    assert extras == "sslmode=verify-full&sslrootcert=/etc/company-ca/ca-bundle.pem"


def test_a_knowledge_base_stays_with_its_store(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path)
    ours = env_history.Existing(path=place.env, text=computed({}).text)
    theirs = env_history.Existing(path=place.env, text=computed(THERE).text)
    plans.require_one_store_of_vectors(None, computed(THERE), place)
    plans.require_one_store_of_vectors(ours, computed(THERE), place)
    plans.require_one_store_of_vectors(theirs, computed(THERE), place)
    plans.require_one_store_of_vectors(ours, computed({"VECTOR_STORE": "qdrant"}), place)
    (place.volumes / "weaviate/data").mkdir(parents=True)
    for before, after in ((ours, THERE), (theirs, OTHER), (theirs, {})):
        with pytest.raises(errors.PreflightFailed, match="stays with the store that it was made with"):
            plans.require_one_store_of_vectors(before, computed(after), place)


@pytest.mark.usefixtures("bundle")
def test_a_backup_does_not_come_beside_vectors_that_are_not_its_own() -> None:
    here = {**VARIABLES, **THERE}
    head = {"vector_store": "pgvector"}
    for theirs, variables, why in (
        (THEIRS, here, "do not go there by themselves"),
        (envfile.edit(THEIRS, OTHER), here, "has no vectors"),
        (envfile.edit(THEIRS, THERE), VARIABLES, "has no vectors"),
    ):
        with pytest.raises(errors.BackupRefused, match=why) as caught:
            arrival.require_suitable(made(theirs, head), variables, COMPOSE)
        assert "--without-vectors" in caught.value.remedy
    arrival.require_suitable(made(envfile.edit(THEIRS, THERE), head), here, COMPOSE)
    arrival.require_suitable(made(THEIRS, without_vectors=True), here, COMPOSE)


@pytest.mark.usefixtures("bundle")
def test_where_the_vectors_are_stays_as_it_is_here(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path)
    place.project.mkdir()
    place.env.write_text(computed(THERE).text)
    back_up = made(computed({"LOG_LEVEL": "DEBUG"}).text, {"ours": True, "dify": "1.11.3"}, without_vectors=True)
    written = envfile.parse(arrival.text_for(back_up, place, THEIRS))
    assert {key: written[key] for key in THERE} == THERE
    assert len({written[key] for key in ("PGVECTOR_PASSWORD", "PGVECTOR_POSTGRES_PASSWORD") if key in written}) == 1
    assert compose.active_profiles(written) == compose.active_profiles(computed(THERE).resolved)
    assert written["LOG_LEVEL"] == "DEBUG"


def test_it_is_told_that_the_vectors_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "PostgreSQL at vectors.intranet:5433, vectors" in backup.vectors_not_in_it(external.checked_vectors(URL))
    (told,) = upgrades.told_of_others(computed(THERE).resolved)
    assert (told.level, "the vectors in PostgreSQL at vectors.intranet" in told.seen) == ("info", True)
    monkeypatch.setattr(reach, "require_not_here", lambda *_: None)
    monkeypatch.setattr(pgvector, "look", lambda *_: pgvector.Seen(version="17.2", extension="0.8.0"))
    (found,) = plans.check_vectors(computed(THERE), None)
    assert found.level == "ok"
    assert "pgvector 0.8.0 can be used" in found.seen
    assert list(plans.check_vectors(computed({}), None)) == []


def test_a_server_without_pgvector_and_a_database_that_is_not_there_are_refused(database: Postgres) -> None:
    if database.sql("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'") == "0":
        with pytest.raises(errors.PreflightFailed, match="extension vector is not installed on that server") as caught:
            pgvector.look(wanted(database), database.authority.certificate)
        assert "installs pgvector there" in caught.value.remedy
    with pytest.raises(errors.PreflightFailed, match="has no database none") as caught:
        pgvector.look(wanted(database, name="none"), database.authority.certificate)
    assert "CREATE DATABASE" in caught.value.remedy
    with pytest.raises(errors.PreflightFailed, match="refuses the password") as caught:
        pgvector.look(wanted(database, password="wrong", option=external.VECTOR_OPTION), database.authority.certificate)
    assert "--vector-url" in caught.value.remedy
    assert SECRET not in caught.value.message
