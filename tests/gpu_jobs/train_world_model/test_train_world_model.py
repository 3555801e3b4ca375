import hashlib
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from gpu_jobs.common.entry import read_spec
from gpu_jobs.train_world_model import recipes
from gpu_jobs.train_world_model.autoencoder import AutoencoderLearner
from gpu_jobs.train_world_model.data import read_footage
from gpu_jobs.train_world_model.denoiser import DenoiserLearner
from gpu_jobs.train_world_model.job import train_world_model
from gpu_jobs.train_world_model.spec import Stage, TrainWorldModelSpec
from tests.gpu_jobs.train_world_model.footage_shards import write_square_shards
from worldloop.errors import JobFailedError, MalformedRecordError


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("footage")
    write_square_shards(folder)
    return folder


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    spec = recipes.tiny(str(shards), str(tmp_path_factory.mktemp("trained") / "model"))
    return spec, train_world_model(spec)


def short(shards: Path, output: Path, **changes) -> TrainWorldModelSpec:
    """Two steps of each part and no samples."""
    stages = (asdict(Stage(5, 2, 2)),)
    spec = recipes.tiny(str(shards), str(output))
    few = replace(spec, autoencoder_stages=stages, transformer_stages=stages, num_samples=0)
    return replace(few, **changes)


def weights_of(output: Path) -> dict[str, str]:
    """Hash of each file of weights."""
    found = sorted(output.rglob("*.safetensors"))
    return {f.parent.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in found}


def test_a_spec_survives_json():
    spec = recipes.small("shards", "out")
    assert read_spec(TrainWorldModelSpec, json.loads(json.dumps(asdict(spec)))) == spec


def test_a_trained_folder_has_the_layout_of_cosmos_1(trained):
    folder = Path(trained[0].output_dir)
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "CosmosTextToWorldPipeline"
    parts = {name for name, value in index.items() if isinstance(value, list) and value[0]}
    assert parts == {path.name for path in folder.iterdir() if path.is_dir()}
    assert not folder.with_name("model.partial").exists()


def test_the_tiny_recipe_learns_to_reconstruct_and_to_denoise(trained):
    _, report = trained
    first = {point["part"]: point["loss"] for point in reversed(report.losses)}
    last = {point["part"]: point["loss"] for point in report.losses}
    assert last["autoencoder"] < first["autoencoder"]
    assert last["transformer"] < 1.0  # what predicting nothing costs
    assert report.autoencoder_psnr_db > 25
    assert (report.num_tokens, report.num_clips, report.resumed) == (96, 6, False)
    assert Path(report.sheet).is_file()
    assert len(report.prompts) == 1


def test_our_backend_generates_from_a_trained_folder(trained):
    import torch

    from gpu_jobs.cosmos_generate.backends.registry import load_model
    from gpu_jobs.cosmos_generate.protocol import DenoiseOptions, Media
    from worldloop.cosmos.families import ClipShape
    from worldloop.cosmos.models import model
    from worldloop.cosmos.requests import ClipRequest

    folder = Path(trained[0].output_dir)
    entry = replace(model("Tiny-Cosmos-1.0-Text2World"), name=folder.name)
    world = load_model(entry, folder.parent, dtype=torch.float32, device=torch.device("cpu"))
    options = DenoiseOptions(ClipShape(9, 64, 32, 24), 2, 3.0, "edm_euler")
    request = ClipRequest("a", trained[1].prompts[0])
    embeddings = [world.encode(request.prompt, world.family.negative_prompt)]
    denoising = world.begin([request], embeddings, options, device="cpu", media=[Media()])
    for index in range(denoising.num_steps):
        denoising.step(index)
    frames = world.decode(denoising.latents()[0], request, options).frames
    assert frames.shape == (9, 32, 64, 3)
    assert frames.std() > 1


def test_latents_of_the_footage_are_standard_normal_by_the_written_statistics(trained):
    import torch
    from diffusers import AutoencoderKLCosmos

    from gpu_jobs.train_world_model.autoencoder import to_model_range

    vae = AutoencoderKLCosmos.from_pretrained(Path(trained[0].output_dir) / "vae")
    clips = torch.from_numpy(read_footage(Path(trained[0].shards_dir)).frames)
    with torch.no_grad():
        latent = vae.encode(to_model_range(clips)).latent_dist.mode()
    shape = (1, -1, 1, 1, 1)
    mean, std = (
        torch.tensor(v).view(shape) for v in (vae.config.latents_mean, vae.config.latents_std)
    )
    normal = (latent - mean) / std
    assert normal.mean(dim=(0, 2, 3, 4)).abs().max() < 1e-3
    assert (normal.std(dim=(0, 2, 3, 4)) - 1).abs().max() < 1e-2


