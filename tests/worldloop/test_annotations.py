"""What goes into the files of a clip comes out of them."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from gpu_jobs.render_clips.encode import ClipWriter
from gpu_jobs.render_clips.engine import Frame
from tests.factories import make_recipe
from worldloop.annotations import AnnotatedClip, decode_depth, encode_depth, read_clip
from worldloop.errors import MalformedRecordError
from worldloop.packs import write_pack
from worldloop.recipes import Recipe
from worldloop.seeds import stream
from worldloop.worlds.geometry import MeshBuilder, SemanticClass
from worldloop.worlds.world import Air, Instance, Track, World

RECIPE = make_recipe("zoo")
INSTANCES = (
    Instance(SemanticClass.SKY, "the sky"),
    Instance(SemanticClass.ANIMAL, "an elephant", moves=True),
    Instance(SemanticClass.FENCE, "a fence"),
)


def make_world(num_frames: int) -> World:
    rng = stream(1, "annotations")
    camera = np.tile(np.eye(4), (num_frames, 1, 1))
    camera[:, :3, 3] = rng.normal(size=(num_frames, 3))
    track = Track(
        keys=rng.random((num_frames, 6)) < 0.5,
        mouse_deg=rng.normal(size=(num_frames, 2)).astype(np.float32),
        camera_to_world=camera,
        velocity_mps=rng.normal(size=(num_frames, 3)).astype(np.float32),
    )
    black = (0.0, 0.0, 0.0)
    air = Air((0, 0, 1), black, black, black, black, 0, 0, 0, 0, 0, 0, 1)
    empty = MeshBuilder().build()
    return World(
        empty,
        empty,
        lambda time_s: np.zeros((0, 3, 4), np.float32),
        INSTANCES,
        np.zeros((0, 7), np.float32),
        np.zeros((0, 1, 1, 3), np.uint8),
        air,
        None,
        track,
    )


def make_frame(index: int, height: int, width: int) -> Frame:
    rng = stream(index, "frame")
    instance = np.zeros((height, width), np.int32)
    instance[4:9, 10:20] = 1
    depth = rng.uniform(0.2, 90.0, (height, width)).astype(np.float32)
    depth[instance == 0] = 0.0
    rgb = np.full((height, width, 3), (200, 120, 40), np.uint8)
    boxes = np.array([[0] * 6, [10, 4, 19, 8, 50, 0], [999, 999, -1, -1, 0, 0]], np.int32)
    return Frame(rgb, depth, instance, np.zeros((height, width, 3), np.float32), boxes)


def write_clip(folder: Path, recipe: Recipe = RECIPE) -> tuple[list[Frame], World]:
    shape = recipe.shape
    world = make_world(shape.num_frames)
    frames = [make_frame(i, shape.height_px, shape.width_px) for i in range(shape.num_frames)]
    folder.mkdir()
    with ClipWriter(folder, recipe, world) as writer:
        for frame in frames:
            writer.add(frame)
        writer.finish((100.0, 100.0, 32.0, 18.0))
    return frames, world


@pytest.fixture
def written(tmp_path: Path) -> tuple[AnnotatedClip, list[Frame], World]:
    frames, world = write_clip(tmp_path / "clip")
    return read_clip(tmp_path / "clip"), frames, world


def test_labels_come_back_exactly(written: tuple[AnnotatedClip, list[Frame], World]) -> None:
    clip, frames, _ = written
    np.testing.assert_array_equal(clip.instance, np.stack([f.instance for f in frames]))
    np.testing.assert_array_equal(clip.semantic == int(SemanticClass.ANIMAL), clip.instance == 1)


def test_depth_comes_back_as_it_was_rounded(
    written: tuple[AnnotatedClip, list[Frame], World],
) -> None:
    clip, frames, _ = written
    depth = np.stack([f.depth for f in frames])
    np.testing.assert_array_equal(clip.depth_m, decode_depth(encode_depth(depth)))
    near = (depth > 0) & (depth < 10)
    np.testing.assert_allclose(clip.depth_m[near], depth[near], rtol=1e-3)
    assert (clip.depth_m[depth == 0] == 0).all()


def test_colour_comes_back_nearly(written: tuple[AnnotatedClip, list[Frame], World]) -> None:
    clip, frames, _ = written
    assert clip.rgb.shape == (5, 36, 64, 3)
    assert np.abs(clip.rgb.astype(int) - frames[0].rgb).mean() < 4


def test_actions_and_poses_come_back(written: tuple[AnnotatedClip, list[Frame], World]) -> None:
    clip, _, world = written
    poses = clip.frames["camera_to_world"].to_numpy().reshape(-1, 4, 4)
    np.testing.assert_array_equal(poses, world.track.camera_to_world)
    keys = clip.frames.select("key_w", "key_a", "key_s", "key_d", "key_shift", "key_e").to_numpy()
    np.testing.assert_array_equal(keys, world.track.keys)
    assert clip.frames["time_s"].to_list() == [i / 24 for i in range(5)]
    assert clip.frames.row(0, named=True)["fx"] == 100.0


def test_tables_name_only_what_is_seen(written: tuple[AnnotatedClip, list[Frame], World]) -> None:
    clip, _, _ = written
    assert clip.instances.rows() == [(0, 0, "sky", "the sky"), (1, 11, "animal", "an elephant")]
    assert clip.boxes.rows()[0] == (0, 1, 10, 4, 19, 8, 50)
    assert clip.boxes.height == 5


def test_a_clip_reads_the_same_from_a_pack(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip")
    write_pack(tmp_path / "pack.tar", [("first", tmp_path / "clip")])
    loose, packed = read_clip(tmp_path / "clip"), read_clip(tmp_path / "pack.tar", "first")
    np.testing.assert_array_equal(packed.rgb, loose.rgb)
    assert packed.frames.equals(loose.frames)
    assert Recipe.from_record(packed.recipe) == RECIPE


def test_a_clip_that_is_not_in_the_pack_is_an_error(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip")
    write_pack(tmp_path / "pack.tar", [("first", tmp_path / "clip")])
    with pytest.raises(MalformedRecordError, match="Check the recipe id"):
        read_clip(tmp_path / "pack.tar", "second")


def test_two_writers_make_the_same_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_clip(tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_the_poster_is_small(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip", make_recipe("zoo", width_px=512, height_px=288))
    assert (tmp_path / "clip" / "poster.jpg").stat().st_size < 20_000


def test_depth_is_monotonic_and_keeps_the_sky_apart() -> None:
    metres = np.geomspace(0.05, 5000, 200).astype(np.float32)
    value: NDArray[np.uint16] = encode_depth(metres)
    assert (np.diff(value.astype(int)) <= 0).all()
    assert value.min() == 1
    assert encode_depth(np.zeros(1, np.float32))[0] == 0


def test_tables_are_polars_frames_with_documented_columns(
    written: tuple[AnnotatedClip, list[Frame], World],
) -> None:
    clip, _, _ = written
    assert clip.frames.schema["camera_to_world"] == pl.Array(pl.Float64, 16)
    assert clip.boxes.columns == ["frame", "instance_id", "x0", "y0", "x1", "y1", "num_pixels"]
