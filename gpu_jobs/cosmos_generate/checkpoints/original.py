"""The makers' own layout: one `model.pt` with their names for the tensors, mapped to diffusers names.

Two lines of names exist, that of Cosmos-1.0 and Predict1 (`net.blocks.block0.blocks.0.block.attn...`)
and that of Predict2, Predict2.5 and Transfer2.5 (`net.blocks.0.self_attn...`). Post-trained weights
(`iter_*_reg_model.pt`, `iter_*_ema_model.pt`) have the same names; averaged ones may spell dots as
dashes. LoRA checkpoints of Predict1 (`iter_*_model.pt`) hold all weights and small factors beside
them, which are multiplied in.
"""

import io
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gpu_jobs.cosmos_generate.checkpoints.configs import COSMOS1, PREDICT2
from worldloop.errors import MalformedRecordError

State = dict[str, Any]

# diffusers name -> original name, of one block of Cosmos-1.0
BLOCK_COSMOS1: Mapping[str, str] = MappingProxyType(
    {
        "attn1.to_q.weight": "blocks.0.block.attn.to_q.0.weight",
        "attn1.norm_q.weight": "blocks.0.block.attn.to_q.1.weight",
        "attn1.to_k.weight": "blocks.0.block.attn.to_k.0.weight",
        "attn1.norm_k.weight": "blocks.0.block.attn.to_k.1.weight",
        "attn1.to_v.weight": "blocks.0.block.attn.to_v.0.weight",
        "attn1.to_out.0.weight": "blocks.0.block.attn.to_out.0.weight",
        "attn2.to_q.weight": "blocks.1.block.attn.to_q.0.weight",
        "attn2.norm_q.weight": "blocks.1.block.attn.to_q.1.weight",
        "attn2.to_k.weight": "blocks.1.block.attn.to_k.0.weight",
        "attn2.norm_k.weight": "blocks.1.block.attn.to_k.1.weight",
        "attn2.to_v.weight": "blocks.1.block.attn.to_v.0.weight",
        "attn2.to_out.0.weight": "blocks.1.block.attn.to_out.0.weight",
        "ff.net.0.proj.weight": "blocks.2.block.layer1.weight",
        "ff.net.2.weight": "blocks.2.block.layer2.weight",
        "norm1.linear_1.weight": "blocks.0.adaLN_modulation.1.weight",
        "norm1.linear_2.weight": "blocks.0.adaLN_modulation.2.weight",
        "norm2.linear_1.weight": "blocks.1.adaLN_modulation.1.weight",
        "norm2.linear_2.weight": "blocks.1.adaLN_modulation.2.weight",
        "norm3.linear_1.weight": "blocks.2.adaLN_modulation.1.weight",
        "norm3.linear_2.weight": "blocks.2.adaLN_modulation.2.weight",
    }
)
TOP_COSMOS1: Mapping[str, str] = MappingProxyType(
    {
        "patch_embed.proj.weight": "x_embedder.proj.1.weight",
        "learnable_pos_embed.pos_emb_t": "extra_pos_embedder.pos_emb_t",
        "learnable_pos_embed.pos_emb_h": "extra_pos_embedder.pos_emb_h",
        "learnable_pos_embed.pos_emb_w": "extra_pos_embedder.pos_emb_w",
        "time_embed.t_embedder.linear_1.weight": "t_embedder.1.linear_1.weight",
        "time_embed.t_embedder.linear_2.weight": "t_embedder.1.linear_2.weight",
        "time_embed.norm.weight": "affline_norm.weight",
        "norm_out.linear_1.weight": "final_layer.adaLN_modulation.1.weight",
        "norm_out.linear_2.weight": "final_layer.adaLN_modulation.2.weight",
        "proj_out.weight": "final_layer.linear.weight",
    }
)
BLOCK_PREDICT2: Mapping[str, str] = MappingProxyType(
    {
        "attn1.to_q.weight": "self_attn.q_proj.weight",
        "attn1.norm_q.weight": "self_attn.q_norm.weight",
        "attn1.to_k.weight": "self_attn.k_proj.weight",
        "attn1.norm_k.weight": "self_attn.k_norm.weight",
        "attn1.to_v.weight": "self_attn.v_proj.weight",
        "attn1.to_out.0.weight": "self_attn.output_proj.weight",
        "attn2.to_q.weight": "cross_attn.q_proj.weight",
        "attn2.norm_q.weight": "cross_attn.q_norm.weight",
        "attn2.to_k.weight": "cross_attn.k_proj.weight",
        "attn2.norm_k.weight": "cross_attn.k_norm.weight",
        "attn2.to_v.weight": "cross_attn.v_proj.weight",
        "attn2.to_out.0.weight": "cross_attn.output_proj.weight",
        "ff.net.0.proj.weight": "mlp.layer1.weight",
        "ff.net.2.weight": "mlp.layer2.weight",
        "norm1.linear_1.weight": "adaln_modulation_self_attn.1.weight",
        "norm1.linear_2.weight": "adaln_modulation_self_attn.2.weight",
        "norm2.linear_1.weight": "adaln_modulation_cross_attn.1.weight",
        "norm2.linear_2.weight": "adaln_modulation_cross_attn.2.weight",
        "norm3.linear_1.weight": "adaln_modulation_mlp.1.weight",
        "norm3.linear_2.weight": "adaln_modulation_mlp.2.weight",
    }
)
# beside these, blocks of Transfer2.5 attend to a picture
PICTURE_PREDICT2: Mapping[str, str] = MappingProxyType(
    {
        f"attn2.{name}.weight": f"cross_attn.{name}.weight"
        for name in ("q_img", "k_img", "v_img", "q_img_norm", "k_img_norm")
    }
)
TOP_PREDICT2: Mapping[str, str] = MappingProxyType(
    {
        "patch_embed.proj.weight": "x_embedder.proj.1.weight",
        "time_embed.t_embedder.linear_1.weight": "t_embedder.1.linear_1.weight",
        "time_embed.t_embedder.linear_2.weight": "t_embedder.1.linear_2.weight",
        "time_embed.norm.weight": "t_embedding_norm.weight",
        "norm_out.linear_1.weight": "final_layer.adaln_modulation.1.weight",
        "norm_out.linear_2.weight": "final_layer.adaln_modulation.2.weight",
        "proj_out.weight": "final_layer.linear.weight",
    }
)
# present in Predict2.5 and Transfer2.5 only
OPTIONAL_PREDICT2 = (
    "crossattn_proj.0.weight",
    "crossattn_proj.0.bias",
    "img_context_proj.0.weight",
    "img_context_proj.0.bias",
)
# counters, buffers that diffusers computes anew, and training's own networks
IGNORED = re.compile(
    r"(^|\.)(logvar|conditioner|tokenizer)\.|_extra_state|pos_embedder\.(seq|dim_\w+_range)$"
    r"|(^|\.)accum_\w+$"
)
# the control network of Transfer2.5, which lies in one file with its base model
CONTROL = re.compile(r"^control_(blocks|embedder)\.")
CONTROL_ENDS = ("after_proj.weight", "after_proj.bias")
CONTROL_START = ("before_proj.weight", "before_proj.bias")
# its tensors that it shares with the base model: control network -> transformer, diffusers names
CONTROL_SHARED: Mapping[str, str] = MappingProxyType(
    {
        "patch_embed_base.": "patch_embed.",
        "time_embed.": "time_embed.",
        "crossattn_proj.": "crossattn_proj.",
        "img_context_proj.": "img_context_proj.",
    }
)
LORA = re.compile(
    r"^(?P<layer>.*\.attn)\.(?P<name>to_(?:q|k|v|out))_lora\.net\.(?P<part>[01])\.weight$"
)