def test_channels_that_change_little_in_pixels_are_narrow_without_whitening(shards, tmp_path):
    stds = {}
    for name, whitening in (("even", 1.0), ("as seen", 0.0)):
        train_world_model(short(shards, tmp_path / name, whitening=whitening))
        config = json.loads((tmp_path / name / "vae" / "config.json").read_text())
        stds[name] = np.array(config["latents_std"])
    spread = stds["even"] / stds["as seen"]
    assert np.square(spread).mean() == pytest.approx(1, abs=1e-4)
    assert spread[0] > 3 * spread[-1]  # the first component holds most of the picture


def test_training_on_fewer_clips_takes_them_from_all_of_the_footage(shards):
    footage = read_footage(shards)
    few = footage.thinned(3)
    assert [clip["recipe_id"] for clip in few.clips] == [
        footage.clips[i]["recipe_id"] for i in (0, 2, 5)
    ]
    assert footage.thinned(0) is footage


def test_training_twice_gives_the_same_weights_and_another_seed_others(shards, tmp_path):
    one, two = (short(shards, tmp_path / name) for name in ("a", "b"))
    train_world_model(one)
    train_world_model(two)
    train_world_model(short(shards, tmp_path / "c", seed=1))
    assert weights_of(tmp_path / "a") == weights_of(tmp_path / "b")
    assert all(weights_of(tmp_path / "c")[k] != v for k, v in weights_of(tmp_path / "a").items())


@pytest.mark.parametrize("learner", [AutoencoderLearner, DenoiserLearner])
def test_a_killed_training_resumes_to_the_same_weights(shards, tmp_path, monkeypatch, learner):
    train_world_model(short(shards, tmp_path / "whole"))
    spec = short(shards, tmp_path / "killed", checkpoint_every_s=0.0)
    step = learner.step

    def killed(self, stage, number, *, rate):
        if number == 1:
            raise KeyboardInterrupt
        return step(self, stage, number, rate=rate)

    monkeypatch.setattr(learner, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        train_world_model(spec)
    assert not (tmp_path / "killed").exists()
    monkeypatch.undo()
    report = train_world_model(spec)
    assert report.resumed
    assert [row["steps"] for row in report.stages] == [2, 2]
    assert weights_of(tmp_path / "killed") == weights_of(tmp_path / "whole")


def test_the_state_of_another_training_is_refused(shards, tmp_path):
    spec = short(shards, tmp_path / "a", state_dir=str(tmp_path / "state"))
    train_world_model(spec)
    with pytest.raises(JobFailedError, match=r"autoencoder\.pt .* another spec"):
        train_world_model(replace(spec, seed=1))


def test_a_stage_ends_by_the_clock(shards, tmp_path):
    stage = (asdict(Stage(5, 1, 10_000, 0.2)),)
    report = train_world_model(short(shards, tmp_path / "a", autoencoder_stages=stage))
    assert 1 <= report.stages[0]["steps"] < 1000


@pytest.mark.parametrize("frames", [7, 13])
def test_a_stage_that_the_footage_cannot_serve_is_one_clear_error(shards, tmp_path, frames):
    stage = (asdict(Stage(frames, 1, 1)),)
    with pytest.raises(MalformedRecordError, match=r"num_frames of a training stage: found"):
        train_world_model(short(shards, tmp_path / "a", transformer_stages=stage))
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_no_number_ends_the_job(shards, tmp_path):
    spec = short(shards, tmp_path / "a", autoencoder_learning_rate=1e30)
    with pytest.raises(JobFailedError, match="loss of the autoencoder is not a number"):
        train_world_model(spec)


def test_a_gpu_that_is_not_there_is_one_clear_error(shards, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(JobFailedError, match="no CUDA device"):
        train_world_model(short(shards, tmp_path / "a", device="cuda"))


def test_training_and_quality_need_no_video_library_nor_tables():
    names = "av polars dagster dagster_pipes pyarrow"
    modules = (
        "job",
        "autoencoder",
        "denoiser",
        "folder",
        "stages",
        "tokens",
        "data",
        "adapt",
        "latents",
    )
    code = (
        f"import sys\nfor name in {names!r}.split(): sys.modules[name] = None\n"
        + "".join(f"import gpu_jobs.train_world_model.{module}\n" for module in modules)
        + "import gpu_jobs.cosmos_generate.quality\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)
