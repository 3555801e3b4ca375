"""Conditioning media: what each family takes of a file, and the one error of each bad file."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gpu_jobs.common.video import VideoFile, to_yuv420
from gpu_jobs.cosmos_generate.controls import blur_video, edge_video
from gpu_jobs.cosmos_generate.media import RULES, fit_frames, read_frames, read_media
from worldloop.cosmos.families import FAMILIES, ClipShape, family
from worldloop.cosmos.requests import ActionTrack, ClipRequest, Conditioning, Control
from worldloop.errors import MalformedRecordError

SHAPE = ClipShape(9, 64, 32, 16)


def video(path: Path, count: int, size=(64, 32)) -> Path:
    """Frames of one grey each, 20 apart, so that a frame says which one it is."""
    with VideoFile(path, size=size, rate_fps=16) as out:
        for index in range(count):
            out.add(to_yuv420(np.full((size[1], size[0], 3), 20 * index, np.uint8)))
    return path


def picture(path: Path, size=(64, 32), mode="RGB", colour=(200, 10, 10)) -> Path:
    Image.new(mode, size, colour).save(path)
    return path


def media(key: str, path: Path, count: int = 1, **rest):
    request = ClipRequest("a", "p", conditioning=Conditioning(str(path), count), **rest)
    return read_media(request, family=family(key), shape=SHAPE)


def shades(frames) -> list[int]:
    return [round(float(frame.mean()) / 20) for frame in frames]


def test_every_family_has_a_rule() -> None:
    assert set(RULES) == set(FAMILIES)


@pytest.mark.parametrize(
    ("key", "count", "expected"),
    [
        ("cosmos1", 9, list(range(3, 12))),
        ("predict1", 1, [11]),
        ("predict2", 5, [7, 8, 9, 10, 11]),
        ("predict2.5", 1, [11]),
        ("cosmos3", 5, [0, 1, 2, 3, 4]),
    ],
)
def test_longer_videos_give_the_frames_of_the_family(tmp_path, key, count, expected) -> None:
    frames = media(key, video(tmp_path / "v.mp4", 12), count).frames
    assert shades(frames) == expected
    assert frames.shape == (count, 32, 64, 3)
    assert frames.dtype == np.uint8


def test_shorter_videos_are_refused_with_both_counts(tmp_path: Path) -> None:
    with pytest.raises(
        MalformedRecordError, match=r"video v\.mp4: found '4 frames', expected at least 5"
    ):
        media("predict2", video(tmp_path / "v.mp4", 4), 5)
    with pytest.raises(
        MalformedRecordError, match=r"picture p\.png: found '1 frames', expected at least 9"
    ):
        media("cosmos1", picture(tmp_path / "p.png"), 9)


def test_other_counts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MalformedRecordError, match=r"found 5, expected one of \(1, 9\)"):
        media("cosmos1", video(tmp_path / "v.mp4", 12), 5)
    with pytest.raises(MalformedRecordError, match=r"found 9, expected one of \(1, 5\)"):
        media("predict2", tmp_path / "v.mp4", 9)


@pytest.mark.parametrize("name", ["p.png", "p.jpg", "P.JPEG"])
def test_pictures_of_the_three_types_are_read(tmp_path: Path, name: str) -> None:
    frames = media("predict2", picture(tmp_path / name)).frames
    assert frames.shape == (1, 32, 64, 3)
    assert np.abs(frames[0, 0, 0].astype(int) - (200, 10, 10)).max() <= 3


@pytest.mark.parametrize("name", ["p.webp", "p.gif", "p.bmp"])
def test_other_picture_types_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(MalformedRecordError, match=r"expected a picture \(\.png, \.jpg, \.jpeg\)"):
        media("cosmos1", picture(tmp_path / name))


def test_transparent_parts_become_white(tmp_path: Path) -> None:
    frames = media("cosmos1", picture(tmp_path / "p.png", mode="RGBA", colour=(9, 9, 9, 0))).frames
    assert (frames == 255).all()


def test_missing_and_corrupt_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(MalformedRecordError, match=r"media file none\.mp4: found 'no such file'"):
        media("predict2", tmp_path / "none.mp4")
    for name in ("bad.mp4", "bad.png"):
        (tmp_path / name).write_bytes(b"nothing like it")
        with pytest.raises(MalformedRecordError, match=f"media file {name}"):
            media("predict2", tmp_path / name)
    whole = picture(tmp_path / "whole.png", size=(640, 320)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MalformedRecordError, match=r"media file cut\.png"):
        media("predict2", tmp_path / "cut.png")


def test_other_sizes_are_stretched_or_covered() -> None:
    wide = np.zeros((1, 40, 200, 3), np.uint8)
    wide[:, :, 80:120] = 255  # a square in the middle
    stretched = fit_frames(wide, SHAPE, RULES["cosmos1"])
    covered = fit_frames(wide, SHAPE, RULES["predict2"])
    assert stretched.shape == covered.shape == (1, 32, 64, 3)
    assert (stretched[0, 16, :, 0] > 127).sum() == pytest.approx(64 / 5, abs=1)
    assert (covered[0, 16, :, 0] > 127).sum() == pytest.approx(32, abs=1)


def test_control_videos_are_fitted_and_filled_up(tmp_path: Path) -> None:
    path = str(video(tmp_path / "depth.mp4", 4, size=(32, 32)))
    request = ClipRequest("a", "p", controls=(Control("depth", path),))
    frames = read_media(request, family=family("transfer2.5"), shape=SHAPE).controls["depth"]
    assert frames.shape == (9, 32, 64, 3)
    assert shades(frames) == [0, 1, 2, 3, 3, 3, 3, 3, 3]


def test_edges_and_blur_are_computed_from_footage(tmp_path: Path) -> None:
    controls = (Control("edge"), Control("blur"))
    path = video(tmp_path / "v.mp4", 12)
    found = media("transfer2.5", path, controls=controls)
    footage = read_frames(path, count=9, take="first")
    assert found.frames is None
    assert np.array_equal(found.controls["edge"], edge_video(footage))
    assert np.array_equal(found.controls["blur"], blur_video(footage))


def test_controls_that_cannot_be_made_are_refused(tmp_path: Path) -> None:
    path = video(tmp_path / "v.mp4", 9)
    with pytest.raises(MalformedRecordError, match="only edge and blur are computed"):
        media("transfer2.5", path, controls=(Control("seg"),))
    with pytest.raises(MalformedRecordError, match="takes no control input"):
        media("predict2", path, controls=(Control("edge"),))
    with pytest.raises(MalformedRecordError, match="each kind once"):
        media("transfer2.5", path, controls=(Control("edge"), Control("edge")))
    alone = ClipRequest("a", "p", controls=(Control("edge"),))
    with pytest.raises(MalformedRecordError, match="neither a control video nor footage"):
        read_media(alone, family=family("transfer2.5"), shape=SHAPE)
    with pytest.raises(MalformedRecordError, match="at least one control"):
        read_media(ClipRequest("a", "p"), family=family("transfer2.5"), shape=SHAPE)


def actions(path: Path, record) -> ClipRequest:
    path.write_text(record if isinstance(record, str) else json.dumps(record))
    return ClipRequest("a", "p", action=ActionTrack("forward_dynamics", str(path)))


def test_actions_are_read(tmp_path: Path) -> None:
    record = {"domain": "camera_pose", "rate_fps": 10.0, "actions": [[0, 1, 2], [3, 4, 5]]}
    request = actions(tmp_path / "a.json", record)
    found = read_media(request, family=family("cosmos3"), shape=SHAPE).actions
    assert found.dtype == np.float32
    assert found.tolist() == [[0, 1, 2], [3, 4, 5]]
    asked = ClipRequest("a", "p", action=ActionTrack("policy"))
    assert read_media(asked, family=family("cosmos3"), shape=SHAPE).actions is None


@pytest.mark.parametrize(
    "record", ["{", {"actions": [[1, 2], [3]]}, {"actions": []}, {"rows": 1}, {"actions": [["x"]]}]
)
def test_bad_actions_are_refused(tmp_path: Path, record) -> None:
    request = actions(tmp_path / "a.json", record)
    with pytest.raises(MalformedRecordError, match=r"a\.json"):
        read_media(request, family=family("cosmos3"), shape=SHAPE)