BASE_LAYER = ".base_layer.weight"
PEFT = re.compile(r"\.base_layer\.weight$|\.lora_[AB]\.default\.weight$")


def key_map(layout: str, *, num_layers: int, present: Iterable[str] = ()) -> dict[str, str]:
    """Every tensor of a transformer: diffusers name to original name without `net.`.

    Args:
        layout: `COSMOS1` or `PREDICT2`.
        num_layers: Blocks.
        present: Original names that a checkpoint has; optional ones are mapped if they are there.
    """
    top, block = (
        (TOP_COSMOS1, BLOCK_COSMOS1) if layout == COSMOS1 else (TOP_PREDICT2, BLOCK_PREDICT2)
    )
    there = set(present)
    prefix = "blocks.block" if layout == COSMOS1 else "blocks."
    names = dict(top)
    names.update({name: name for name in OPTIONAL_PREDICT2 if name in there})
    if f"{prefix}0.cross_attn.q_img.weight" in there:
        block = {**block, **PICTURE_PREDICT2}
    for index in range(num_layers):
        for ours, theirs in block.items():
            names[f"transformer_blocks.{index}.{ours}"] = f"{prefix}{index}.{theirs}"
    return names


def read_original(path: Path, *, averaged: bool = False) -> tuple[str, State]:
    """Tensors of a checkpoint by diffusers names.

    Args:
        path: `.pt` file.
        averaged: Take the averaged weights (EMA) where a file holds both kinds.

    Returns:
        The layout (`COSMOS1` or `PREDICT2`), and the tensors.

    Raises:
        MalformedRecordError: If it cannot be read, is of neither layout, or lacks or has other tensors.
    """
    state = with_peft_merged(with_loras_merged(network_tensors(path, averaged=averaged)))
    layout = layout_of(state)
    if layout is None:
        raise MalformedRecordError(
            f"weights in {path.name}",
            f"tensors such as {sorted(state)[:3]}",
            "those of Cosmos-1.0, Predict1, Predict2, Predict2.5 or Transfer2.5",
            "Name another file; other families have other layouts.",
        )
    base = {key: value for key, value in state.items() if not CONTROL.match(key)}
    return layout, converted(layout, base, path)


