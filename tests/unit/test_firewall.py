"""Which rules are added to firewalld, which are noted as ours, and which go again."""

from __future__ import annotations

from pathlib import Path

import pytest

from installer.core import layout, marker
from installer.core.marker import Rule
from installer.core.runner import Runner
from installer.engine.podman import Podman
from installer.system import firewall
from tests.unit.test_boot import program

# A firewalld: a file for each zone and form, a rule a line.
FIREWALLD = """
state={folder}/state; mkdir -p $state; form=now; zone=; status=0
for word in "$@"; do
  case $word in
    --get-default-zone) echo public; exit 0;;
    --permanent) form=permanent;;
    --zone=*) zone=${{word#--zone=}};;
    *) file=$state/$zone.$form; touch $file; verb=${{word%%-port=*}}; verb=${{verb%%-source=*}}; value=${{word#*=}}
      case $verb in
        --add) grep -qxF $value $file || echo $value >> $file;;
        --remove) grep -vxF $value $file > $file.new; mv $file.new $file;;
        --query) grep -qxF $value $file || status=1;;
      esac;;
  esac
done
exit $status
"""


@pytest.fixture
def place(tmp_path: Path) -> layout.Installation:
    place = layout.Installation(tmp_path / "dify")
    place.folder.mkdir()
    marker.write(place, marker.Inventory())
    return place


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return program(tmp_path, "firewall-cmd", FIREWALLD.format(folder=tmp_path))


def rules(tmp_path: Path, zone: str, form: str = "permanent") -> set[str]:
    path = tmp_path / "state" / f"{zone}.{form}"
    return set(path.read_text().split()) if path.exists() else set()


@pytest.fixture(autouse=True)
def subnets(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The subnets of the stack's internal networks; a test changes them."""
    current = ["10.89.0.0/24"]
    monkeypatch.setattr(Podman, "internal_subnets", lambda _self, _project: list(current))
    return current


def test_only_rules_that_were_not_there_are_ours_and_go(
    tmp_path: Path, place: layout.Installation, runner: Runner
) -> None:
    for form in (["--permanent"], []):
        runner.run(["firewall-cmd", *form, "--zone=public", "--add-port=443/tcp"], timeout=10)
    firewall.admit([80, 443], [80], place, Podman(runner))
    assert rules(tmp_path, "public") == rules(tmp_path, "public", "now") == {"80/tcp", "443/tcp"}
    assert rules(tmp_path, "trusted") == rules(tmp_path, "trusted", "now") == {"10.89.0.0/24"}
    ours = (Rule("public", "port", "80/tcp"), Rule("trusted", "source", "10.89.0.0/24"))
    assert marker.recorded(place).rules == ours
    assert firewall.admit([80, 443], [], place, Podman(runner)) == "firewalld knows all of it"
    assert marker.recorded(place).rules == ours
    assert "no longer has 80/tcp in zone public" in firewall.withdraw(place, runner)
    assert rules(tmp_path, "public") == rules(tmp_path, "public", "now") == {"443/tcp"}
    assert rules(tmp_path, "trusted") == set()
    assert marker.recorded(place).rules == ()
    assert firewall.withdraw(place, runner) == "no rules of ours"


def test_what_is_no_longer_wanted_is_taken_back(
    tmp_path: Path, place: layout.Installation, runner: Runner, subnets: list[str]
) -> None:
    firewall.admit([80, 443], [80, 443], place, Podman(runner))
    subnets[:] = ["10.89.7.0/24"]
    firewall.admit([8080, 443], [8080], place, Podman(runner))
    assert rules(tmp_path, "trusted") == {"10.89.7.0/24"}
    assert rules(tmp_path, "public") == {"443/tcp", "8080/tcp"}
    # podman does not say: nothing is concluded from that.
    subnets.clear()
    firewall.admit([8080, 443], [], place, Podman(runner))
    assert rules(tmp_path, "trusted") == {"10.89.7.0/24"}


def test_rules_stay_noted_while_firewalld_does_not_run(tmp_path: Path, place: layout.Installation) -> None:
    marker.record_rules(place, [Rule("public", "port", "80/tcp")])
    silent = program(tmp_path, "firewall-cmd", "echo FirewallD is not running >&2; exit 252")
    assert "not running" in firewall.withdraw(place, silent)
    assert marker.recorded(place).rules == (Rule("public", "port", "80/tcp"),)
