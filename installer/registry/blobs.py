"""Brings a blob into a repository: asked for first, mounted from another repository, or sent in pieces.

Source: OCI Distribution Specification 1.1, "Pushing blobs". A piece is in memory until the registry has it, so that a
connection that breaks costs what the registry lost, and not the blob.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit

from installer.core import digest as hashes
from installer.core import errors
from installer.registry import failure
from installer.registry.client import Broken, Client, Stopped

if TYPE_CHECKING:
    import requests

MIB = 1024 * 1024
# What is in memory for each upload, and what is sent at once as long as nothing refuses that.
PIECE_BYTES = 8 * MIB
# nginx takes 1 MiB where nobody has set its client_max_body_size.
SMALLEST_PIECE = 512 * 1024
# How often a blob is begun from its start. docker-registry 2.8 does not know an upload any more (404) whose connection
# broke within a piece; Harbor is built on it.
STARTS = 6
# How a registry answers that takes a blob in one piece alone.
REFUSES_PIECES = frozenset({400, 405, 411, 415, 416, 501})

OCTETS = {"Content-Type": "application/octet-stream"}

# Gives the bytes of a blob from its start.
Source = Callable[[], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob of a registry; its digest as `sha256:…`."""

    digest: str
    size: int


class _Forgotten(Exception):
    """The registry does not know the upload any more, or holds other bytes of it."""


class _InOnePiece(Exception):
    """The registry takes no pieces."""