def read_control(path: Path, base: Mapping[str, Any]) -> State:
    """Tensors of the control network in a file of Transfer2.5, by diffusers names.

    Args:
        path: `.pt` file of one control, e.g. `general/edge/*.pt`.
        base: Tensors of the base model by diffusers names; the network has copies of some.

    Raises:
        MalformedRecordError: If it cannot be read, or lacks or has other tensors.
    """
    state = {key: value for key, value in network_tensors(path).items() if CONTROL.match(key)}
    index = re.compile(r"^control_blocks\.(\d+)\.")
    num_blocks = 1 + max((int(m.group(1)) for key in state if (m := index.match(key))), default=-1)
    names = control_key_map(num_blocks, present=state)
    check_names(set(names.values()), set(state), path)
    shared = {
        control + key.removeprefix(theirs): value
        for control, theirs in CONTROL_SHARED.items()
        for key, value in base.items()
        if key.startswith(theirs)
    }
    return {**shared, **{ours: state[theirs] for ours, theirs in names.items()}}


def control_key_map(num_blocks: int, *, present: Iterable[str] = ()) -> dict[str, str]:
    """Tensors that a control network of Transfer2.5 does not share: diffusers name to original name.

    Args:
        num_blocks: Blocks of the control network.
        present: Original names that a checkpoint has; optional ones are mapped if they are there.
    """
    block = dict(BLOCK_PREDICT2)
    if "control_blocks.0.cross_attn.q_img.weight" in set(present):
        block.update(PICTURE_PREDICT2)
    names = {"patch_embed.proj.weight": "control_embedder.proj.1.weight"}
    for index in range(num_blocks):
        ends = CONTROL_ENDS if index else (*CONTROL_ENDS, *CONTROL_START)
        for ours, theirs in {**block, **{name: name for name in ends}}.items():
            names[f"control_blocks.{index}.{ours}"] = f"control_blocks.{index}.{theirs}"
    return names


def layout_of(state: Mapping[str, Any]) -> str | None:
    """Which line names belong to, or None."""
    if any(re.match(r"blocks\.block\d+\.", key) for key in state):
        return COSMOS1
    return PREDICT2 if any(re.match(r"blocks\.\d+\.", key) for key in state) else None


def converted(layout: str, state: Mapping[str, Any], path: Path) -> State:
    """Original names to diffusers names; all of them or an error.

    Raises:
        MalformedRecordError: If tensors are missing or left over; the first few are named.
    """
    block = re.compile(r"^blocks\.(?:block)?(\d+)\.")
    indices = {int(match.group(1)) for key in state if (match := block.match(key))}
    names = key_map(layout, num_layers=max(indices) + 1, present=state)
    check_names(set(names.values()), set(state), path)
    return {ours: state[theirs] for ours, theirs in names.items()}


