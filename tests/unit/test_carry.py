"""Settings of a person go on from one release to another; what was upstream's default follows the new one."""

from __future__ import annotations

from installer.release import carry, envfile

OLD = "DB_HOST=db\nLOG_LEVEL=INFO\nOLD_THING=\nSECRET_KEY=sk-public\nSAME=1\n"
NEW = "# New.\nDB_HOST=db_postgres\nLOG_LEVEL=INFO\nSECRET_KEY=sk-public\nSAME=1\nNEW_THING=on\n"
HERE = "DB_HOST=db\nLOG_LEVEL=DEBUG\nOLD_THING=kept\nSECRET_KEY=own\nSAME=1\nOURS=x\n"


def test_what_was_chosen_goes_on_and_defaults_follow_the_new_release() -> None:
    carried = carry.carry(HERE, OLD, NEW)
    assert carried.values == {"LOG_LEVEL": "DEBUG", "SECRET_KEY": "own", "OURS": "x"}
    assert carried.new == ("NEW_THING",)
    assert carried.changed == ("DB_HOST",)
    assert carried.gone == ("OLD_THING",)
    assert "own" not in repr(carried)


def test_the_new_file_has_the_new_comments_and_the_old_choices() -> None:
    text = carry.rebase(HERE, OLD, NEW)
    assert text.startswith("# New.\n")
    assert envfile.parse(text) == {
        **envfile.parse(NEW),
        "LOG_LEVEL": "DEBUG",
        "SECRET_KEY": "own",
        "OURS": "x",
    }


def test_the_same_release_changes_nothing() -> None:
    assert envfile.parse(carry.rebase(HERE, OLD, OLD)) == envfile.parse(HERE)
    assert carry.carry(HERE, OLD, OLD).gone == ()


def test_a_key_that_was_taken_out_is_the_new_releases() -> None:
    """A line that is missing means upstream's default, as compose's `:-` gives it."""
    assert envfile.parse(carry.rebase("SAME=1\n", OLD, NEW)) == envfile.parse(NEW)
