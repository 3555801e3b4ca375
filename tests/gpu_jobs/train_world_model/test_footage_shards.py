import json

import numpy as np
import pytest

from gpu_jobs.train_world_model import data
from gpu_jobs.train_world_model.data import (
    WriteShardsSpec,
    batch_indices,
    decode_frames,
    encode_frames,
    read_footage,
    write_shards,
)
from gpu_jobs.train_world_model.tokens import build_tokenizer
from tests.gpu_jobs.train_world_model.footage_shards import square_clip, write_square_shards
from worldloop.errors import JobFailedError, MalformedRecordError


def test_frames_survive_a_shard_but_for_a_little_noise():
    frames = square_clip("red")
    again = decode_frames(encode_frames(frames, quality=90))
    assert again.shape == frames.shape
    assert np.abs(again.astype(int) - frames).mean() < 3


def test_shards_are_read_in_the_order_of_their_names(tmp_path):
    write_square_shards(tmp_path, num_clips=4)
    footage = read_footage(tmp_path, num_threads=2)
    assert footage.frames.shape == (4, 9, 32, 64, 3)
    assert [clip["captions"][0].split()[1] for clip in footage.clips] == [
        "blue",
        "green",
        "red",
        "blue",
    ]
    assert footage.rate_fps == 24
    assert len(footage.captions) == 6


def test_every_epoch_takes_each_clip_once_in_another_order():
    steps = [batch_indices(10, 4, step, 3, "order") for step in range(5)]
    drawn = [index for step in steps for index in step]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]
    assert steps[2] == batch_indices(10, 4, 2, 3, "order")


def test_clips_of_two_shapes_are_one_clear_error(tmp_path):
    write_square_shards(tmp_path / "a")
    write_square_shards(tmp_path / "b", num_frames=5)
    (tmp_path / "b" / "a.npz").rename(tmp_path / "a" / "c.npz")
    with pytest.raises(MalformedRecordError, match="clips of one shape and rate"):
        read_footage(tmp_path / "a")


def test_no_shards_and_broken_shards_are_clear_errors(tmp_path):
    with pytest.raises(JobFailedError, match="No footage shards"):
        read_footage(tmp_path)
    (tmp_path / "a.npz").write_bytes(b"PK")
    with pytest.raises(MalformedRecordError, match=r"footage shard a\.npz"):
        read_footage(tmp_path)


def test_a_pillow_without_avif_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(data.features, "check", lambda name: False)
    with pytest.raises(JobFailedError, match=r"Pillow 11\.3"):
        read_footage(tmp_path)


def test_rendered_packs_become_shards_with_captions(tmp_path, rendered_pack):
    spec = WriteShardsSpec((str(rendered_pack),), str(tmp_path / "shards"), quality=80)
    report = write_shards(spec)
    footage = read_footage(tmp_path / "shards")
    assert (report.num_shards, report.num_clips) == (1, len(footage.clips)) == (1, 1)
    assert footage.clips[0]["place"] == "tokyo/museum"
    assert any("museum" in caption for caption in footage.captions)
    assert footage.frames.shape == (1, 2, 36, 64, 3)
    assert write_shards(spec).num_clips == 0


@pytest.fixture(scope="module")
def rendered_pack(tmp_path_factory):
    from gpu_jobs.render_clips.job import render_clips
    from gpu_jobs.render_clips.spec import RenderClipsSpec
    from worldloop.atlas.atlas import load_atlas
    from worldloop.recipes import Recipe, Shape
    from worldloop.scenes.casting import cast_scene

    folder = tmp_path_factory.mktemp("pack")
    scene = cast_scene(load_atlas(), place="tokyo/museum", seed=3)
    shape = Shape(num_frames=2, width_px=64, height_px=36, num_samples=1)
    recipe = Recipe(scene, shape).to_record()
    render_clips(RenderClipsSpec((recipe,), str(folder / "staging"), str(folder / "a.tar")))
    return folder / "a.tar"


def test_a_tokenizer_knows_its_words_and_spells_others():
    tokenizer = build_tokenizer(["a wet street, by day", "two beds"], max_length=16)
    assert tokenizer.tokenize("wet beds") == ["\u2581wet", "\u2581beds"]
    assert tokenizer.tokenize("zoo") == ["\u2581", "z", "o", "o"]
    assert tokenizer("wet", return_tensors="np").input_ids[0, -1] == 1
    again = build_tokenizer(["two beds", "a wet street, by day"], max_length=16)
    assert json.dumps(again.get_vocab(), sort_keys=True) == json.dumps(
        tokenizer.get_vocab(), sort_keys=True
    )
