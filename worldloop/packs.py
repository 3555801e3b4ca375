"""Packs: deterministic tar files of whole clips, the form in which media is stored and read.

A pack is a USTAR archive. Its first member, `pack.json`, names the format and lists every other
member with its size and hash, so that one ranged read of the head tells where everything is. The
members of a clip follow each other, `<recipe_id>.<name>`, as WebDataset has it. Nothing in a pack
tells when, where or by whom it was written: the same clips give the same bytes.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from worldloop.errors import MalformedRecordError
from worldloop.seeds import canonical_json

PACK_FORMAT = "worldloop-pack"
PACK_VERSION = 1
HEAD_NAME = "pack.json"
ERASED = b"worldloop: this clip was taken back and its bytes were erased\n"

_BLOCK = 512
_COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class PackMember:
    """One file in a pack.

    Attributes:
        name: `<recipe_id>.<name>`, e.g. `0f..e2.rgb.mp4`.
        offset: Where its bytes start in the pack.
        size_bytes: How many there are.
        sha256: Their hash, 64 hex digits.
    """

    name: str
    offset: int
    size_bytes: int
    sha256: str

    @property
    def clip_id(self) -> str:
        """The clip that the file belongs to."""
        return self.name.partition(".")[0]

    @property
    def file_name(self) -> str:
        """Its name within the clip, e.g. `rgb.mp4`."""
        return self.name.partition(".")[2]


def write_pack(path: Path, clips: Sequence[tuple[str, Path]]) -> list[PackMember]:
    """Write clips to one pack, in place of what stood there.

    The file appears whole or not at all: it is written beside its place, synced and renamed.

    Args:
        path: Where the pack shall stand; its folder is made.
        clips: (recipe id, folder of its files), in the order in which the pack holds them. Files
            whose name starts with a dot stay out.

    Returns:
        All members but the head, in order.
    """
    files = [(f"{clip}.{f.name}", f) for clip, folder in clips for f in clip_files(folder)]
    listed = [(name, file.stat().st_size, hash_file(file)) for name, file in files]
    head = _head(listed)
    members = _placed(listed, len(head))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as out:
            _add(out, HEAD_NAME, len(head), io.BytesIO(head))
            for (name, file), member in zip(files, members, strict=True):
                with file.open("rb") as data:
                    _add(out, name, member.size_bytes, data)
            out.write(bytes(2 * _BLOCK))
            out.flush()
            os.fsync(out.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)
    return members


def read_pack_index(path: Path) -> list[PackMember]:
    """All members of a pack but its head, in order, from one read of its head.

    Raises:
        MalformedRecordError: If the file is no pack, is cut short, or has a version that we do not
            read.
    """
    with path.open("rb") as source:
        head = _read_head(source, path)
        members = _placed(
            [(m["name"], m["size_bytes"], m["sha256"]) for m in head["members"]],
            head["size_bytes"],
        )
        size = source.seek(0, os.SEEK_END)
    end = _padded(members[-1].offset + members[-1].size_bytes) if members else 0
    if size < end + 2 * _BLOCK:
        raise MalformedRecordError(
            f"pack {path.name}", f"{size} bytes", f"at least {end + 2 * _BLOCK}", _REMEDY
        )
    return members


def read_member(source: BinaryIO, member: PackMember) -> bytes:
    """The bytes of one member, checked against its hash.

    Raises:
        MalformedRecordError: If the pack is cut short or its bytes have changed.
    """
    source.seek(member.offset)
    data = source.read(member.size_bytes)
    found = hashlib.sha256(data).hexdigest()
    if found != member.sha256 and data.startswith(ERASED[: member.size_bytes]):
        raise MalformedRecordError(
            f"{member.name} in a pack",
            "a clip that was taken back",
            "a clip that may be read",
            "Leave it out: its rows are retracted, and its bytes are gone for good.",
        )
    if found != member.sha256:
        raise MalformedRecordError(
            f"{member.name} in a pack",
            f"{len(data)} bytes with sha256 {found}",
            f"{member.size_bytes} bytes with {member.sha256}",
            _REMEDY,
        )
    return data


def erase_clips(pack: bytes, members: Iterable[PackMember]) -> bytes:
    """A pack of the same layout in which the bytes of some members are gone.

    In their place stands a sentence that says so, and zeros; every other offset and byte stays, so
    all other clips read as before. The pack no longer has the hash that its key names.
    """
    content = bytearray(pack)
    for member in members:
        room = slice(member.offset, member.offset + member.size_bytes)
        content[room] = ERASED[: member.size_bytes].ljust(member.size_bytes, b"\0")
    return bytes(content)


def content_sha256(member_sha256s: dict[str, str]) -> str:
    """The hash of a clip: over the hashes of its files in the order of their names.

    Example:
        >>> content_sha256({"rgb.mp4": "00" * 32}) == hashlib.sha256(bytes(32)).hexdigest()
        True
    """
    ordered = (bytes.fromhex(member_sha256s[name]) for name in sorted(member_sha256s))
    return hashlib.sha256(b"".join(ordered)).hexdigest()


def clip_files(folder: Path) -> list[Path]:
    """The files of a clip in the order of their names; hidden ones are not part of it."""
    return sorted(f for f in folder.iterdir() if f.is_file() and not f.name.startswith("."))


def hash_file(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make renames in a folder last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_REMEDY = "Delete the pack and materialise its partition again."


def _head(listed: Iterable[tuple[str, int, str]]) -> bytes:
    members = [{"name": n, "size_bytes": size, "sha256": digest} for n, size, digest in listed]
    return canonical_json({"format": PACK_FORMAT, "version": PACK_VERSION, "members": members})


def _placed(listed: Iterable[tuple[str, int, str]], head_bytes: int) -> list[PackMember]:
    members, at = [], _BLOCK + _padded(head_bytes)
    for name, size, digest in listed:
        members.append(PackMember(name, at + _BLOCK, size, digest))
        at += _BLOCK + _padded(size)
    return members


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _add(out: BinaryIO, name: str, size: int, data: BinaryIO) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, 0
    out.write(info.tobuf(tarfile.USTAR_FORMAT))
    left = size
    while left and (block := data.read(min(left, _COPY_BYTES))):
        out.write(block)
        left -= len(block)
    if left:
        raise MalformedRecordError(name, f"{left} bytes too few", f"{size} bytes", "Render again.")
    out.write(bytes(_padded(size) - size))


def _read_head(source: BinaryIO, path: Path) -> dict[str, Any]:
    try:
        info = tarfile.TarInfo.frombuf(source.read(_BLOCK), "utf-8", "strict")
        head = json.loads(source.read(info.size)) if info.name == HEAD_NAME else {}
    except (tarfile.HeaderError, ValueError) as error:
        raise MalformedRecordError(
            f"pack {path.name}", str(error), f"a tar file that starts with {HEAD_NAME}", _REMEDY
        ) from error
    found = (head.get("format"), head.get("version"))
    if found != (PACK_FORMAT, PACK_VERSION):
        raise MalformedRecordError(
            f"pack {path.name}", found, f"{PACK_FORMAT} version {PACK_VERSION}", _REMEDY
        )
    return {**head, "size_bytes": info.size}
