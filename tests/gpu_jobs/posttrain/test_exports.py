"""Exports: our loaders, the guides' names and diffusers' own pipelines read back what was trained."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.cosmos_generate.checkpoints import load_transformer
from gpu_jobs.cosmos_generate.checkpoints.original import read_original
from gpu_jobs.cosmos_generate.lora import apply_loras
from gpu_jobs.cosmos_generate.tiny import write_tiny_checkpoint
from gpu_jobs.posttrain.base import BaseKey, Bases
from gpu_jobs.posttrain.exports import checkpoints_dir, place_post_trained
from gpu_jobs.posttrain.lora import added
from gpu_jobs.posttrain.training import train
from tests.gpu_jobs.posttrain.tiny_footage import (
    PREDICT2,
    PREDICT25,
    TEXT2WORLD,
    VIDEO2WORLD,
    spec,
)
from worldloop.cosmos.models import model
from worldloop.errors import MalformedRecordError
from worldloop.federation.adapters import read_adapter
from worldloop.federation.rounds import LORA_TARGETS

NAMES = {"project": "posttraining", "group": "diffusion_video2world", "name": "mine"}
BASES = Bases(most=4)


@pytest.fixture
def trained(site, checkpoint_dir, tmp_path):
    """Trains a tiny model and exports it; the adapter or difference, and the files by name."""

    def run(name, **training):
        write_tiny_checkpoint(name, checkpoint_dir)
        fields = {"num_steps": 3, "targets": list(LORA_TARGETS), "alpha": 6.0, **training}
        export = {**NAMES, "root": str(tmp_path / "checkpoints")}
        asked = spec(
            site,
            checkpoint_dir,
            model=name,
            output_dir=str(tmp_path / "out"),
            training=fields,
            export=export,
        )
        report = train(asked, lambda event: None, BASES)
        kind = "delta" if training.get("mode") == "full" else "adapter"
        arrays = read_adapter(tmp_path / "out" / f"{kind}.safetensors")
        return arrays, {path.name: path for path in map(Path, report.exports)}

    return run


def fresh(name, checkpoint_dir, folder=""):
    return load_transformer(checkpoint_dir / (folder or name), model(name), torch.float32)


def inputs(net, *, frames=2):
    generator = torch.Generator().manual_seed(2)
    channels = net.config.in_channels
    width = (
        net.config.crossattn_proj_in_channels
        if net.config.use_crossattn_projection
        else net.config.text_embed_dim
    )
    return {
        "hidden_states": torch.randn(1, channels, frames, 6, 8, generator=generator),
        "timestep": torch.tensor([0.3]),
        "encoder_hidden_states": torch.randn(1, 5, width, generator=generator),
        "padding_mask": torch.zeros(1, 1, 48, 64),
        "fps": 24,
        "return_dict": False,
    }


def output(net):
    with torch.no_grad():
        return net(**inputs(net))[0]


def with_adapter(name, checkpoint_dir, arrays, alpha=6.0):
    net = fresh(name, checkpoint_dir)
    with added(net, arrays, alpha=alpha):
        return output(net)


@pytest.mark.parametrize("name", [TEXT2WORLD, VIDEO2WORLD, PREDICT2, PREDICT25])
def test_a_lora_checkpoint_is_read_back_from_the_guides_folder(trained, checkpoint_dir, name):
    arrays, files = trained(name)
    assert sorted(files) == ["iter_000000003_model.pt", "pytorch_lora_weights.safetensors"]
    folder = place_post_trained(
        files["iter_000000003_model.pt"], checkpoint_dir, model(name), lora=True
    )
    assert folder.name == f"{name}_post-trained-lora"
    found = output(fresh(name, checkpoint_dir, folder.name))
    expected = with_adapter(name, checkpoint_dir, arrays)
    assert float((found - expected).abs().max()) < 2e-5
    assert float((expected - output(fresh(name, checkpoint_dir))).abs().max()) > 1e-3


@pytest.mark.parametrize("name", [VIDEO2WORLD, PREDICT2, PREDICT25])
def test_full_checkpoints_are_read_back_regular_and_averaged(trained, checkpoint_dir, name):
    arrays, files = trained(name, mode="full", ema_decay=0.5)
    assert sorted(files) == ["iter_000000003_ema_model.pt", "iter_000000003_reg_model.pt"]
    for kind in ("ema", "reg"):
        path = files[f"iter_000000003_{kind}_model.pt"]
        folder = place_post_trained(path, checkpoint_dir, model(name), lora=False)
        assert folder.name == f"{name}_post-trained"
        found = output(fresh(name, checkpoint_dir, folder.name))
        net = fresh(name, checkpoint_dir)
        with added(net, arrays, alpha=1.0):
            far = float((found - output(net)).abs().max())
        assert (far < 2e-5) == (kind == "ema")  # the difference is that of the average


def test_a_lora_checkpoint_with_averages_holds_both(trained, checkpoint_dir):
    _, files = trained(VIDEO2WORLD, ema_decay=0.5)
    path = files["iter_000000003_model.pt"]
    regular, averaged = (read_original(path, averaged=kind)[1] for kind in (False, True))
    name = "transformer_blocks.1.attn1.to_q.weight"
    assert regular.keys() == averaged.keys()
    assert not torch.equal(regular[name], averaged[name])


def test_predict1_lora_checkpoints_have_the_published_names(trained):
    _, files = trained(VIDEO2WORLD, targets=["attn1.to_q", "attn2.to_v"], first_blocks=1)
    state = torch.load(files["iter_000000003_model.pt"], weights_only=True)["model"]
    factors = {name for name in state if "_lora" in name}
    stem = "net.blocks.block0.blocks"
    assert factors == {
        f"{stem}.{place}.block.attn.{layer}_lora.net.{part}.weight"
        for place, layer in ((0, "to_q"), (1, "to_v"))
        for part in (0, 1)
    }


@pytest.mark.parametrize("name", [TEXT2WORLD, PREDICT2, PREDICT25])
def test_diffusers_loads_the_adapter_into_its_transformer(trained, checkpoint_dir, name):
    arrays, files = trained(name)
    path = files["pytorch_lora_weights.safetensors"]
    net = import_diffusers().CosmosTransformer3DModel.from_pretrained(
        checkpoint_dir / name / "transformer"
    )
    net.load_lora_adapter(str(path), prefix="transformer")
    assert torch.allclose(output(net), with_adapter(name, checkpoint_dir, arrays), atol=2e-5)
    merged = fresh(name, checkpoint_dir)
    apply_loras(merged, [{"path": str(path)}])
    assert torch.allclose(output(net), output(merged), atol=2e-5)


def test_diffusers_own_pipeline_loads_the_adapter_unchanged(trained, checkpoint_dir):
    from gpu_jobs.cosmos_generate.tiny.predict25 import PassAll

    arrays, files = trained(PREDICT25)
    pipe = import_diffusers().Cosmos2_5_PredictBasePipeline.from_pretrained(
        checkpoint_dir / PREDICT25, safety_checker=PassAll()
    )
    torch.set_grad_enabled(True)  # the pipeline turns it off for the whole process
    pipe.load_lora_weights(str(files["pytorch_lora_weights.safetensors"].parent))
    expected = with_adapter(PREDICT25, checkpoint_dir, arrays)
    assert torch.allclose(output(pipe.transformer), expected, atol=2e-5)


def test_peft_injects_the_same_adapter(trained, checkpoint_dir):
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    arrays, _ = trained(TEXT2WORLD)
    net = fresh(TEXT2WORLD, checkpoint_dir)
    config = LoraConfig(r=2, lora_alpha=6, target_modules=list(LORA_TARGETS))
    inject_adapter_in_model(config, net)
    state = {name: torch.from_numpy(one) for name, one in arrays.items()}
    told = set_peft_model_state_dict(net, state)
    assert not told.unexpected_keys
    expected = with_adapter(TEXT2WORLD, checkpoint_dir, arrays)
    assert torch.allclose(output(net), expected, atol=2e-5)


def test_exports_lie_where_the_guides_trainings_write(tmp_path):
    folder = checkpoints_dir({**NAMES, "root": str(tmp_path)})
    assert folder == tmp_path / "posttraining/diffusion_video2world/mine/checkpoints"
    with pytest.raises(MalformedRecordError, match=r"Add \['root'\]"):
        checkpoints_dir(NAMES)


def test_a_base_that_went_on_from_a_checkpoint_trains(trained, site, checkpoint_dir, tmp_path):
    _, files = trained(VIDEO2WORLD)
    folder = place_post_trained(
        files["iter_000000003_model.pt"], checkpoint_dir, model(VIDEO2WORLD), lora=True
    )
    key = BaseKey(VIDEO2WORLD, str(checkpoint_dir), folder.name, "fp32")
    base, plain = Bases().get(key), BASES.get(BaseKey(**{**asdict(key), "transformer_dir": ""}))
    name = "transformer_blocks.0.attn1.to_q.weight"
    one, other = (each.transformer.get_parameter(name).numpy() for each in (base, plain))
    assert not np.array_equal(one, other)
