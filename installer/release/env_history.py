"""Keeps `.env` and its past: earlier copies, and a record of its keys, so that nothing gets lost unnoticed.

`.env` ends with a mark, a comment with the number and the digest of its keys, and `.env.keys` beside it has their
names. What a person changes or adds is his affair; a key that was there and is gone is told, since a cut file looks
like a short one. A file whose mark fits its keys, such as a copy that was put back, is whole whatever the record says.
A file without mark and record, from an earlier installer or by hand, gets them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from installer.core import digest, errors, files, layout
from installer.release import dify, envfile

MARK = "# dify-installer:"
_MARK_LINE = re.compile(rf"^{MARK} ([0-9]+) keys, sha256 [0-9a-f]{{64}}(?=\r?$)", re.MULTILINE)
# More names than this do not help a person.
NAMES_SHOWN = 10
FEW = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """An earlier `.env` that is still there."""

    path: Path
    # Key -> whether it has a value.
    keys: Mapping[str, bool]
    # Its mark fits its keys: it is as we wrote it.
    whole: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Existing:
    """The `.env` that is there, and what is known of its past."""

    path: Path
    text: str = field(repr=False)
    # Key -> whether it had a value when we last wrote the file; None where nothing tells.
    recorded: Mapping[str, bool] | None = None
    # Newest first.
    copies: tuple[Copy, ...] = ()


def read_existing(place: layout.Installation) -> Existing | None:
    """Return the `.env` that is there, or None.

    Raises CommandFailed when it may not be read, UsageError when it is empty or not text, naming the copy to put back.
    """
    content = _bytes_of(place.env)
    if content is None:
        return None
    copies = tuple(_copies(place))
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise errors.UsageError(
            f"{place.env} is not UTF-8 text: line {line}, byte {error.start} of the file", _put_back(place.env, copies)
        ) from error
    if not envfile.parse(text):
        raise errors.UsageError(f"{place.env} is there, but no setting is in it", _put_back(place.env, copies))
    recorded = _recorded(place) or next((copy.keys for copy in copies if copy.whole), None)
    return Existing(path=place.env, text=text, recorded=recorded, copies=copies)


def _bytes_of(path: Path) -> bytes | None:
    """Return what a file holds, or None when it is not there. Raises CommandFailed when it may not be read."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise errors.CommandFailed(
            f"{path} cannot be read: {error.strerror}",
            "run as the user who installed, or give another folder with --dir",
        ) from error


def text_of(path: Path) -> str:
    """Return the text of a file; "" when it is not there or not UTF-8. Raises CommandFailed when it may not be read."""
    try:
        return (_bytes_of(path) or b"").decode("utf-8")
    except UnicodeDecodeError:
        return ""


def _filled(text: str) -> dict[str, bool]:
    """Return the keys of a text, and whether each has a value."""
    return {key: bool(value) for key, value in envfile.parse(text).items()}


def _copies(place: layout.Installation) -> Iterator[Copy]:
    """Yield the copies that can be read, newest first."""
    for path in place.env_copies:
        text = text_of(path)
        if keys := _filled(text):
            yield Copy(path=path, keys=keys, whole=_is_as_written(text, keys))


def _recorded(place: layout.Installation) -> dict[str, bool] | None:
    """Return the keys that `.env` had when we last wrote it; None when there is no such list, or not all of it."""
    lines = text_of(place.env_keys).splitlines()
    keys = {line.rstrip("="): not line.endswith("=") for line in lines[:-1]}
    return keys if lines and lines[-1] == _mark(keys) else None


def _mark(keys: Iterable[str]) -> str:
    """Return the comment that `.env` ends with: how many keys stand above, and the digest of their sorted names."""
    names = sorted(set(keys))
    return f"{MARK} {len(names)} keys, sha256 {digest.hash_bytes(chr(10).join(names).encode())}"


def _is_as_written(text: str, keys: Iterable[str]) -> bool:
    """Tell whether a text has our mark, and still the keys that it counts."""
    mark = _MARK_LINE.search(text)
    return mark is not None and mark[0] == _mark(keys)


def marked(text: str) -> str:
    """Return a text, which has no mark, with the mark of its keys at the end."""
    end = "" if text.endswith("\n") else "\n"
    return f"{text}{end}{_mark(envfile.parse(text))}\n"


def unmarked(text: str) -> str:
    """Return a text without the mark, wherever it stands, and without half of one at its end."""
    text = re.sub(_MARK_LINE.pattern + r"(?:\r?\n)?", "", text, flags=re.MULTILINE)
    return re.sub(rf"(?m:^){MARK}[^\n]*\Z", "", text)


