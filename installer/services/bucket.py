"""Asks a bucket of an S3 server of others whether Dify can keep its files there; what is tried is removed again.

What Dify's programs do there (1.11.3, api/extensions/storage/aws_s3_storage.py; plugin daemon 0.5.2 with its storage
library 0.1.1, oss/s3/s3.go): put, get, head and delete of objects, a list of those below a prefix.
"""

from __future__ import annotations

import contextlib
import datetime
import secrets
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass

from installer.core import errors
from installer.release.storage import TLS_OFF, Storage
from installer.services import reach, s3

SECONDS = 10.0
OPTION = "--storage-url"
# A list may lag behind what was written, on servers with several nodes.
LIST_TRIES, LIST_PAUSE = 10, 0.5
# What an administrator has to let the key do with the bucket; the other rights are on its objects.
LIST_RIGHT = "s3:ListBucket"
# Objects that only a Dify that has run has: keys of its tenants, plugins.
OF_A_DIFY = ("privkeys/", "plugin/")
CONTENT = b"written by dify-installer to see whether it can be"


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A bucket that Dify can work with; `warnings` are (seen, remedy)."""

    holds_a_dify: bool
    warnings: tuple[tuple[str, str], ...]


def look(storage: Storage, authorities: bytes | None, *, key_is_new: bool) -> Seen:
    """Ask whether Dify can keep its files there, as it would; leaves nothing there.

    `authorities` are certificates, PEM; `key_is_new` tells that SECRET_KEY is to be generated. Raises PreflightFailed
    with the reason and what to do.
    """
    context: ssl.SSLContext | None = None
    if storage.tls:
        context = reach.make_context(verifies=True, names=True, authorities=authorities, where=storage.where)
    speaking = reach.speaking(
        storage.where, url=OPTION, plain=f"tls={TLS_OFF}", tls=storage.tls, kind="S3", wrong=s3.NotS3Error
    )
    with speaking, s3.Connection(storage, SECONDS, context) as connection:
        holds = any(_holds_any(connection, storage, prefix) for prefix in OF_A_DIFY)
        _require_ours(storage, holds=holds, key_is_new=key_is_new)
        warnings = tuple(_go_round(connection, storage))
    return Seen(holds_a_dify=holds, warnings=warnings)


def _holds_any(connection: s3.Connection, storage: Storage, prefix: str) -> bool:
    """Tell whether the list has an object below a prefix. Raises PreflightFailed."""
    answer = connection.ask("GET", query={"list-type": "2", "max-keys": "2", "prefix": prefix})
    _require(answer, storage, LIST_RIGHT)
    return b"<Key>" in answer.body


def _require_ours(storage: Storage, *, holds: bool, key_is_new: bool) -> None:
    if holds and key_is_new:
        raise errors.PreflightFailed(
            f"{storage.place}: it holds the files of a Dify, and this installation has no SECRET_KEY yet: with a new "
            "one they are of no use to it, and it would write among them",
            "give that Dify's own, from its .env: --set SECRET_KEY=…; or name an empty bucket",
        )


def _go_round(connection: s3.Connection, storage: Storage) -> Iterator[tuple[str, str]]:
    """Do once what Dify's programs do, and remove it; yield a warning for what cannot be removed."""
    folder = f"dify-installer-{secrets.token_hex(6)}/"
    # As the plugin daemon names packages: not everything that stands before a server leaves such a path alone.
    key = f"{folder}tried:0.0.1@{secrets.token_hex(4)}"
    written = connection.ask("PUT", key, content=CONTENT)
    _require(written, storage, "s3:PutObject")
    version = written.headers.get("x-amz-version-id", "").replace("null", "")
    try:
        read = connection.ask("GET", key)
        _require(read, storage, "s3:GetObject")
        listed = _await_list(connection, storage, folder)
    except (errors.PreflightFailed, s3.NotS3Error, OSError):
        # The first reason is the one to tell.
        with contextlib.suppress(errors.PreflightFailed, s3.NotS3Error, OSError):
            list(_remove(connection, storage, key, version))
        raise
    yield from _remove(connection, storage, key, version)
    if read.body != CONTENT:
        raise errors.PreflightFailed(
            f"{storage.place}: what was written is not what was read",
            "name the S3 server itself: something between changes what is sent",
        )
    if not listed:
        raise errors.PreflightFailed(
            f"{storage.place} does not list what it holds: the plugin daemon would not find its plugins",
            "name the S3 server itself, or have its index repaired",
        )


