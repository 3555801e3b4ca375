from dataclasses import replace
from pathlib import Path

import pytest

from gpu_jobs.train_embedder.captions import OUTDOORS, caption_variants
from gpu_jobs.train_embedder.frames import (
    RenderFramesSpec,
    draw_scene,
    held_out_cities,
    render_frames,
)
from gpu_jobs.train_embedder.shards import read_shards
from worldloop.atlas.atlas import load_atlas

SPEC = RenderFramesSpec(
    "",
    num_scenes=5,
    num_frames=2,
    clip_frames=4,
    width_px=64,
    height_px=36,
    num_samples=1,
    scenes_per_shard=3,
)


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return replace(SPEC, output_dir=str(tmp_path_factory.mktemp("frames")))


@pytest.fixture(scope="module")
def report(spec):
    return render_frames(spec)


def test_shards_hold_frames_labels_and_captions(spec, report):
    shard = read_shards(Path(spec.output_dir))
    assert (report.num_shards, report.num_rendered, report.num_failed) == (2, 5, 0)
    assert shard.frames.shape == (10, 36, 64, 3)
    assert shard.scene_of_frame.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert len({scene["institution"] for scene in shard.scenes}) == 5
    assert all(frame.std() > 5 for frame in shard.frames)


def test_a_lost_shard_is_rendered_again_to_the_same_bytes(spec, report):
    assert report.num_shards == 2
    lost, kept = sorted(Path(spec.output_dir).glob("*.npz"))
    before, kept_at = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    assert render_frames(spec).num_rendered == 3
    assert lost.read_bytes() == before
    assert kept.stat().st_mtime_ns == kept_at


def test_no_city_and_no_seed_is_in_both_splits():
    held_out = set(held_out_cities(load_atlas()))
    train = [draw_scene(SPEC, i) for i in range(60)]
    holdout = [draw_scene(replace(SPEC, split="holdout"), i) for i in range(60)]
    assert {scene.city for scene in holdout} <= held_out
    assert not {scene.city for scene in train} & held_out
    assert not {scene.seed for scene in train} & {scene.seed for scene in holdout}


def test_captions_differ_and_stay_true():
    atlas = load_atlas()
    for number in range(20):
        scene = draw_scene(SPEC, number)
        captions = caption_variants(scene, atlas)
        assert captions == caption_variants(scene, atlas)
        assert len(set(captions)) == len(captions) >= 8
        words = set(" ".join(captions).split())
        if scene.institution not in OUTDOORS:
            assert not words & {"rainy", "sunny", "foggy", "night", "afternoon"}
        if scene.weather != "rain":
            assert not words & {"rainy", "wet"}