class Blobs:
    """Sends blobs; several threads may. What one of them learns of the registry's limits holds for all."""

    def __init__(self, client: Client, piece_bytes: int) -> None:
        self.sent_bytes = 0
        self._lock = threading.Lock()
        self._client = client
        self._piece_bytes = piece_bytes
        self._limit = piece_bytes
        self._smallest = min(SMALLEST_PIECE, piece_bytes)
        self._takes_pieces = False
        self._whole = False

    def find(self, repository: str, digest: str) -> Blob | None:
        """Return a blob if the repository has it."""
        answer = self._client.ask(
            "HEAD", f"/v2/{repository}/blobs/{digest}", repository, "tell of a blob", expected=(200, 404)
        )
        if answer.status_code == 404:
            return None
        return Blob(digest, int(answer.headers.get("Content-Length") or 0))

    def mount(self, repository: str, digest: str, source: str) -> bool:
        """Have the registry take a blob over from another of its repositories; tell whether it did."""
        query = urlencode({"mount": digest, "from": source})
        answer = self._client.ask(
            "POST",
            f"/v2/{repository}/blobs/uploads/?{query}",
            repository,
            "mount a blob",
            # Who may not, or cannot, begins an upload (202), or says so.
            expected=(201, 202, 400, 401, 403, 404, 405),
            also=source,
        )
        if answer.status_code == 202:
            self._client.cancel(self._client.location(answer), repository)
        return answer.status_code == 201

    def put(self, repository: str, content: bytes) -> tuple[Blob, bool]:
        """Bring a small blob there; return it, and whether it had to be sent."""
        blob = Blob(f"sha256:{hashes.hash_bytes(content)}", len(content))
        if self.find(repository, blob.digest):
            return blob, False
        return self.upload(repository, lambda: iter((content,))), True

    def upload(self, repository: str, source: Source) -> Blob:
        """Send a blob and return it. What `source` raises at its end comes before anything is committed."""
        for start in range(STARTS):
            try:
                return self._upload_once(repository, source)
            except _InOnePiece:
                self._whole = True
            except _Forgotten:
                self._client.stopped.wait(self._client.waits[min(start, len(self._client.waits) - 1)])
        raise errors.RegistryFailed(
            f"the registry has forgotten an upload to {repository} {STARTS} times",
            "several replicas of a registry must share their storage and their `http.secret`, or a proxy must always "
            f"lead to the same one; look for a proxy that cuts connections, too; {failure.AGAIN}",
        )

    def _upload_once(self, repository: str, source: Source) -> Blob:
        answer = self._client.ask(
            "POST", f"/v2/{repository}/blobs/uploads/", repository, "begin an upload", expected=(202,)
        )
        upload = _Upload(repository, self._client.location(answer))
        # What the registry says that a piece has to have at least (end-4b of the specification).
        least = answer.headers.get("OCI-Chunk-Min-Length", "")
        if least.isdigit():
            self._whole = self._whole or int(least) > self._piece_bytes
            self._smallest = max(self._smallest, min(int(least), self._piece_bytes))
        try:
            if self._whole:
                self._send_whole(upload, source)
            else:
                for piece in _pieces(source(), self._piece_bytes):
                    self._send_piece(upload, piece)
            return self._commit(upload)
        except BaseException:
            self._client.cancel(upload.location, repository)
            raise

    def _send_piece(self, upload: _Upload, piece: bytes) -> None:
        """Send a piece, if need be in smaller ones, and from where the registry has it after a break."""
        start, done, tries = upload.sent, 0, 0
        while done < len(piece):
            if self._client.stopped.is_set():
                raise Stopped
            part = piece[done : done + self._limit]
            first = start + done
            headers = {**OCTETS, "Content-Range": f"{first}-{first + len(part) - 1}"}
            answer, broken = None, None
            try:
                answer = self._client.send("PATCH", upload.location, upload.repository, headers=headers, data=part)
            except Broken as error:
                broken = error
            if answer is not None and answer.status_code in (200, 201, 202, 204):
                upload.location = self._client.location(answer)
                self._takes_pieces = self._takes_pieces or first > 0
                self._count(len(part))
                done, tries = done + len(part), 0
                continue
            if answer is not None:
                self._judge(answer, upload.repository, len(part), again=tries > 0)
            if answer is None and tries:
                # Some proxies cut the connection in place of a 413.
                self._shrink(len(part))
            if answer is None or answer.status_code != 413:
                self._client.pause(tries, answer, broken, upload.repository, "take a piece")
                tries += 1
            done = self._ask_received(upload) - start
            if not 0 <= done <= len(piece):
                raise _Forgotten
        upload.hash.update(piece)
        upload.sent = start + len(piece)

    def _judge(self, answer: requests.Response, repository: str, length: int, *, again: bool) -> None:
        """Return when it makes sense to go on with the same upload, after a piece of `length` bytes was refused.

        `again` tells that it was sent before: what the registry has then may be more, or less, than it says.
        """
        status = answer.status_code
        if status == 413 and length > self._smallest:
            self._shrink(length)
            return
        if status == 404:
            raise _Forgotten
        if status in REFUSES_PIECES and not self._takes_pieces and not again:
            raise _InOnePiece
        if status in (400, 416):
            raise _Forgotten
        if (status not in failure.PASSING and status != 429) or failure.is_full(answer):
            raise self._client.refused(answer, repository, "take a piece")

    def _count(self, sent: int) -> None:
        with self._lock:
            self.sent_bytes += sent

    def _shrink(self, refused: int) -> None:
        """Send smaller pieces than the one that was refused; another thread may have found that out before."""
        with self._lock:
            self._limit = min(self._limit, max(self._smallest, refused // 4))

    def _ask_received(self, upload: _Upload) -> int:
        """Return how many bytes of an upload the registry has. Raises _Forgotten when it does not know it."""
        answer = self._client.ask(
            "GET",
            upload.location,
            upload.repository,
            "tell of an upload",
            expected=(200, 202, 204, 400, 404, 405, 416),
        )
        if answer.status_code >= 400:
            raise _Forgotten
        if "Location" in answer.headers:
            upload.location = self._client.location(answer)
        found = re.fullmatch(r"(?:bytes=)?0-(\d+)", answer.headers.get("Range", ""))
        # "0-0" is one byte, or none: registries say it of an upload that has only begun.
        return int(found[1]) + 1 if found and int(found[1]) else 0

    def _send_whole(self, upload: _Upload, source: Source) -> None:
        """Send a blob as one stream, whose length is not known before its end."""

        def counted() -> Iterator[bytes]:
            for block in source():
                if self._client.stopped.is_set():
                    raise Stopped
                upload.hash.update(block)
                upload.sent += len(block)
                yield block

        try:
            answer = self._client.send("PATCH", upload.location, upload.repository, headers=OCTETS, data=counted())
        except Broken as broken:
            raise _Forgotten from broken
        if answer.status_code not in (200, 201, 202, 204):
            if answer.status_code in failure.PASSING or answer.status_code == 404:
                raise _Forgotten
            raise self._client.refused(answer, upload.repository, "take a blob")
        upload.location = self._client.location(answer)
        self._count(upload.sent)

    def _commit(self, upload: _Upload) -> Blob:
        """Say that an upload is complete, with its digest, which the registry compares."""
        blob = Blob(f"sha256:{upload.hash.hexdigest()}", upload.sent)
        tries = 0
        while True:
            answer, broken = None, None
            try:
                answer = self._client.send(
                    "PUT", _with_digest(upload.location, blob.digest), upload.repository, headers=OCTETS
                )
            except Broken as error:
                broken = error
            if answer is not None and answer.status_code in (201, 204):
                return blob
            # The answer may have been lost, and not the commit.
            if self.find(upload.repository, blob.digest):
                return blob
            if answer is not None and answer.status_code in (400, 404, 416):
                raise _Forgotten
            if answer is not None and answer.status_code not in failure.PASSING and answer.status_code != 429:
                raise self._client.refused(answer, upload.repository, "commit a blob")
            self._client.pause(tries, answer, broken, upload.repository, "commit a blob")
            tries += 1


class _Upload:
    """An upload: where it goes on, the bytes that the registry has, and their hash."""

    def __init__(self, repository: str, location: str) -> None:
        self.repository = repository
        self.location = location
        self.sent = 0
        self.hash = hashlib.sha256()


def _pieces(blocks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Join blocks to pieces of `size`, the last one shorter; the last comes when the blocks have ended well."""
    waiting = bytearray()
    for block in blocks:
        waiting += block
        # One byte more: the last piece is not given before all is proved.
        while len(waiting) > size:
            yield bytes(waiting[:size])
            del waiting[:size]
    if waiting:
        yield bytes(waiting)


def _with_digest(location: str, digest: str) -> str:
    parts = urlsplit(location)
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), ("digest", digest)])
    return parts._replace(query=query).geturl()
