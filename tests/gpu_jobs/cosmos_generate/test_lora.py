"""Adapters of every spelling change a transformer as they should, and those of other models are refused."""

import json
from pathlib import Path

import pytest

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.cosmos_generate.lora import apply_loras
from worldloop.errors import MalformedRecordError

LAYER = "transformer_blocks.1.attn1.to_q"
PREDICT1 = "net.blocks.block1.blocks.0.block.attn.to_q_lora.net"
PREDICT2 = "net.blocks.1.self_attn.q_proj"


def transformer(**changes):
    import torch

    torch.manual_seed(5)
    settings = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2,
                "text_embed_dim": 16, "adaln_lora_dim": 8, "max_size": (16, 16, 16)}  # fmt: skip
    return import_diffusers().CosmosTransformer3DModel(**{**settings, **changes})


def factors(rank: int = 4, width: int = 32):
    import torch

    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(rank, width, generator=generator),
        torch.randn(width, rank, generator=generator),
    )


def saved(path: Path, tensors: dict, metadata: dict | None = None) -> Path:
    from safetensors.torch import save_file

    save_file(tensors, path, metadata=metadata)
    return path


def pair(layer: str, rank: int = 4, width: int = 32, suffix: str = "") -> dict:
    down, up = factors(rank, width)
    return {f"{layer}.lora_A{suffix}.weight": down, f"{layer}.lora_B{suffix}.weight": up}


def changed(path: Path, weight: float = 1.0):
    """What an adapter added to the layer, after checking that it added to no other."""
    import torch

    net, base = transformer(), transformer()
    apply_loras(net, [{"path": str(path), "weight": weight}])
    for (name, ours), (_, theirs) in zip(
        net.named_parameters(), base.named_parameters(), strict=True
    ):
        assert name == f"{LAYER}.weight" or torch.equal(ours, theirs)
    return (net.get_parameter(f"{LAYER}.weight") - base.get_parameter(f"{LAYER}.weight")).detach()


def files(folder: Path) -> dict[str, Path]:
    import torch

    down, up = factors()
    predict1 = folder / "iter_1_model.pt"
    torch.save({"model": {f"{PREDICT1}.0.weight": down, f"{PREDICT1}.1.weight": up}}, predict1)
    return {
        "diffusers": saved(folder / "a.safetensors", pair(f"transformer.{LAYER}")),
        "peft": saved(folder / "b.safetensors", pair(f"base_model.model.{LAYER}")),
        "predict2": saved(folder / "c.safetensors", pair(PREDICT2, suffix=".default")),
        "predict1": predict1,
    }


@pytest.mark.parametrize("spelling", ["diffusers", "peft", "predict2", "predict1"])
def test_adapters_of_every_spelling_are_multiplied_in(tmp_path: Path, spelling: str) -> None:
    import torch

    down, up = factors()
    found = changed(files(tmp_path)[spelling], weight=0.5)
    assert torch.allclose(found, 0.5 * up @ down, atol=1e-5)


def test_weight_zero_changes_no_bit_and_weight_one_does(tmp_path: Path) -> None:
    path = files(tmp_path)["diffusers"]
    assert not changed(path, weight=0.0).any()
    assert changed(path, weight=1.0).any()


def test_a_merged_adapter_computes_what_peft_computes(tmp_path: Path) -> None:
    import torch

    path = files(tmp_path)["diffusers"]
    merged, beside = transformer(), transformer()
    apply_loras(merged, [{"path": str(path)}])
    beside.load_lora_adapter(str(path), prefix="transformer")
    inputs = {
        "hidden_states": torch.randn(1, 16, 1, 4, 4),
        "timestep": torch.tensor([0.3]),
        "encoder_hidden_states": torch.randn(1, 3, 16),
        "padding_mask": torch.zeros(1, 1, 8, 8),
        "return_dict": False,
    }
    with torch.no_grad():
        assert torch.allclose(merged(**inputs)[0], beside(**inputs)[0], atol=1e-4)


def test_the_scale_of_training_counts(tmp_path: Path) -> None:
    import torch

    down, up = factors()
    said = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 8, "transformer.r": 4})}
    header = saved(tmp_path / "h.safetensors", pair(f"transformer.{LAYER}"), said)
    assert torch.allclose(changed(header), 2 * up @ down, atol=1e-5)
    (tmp_path / "folder").mkdir()
    saved(tmp_path / "folder" / "adapter_model.safetensors", pair(f"base_model.model.{LAYER}"))
    (tmp_path / "folder" / "adapter_config.json").write_text(
        '{"lora_alpha": 4, "use_rslora": true}'
    )
    assert torch.allclose(changed(tmp_path / "folder"), 2 * up @ down, atol=1e-5)
    alpha = {f"transformer.{LAYER}.alpha": torch.tensor(2.0)}
    kohya = saved(tmp_path / "k.safetensors", pair(f"transformer.{LAYER}") | alpha)
    assert torch.allclose(changed(kohya), 0.5 * up @ down, atol=1e-5)


def test_adapters_add_up(tmp_path: Path) -> None:
    import torch

    path, net, base = str(files(tmp_path)["diffusers"]), transformer(), transformer()
    apply_loras(net, [{"path": path, "weight": 1.0}, {"path": path, "weight": 2.0}])
    down, up = factors()
    found = net.get_parameter(f"{LAYER}.weight") - base.get_parameter(f"{LAYER}.weight")
    assert torch.allclose(found, 3 * up @ down, atol=1e-4)


def test_adapters_of_another_model_are_refused(tmp_path: Path) -> None:
    deep = saved(tmp_path / "deep.safetensors", pair("transformer.transformer_blocks.9.attn1.to_q"))
    with pytest.raises(MalformedRecordError, match=r"1 layers that the transformer does not have"):
        apply_loras(transformer(), [{"path": str(deep)}])
    wide = saved(tmp_path / "wide.safetensors", pair(f"transformer.{LAYER}", width=48))
    with pytest.raises(MalformedRecordError, match=r"a product of \(32, 32\), with one rank"):
        apply_loras(transformer(), [{"path": str(wide)}])
    down, _ = factors(rank=4)
    _, up = factors(rank=2)
    ranks = {f"transformer.{LAYER}.lora_A.weight": down, f"transformer.{LAYER}.lora_B.weight": up}
    with pytest.raises(MalformedRecordError, match=r"factors \(32, 2\) x \(4, 32\)"):
        apply_loras(transformer(), [{"path": str(saved(tmp_path / "r.safetensors", ranks))}])


def test_files_that_are_no_adapter_are_refused(tmp_path: Path) -> None:
    down, _ = factors()
    half = saved(tmp_path / "half.safetensors", {f"transformer.{LAYER}.lora_A.weight": down})
    with pytest.raises(MalformedRecordError, match="one factor alone"):
        apply_loras(transformer(), [{"path": str(half)}])
    other = saved(tmp_path / "other.safetensors", {"weight": down})
    with pytest.raises(MalformedRecordError, match="pairs of lora_A and lora_B"):
        apply_loras(transformer(), [{"path": str(other)}])
    with pytest.raises(MalformedRecordError, match="no such file"):
        apply_loras(transformer(), [{"path": str(tmp_path / "none")}])
    (tmp_path / "cut.safetensors").write_bytes(half.read_bytes()[:40])
    with pytest.raises(MalformedRecordError, match=r"weights in cut\.safetensors"):
        apply_loras(transformer(), [{"path": str(tmp_path / "cut.safetensors")}])
