import hashlib
import json
import time

import numpy as np
import pytest

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.cosmos_generate.tiny import WRITERS, write_tiny_checkpoint
from tests.gpu_jobs.cosmos_generate.tiny_worlds import (
    PROMPT,
    denoise,
    load_tiny,
    picture_frames,
    request,
)
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.models import MODELS, model
from worldloop.cosmos.models.tiny import pocket
from worldloop.errors import UnknownKeyError

OURS = [name for name in WRITERS if "2.5" not in name and "Cosmos3" not in name]
SHAPE = ClipShape(9, 64, 64, 24)

# scripts/convert_cosmos_to_diffusers.py, commit 0a88230 of diffusers: in_channels, rope_scale,
# extra_pos_embed_type of the published models that the tiny ones stand for
PUBLISHED = {
    "Tiny-Cosmos-1.0-Text2World": (16, [2.0, 1.0, 1.0], "learnable"),
    "Tiny-Cosmos-1.0-Video2World": (17, [2.0, 1.0, 1.0], "learnable"),
    "Tiny-Cosmos-Predict2-Text2Image": (16, [1.0, 4.0, 4.0], None),
    "Tiny-Cosmos-Predict2-Video2World": (17, [1.0, 3.0, 3.0], None),
}


def digest(folder):
    """One hash over all files of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [str(path.relative_to(folder)).encode() + path.read_bytes() for path in files]
    return hashlib.sha256(b"".join(names)).hexdigest()


def shape_of(name):
    return ClipShape(1, 64, 64, 24) if model(name).task == "text2image" else SHAPE


def frames_of(name, seed=0):
    takes = model(name).task == "video2world"
    return picture_frames(1, seed=seed, shape=SHAPE) if takes else None


def run(world, name, *, seed=3):
    sampler = model(name).known_samplers[0]
    asked = {"sampler": sampler, "shape": shape_of(name), "num_steps": 2}
    return denoise(world, [request(seed)], frames=frames_of(name, seed), **asked)[1][0]


def test_every_tiny_model_has_a_writer_or_is_trained():
    assert {*WRITERS, pocket().name} == {one.name for one in MODELS.values() if one.tiny}


@pytest.mark.parametrize("name", OURS)
def test_the_same_seed_writes_the_same_bytes(name, checkpoint_dir, tmp_path):
    first = write_tiny_checkpoint(name, checkpoint_dir)
    assert digest(first) == digest(write_tiny_checkpoint(name, tmp_path))


@pytest.mark.parametrize("name", OURS)
def test_its_configuration_is_the_published_one_but_for_size(name, checkpoint_dir):
    folder = write_tiny_checkpoint(name, checkpoint_dir)
    config = json.loads((folder / "transformer/config.json").read_text())
    found = (config["in_channels"], config["rope_scale"], config["extra_pos_embed_type"])
    assert found == PUBLISHED[name]
    assert config["concat_padding_mask"]
    assert config["patch_size"] == [1, 2, 2]
    index = json.loads((folder / "model_index.json").read_text())
    vae = "AutoencoderKLCosmos" if "1.0" in name else "AutoencoderKLWan"
    assert index["vae"] == ["diffusers", vae]


@pytest.mark.parametrize("name", OURS)
def test_the_scheduler_says_what_the_pipelines_run_with(name, checkpoint_dir):
    folder = write_tiny_checkpoint(name, checkpoint_dir)
    config = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    assert (config["sigma_max"], config["sigma_min"]) == (80, 0.002)
    assert config["final_sigmas_type"] == "sigma_min"
    assert config["sigma_data"] == (0.5 if "1.0" in name else 1.0)


@pytest.mark.parametrize("name", OURS)
def test_frames_vary_over_place_time_and_seed(name, checkpoint_dir):
    world = load_tiny(name, checkpoint_dir)
    clip = run(world, name).astype(float)
    assert 25 < clip.std() < 90
    assert np.mean((clip == 0) | (clip == 255)) < 0.15  # little is clipped
    assert np.abs(clip - run(world, name, seed=4)).mean() > 2
    if len(clip) > 1:
        assert np.abs(np.diff(clip, axis=0)).mean() > 5


@pytest.mark.parametrize("name", OURS)
def test_it_is_loaded_and_decoded_within_three_seconds(name, checkpoint_dir):
    write_tiny_checkpoint(name, checkpoint_dir)
    import_diffusers()
    start_s = time.process_time()
    assert run(load_tiny(name, checkpoint_dir), name).shape == (
        shape_of(name).num_frames,
        64,
        64,
        3,
    )
    assert time.process_time() - start_s < 3.0


def test_prompts_make_a_difference(checkpoint_dir):
    world = load_tiny(OURS[0], checkpoint_dir)
    embeddings = [world.encode(prompt, "") for prompt in (PROMPT, "A zoo by day.")]
    first, second = (
        denoise(world, [request()], embedding=each, shape=SHAPE)[0] for each in embeddings
    )
    assert not np.allclose(first, second, atol=1e-3)


def test_prompts_of_the_size_that_scenes_have_fit(checkpoint_dir):
    world = load_tiny(OURS[0], checkpoint_dir)
    words = "The camera glides over Shibuya crossing while pedestrians with umbrellas hurry on. "
    world.encode(words * 12, model(OURS[0]).record.negative_prompt)  # 144 words; raises if too long


def test_a_folder_that_stands_is_left_alone(checkpoint_dir):
    folder = write_tiny_checkpoint(OURS[0], checkpoint_dir)
    (folder / "note.txt").write_text("mine")
    assert write_tiny_checkpoint(OURS[0], checkpoint_dir) == folder
    assert (folder / "note.txt").exists()
    (folder / "note.txt").unlink()


def test_a_half_written_folder_is_written_anew(tmp_path):
    (tmp_path / OURS[0] / "vae").mkdir(parents=True)
    assert (write_tiny_checkpoint(OURS[0], tmp_path) / "model_index.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == [OURS[0]]


def test_a_writer_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fails(folder):
        (folder / "vae").mkdir(parents=True)
        raise OSError("disk full")

    monkeypatch.setattr("gpu_jobs.cosmos_generate.tiny.cosmos1.write_tiny_text2world", fails)
    with pytest.raises(OSError, match="disk full"):
        write_tiny_checkpoint(OURS[0], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_name_is_named(tmp_path):
    with pytest.raises(UnknownKeyError, match="Tiny-Cosmos-9"):
        write_tiny_checkpoint("Tiny-Cosmos-9", tmp_path)
