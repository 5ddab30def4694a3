"""Collects the licence texts of all that the executable carries, from the installed distributions and the wheels.

Run as a program by the interpreter that is frozen, it prints those of that interpreter's environment as JSON: which
distributions are there, and their versions, only it knows for sure.
"""

from __future__ import annotations

import dataclasses
import email.message
import email.parser
import json
import platform
import re
import sys
import sysconfig
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

from build.failure import BuildError
from installer import VERSION
from installer.core import files, layout
from installer.core.runner import Runner

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "specs/freeze.lock"
COLLECT_SECONDS = 120.0
FORMAT = 1
# What freezes, and is not frozen. PyInstaller itself is: its bootloader and its first modules.
BUILD_ONLY = frozenset({"altgraph", "packaging", "pyelftools", "setuptools"})
_TEXT = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|AUTHORS)", re.IGNORECASE)
# A whole text where an expression belongs, as older metadata have it.
LONGEST_EXPRESSION = 160
# What Debian and CPython itself put where.
PYTHONS_OWN = ("LICENSE.txt", "LICENSE")
# CPython's portable build keeps the texts of what it links in (build/portable/build.sh): the folder's name and licence.
LINKED = {
    "bzip2": "bzip2-1.0.6",
    "libffi": "MIT",
    "openssl": "Apache-2.0",
    "xz": "0BSD",
    "zlib": "Zlib",
}
TITLES = {"The MIT License": "MIT", "MIT License": "MIT"}
NOT_GIVEN = """\
The Python that this executable was frozen with was not built by dify-installer's own recipe, and came without the
texts of what is linked into it: OpenSSL (Apache-2.0), zlib (Zlib), bzip2 (bzip2-1.0.6), xz (0BSD), libffi (MIT).
Whoever made that Python has them.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Component:
    """Something with a licence of its own: `license` is an SPDX expression or what its metadata say, or nothing.

    `texts` are by the names of their files, of which each begins with LICENSE, COPYING, NOTICE or AUTHORS.
    """

    name: str
    version: str
    license: str
    texts: Mapping[str, str]


def stage(payload: Path, interpreter: Path, dify: Component | None, runner: Runner) -> None:
    """Write `payload`/licenses.json, of all that `interpreter`'s environment and the staged wheels bring along.

    `dify` is the release, where it has a licence file. Raises BuildError for a component without a text.
    """
    found = [_ourselves(), *([dify] if dify else []), *_installed(interpreter, runner)]
    found += (of_wheel(path) for path in sorted((payload / layout.WHEELS).glob("*.whl")))
    files.write(payload / layout.LICENSES, dumps(found))


def dumps(components: Iterable[Component]) -> bytes:
    """Return components as JSON, each once, by name and version; the same bytes for the same components.

    Raises BuildError, naming all that have no text.
    """
    once = {(_normal(each.name), each.version): each for each in components}
    ordered = [once[key] for key in sorted(once)]
    without = [f"{each.name} {each.version}" for each in ordered if not any(map(str.strip, each.texts.values()))]
    if without:
        raise BuildError(
            f"no licence text is found for {', '.join(without)}: the executable must not carry it without one",
            "look whether its distribution has a licence file (License-File in its METADATA), or take another version",
        )
    top = {"format": FORMAT, "components": [dataclasses.asdict(each) for each in ordered]}
    return json.dumps(top, sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"


def frozen_names(lock: str) -> list[str]:
    """Return the names that a lock pins and that end up in the executable."""
    return [name for name in re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.MULTILINE) if name not in BUILD_ONLY]


def of_distribution(distribution: metadata.Distribution) -> Component:
    """Return what an installed distribution says of its licence."""
    inside = [path for path in distribution.files or () if _is_text(PurePosixPath(path))]
    texts = {_short(PurePosixPath(path)): _read(Path(str(path.locate()))) for path in inside}
    if linked := sorted(set(_linked(distribution))):
        texts["NOTICE-linked"] = "".join(f"{each}\n" for each in linked)
    return _component(email.parser.Parser().parsestr(distribution.read_text("METADATA") or ""), texts)


def _linked(distribution: metadata.Distribution) -> Iterator[str]:
    """Yield what was compiled into a distribution, with its licence, as its bill of materials tells it (CycloneDX)."""
    for path in distribution.files or ():
        if "sboms" in path.parts and path.suffix == ".json":
            for each in json.loads(_read(Path(str(path.locate())))).get("components", ()):
                licences = [found.get("expression") or found["license"].get("id") for found in each.get("licenses", ())]
                yield f"{each['name']} {each.get('version', '')}: {', '.join(filter(None, licences)) or 'not told'}"


def of_wheel(path: Path) -> Component:
    """Return what a wheel says of its licence."""
    with zipfile.ZipFile(path) as wheel:
        names = [PurePosixPath(name) for name in wheel.namelist() if not name.endswith("/")]
        (described,) = [name for name in names if name.name == "METADATA" and name.parent.suffix == ".dist-info"]
        texts = {_short(name): wheel.read(str(name)).decode(errors="replace") for name in names if _is_text(name)}
        return _component(email.parser.BytesParser().parsebytes(wheel.read(str(described))), texts)


def of_release(folder: Path, version: str) -> Component | None:
    """Return the licence of the Dify release in `folder`, if a file of it is there."""
    path = folder / "LICENSE"
    if not path.is_file():
        return None
    return Component(name="Dify (its docker folder)", version=version, license="", texts={path.name: _read(path)})


def of_python() -> Iterator[Component]:
    """Give CPython, as this program runs on it, and what is linked into it."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    texts = {name: _read(stdlib / name) for name in PYTHONS_OWN if (stdlib / name).is_file()}
    kept = Path(sys.base_prefix) / "licenses"
    if not kept.is_dir():
        texts |= {"NOTICE-linked-libraries": NOT_GIVEN}
    yield Component(name="CPython", version=platform.python_version(), license="PSF-2.0", texts=texts)
    for folder in sorted(kept.glob("*-*")):
        name, _, version = folder.name.partition("-")
        inside = {path.name: _read(path) for path in sorted(folder.iterdir())}
        yield Component(name=name, version=version, license=LINKED.get(name, ""), texts=inside)


