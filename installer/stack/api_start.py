"""What the containers of Dify's api do before their own program, and what they keep of compiled Python, on the host.

The image starts its program with a script of bash, which reads the file that BASH_ENV names first (bash(1)): so its
entrypoint stays what it is, whatever that is. One that is no bash only starts as upstream has it.

What is compiled belongs to one image: Python compares a source by time and size alone, and those may agree in two
images (docs/decisions/023).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Collection, Iterable
from pathlib import Path

from installer.bundle import manifest
from installer.core import errors, files, layout
from installer.engine.base import Engine
from installer.images import image_store

REMOVE_SECONDS = 600.0

# A shell that waits for a program acts on signals only if it waits with `wait` (bash(1), "SIGNALS"): else a container
# that waits could not be stopped, and would be killed.
SCRIPT = """\
# Written by dify-installer: what comes before the program of Dify's api image (BASH_ENV).
unset BASH_ENV
python3 -I {folder}/{program} &
trap 'kill $!; exit 143' TERM
wait $!
if [ $? = 75 ]; then exit 75; fi
trap - TERM
"""


def lay_down(place: layout.Installation, payload: Path) -> None:
    """Write the script and its program where the containers see them, unless they are there. Raises CommandFailed."""
    program = (payload / layout.PREPARE_API).read_bytes()
    script = SCRIPT.format(folder=layout.API_START_INSIDE, program=layout.PREPARE_API).encode()
    files.folder(place.api_start)
    for name, content in ((layout.PREPARE_API, program), (layout.API_SCRIPT, script)):
        path = place.api_start / name
        if not path.is_file() or path.read_bytes() != content:
            files.write(path, content)


def make_folder(place: layout.Installation, folder: Path) -> None:
    """Make a folder for what one image compiles, or mend it. Never fails for it: then nothing is kept.

    Its user has another number on each host (rootless, a remapped docker): all may write into it, and none but root, or
    the user who installs, comes to it.
    """
    with contextlib.suppress(errors.CommandFailed, OSError):
        files.folder(place.compiled, mode=0o700)
        files.folder(folder)
        for path, mode in ((place.compiled, 0o700), (folder, 0o777)):
            if stat.S_IMODE(path.stat().st_mode) != mode:
                path.chmod(mode)


def fill_folders(place: layout.Installation) -> None:
    """Give the folders that are empty what the build has compiled of their image, which an image store holds.

    Never fails for it: what is lacking is compiled by Dify's first start.
    """
    with contextlib.suppress(OSError):
        for folder in place.compiled.iterdir():
            found = (store.tree / layout.COMPILED / folder.name for store in image_store.list_stores(place))
            source = next((each for each in found if each.is_dir()), None)
            if source is not None and next(folder.rglob("*.pyc"), None) is None:
                _copy(source, folder)


def _copy(source: Path, target: Path) -> None:
    """Copy a tree of which the containers' user, whoever that is, may replace each file. Raises OSError."""
    for path, _, names in os.walk(source):
        folder = target / Path(path).relative_to(source)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
        for name in names:
            shutil.copyfile(Path(path, name), folder / name)
            (folder / name).chmod(0o644)


def mend_folders(place: layout.Installation) -> None:
    """Mend the folders that are there: docker makes one anew that somebody has removed, for root alone."""
    with contextlib.suppress(OSError):
        for folder in place.compiled.iterdir():
            make_folder(place, folder)


def remove_others(
    place: layout.Installation, images: Iterable[manifest.Image], kept: Collection[str], engine: Engine
) -> None:
    """Remove what was compiled of images that are neither of the bundle nor `kept` (IDs of the engine).

    What cannot be removed only takes room, and the next run tries again.
    """
    wanted = {layout.compiled_name(identity) for identity in (*(image.id for image in images), *kept)}
    with contextlib.suppress(OSError):
        remove([path for path in place.compiled.iterdir() if path.name not in wanted], engine)


def remove(folders: Collection[Path], engine: Engine) -> None:
    """Remove folders of compiled Python, which belong to the containers' user; what is refused stays."""
    if folders:
        command = engine.as_owner(["rm", "-rf", "--", *map(str, folders)])
        engine.runner.run(command, timeout=REMOVE_SECONDS, check=False)
