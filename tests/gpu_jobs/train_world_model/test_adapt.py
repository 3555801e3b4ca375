import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from gpu_jobs.common.entry import read_spec
from gpu_jobs.train_world_model import recipes
from gpu_jobs.train_world_model.adapt import AdaptedLearner, adapt_world_model, noise_bands
from gpu_jobs.train_world_model.job import train_world_model
from gpu_jobs.train_world_model.spec import AdaptWorldModelSpec, Stage
from gpu_jobs.train_world_model.windowed import WindowedAttention
from tests.gpu_jobs.train_world_model.footage_shards import write_square_shards
from worldloop.errors import JobFailedError, MalformedRecordError

torch = pytest.importorskip("torch")
GRID = (3, 8, 16)  # 384 tokens, 3 tiles


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapting")
    write_square_shards(folder / "shards", width=128, height=64)
    spec = recipes.tiny(str(folder / "shards"), str(folder / "model"))
    stages = (asdict(Stage(9, 2, 20)),)
    spec = replace(
        spec, autoencoder_stages=(asdict(Stage(5, 1, 2)),), transformer_stages=stages, num_samples=0
    )
    spec = replace(spec, transformer_learning_rate=5e-3)
    train_world_model(spec)
    return spec


def spec_of(trained, output: Path, *, steps: int = 20) -> AdaptWorldModelSpec:
    stages = (asdict(Stage(9, 2, steps)),)
    spec = recipes.adapted(trained, str(output))
    return replace(
        spec, stages=stages, density=0.34, ema_decay=0.5, learning_rate=2e-3, warmup_steps=2
    )


def test_a_spec_survives_json_and_takes_over_the_profile():
    spec = recipes.adapted(recipes.small("shards", "out"), "adapted")
    assert read_spec(AdaptWorldModelSpec, json.loads(json.dumps(asdict(spec)))) == spec
    assert (spec.density, spec.checkpoint_dir) == (0.15, "out")
    assert (
        spec.stages[0]["num_frames"] == recipes.small("", "").transformer_stages[-1]["num_frames"]
    )


def test_windowed_attention_is_that_of_the_speed_layer():
    from gpu_jobs.cosmos_generate.speed.apply import apply_to
    from gpu_jobs.train_world_model.model import build_transformer
    from worldloop.cosmos.profiles import SpeedProfile

    torch.manual_seed(0)
    network = build_transformer(recipes.tiny("", "").transformer)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    shown = {
        "hidden_states": torch.randn(1, 16, 3, 16, 32),
        "timestep": torch.zeros(1),
        "encoder_hidden_states": torch.randn(1, 8, 16),
        "fps": 24,
        "padding_mask": torch.zeros(1, 1, 64, 128),
        "return_dict": False,
    }
    windowed = WindowedAttention(GRID, density=0.34, device="cpu")
    with torch.no_grad():
        dense = network(**shown)[0]
        windowed.install(network)
        same, windowed.sparse = network(**shown)[0], True
        sparse = network(**shown)[0]
        apply_to(network, SpeedProfile("a", density=0.34), device="cpu").dense = False
        wanted = network(**shown)[0]
    assert torch.allclose(same, dense, atol=1e-5)
    assert torch.allclose(sparse, wanted, atol=1e-5)
    assert (sparse - dense).abs().max() > 1e-3


def test_adapted_weights_answer_more_like_the_dense_ones(trained, tmp_path):
    before = weights(Path(trained.output_dir))
    report = adapt_world_model(spec_of(trained, tmp_path / "adapted", steps=40))
    assert report.after < 0.9 * report.before
    assert (report.num_tiles, report.density) == (3, 0.3333)
    assert weights(Path(trained.output_dir)) == before
    assert weights(tmp_path / "adapted")["transformer"] != before["transformer"]
    assert weights(tmp_path / "adapted")["vae"] == before["vae"]


def test_a_killed_adaptation_resumes_to_the_same_weights(trained, tmp_path, monkeypatch):
    adapt_world_model(spec_of(trained, tmp_path / "whole", steps=3))
    spec = replace(spec_of(trained, tmp_path / "killed", steps=3), checkpoint_every_s=0.0)
    step = AdaptedLearner.step

    def killed(self, stage, number, *, rate):
        if number == 2:
            raise KeyboardInterrupt
        return step(self, stage, number, rate=rate)

    monkeypatch.setattr(AdaptedLearner, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        adapt_world_model(spec)
    assert not (tmp_path / "killed").exists()
    monkeypatch.undo()
    assert adapt_world_model(spec).resumed
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


def test_dense_noise_levels_are_those_of_the_dense_steps():
    spec = replace(recipes.adapted(recipes.small("", ""), ""), dense_first_steps=2)
    dense, (low, high) = noise_bands(spec)
    assert high == pytest.approx(62, rel=0.05)  # between the second step, 67.8, and the third, 57.5
    assert low == pytest.approx(0.0028, rel=0.1)
    assert dense == [(high, 80.0), (0.0002, low)]
    assert noise_bands(replace(spec, dense_first_steps=0, dense_last_steps=0))[0] == []


def test_bad_requests_are_clear_errors(trained, tmp_path):
    spec = spec_of(trained, tmp_path / "a")
    with pytest.raises(MalformedRecordError, match="fewer than 35 dense steps"):
        noise_bands(replace(spec, dense_first_steps=40))
    with pytest.raises(JobFailedError, match="No trained model is in"):
        adapt_world_model(replace(spec, checkpoint_dir=str(tmp_path)))
    two = (*spec.stages, asdict(Stage(5, 1, 1)))
    with pytest.raises(MalformedRecordError, match="one length"):
        adapt_world_model(replace(spec, stages=two))
    assert not (tmp_path / "a").exists()


def weights(output: Path) -> dict[str, str]:
    """Hash of each file of weights."""
    found = sorted(output.rglob("*.safetensors"))
    return {f.parent.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in found}