def _await_list(connection: s3.Connection, storage: Storage, prefix: str) -> bool:
    for tried in range(LIST_TRIES):
        if tried:
            time.sleep(LIST_PAUSE)
        if _holds_any(connection, storage, prefix):
            return True
    return False


def _remove(connection: s3.Connection, storage: Storage, key: str, version: str) -> Iterator[tuple[str, str]]:
    """Remove what was written, its version as well; yield a warning where one stays. Raises PreflightFailed."""
    answer = connection.ask("DELETE", key, {"versionId": version} if version else None)
    if version and not answer.ok:
        yield (
            f"{storage.bucket} keeps versions, and {storage.key} may not remove one: that of {key} stays",
            "leave it, or have it removed; Dify does not need the right for that (s3:DeleteObjectVersion)",
        )
        answer = connection.ask("DELETE", key)
    if not answer.ok:
        refused = _refused(answer, storage, "s3:DeleteObject")
        refused.remedy = f"{refused.remedy}; and {key} is to be removed there, which was written to try it"
        raise refused
    if connection.ask("GET", key).ok:
        raise errors.PreflightFailed(
            f"{storage.place}: {key} was removed, and is still there",
            "name the S3 server itself: something between answers from what it has kept; then remove that object",
        )


def _require(answer: s3.Answer, storage: Storage, right: str) -> None:
    """Raise PreflightFailed for a refusal, with what the administrator of that server has to do."""
    if not answer.ok:
        raise _refused(answer, storage, right)


def _refused(answer: s3.Answer, storage: Storage, right: str) -> errors.PreflightFailed:
    where, code = storage.where, answer.code
    if code == "InvalidAccessKeyId":
        return errors.PreflightFailed(
            f"{where} knows no access key {storage.key}", f"correct it in {OPTION}, or have one made there"
        )
    if code == "SignatureDoesNotMatch":
        return errors.PreflightFailed(
            f"{where} does not let {storage.key} in: this access key or its secret key is wrong",
            f"correct them in {OPTION} (write / + : @ as %2F %2B %3A %40); if they are right, something between "
            "changes the name of the host: have it handed on as it is",
        )
    if code in ("RequestTimeTooSkewed", "RequestExpired"):
        return errors.PreflightFailed(
            f"{where} does not take what was signed at another time than its own{_lag(answer)}",
            "set this host's clock, or the server's: Dify's own requests would be refused, too",
        )
    if code == "NoSuchBucket":
        return errors.PreflightFailed(
            f"{where} has no bucket {storage.bucket} that {storage.key} could see",
            f"its administrator makes it, empty, and gives {storage.key} the rights of docs/external.md; or correct "
            f"{OPTION}",
        )
    if code in ("AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect", "IllegalLocationConstraint"):
        named = f": it is {answer.region}" if answer.region else f": {answer.message}"
        return errors.PreflightFailed(
            f"{where}: the region is not {storage.region}{named}",
            f"write it behind the bucket in {OPTION}: ?region={answer.region or 'NAME'}",
        )
    if code in ("AccessDenied", "AllAccessDisabled", "AccountProblem"):
        target = storage.bucket if right == LIST_RIGHT else f"{storage.bucket}/*"
        return errors.PreflightFailed(
            f"{where}: {storage.key} may not do all that Dify does in {storage.bucket}: {right} is refused",
            f"its administrator allows {right} on arn:aws:s3:::{target}; docs/external.md lists all rights",
        )
    return errors.PreflightFailed(
        f"{where}: it refuses: {answer.message or 'no reason is given'} ({code}, {answer.status})",
        "its administrator finds the reason in its log",
    )


def _lag(answer: s3.Answer) -> str:
    if answer.moment is None:
        return ""
    seconds = (datetime.datetime.now(datetime.UTC) - answer.moment).total_seconds()
    return f": this host's clock is {abs(seconds):.0f} s {'ahead' if seconds > 0 else 'behind'}"