def check_names(expected: set[str], found: set[str], path: Path) -> None:
    """Refuse missing and left-over tensors.

    Raises:
        MalformedRecordError: Naming the first few.
    """
    missing, extra = sorted(expected - found), sorted(found - expected)
    if missing or extra:
        raise MalformedRecordError(
            f"weights in {path.name}",
            f"{len(missing)} tensors missing {missing[:3]}, {len(extra)} left over {extra[:3]}",
            f"exactly {len(expected)} tensors",
            "The file is cut off, or of another model.",
        )


def with_loras_merged(state: State) -> State:
    """Weights of a Predict1 LoRA checkpoint with its factors multiplied in, at their scale of 1.

    The scale is not in the file; 1 is what the published recipe trains with
    (get_fa_ca_qv_lora_config, examples/post-training_diffusion_video2world.md of cosmos-predict1).
    """
    merged = {key: value for key, value in state.items() if not LORA.match(key)}
    for target, (down, up) in lora_factors(state).items():
        weight = merged[target]
        merged[target] = (weight.float() + up.float() @ down.float()).to(weight.dtype)
    return merged


def with_peft_merged(state: State) -> State:
    """Weights of a Predict2 LoRA checkpoint, in which PEFT put factors beside `base_layer`, at a scale of 1.

    The scale is not in the file; 1 is what the published recipe trains with (lora_alpha = lora_rank,
    cosmos_predict2/configs/base/experiment/cosmos_nemo_assets_lora.py, commit 661da47).
    """
    merged = {key: value for key, value in state.items() if not PEFT.search(key)}
    for key, value in state.items():
        if key.endswith(BASE_LAYER):
            stem = key.removesuffix(BASE_LAYER)
            down, up = (state.get(f"{stem}.lora_{part}.default.weight") for part in "AB")
            if down is not None and up is not None:
                value = (value.float() + up.float() @ down.float()).to(value.dtype)
            merged[f"{stem}.weight"] = value
    return merged


def lora_factors(state: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Factors (down, up) of a Predict1 LoRA, by the original name of the weight they change."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in state.items():
        if match := LORA.match(key):
            target = f"{match['layer']}.{match['name']}.0.weight"
            found.setdefault(target, {})[match["part"]] = value
    return {target: (parts["0"], parts["1"]) for target, parts in found.items()}


def read_tensors(path: Path) -> State:
    """The dictionary that a `.pt` or `.safetensors` file holds, without what it is wrapped in.

    Raises:
        MalformedRecordError: If it cannot be read, or holds anything but tensors.
    """
    saved = _loaded(path)
    for wrapper in ("model", "module", "state_dict"):
        if isinstance(saved.get(wrapper), dict):
            saved = saved[wrapper]
    return dict(saved)


def network_tensors(path: Path, *, averaged: bool = False) -> State:
    """Tensors of the network in a file by the makers' names, without `net.` and what diffusers does not have.

    Raises:
        MalformedRecordError: If it cannot be read.
    """
    return _named(_unpacked(path, averaged=averaged))


def _unpacked(path: Path, *, averaged: bool) -> State:
    """Tensors of a checkpoint; the averaged ones if they are wanted and there."""
    if averaged:
        saved = _loaded(path).get("ema")
        if saved:
            return dict(saved)
    return read_tensors(path)


def _loaded(path: Path) -> State:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with torch.serialization.safe_globals([io.BytesIO]):
            return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    except (
        OSError,
        RuntimeError,
        pickle.UnpicklingError,
        EOFError,
        TypeError,
        ValueError,
        SafetensorError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MalformedRecordError(
            f"weights in {path.name}",
            reason,
            "a file of tensors alone, by torch.save or safetensors",
            "Download it again, or save its state dictionary anew.",
        ) from error


def _named(state: State) -> State:
    """Tensors of the network alone, without the prefix `net.`; dashes of averaged weights become dots."""
    if any(key.startswith("net-") for key in state):
        state = {key.replace("-", "."): value for key, value in state.items()}
    network = {key.removeprefix("model."): value for key, value in state.items()}
    if any(key.startswith("net.") for key in network):
        network = {key: value for key, value in network.items() if key.startswith("net.")}
    return {
        key.removeprefix("net."): value for key, value in network.items() if not IGNORED.search(key)
    }
