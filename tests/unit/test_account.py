"""The session with the console and its first account, against a console that answers as the real one does."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from installer.core import errors, layout
from installer.core.runner import Runner
from installer.workspace import account
from installer.workspace.client import Client, ConsoleError, open_client
from tests.unit.console import EMAIL, INIT_PASSWORD, PASSWORD, State, refused, serve


@pytest.fixture
def place(tmp_path: Path) -> layout.Installation:
    return layout.Installation(tmp_path)


def enter(
    client: Client, place: layout.Installation, password: str = PASSWORD, init_password: str = INIT_PASSWORD
) -> account.Entered:
    admin = account.Admin(email=EMAIL, name="ops", password=password)
    return account.enter(client, admin, place, init_password, "ko-KR", Runner())


def try_to_enter(state: State, place: layout.Installation, password: str) -> str:
    with serve(state) as front, open_client(front) as client, pytest.raises(errors.AccountRefused) as told:
        enter(client, place, password)
    return f"{told.value.message}; {told.value.remedy}"


def test_the_first_account_is_made_once_and_then_signed_in_with(place: layout.Installation) -> None:
    state = State()
    with serve(state) as front:
        with open_client(front) as client:
            assert enter(client, place) == account.Entered(EMAIL, made=True, generated=False)
        with open_client(front) as client:
            assert enter(client, place) == account.Entered(EMAIL, made=False, generated=False)
    assert (state.account, state.language) == ((EMAIL, PASSWORD), "ko-KR")
    assert account.known_email(place) == EMAIL


def test_a_password_is_generated_and_kept_for_its_owner_alone(place: layout.Installation) -> None:
    state = State()
    with serve(state) as front, open_client(front) as client:
        assert enter(client, place, password="").generated
    assert stat.S_IMODE(place.admin_password.stat().st_mode) == 0o600
    kept = place.admin_password.read_text().strip()
    assert state.account == (EMAIL, account.checked_password(kept))
    with serve(state) as front, open_client(front) as client:
        assert enter(client, place, password="").generated


def test_a_generated_password_survives_a_run_that_was_killed_before_the_setup(place: layout.Installation) -> None:
    place.admin_password.write_text("kept-passw0rd\n")
    state = State()
    with serve(state) as front, open_client(front) as client:
        enter(client, place, password="")
    assert state.account == (EMAIL, "kept-passw0rd")


def test_without_a_known_password_an_existing_account_is_not_tried(place: layout.Installation) -> None:
    state = State(account=(EMAIL, PASSWORD))
    assert "--admin-password-file" in try_to_enter(state, place, "")
    assert not state.called("/login")


def test_a_wrong_password_is_tried_once_a_day_and_never_told(place: layout.Installation) -> None:
    state = State(account=(EMAIL, PASSWORD))
    assert "does not know" in try_to_enter(state, place, "wrong-passw0rd")
    assert "not tried again" in try_to_enter(state, place, "wrong-passw0rd")
    assert state.wrong == 1
    assert "wrong-passw0rd" not in place.account.read_text()
    assert stat.S_IMODE(place.account.stat().st_mode) == 0o600


def test_the_wrong_passwords_of_a_day_never_lock_the_account(place: layout.Installation) -> None:
    state = State(account=(EMAIL, PASSWORD))
    for number in range(8):
        told = try_to_enter(state, place, f"wrong-passw0rd-{number}")
    assert state.wrong == account.MOST_TRIES
    assert str(place.account) in told


def test_refusals_of_yesterday_and_of_others_count_no_more(place: layout.Installation) -> None:
    state = State(account=(EMAIL, PASSWORD))
    try_to_enter(state, place, "wrong-passw0rd")
    notes = json.loads(place.account.read_text())
    notes["refused"][0]["at"] -= account.DAY_SECONDS
    place.account.write_text(json.dumps(notes))
    try_to_enter(state, place, "wrong-passw0rd")
    assert state.wrong == 2


def test_the_right_password_clears_what_was_refused(place: layout.Installation) -> None:
    state = State(account=(EMAIL, PASSWORD))
    try_to_enter(state, place, "wrong-passw0rd")
    with serve(state) as front, open_client(front) as client:
        enter(client, place)
    assert json.loads(place.account.read_text()) == {"email": EMAIL}


def test_a_locked_account_is_told(place: layout.Installation) -> None:
    told = try_to_enter(State(account=(EMAIL, PASSWORD), wrong=6), place, PASSWORD)
    assert "locked" in told and "a day" in told


def test_a_member_without_rights_is_refused(place: layout.Installation) -> None:
    assert "editor" in try_to_enter(State(account=(EMAIL, PASSWORD), role="editor"), place, PASSWORD)


def test_a_person_who_sets_dify_up_meanwhile_is_not_in_the_way(place: layout.Installation) -> None:
    state = State(refuse={"POST /setup": refused(403, "already_setup", "Dify has been successfully installed.")})
    with serve(state) as front, open_client(front) as client, pytest.raises(errors.AccountRefused):
        enter(client, place)
    assert state.called("/login") == 1


def test_another_init_password_than_difys_is_told(place: layout.Installation) -> None:
    with serve(State()) as front, open_client(front) as client, pytest.raises(errors.AccountRefused) as told:
        enter(client, place, init_password="another")
    assert "INIT_PASSWORD" in told.value.message


def test_https_has_cookies_of_other_names(place: layout.Installation, tmp_path: Path) -> None:
    with serve(State(), tmp_path) as front, open_client(front) as client:
        assert enter(client, place).made


def test_old_tokens_are_renewed(place: layout.Installation) -> None:
    state = State()
    with serve(state) as front, open_client(front) as client:
        enter(client, place)
        state.generation += 1
        assert client.post("/workspaces/current")["role"] == "owner"
        assert state.called("/refresh-token") == 1


def test_what_cannot_be_renewed_is_told_with_difys_words(place: layout.Installation) -> None:
    state = State()
    with serve(state) as front, open_client(front) as client:
        enter(client, place)
        state.generation += 2
        with pytest.raises(ConsoleError, match="Invalid token") as told:
            client.post("/workspaces/current")
    assert (told.value.status, told.value.code) == (401, "unauthorized")
    assert "the logs" in told.value.remedy


def test_nobody_there_is_told_with_its_cause() -> None:
    with serve(State()) as front:
        pass
    with open_client(front) as client, pytest.raises(ConsoleError, match="refused") as told:
        client.get("/setup")
    assert told.value.status == 0


@pytest.mark.parametrize("text", ["ops", "ops@host", "ops@example.c", "o ps@example.com", "ops@exam ple.com", ""])
def test_what_is_no_email_for_dify_is_refused_before(text: str) -> None:
    with pytest.raises(errors.UsageError):
        account.checked_email(text)


def test_an_email_is_kept_as_dify_keeps_it() -> None:
    assert account.checked_email("Ops.Team+dify@Example.COM") == "ops.team+dify@example.com"


@pytest.mark.parametrize("text", ["short1", "onlyletters", "1234567890", ""])
def test_what_is_no_password_for_dify_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(errors.UsageError) as told:
        account.checked_password(text)
    assert not text or text not in told.value.message


def test_a_name_is_as_long_as_dify_takes_it() -> None:
    assert account.checked_name("o" * 30) == "o" * 30
    assert account.default_name("a-very-long-name-of-a-person-in-an-organisation@example.com") == (
        "a-very-long-name-of-a-person-i"
    )
    for text in ("o" * 31, " "):
        with pytest.raises(errors.UsageError):
            account.checked_name(text)


def test_a_password_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text(PASSWORD + "\n")
    path.chmod(0o640)
    with pytest.raises(errors.UsageError, match="others may read"):
        account.read_password(path)
    path.chmod(0o600)
    assert account.read_password(path) == PASSWORD
    with pytest.raises(errors.UsageError, match="cannot be read"):
        account.read_password(tmp_path / "missing")
