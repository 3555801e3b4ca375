from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gpu_jobs.posttrain.base import Base, BaseKey, load_base
from gpu_jobs.posttrain.encodings import encoded
from gpu_jobs.posttrain.footage import read_folder, read_window
from gpu_jobs.posttrain.pickles import write_pickle
from tests.gpu_jobs.posttrain.folders import write_folder, write_video
from tests.gpu_jobs.posttrain.tiny_footage import TEXT2WORLD
from worldloop.cosmos.families import ClipShape
from worldloop.errors import MalformedRecordError
from worldloop.federation.rounds import Training

SHAPE = ClipShape(9, 16, 16, 24)


@pytest.fixture(scope="module")
def base(checkpoint_dir) -> Base:
    return load_base(BaseKey(TEXT2WORLD, str(checkpoint_dir), precision="fp32"))


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "data", {"a": "A red bus.", "b": "A zoo."}, num_frames=18)


def encode(base, folder, cache: Path, shape=SHAPE, told=None, **changes):
    training = Training(shape=shape, **{"num_steps": 50, **changes})
    return encoded(base, read_folder(folder), training, cache, revision="r1", on_event=told)


def files(cache: Path):
    return {path: path.read_bytes() for path in cache.rglob("*.safetensors")}


def test_windows_and_captions_are_those_of_the_base(base, folder, tmp_path):
    footage = encode(base, folder, tmp_path / "cache")

    assert (len(footage), footage.num_clips) == (4, 2)
    assert [footage.clip(index) for index in range(4)] == [0, 0, 1, 1]
    frames = read_window(footage.clips[0], footage.windows[1], SHAPE)
    assert torch.equal(footage.latent(1), base.encode_frames(frames))
    assert torch.equal(footage.context(1), base.encode_caption("A red bus.", SHAPE))


def test_a_second_encoding_reads_the_cache_and_has_the_same_fingerprint(base, folder, tmp_path):
    first = encode(base, folder, tmp_path / "cache")
    before, told = files(tmp_path / "cache"), []
    again = encode(base, folder, tmp_path / "cache", told=told.append)

    assert again.encode_s < first.encode_s
    assert again.fingerprint == first.fingerprint
    assert files(tmp_path / "cache") == before
    assert told[-1] == {"event": "encoding", "done": 2, "of": 2}


def test_a_moved_folder_and_another_cache_give_the_same_bytes(base, folder, tmp_path):
    one = encode(base, folder, tmp_path / "one")
    two = encode(base, folder.rename(tmp_path / "moved"), tmp_path / "two")

    assert one.fingerprint == two.fingerprint
    names = [
        {path.name: content for path, content in files(tmp_path / n).items()}
        for n in ("one", "two")
    ]
    assert names[0] == names[1]


def test_another_video_or_caption_changes_the_fingerprint_and_only_its_own_files(
    base, folder, tmp_path
):
    first = encode(base, folder, tmp_path / "cache")
    before = files(tmp_path / "cache")
    write_video(folder / "videos" / "b.mp4", 19)
    (folder / "metas" / "a.txt").write_text("A blue bus.")
    second = encode(base, folder, tmp_path / "cache")

    assert second.fingerprint != first.fingerprint
    after = files(tmp_path / "cache")
    assert {path: after[path] for path in before} == before
    assert len(after) == len(before) + 2 + 1


def test_windows_that_steps_cannot_all_draw_are_encoded_when_asked_for(base, folder, tmp_path):
    footage = encode(base, folder, tmp_path / "cache", start_frame_interval=1, num_steps=3)

    assert len(footage) == 20
    assert not list((tmp_path / "cache").rglob("latents/*"))
    footage.latent(7)
    assert len(list((tmp_path / "cache").rglob("latents/*"))) == 1


def test_half_precision_keeps_latents_in_half_the_room(base, folder, tmp_path):
    exact = encode(base, folder, tmp_path / "cache").latent(0)
    half = Base(replace(base.key, precision="bf16"), base.world, base.objective)
    kept = encode(half, folder, tmp_path / "cache").latent(0)

    assert kept.dtype == torch.float32
    torch.testing.assert_close(kept, exact, atol=1e-3, rtol=1e-3)
    assert not torch.equal(kept, exact)


def test_a_pickle_stands_for_the_caption_and_is_padded_as_generation_pads(base, folder, tmp_path):
    blank = base.blank
    states = np.ones((3, blank.shape[1]), np.float16)
    write_pickle(folder / "t5_xxl" / "a.pickle", states)
    (folder / "metas" / "a.txt").unlink()

    context = encode(base, folder, tmp_path / "cache").context(0)
    assert context.shape == blank.shape
    assert float(context.sum()) == states.size


def test_a_pickle_of_another_encoder_is_refused(base, folder, tmp_path):
    write_pickle(folder / "t5_xxl" / "a.pickle", np.ones((3, 1024), np.float16))
    with pytest.raises(MalformedRecordError, match=r"a\.pickle.*\(3, 1024\).*worldloop embeddings"):
        encode(base, folder, tmp_path / "cache")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (ClipShape(9, 60, 48, 24), "Round 60 to 64"),
        (ClipShape(10, 64, 48, 24), "Train with 9 or 17"),
    ],
)
def test_a_shape_that_the_model_cannot_take_is_refused(base, folder, tmp_path, shape, words):
    with pytest.raises(MalformedRecordError, match=words):
        encode(base, folder, tmp_path / "cache", shape=shape)


def test_a_killed_encoding_leaves_whole_files_only(base, folder, tmp_path):
    def stop(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(base, folder, tmp_path / "cache", told=stop)
    assert not list((tmp_path / "cache").rglob("*.partial"))
    assert len(encode(base, folder, tmp_path / "cache")) == 4
