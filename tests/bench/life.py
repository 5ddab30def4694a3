"""`make life`: backup, restore, upgrade and rollback beside what an expert types, on one machine and its data.

By hand: `pg_dump | zstd` and `tar | zstd` of the folders, one after the other; back with `zstd -d | psql` and
`zstd -d | tar -x`. Ours proves the file, compares every table and every file, and brings Dify up again besides. An
upgrade is beside the dump and the tar, which an expert makes before it, and which are not yet an upgrade. An export is
a backup of somebody else's Dify, by the same code; the sample's version is too old to be exported.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from tests.bench import bench
from tests.bench.hosts import ROOTFUL
from tests.bench.target import BUNDLE, arguments, booted, set_cache
from tests.target import bundle as bundles
from tests.target import machine as machines
from tests.target import newer as releases
from tests.target.machine import Machine
from tests.target.registry import Registry

HERE = Path(__file__).resolve().parent
NEWER = "/srv/newer"
VOLUMES = "/opt/dify/docker/volumes"
DATABASE = "dify_db_postgres_1"
API = "dify_api_1"
# Rows of text as people write it, and bytes that no compression makes smaller.
FILL = """
CREATE TABLE conversations (id serial PRIMARY KEY, name text NOT NULL);
CREATE TABLE messages (id serial PRIMARY KEY, of integer NOT NULL REFERENCES conversations, said text, vector bytea);
INSERT INTO conversations (name) SELECT '대화 ' || n FROM generate_series(1, 1000) n;
INSERT INTO messages (of, said, vector)
    SELECT 1 + n % 1000, repeat('질문과 답 ' || md5(n::text) || ' ', 5), decode(repeat(md5(n::text), 4), 'hex')
    FROM generate_series(1, 2000000) n;
"""
FILES = """
import pathlib, random
folder = pathlib.Path("/app/api/storage/upload_files")
folder.mkdir()
for number in range(2000):
    source = random.Random(number)
    folder.joinpath(f"{number}.bin").write_bytes(source.randbytes(256 * 1024) + f"{number} words ".encode() * 24000)
"""
BAR = "\\|"
HEAD = """\
# A backup and its way back

Made by `make life`; never edited by hand. The same data each time: {rows} of the database's files, {files} in
2,000 files of which half cannot be compressed. Seconds are medians of {rounds} runs, and of one
machine: read the ratios.

"""


@dataclass(kw_only=True, slots=True)
class Run:
    """A round: seconds by what was done, bytes of both results, and how long the console did not answer."""

    seconds: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    silent: dict[str, float] = field(default_factory=dict)


def main() -> None:
    """Measure, and write LIFE.md and life.json."""
    kept, rounds = arguments(__doc__, rounds=3)
    with Registry(kept / "registry") as registry:
        made = bundles.make("sample", bundles.SAMPLE, registry, kept)
    newer = releases.make(Registry(kept / "registry"), kept)
    work = kept / "bench"
    with booted(machines.base_root(kept), {BUNDLE: made.folder, NEWER: newer.folder}, work) as machine:
        machine.run(f"cd {BUNDLE} && ./dify-installer --ip {machines.ADDRESS} --no-boot", timeout=600)
        machine.run(["podman", "exec", "-i", DATABASE, "psql", "-qU", "postgres", "dify"], input=FILL, timeout=1200)
        machine.run(["podman", "exec", "-i", API, "python3", "-"], input=FILES, timeout=1200)
        sizes = "SELECT pg_database_size('dify')", f"du -sb {VOLUMES}/app | cut -f1"
        rows = int(machine.run(["podman", "exec", DATABASE, "psql", "-AtU", "postgres", "-c", sizes[0]]).stdout)
        files = int(machine.run(sizes[1]).stdout)
        runs = [measure(machine, made.folder) for _ in range(rounds)]
        facts = bench.describe(made, machine.run("podman --version").stdout.strip())
    write(runs, rows, files, facts)


def measure(machine: Machine, folder: Path) -> Run:
    """Run our way and the manual one, each with an empty cache; return what they took."""
    run = Run()
    machine.run("rm -rf /opt/made && mkdir /opt/made")
    set_cache("cold", folder)
    with Answering(machine) as silent:
        run.seconds["backup"] = _timed(
            machine, f"{BUNDLE}/dify-installer backup /opt/made/ours.tar.zst --json > /tmp/told"
        )
    run.silent["backup"] = silent[0]
    told = json.loads(machine.read("/tmp/told"))
    run.silent["vector store"] = told["held_seconds"]
    run.sizes["backup"] = told["bytes"]
    set_cache("cold", folder)
    dump = f"podman exec {DATABASE} pg_dump -U postgres --no-owner --no-privileges dify"
    run.seconds["pg_dump | zstd"] = _piped(machine, dump, "zstd -q -T0 -3", "opt/made/dump.zst")
    tar = f"tar -C {VOLUMES} -c app plugin_daemon sandbox weaviate"
    run.seconds["tar | zstd"] = _piped(machine, tar, "zstd -q -T0 -3", "opt/made/files.zst")
    made = machine.path("/opt/made")
    run.sizes["by hand"] = (made / "dump.zst").stat().st_size + (made / "files.zst").stat().st_size
    set_cache("cold", folder)
    with Answering(machine) as silent:
        run.seconds["restore"] = _timed(machine, f"{BUNDLE}/dify-installer restore /opt/made/ours.tar.zst")
    run.silent["restore"] = silent[0]
    machine.run(f"rm -rf {VOLUMES}.before-*")
    set_cache("cold", folder)
    machine.run(f"podman exec {DATABASE} createdb -U postgres again && mkdir /opt/made/again")
    psql = f"podman exec -i {DATABASE} psql -qU postgres -v ON_ERROR_STOP=1 --single-transaction -o /dev/null again"
    run.seconds["zstd -d | psql"] = _fed(machine, "opt/made/dump.zst", psql)
    run.seconds["zstd -d | tar -x"] = _fed(machine, "opt/made/files.zst", "tar -C /opt/made/again -x")
    machine.run(f"podman exec {DATABASE} dropdb -U postgres again")
    for name, command in (
        ("upgrade", f"cd {NEWER} && ./dify-installer --ip {machines.ADDRESS} --no-boot"),
        ("rollback", "/opt/dify/bin/dify-installer rollback"),
    ):
        set_cache("cold", folder)
        with Answering(machine) as silent:
            run.seconds[name] = _timed(machine, command)
        run.silent[name] = silent[0]
    machine.run("/opt/dify/bin/dify-installer prune; rm -rf /opt/dify/docker.before-* /opt/dify/docker.failed-*")
    print(run, flush=True)
    return run


def _timed(machine: Machine, command: str) -> float:
    begun = time.monotonic()
    machine.run(command, timeout=3600)
    return time.monotonic() - begun


def _piped(machine: Machine, command: str, packer: str, target: str) -> float:
    """Time a program of the machine whose output a packer of this host writes onto the machine's disk."""
    path = machine.path(target)
    return _shell(f"{shlex.join(machine.command(command))} | {packer} > {shlex.quote(str(path))}; sync -f {path}")


