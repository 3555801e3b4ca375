"""Control videos from footage and from a rendered clip."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from gpu_jobs.cosmos_generate.controls import (
    blur_video,
    canny,
    control_from_clip,
    control_from_footage,
    depth_video,
    edge_video,
    instance_colour,
    seg_video,
)
from gpu_jobs.render_clips.job import render_clips
from gpu_jobs.render_clips.spec import RenderClipsSpec
from tests.factories import make_recipe
from worldloop.errors import UnknownKeyError
from worldloop.packs import read_member, read_pack_index


def square(height: int = 24, width: int = 32) -> np.ndarray:
    """A red square on black."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[8:16, 10:20, 0] = 200
    return frame


def test_edges_lie_on_the_outline_of_a_square_and_are_thin() -> None:
    rows, columns = np.nonzero(canny(square(), low=100, high=200))
    beside_row = np.isin(rows, (7, 8, 15, 16)) & (columns >= 9) & (columns <= 20)
    beside_column = np.isin(columns, (9, 10, 19, 20)) & (rows >= 7) & (rows <= 16)
    assert (beside_row | beside_column).all()
    assert 28 <= len(rows) <= 40  # the outline has 32 pixels


def test_edges_equal_those_of_opencv() -> None:
    rng = np.random.default_rng(11)
    coarse = rng.integers(0, 256, (9, 13, 3), dtype=np.uint8)
    patches = np.repeat(np.repeat(coarse, 5, 0), 5, 1)
    frame = patches // 2 + rng.integers(0, 64, patches.shape, dtype=np.uint8)
    edges = canny(frame, low=100, high=200)
    # cv2.Canny(frame, 100, 200) > 0 of OpenCV 5.0.0
    digest = "ccd8a6579297cb09bbeed8dbd869aeab89812b0a0a5ea1af7a25e3baeee87398"
    assert hashlib.sha256(np.packbits(edges).tobytes()).hexdigest() == digest


def test_weak_edges_stay_only_where_they_touch_strong_ones() -> None:
    frame = np.zeros((20, 40, 3), np.uint8)
    frame[:, 10:] = 30  # gradient 120: weak
    frame[:, 30:] = 110  # gradient 320: strong
    assert canny(frame, low=100, high=200)[10].nonzero()[0].tolist() in ([29], [30])
    frame[9:11, 10:31] = 110  # a strong bridge that touches the weak edge
    assert canny(frame, low=100, high=200)[:, 9:11].any()


def test_presets_keep_fewer_edges_the_stronger_they_are() -> None:
    rng = np.random.default_rng(3)
    rgb = rng.integers(0, 256, (2, 24, 32, 3), np.uint8)
    kept = [int(edge_video(rgb, strength=s).sum()) for s in ("very_low", "medium", "very_high")]
    assert kept[0] >= kept[1] > kept[2]
    assert set(np.unique(edge_video(rgb))) <= {0, 255}
    with pytest.raises(UnknownKeyError, match="edge strength"):
        edge_video(rgb, strength="extreme")


def test_blur_keeps_the_mean_and_loses_the_detail() -> None:
    rng = np.random.default_rng(3)
    rgb = rng.integers(0, 256, (2, 48, 64, 3), np.uint8)
    stds = [blur_video(rgb, strength=s).std() for s in ("low", "medium", "high")]
    assert rgb.std() > stds[0] > stds[1] > stds[2]
    assert abs(float(blur_video(rgb).mean()) - float(rgb.mean())) < 4


def test_near_is_bright_and_sky_is_black() -> None:
    depth = np.array([[[0.0, 1.0], [2.0, 50.0]]], np.float32)
    grey = depth_video(depth)[0, :, :, 0]
    assert grey[0, 0] == 0
    assert grey[0, 1] > grey[1, 0] > grey[1, 1] > 0
    assert not depth_video(np.zeros((1, 2, 2), np.float32)).any()


def test_an_instance_keeps_its_colour_and_others_differ() -> None:
    ids = np.array([[[0, 1], [2, 70]], [[70, 2], [1, 0]]], np.int32)
    seg = seg_video(ids)
    assert np.array_equal(seg[0, 1, 1], seg[1, 0, 0])
    assert not seg[0, 0, 0].any()
    colours = np.stack([instance_colour(i) for i in range(1, 65)]).astype(int)
    apart = np.abs(colours[:, None] - colours[None]).sum(-1) + 1000 * np.eye(64, dtype=int)
    assert apart.min() >= 9


def test_footage_alone_tells_edges_and_blur() -> None:
    rgb = square()[None]
    assert np.array_equal(control_from_footage(rgb, "edge"), edge_video(rgb))
    assert control_from_footage(rgb, "vis").shape == rgb.shape
    assert control_from_footage(rgb, "depth") is None


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one small rendered clip."""
    folder = tmp_path_factory.mktemp("rendered")
    recipe = make_recipe("museum", num_frames=5, width_px=64, height_px=36, num_samples=1)
    spec = RenderClipsSpec(
        recipes=(recipe.to_record(),),
        staging_dir=str(folder / "staging"),
        pack_path=str(folder / "pack.tar"),
    )
    render_clips(spec)
    return unpacked(folder / "pack.tar", folder / "clip")


def unpacked(pack: Path, folder: Path) -> Path:
    """The files of a pack's first clip."""
    folder.mkdir()
    members = read_pack_index(pack)
    with pack.open("rb") as source:
        for member in members:
            if member.clip_id == members[0].clip_id:
                (folder / member.file_name).write_bytes(read_member(source, member))
    return folder


def test_a_rendered_clip_gives_all_four_controls(rendered: Path) -> None:
    from worldloop.annotations import read_clip

    clip = read_clip(rendered)
    controls = {kind: control_from_clip(clip, kind) for kind in ("edge", "blur", "depth", "seg")}
    assert {video.shape for video in controls.values()} == {clip.rgb.shape}
    assert {str(video.dtype) for video in controls.values()} == {"uint8"}
    near = clip.depth_m < np.quantile(clip.depth_m[clip.depth_m > 0], 0.2)
    far = clip.depth_m > np.quantile(clip.depth_m, 0.8)
    depth = controls["depth"][..., 0]
    assert depth[near & (clip.depth_m > 0)].mean() > depth[far].mean()
    for number in np.unique(clip.instance):
        assert len(np.unique(controls["seg"][clip.instance == number], axis=0)) == 1


def test_the_folder_of_a_rendered_clip_is_a_control(rendered: Path) -> None:
    from gpu_jobs.cosmos_generate.media import read_media
    from worldloop.annotations import read_clip
    from worldloop.cosmos.families import ClipShape, family
    from worldloop.cosmos.requests import ClipRequest, Control

    clip = read_clip(rendered)
    frames, height, width, _ = clip.rgb.shape
    request = ClipRequest("a", "p", controls=(Control("depth", str(rendered)),))
    shape = ClipShape(frames, width, height, 12)
    found = read_media(request, family=family("transfer2.5"), shape=shape).controls["depth"]
    assert np.array_equal(found, depth_video(clip.depth_m))


def test_other_kinds_are_refused(rendered: Path) -> None:
    from worldloop.annotations import read_clip

    with pytest.raises(UnknownKeyError, match="kind of control"):
        control_from_clip(read_clip(rendered), "sketch")