def require_kept(found: Existing, given: Collection[str], known: Collection[str], data: Path) -> None:
    """Refuse an `.env` that has lost keys: who means it says so with --set.

    `given` are the keys that this run sets, `known` those of the release, `data` is the `volumes` folder.
    Raises PreflightFailed, naming the lost keys and the copy in which they still are.
    """
    present = _filled(found.text)
    # Secrets first: they are what nobody can find out again.
    generated = {key for secret in dify.SECRETS for key in secret.keys}
    lost = sorted(_lost(found, present, known, data) - set(given), key=lambda key: (key not in generated, key))
    if lost:
        more = f" and {len(lost) - NAMES_SHOWN} more" if len(lost) > NAMES_SHOWN else ""
        raise errors.PreflightFailed(
            f"{found.path} has lost {', '.join(lost[:NAMES_SHOWN])}{more}: it may have been cut off, "
            "and secrets never change by themselves",
            _restored(found, lost),
        )
    mark = _MARK_LINE.search(found.text)
    missing = int(mark[1]) - len({*present, *given}) if mark else 0
    if missing > 0 and found.recorded is None:
        raise errors.PreflightFailed(
            f"{found.path} has lost {missing} of its keys, as its last line tells", _put_back(found.path, found.copies)
        )


def _lost(found: Existing, present: Mapping[str, bool], known: Collection[str], data: Path) -> set[str]:
    """Return the keys that were there and are not, and those of secrets that have lost their value.

    A secret that stands in another key, too, is not lost.
    """
    twins = {key: secret.keys for secret in dify.SECRETS for key in secret.keys if key in known}
    empty = {key for key, keys in twins.items() if not any(present.get(twin) for twin in keys)}
    if found.recorded is None:
        in_use = any(files.holds_anything(data / folder) for secret in dify.SECRETS for folder in secret.data)
        return {key for key in empty if in_use or any(copy.keys.get(key) for copy in found.copies)}
    lost = {key for key in empty if found.recorded.get(key)}
    if not _is_as_written(found.text, present):
        lost |= {key for key in found.recorded if key not in present and key not in twins} | (
            _cut_key(found.text) & set(found.recorded)
        )
    return lost


def is_cut(found: Existing) -> bool:
    """Tell whether a file has lost the mark that it was written with: its end is missing, or a person took it away."""
    return found.recorded is not None and _MARK_LINE.search(found.text) is None


def _cut_key(text: str) -> set[str]:
    """Return the key in whose line a file ends that was cut: it has lost both our mark and its last line break."""
    if text.endswith("\n") or _MARK_LINE.search(text):
        return set()
    last = text.splitlines()[-1]
    return set() if last.startswith("#") else set(list(envfile.parse(text))[-1:])


def _restored(found: Existing, lost: list[str]) -> str:
    """Say how lost keys come back: by the copy that has most of them, for a few by their lines, and by --set."""
    had = {key: (found.recorded or {}).get(key, True) for key in lost}
    inside = {
        copy.path: [key for key in lost if key in copy.keys and (copy.keys[key] or not had[key])]
        for copy in found.copies
    }
    best = max(inside, key=lambda path: len(inside[path]), default=None)
    anew = f"or, if you mean to do without the old value, give each of them a new one, for example --set {lost[0]}=…"
    if best is None or not inside[best]:
        return f"put back a backup of that file, no copy beside it has them; {anew}"
    copy, env = shlex.quote(str(best)), shlex.quote(str(found.path))
    remedies = [f"put back the copy that has them: cp -p {copy} {env}"]
    if len(inside[best]) <= FEW and found.text.endswith("\n"):
        # The copy may be older than other changes.
        remedies.append(f"or these lines alone: grep -E '^({'|'.join(inside[best])})=' {copy} >> {env}")
    if others := [key for key in lost if key not in inside[best]]:
        remedies.append(f"it lacks {', '.join(others[:NAMES_SHOWN])}: give it with --set")
    return "; ".join([*remedies, anew])


def _put_back(path: Path, copies: tuple[Copy, ...]) -> str:
    """Say how a file that cannot be read is replaced."""
    if copies:
        return (
            f"put back its last good copy: cp -p {shlex.quote(str(copies[0].path))} {shlex.quote(str(path))}; "
            "then run the same command again"
        )
    return "put back a backup of it; or, where nothing is installed yet, remove it; then run the same command again"


def write(place: layout.Installation, text: str) -> bool:
    """Write `.env`, 0600, the ones before kept beside it; return False when nothing changed.

    A file that cannot be read or has lost keys does not become a copy. Raises CommandFailed when the disk refuses.
    """
    before = _bytes_of(place.env)
    changed = before != text.encode()
    if changed:
        earlier = text_of(place.env)
        if earlier and set(_recorded(place) or {}) <= set(_filled(earlier)):
            _keep_copy(place, earlier)
        files.write(place.env, text, mode=0o600)
    else:
        place.env.chmod(0o600)
    keys = _filled(text)
    if _recorded(place) != keys:
        lines = [*(key if filled else f"{key}=" for key, filled in keys.items()), _mark(keys)]
        files.write(place.env_keys, "\n".join(lines) + "\n", mode=0o600)
    return changed


def _keep_copy(place: layout.Installation, text: str) -> None:
    """Make a text the newest of the copies; the oldest goes. Interrupted, one stands there twice, and none is lost."""
    newest, *_ = place.env_copies
    if text_of(newest) == text:
        return
    for older, newer in reversed(list(zip(place.env_copies[1:], place.env_copies, strict=False))):
        if content := _bytes_of(newer):
            files.write(older, content, mode=0o600)
    files.write(newest, text, mode=0o600)
