"""Reads a squashfs, version 4.0, that mksquashfs has packed with zstd: the tree, and the content block by block.

Linux, Documentation/filesystems/squashfs.rst and fs/squashfs/squashfs_fs.h, name the fields. Neither library on PyPI
reads extended attributes, which opaque folders and file capabilities are (docs/decisions/027).
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import zstandard

# The head of the file: magic, inodes, time, block size, fragments; compression, log of the block size, flags, IDs,
# version; root, bytes used, and where the tables of IDs, attributes, inodes, folders, fragments and exports are.
HEAD = struct.Struct("<5I6H8Q")
MAGIC = 0x73717368
VERSION = (4, 0)
ZSTD = 6
# A table that is not there.
NO_TABLE = 0xFFFF_FFFF_FFFF_FFFF
# Metadata is stored in blocks of this size, each behind its length, of which one bit says "as it is".
METADATA_BYTES = 8192
METADATA_PLAIN = 0x8000
# The same bit in the length of a block of content.
CONTENT_PLAIN = 1 << 24
# In an inode: no fragment, no attributes.
NONE = 0xFFFF_FFFF
# Every inode begins so: type, mode, owner, group, time, number.
INODE = struct.Struct("<4H2I")
FOLDER, LONG_FOLDER = struct.Struct("<2I2HI"), struct.Struct("<4I2HI")
FILE, LONG_FILE = struct.Struct("<4I"), struct.Struct("<3Q4I")
XATTR = struct.Struct("<I")
KINDS = (0, stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK, stat.S_IFBLK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK)
# Types from this one on are the long forms of those before.
LONG = 7
# In a folder: how many entries follow (one less), where their inodes are; and an entry: offset, number, type, name.
RUN, ENTRY = struct.Struct("<3I"), struct.Struct("<HhHH")
# A folder's size counts "." and "..", which are not stored.
EMPTY_FOLDER = 3
FRAGMENT = struct.Struct("<Q2I")
XATTR_HEAD, XATTR_ENTRY = struct.Struct("<Q2I"), struct.Struct("<Q2I")
XATTR_NAME, XATTR_SIZE = struct.Struct("<2H"), struct.Struct("<I")
PREFIXES = (b"user.", b"trusted.", b"security.")
# The value is elsewhere: many files have the same.
ELSEWHERE = 0x100


class Damaged(Exception):
    """What is read is no squashfs that this module reads."""


class Source(Protocol):
    """The bytes of a squashfs."""

    def read(self, position: int, size: int) -> bytes:
        """Return `size` bytes from a position on, fewer at the end."""


class Content(NamedTuple):
    """Where a file's bytes are: blocks one behind the other from `start`, 0 for a hole, and a piece of a fragment."""

    size: int
    start: int
    blocks: tuple[int, ...]  # the stored length of each, with the bit that says "as it is"
    fragment: int | None
    offset: int  # in the fragment


class Node(NamedTuple):
    """A file, a folder or anything else; `inode` is the same for hard links.

    `path` is relative, empty for the root; `mtime` is in seconds.
    """

    path: bytes
    inode: int
    mode: int
    uid: int
    gid: int
    mtime: int
    xattrs: tuple[tuple[bytes, bytes], ...]
    content: Content | None = None
    target: bytes = b""
    device: int = 0  # as Linux numbers devices for itself: new_encode_dev() in include/linux/kdev_t.h