def _fed(machine: Machine, source: str, command: str) -> float:
    return _shell(f"zstd -dc {shlex.quote(str(machine.path(source)))} | {shlex.join(machine.command(command))}; sync")


def _shell(text: str) -> float:
    begun = time.monotonic()
    subprocess.run(["bash", "-c", f"set -eo pipefail; {text}"], check=True)
    return time.monotonic() - begun


class Answering:
    """Asks the console four times a second while the block runs; gives a list with the seconds without an answer."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.silent = [0.0]

    def __enter__(self) -> list[float]:
        self._thread.start()
        return self.silent

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        last = time.monotonic()
        while not self._over.wait(0.25):
            asked = f"curl --silent --fail --max-time 2 --output /dev/null {ROOTFUL.url}"
            answered = self._machine.run(asked, check=False).returncode == 0
            now = time.monotonic()
            self.silent[0] += 0.0 if answered else now - last
            last = now


def write(runs: list[Run], rows: int, files: int, facts: dict[str, str]) -> None:
    """Write the table, and the runs."""
    size = (rows + files) / 1e9

    def seconds(*names: str) -> float:
        return median(sum(run.seconds[name] for name in names) for run in runs)

    lines = [HEAD.format(rows=f"{rows / 1e9:.2f} GB", files=f"{files / 1e9:.2f} GB", rounds=len(runs))]
    lines += ["|  |  |\n| --- | --- |\n", *(f"| {name} | {value} |\n" for name, value in facts.items())]
    lines += ["\n| | seconds | for each GB | to the manual way |\n| --- | --- | --- | --- |\n"]
    ways = (
        ("`backup`", ("backup",), ("pg_dump | zstd", "tar | zstd")),
        ("`restore`, until Dify answers", ("restore",), ("zstd -d | psql", "zstd -d | tar -x")),
        ("upgrade, until the newer Dify answers", ("upgrade",), ("pg_dump | zstd", "tar | zstd")),
        ("`rollback`, until the older one answers", ("rollback",), ("zstd -d | psql", "zstd -d | tar -x")),
    )
    for name, ours, theirs in ways:
        took, manual = seconds(*ours), seconds(*theirs)
        lines.append(f"| {name} | {took:.1f} | {took / size:.1f} | {took / manual:.2f} |\n")
    for each in dict.fromkeys(each for _, _, theirs in ways for each in theirs):
        lines.append(f"| by hand: `{each.replace('|', BAR)}` | {seconds(each):.1f} | {seconds(each) / size:.1f} | |\n")
    lines.append("\nThe console did not answer:\n\n| | seconds |\n| --- | --- |\n")
    lines += [f"| {name} | {median(run.silent[name] for run in runs):.1f} |\n" for name in runs[0].silent]
    lines.append("\n`vector store` is how long that was stopped during a backup; the console answers meanwhile.\n")
    (HERE / "LIFE.md").write_text("".join(lines))
    (HERE / "life.json").write_text(json.dumps([asdict(run) for run in runs], indent=1) + "\n")


if __name__ == "__main__":
    main()
