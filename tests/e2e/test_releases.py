"""Other releases: an older glibc under the executable, other podmans, and each Python's own wheels."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from installer.core import layout
from tests.e2e.test_floor import scanner
from tests.target import bundle, release
from tests.target.bundle import Bundle

# The releases of Debian, their Pythons, glibcs and podmans; the target machine has 3.13, 2.41 and 5.4.
SUITES = {
    "bullseye": ("3.9", "2.31", "3.0"),
    "bookworm": ("3.11", "2.36", "4.3"),
}
PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")


@pytest.fixture(params=SUITES)
def suite(request: pytest.FixtureRequest) -> str:
    """A release of Debian."""
    return str(request.param)


@pytest.fixture
def root(suite: str, work: Path) -> Path:
    """A root of that release, with an empty /srv."""
    folder = release.root(suite, work)
    shutil.rmtree(folder / "srv")
    (folder / "srv").mkdir()
    return folder


@pytest.mark.feature("podman before 4.6", "refused: `dnf update podman`")
@pytest.mark.feature("glibc 2.31 and 2.36 (built for 2.28)", "works")
def test_the_executable_runs_and_judges_an_old_podman(suite: str, root: Path, sample: Bundle) -> None:
    shutil.copy(sample.executable, root / "srv/dify-installer")
    _, glibc, podman = SUITES[suite]
    assert f"GLIBC {glibc}" in release.run(root, ["ldd", "--version"]).stdout
    version = release.run(root, ["/srv/dify-installer", "--version"])
    assert version.returncode == 0, version.stderr
    judged = release.run(root, ["/srv/dify-installer", "preflight", "--ip", "10.0.0.5"])
    assert judged.returncode == 4, judged.stderr
    assert f"FAIL podman: podman {podman}" in judged.stdout
    assert "cannot wait until a service is healthy; 4.6 can" in judged.stdout


INSTALL = """
import sys
from pathlib import Path
from installer.core import layout
from installer.core.runner import Runner
from installer.engine import podman_compose
place = layout.Installation(Path(sys.argv[1]))
done = podman_compose.install(place, Path(sys.argv[2]), [Path("/usr/bin/python3")], Path("/srv/link"), Runner())
print(done.by, done.version)
"""


@pytest.mark.feature("Python 3.9 and 3.11 (and 3.13 of the target machine)", "works; each with its own wheels")
def test_its_python_gets_podman_compose_from_its_own_wheels(suite: str, root: Path, sample: Bundle, work: Path) -> None:
    """Our own code does it, run by the Python that the executable carries, with that release's interpreter."""
    shared = (work, bundle.ROOT)
    environment = ["env", f"PYTHONPATH={bundle.ROOT}", "PYTHONDONTWRITEBYTECODE=1"]
    install = [str(scanner(work)), "-c", INSTALL, "/srv/dify", str(sample.payload)]
    done = release.run(root, [*environment, *install], *shared)
    assert done.stdout.split() == ["python", "1.6.0"], done.stderr
    program = "import sys, yaml; print('%d.%d' % sys.version_info[:2], yaml.__with_libyaml__)"
    used = release.run(root, ["/srv/dify/podman-compose/bin/python", "-c", program])
    # PyYAML's own C library is there: the wheel was that interpreter's, not one for any.
    assert used.stdout.split() == [SUITES[suite][0], "True"], used.stderr


@pytest.fixture(scope="module")
def pip(sample: Bundle, work: Path) -> list[str]:
    """The pip of the bundle, as a command line."""
    (wheel,) = (sample.payload / layout.WHEELS).glob("pip-*.whl")
    return [str(scanner(work)), f"{wheel}/pip"]


@pytest.mark.feature("Python 3.9 to 3.14 on glibc 2.28, 2.34, 2.39", "works, by pip's own logic of tags")
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("glibc", ["2_28", "2_34", "2_39"])
def test_pip_finds_wheels_for_every_python_of_every_rhel(
    pip: list[str], sample: Bundle, tmp_path: Path, python: str, glibc: str
) -> None:
    """pip's own logic of tags, for the interpreters that are not to be had here."""
    command = [*pip, "download", "--quiet", "--no-index", "--only-binary=:all:", "--require-hashes"]
    command += ["--find-links", str(sample.payload / layout.WHEELS), "--dest", str(tmp_path)]
    command += ["--python-version", python, "--implementation", "cp", "--abi", f"cp{python.replace('.', '')}"]
    # manylinux_2_28 means all that came before it, too; pip takes the list as it is given.
    command += [word for each in (f"manylinux_{glibc}", "manylinux2014") for word in ("--platform", f"{each}_x86_64")]
    done = subprocess.run(
        [*command, "--requirement", str(sample.payload / layout.PODMAN_COMPOSE_LOCK)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (chosen,) = tmp_path.glob("pyyaml-*.whl")
    assert f"-cp{python.replace('.', '')}-" in chosen.name