class Reader:
    """A squashfs; raises Damaged for one that is not as this module expects it, and what its source raises."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._zstd = zstandard.ZstdDecompressor()
        head = source.read(0, HEAD.size)
        if len(head) < HEAD.size:
            raise Damaged("it is too short")
        fields = HEAD.unpack(head)
        magic, self.inodes, _, self.block_bytes, fragments, compression, _, _, ids, *version = fields[:11]
        self._root, _, id_table, xattr_table, inode_table, folder_table, fragment_table, export_table = fields[11:]
        if (magic, *version) != (MAGIC, *VERSION) or compression != ZSTD:
            raise Damaged("it is no squashfs 4.0 with zstd")
        firsts = [self._first(start) for start in (fragment_table if fragments else NO_TABLE, export_table, id_table)]
        self._inodes, self._inode_blocks = self._metadata(inode_table, folder_table)
        self._folders, self._folder_blocks = self._metadata(folder_table, min(firsts))
        self._ids = [number for (number,) in struct.iter_unpack("<I", self._table(id_table, ids * 4))]
        self.fragments = list(FRAGMENT.iter_unpack(self._table(fragment_table, fragments * FRAGMENT.size)))
        self._xattrs = self._all_xattrs(xattr_table)

    def walk(self) -> Iterator[Node]:
        """Yield everything, a folder before what is in it."""
        stack = [(self._root, b"")]
        while stack:
            reference, path = stack.pop()
            node, listed = self._node(reference, path)
            yield node
            stack += [(inner, path + b"/" + name if path else name) for name, inner in reversed(self._list(listed))]

    def block(self, position: int, stored: int) -> bytes:
        """Return the content of a block, by what a file or a fragment says of it."""
        data = self._source.read(position, stored & ~CONTENT_PLAIN)
        return data if stored & CONTENT_PLAIN else self._unpacked(data, self.block_bytes)

    def _unpacked(self, data: bytes, largest: int) -> bytes:
        try:
            return self._zstd.decompress(data, max_output_size=largest)
        except zstandard.ZstdError as error:
            raise Damaged(str(error)) from error

    def _metadata_block(self, position: int) -> tuple[bytes, int]:
        """Return a block of metadata and where the next one is."""
        (length,) = struct.unpack("<H", self._source.read(position, 2))
        data = self._source.read(position + 2, length & ~METADATA_PLAIN)
        plain = data if length & METADATA_PLAIN else self._unpacked(data, METADATA_BYTES)
        return plain, position + 2 + len(data)

    def _metadata(self, start: int, end: int) -> tuple[bytes, dict[int, int]]:
        """Return all metadata between two positions, and where in it each block is, by its distance from the start."""
        parts, places, position, done = [], {}, start, 0
        while position < end:
            places[position - start] = done
            part, position = self._metadata_block(position)
            parts.append(part)
            done += len(part)
        return b"".join(parts), places

    def _first(self, table: int) -> int:
        """Return where the metadata begins that a table of positions points to."""
        if table == NO_TABLE:
            return NO_TABLE
        (first,) = struct.unpack("<Q", self._source.read(table, 8))
        return int(first)

    def _table(self, start: int, size: int) -> bytes:
        """Return a table of `size` bytes; at `start` are the positions of its blocks."""
        if not size:
            return b""
        count = -(-size // METADATA_BYTES)
        positions = struct.unpack(f"<{count}Q", self._source.read(start, 8 * count))
        return b"".join(self._metadata_block(position)[0] for position in positions)

    def _node(self, reference: int, path: bytes) -> tuple[Node, tuple[int, int, int] | None]:
        """Return what an inode says; and for a folder, where it lists its content: block, offset, size."""
        data, position = self._inodes, self._inode_blocks[reference >> 16] + (reference & 0xFFFF)
        kind, mode, uid, gid, mtime, _ = INODE.unpack_from(data, position)
        if not 0 < kind <= 2 * LONG:
            raise Damaged(f"an inode is of type {kind}")
        position += INODE.size
        long, form = kind > LONG, KINDS[kind - LONG if kind > LONG else kind]
        content, target, device, listed = None, b"", 0, None
        if form == stat.S_IFDIR:
            listed, attributes = self._folder(position, long)
        elif form == stat.S_IFREG:
            content, attributes = self._file(position, long)
        else:
            # How many links there are comes first, then the length of a link or the number of a device, if it is one.
            end = position + XATTR.size
            if form in (stat.S_IFLNK, stat.S_IFBLK, stat.S_IFCHR):
                (device,) = XATTR.unpack_from(data, end)
                end += XATTR.size
            if form == stat.S_IFLNK:
                target, device = data[end : end + device], 0
                end += len(target)
            attributes = XATTR.unpack_from(data, end)[0] if long else NONE
        xattrs = () if attributes == NONE else self._xattrs[attributes]
        owners = self._ids[uid], self._ids[gid]
        return Node(path, reference, form | mode, *owners, mtime, xattrs, content, target, device), listed

    def _folder(self, position: int, long: bool) -> tuple[tuple[int, int, int], int]:
        """Return where a folder lists its content: block, offset, size; and which attributes it has."""
        attributes = NONE
        if long:
            _, size, block, _, _, offset, attributes = LONG_FOLDER.unpack_from(self._inodes, position)
        else:
            block, _, size, offset, _ = FOLDER.unpack_from(self._inodes, position)
        return (block, offset, size - EMPTY_FOLDER), attributes

    def _file(self, position: int, long: bool) -> tuple[Content, int]:
        """Return where a file's bytes are, and which attributes it has."""
        attributes = NONE
        if long:
            start, size, _, _, fragment, offset, attributes = LONG_FILE.unpack_from(self._inodes, position)
        else:
            start, fragment, offset, size = FILE.unpack_from(self._inodes, position)
        position += LONG_FILE.size if long else FILE.size
        whole = -(-size // self.block_bytes) if fragment == NONE else size // self.block_bytes
        blocks = struct.unpack_from(f"<{whole}I", self._inodes, position)
        return Content(size, start, blocks, None if fragment == NONE else fragment, offset), attributes

    def _list(self, listed: tuple[int, int, int] | None) -> list[tuple[bytes, int]]:
        """Return the names in a folder and the references of their inodes."""
        if listed is None or listed[2] <= 0:
            return []
        block, offset, size = listed
        data, position = self._folders, self._folder_blocks[block] + offset
        end, found = position + size, []
        while position < end:
            count, inodes, _ = RUN.unpack_from(data, position)
            position += RUN.size
            for _ in range(count + 1):
                inner, _, _, length = ENTRY.unpack_from(data, position)
                position += ENTRY.size
                name = data[position : position + length + 1]
                if name in (b"", b".", b"..") or b"/" in name:
                    raise Damaged(f"a file is called {name!r}")
                found.append((name, inodes << 16 | inner))
                position += length + 1
        return found

    def _all_xattrs(self, start: int) -> list[tuple[tuple[bytes, bytes], ...]]:
        """Return every set of extended attributes, by its number."""
        if start == NO_TABLE:
            return []
        values, count, _ = XATTR_HEAD.unpack(self._source.read(start, XATTR_HEAD.size))
        sets = self._table(start + XATTR_HEAD.size, count * XATTR_ENTRY.size)
        data, places = self._metadata(values, self._first(start + XATTR_HEAD.size)) if count else (b"", {})
        return [
            tuple(self._pairs(data, places, reference, number))
            for reference, number, _ in XATTR_ENTRY.iter_unpack(sets)
        ]

    def _pairs(self, data: bytes, places: dict[int, int], reference: int, number: int) -> Iterator[tuple[bytes, bytes]]:
        position = places[reference >> 16] + (reference & 0xFFFF)
        for _ in range(number):
            kind, length = XATTR_NAME.unpack_from(data, position)
            position += XATTR_NAME.size
            name = PREFIXES[kind & 0xFF] + data[position : position + length]
            position += length
            value, following = _value(data, position)
            if kind & ELSEWHERE:
                (at,) = struct.unpack("<Q", value)
                value, _ = _value(data, places[at >> 16] + (at & 0xFFFF))
            yield name, value
            position = following


def _value(data: bytes, position: int) -> tuple[bytes, int]:
    """Return the value at a position, and where it ends."""
    (size,) = XATTR_SIZE.unpack_from(data, position)
    position += XATTR_SIZE.size
    return data[position : position + size], position + size
