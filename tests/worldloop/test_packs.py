"""Packs as their writer, tarfile, WebDataset's naming and a damaged disk see them."""

import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from worldloop.errors import MalformedRecordError
from worldloop.packs import (
    PACK_FORMAT,
    PACK_VERSION,
    PackMember,
    content_sha256,
    read_member,
    read_pack_index,
    write_pack,
)

FILES = {"rgb.mp4": b"r" * 1000, "boxes.parquet": b"b" * 512, "recipe.json": b"{}"}


def make_clip(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def pack(tmp_path: Path) -> tuple[Path, list[PackMember]]:
    clips = [(clip, make_clip(tmp_path / clip)) for clip in ("b1", "a2")]
    path = tmp_path / "packs" / "shard.tar"
    return path, write_pack(path, clips)


def test_tarfile_reads_a_pack(pack: tuple[Path, list[PackMember]]) -> None:
    path, members = pack
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["pack.json", *(m.name for m in members)]
        head = archive.extractfile("pack.json")
        assert head is not None
        assert json.load(head)["version"] == PACK_VERSION == 1
        for member in members:
            data = archive.extractfile(member.name)
            assert data is not None
            assert data.read() == FILES[member.file_name]
            assert archive.getmember(member.name).offset_data == member.offset


def test_clips_keep_their_order_and_files_are_sorted(pack: tuple[Path, list[PackMember]]) -> None:
    names = [member.name for member in pack[1]]
    assert names == [f"{clip}.{name}" for clip in ("b1", "a2") for name in sorted(FILES)]


def test_the_index_is_what_the_writer_returned(pack: tuple[Path, list[PackMember]]) -> None:
    path, members = pack
    assert read_pack_index(path) == members


def test_a_member_is_one_ranged_read(pack: tuple[Path, list[PackMember]]) -> None:
    path, members = pack
    with path.open("rb") as source:
        assert read_member(source, members[2]) == FILES[members[2].file_name]


def test_the_same_clips_give_the_same_bytes(
    pack: tuple[Path, list[PackMember]], tmp_path: Path
) -> None:
    again = tmp_path / "again.tar"
    write_pack(again, [(clip, make_clip(tmp_path / "copy" / clip)) for clip in ("b1", "a2")])
    assert again.read_bytes() == pack[0].read_bytes()


def test_hidden_files_stay_out(tmp_path: Path) -> None:
    folder = make_clip(tmp_path / "c", {".sums.json": b"x", "rgb.mp4": b"y"})
    assert [m.name for m in write_pack(tmp_path / "p.tar", [("c", folder)])] == ["c.rgb.mp4"]


def test_an_empty_pack_is_a_pack(tmp_path: Path) -> None:
    write_pack(tmp_path / "p.tar", [])
    assert read_pack_index(tmp_path / "p.tar") == []
    with tarfile.open(tmp_path / "p.tar") as archive:
        assert archive.getnames() == ["pack.json"]


def test_a_failed_write_leaves_the_old_pack_and_nothing_else(
    pack: tuple[Path, list[PackMember]], tmp_path: Path
) -> None:
    path, _ = pack
    before = path.read_bytes()
    with pytest.raises(FileNotFoundError):
        write_pack(path, [("gone", tmp_path / "gone")])
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"not a tar file" * 100,
        lambda data: data[:2000],
        lambda data: data.replace(f'"version":{PACK_VERSION}'.encode(), b'"version":9', 1),
        lambda data: data.replace(PACK_FORMAT.encode(), b"worldloop-sack", 1),
    ],
)
def test_a_malformed_pack_says_what_to_do(
    pack: tuple[Path, list[PackMember]], damage: Callable[[bytes], bytes]
) -> None:
    path, _ = pack
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(MalformedRecordError, match="materialise its partition again"):
        read_pack_index(path)


def test_a_member_with_changed_bytes_is_refused(pack: tuple[Path, list[PackMember]]) -> None:
    path, members = pack
    data = bytearray(path.read_bytes())
    data[members[0].offset] ^= 1
    path.write_bytes(data)
    with path.open("rb") as source, pytest.raises(MalformedRecordError, match="sha256"):
        read_member(source, members[0])


def test_the_content_hash_does_not_depend_on_the_order_of_files() -> None:
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
    reverse = dict(reversed(sums.items()))
    assert content_sha256(sums) == content_sha256(reverse)
    assert content_sha256(sums) != content_sha256({**sums, "rgb.mp4": sums["recipe.json"]})
