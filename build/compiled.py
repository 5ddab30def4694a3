"""Compiles what Dify's api reads in as it starts, in its own image: a server's first start has it then.

The image has nothing compiled, and its three containers would do it on the server, while people wait
(docs/decisions/023, 036).
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from build import compile_imports
from installer.bundle import manifest
from installer.core import digest, files, layout
from installer.core.console import Console
from installer.core.runner import Runner

# Dify's application is imported twice, and each file is compiled once more: 90 s on a slow machine.
SECONDS = 900.0
# One build's is another one's earlier: so many are kept.
KEPT = 2
INSIDE = "/dify-installer"
PROGRAM = Path(compile_imports.__file__)


@dataclass(frozen=True, slots=True)
class Compiled:
    """What was compiled of an image, by its ID: a folder as PYTHONPYCACHEPREFIX wants it."""

    image: str
    folder: Path


def make(
    reference: str,
    identity: str,
    architecture: manifest.Architecture,
    program: str,
    work: Path,
    runner: Runner,
    console: Console,
) -> Compiled | None:
    """Return what is compiled of the api's image, which the engine has; of the same image, the last build's.

    None where containers of it cannot be run here: nothing is lacking then, and the first start takes longer.
    """
    key = digest.hash_bytes(json.dumps([identity, digest.hash_file(PROGRAM)]).encode())
    folder = work / f"compiled-{key[:16]}"
    if not folder.is_dir():
        console.line(f"compile  what {reference} reads in as it starts")
        partial = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(partial, ignore_errors=True)
        files.folder(partial / layout.COMPILED)
        # The image's user has another number than ours.
        (partial / layout.COMPILED).chmod(0o777)
        files.write(partial / PROGRAM.name, PROGRAM.read_bytes())
        if why := _run(reference, architecture, program, partial, runner):
            console.line(f"         not here: {why}")
            console.line("         the bundle is complete without it; Dify's first start takes some seconds longer")
            shutil.rmtree(partial)
            return None
        partial.rename(folder)
    folder.touch()
    # Not what another build is at just now, which has another ending.
    whole = work.glob(f"compiled-{'[0-9a-f]' * 16}")
    for path in sorted(whole, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
        shutil.rmtree(path, ignore_errors=True)
    return Compiled(identity, folder / layout.COMPILED)


def _run(reference: str, architecture: manifest.Architecture, program: str, folder: Path, runner: Runner) -> str:
    """Run the program in the image, without network and rights; return why that failed, or nothing."""
    command = [program, "run", "--rm", "--pull=never", "--platform", f"linux/{architecture}", "--network", "none"]
    command += ["--cap-drop", "all", "--security-opt", "no-new-privileges", "--security-opt", "label=disable"]
    command += ["--volume", f"{folder}:{INSIDE}"]
    # Sets are written in the order of their hashes.
    command += ["--env", "PYTHONHASHSEED=0", "--entrypoint", "python3", reference]
    command += [f"{INSIDE}/{PROGRAM.name}", f"{INSIDE}/{layout.COMPILED}"]
    result = runner.run(command, timeout=SECONDS, check=False)
    if result.ok:
        return ""
    return runner.mask(result.last_words) or f"{program} ended with status {result.status}"