def _installed(interpreter: Path, runner: Runner) -> list[Component]:
    """Ask an interpreter for its own components. Raises BuildError when a pinned distribution is not there."""
    command = [str(interpreter), str(Path(__file__).resolve()), str(LOCK)]
    result = runner.run(command, timeout=COLLECT_SECONDS, env={"PYTHONPATH": str(ROOT)}, check=False)
    if not result.ok:
        raise BuildError(
            f"the licences of what is frozen cannot be collected: {result.last_words}",
            "remove the build's folder (.cache), and build again",
        )
    return [Component(**each) for each in json.loads(result.stdout)]


def _ourselves() -> Component:
    texts = {name: _read(ROOT / name) for name in ("LICENSE", "NOTICE.md")}
    return Component(name=layout.EXECUTABLE, version=VERSION, license="MIT", texts=texts)


def _component(described: email.message.Message, texts: Mapping[str, str]) -> Component:
    return Component(
        name=str(described["Name"]),
        version=str(described["Version"]),
        license=_expression(described) or _title(texts.values()),
        texts=texts,
    )


def _title(texts: Iterable[str]) -> str:
    """Return the licence that a text is, by how it begins: the metadata of some say nothing."""
    return next((licence for text in texts for begins, licence in TITLES.items() if text.startswith(begins)), "")


def _expression(described: email.message.Message) -> str:
    """Return the licence as its metadata name it: by an expression, in a few words, or by classifiers."""
    for key in ("License-Expression", "License"):
        value = str(described[key] or "").strip()
        if value and "\n" not in value and len(value) <= LONGEST_EXPRESSION:
            return value
    classifiers = [str(each) for each in described.get_all("Classifier", [])]
    return ", ".join(each.rpartition(" :: ")[2] for each in classifiers if each.startswith("License :: "))


def _is_text(path: PurePosixPath) -> bool:
    """Tell whether a file of a distribution is a licence text: PEP 639's folder, or a name as it was before."""
    inside = next((number for number, part in enumerate(path.parts) if part.endswith(".dist-info")), None)
    if inside is None:
        return False
    below = path.parts[inside + 1 :]
    return (len(below) > 1 and below[0] in ("licenses", "license_files")) or bool(_TEXT.match(path.name))


def _short(path: PurePosixPath) -> str:
    """Return a text's name below its .dist-info folder, without PEP 639's `licenses/`."""
    inside = next(number for number, part in enumerate(path.parts) if part.endswith(".dist-info"))
    return "/".join(part for part in path.parts[inside + 1 :] if part != "licenses")


def _read(path: Path) -> str:
    return path.read_text("utf-8", errors="replace")


def _normal(name: str) -> str:
    """Return a distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main(arguments: Sequence[str]) -> None:
    """Print the components of this interpreter's environment that a lock pins, and its own."""
    found = [
        *of_python(),
        *(of_distribution(metadata.distribution(name)) for name in frozen_names(_read(Path(*arguments)))),
    ]
    json.dump([dataclasses.asdict(each) for each in found], sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
