"""Distributed checkpoints of NeMo (Megatron), read with torch alone and mapped to diffusers names.

A folder holds `.metadata` and `*.distcp`. Blocks are stacked: `module.decoder.layers.<name>` has one
more axis in front, the layer; checkpoints with one entry a layer are read as well. Queries, keys and
values lie interleaved by head in one matrix, keys and values of cross-attention likewise, and the
three modulations of a block in one pair of matrices.

Names and packing: dit_model_7b.py and cosmos_layer_spec.py of NeMo's diffusion collection
(cosmos.1.0 container), and Megatron's order of a grouped `linear_qkv`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gpu_jobs.cosmos_generate.checkpoints.original import IGNORED, TOP_COSMOS1, check_names
from worldloop.errors import MalformedRecordError

State = dict[str, Any]

METADATA = ".metadata"
BLOCK: Mapping[str, str] = MappingProxyType(
    {
        "attn1.norm_q.weight": "full_self_attention.q_layernorm.weight",
        "attn1.norm_k.weight": "full_self_attention.k_layernorm.weight",
        "attn1.to_out.0.weight": "full_self_attention.linear_proj.weight",
        "attn2.to_q.weight": "cross_attention.linear_q.weight",
        "attn2.norm_q.weight": "cross_attention.q_layernorm.weight",
        "attn2.norm_k.weight": "cross_attention.k_layernorm.weight",
        "attn2.to_out.0.weight": "cross_attention.linear_proj.weight",
        "ff.net.0.proj.weight": "mlp.linear_fc1.weight",
        "ff.net.2.weight": "mlp.linear_fc2.weight",
    }
)
SELF_QKV = "full_self_attention.linear_qkv.weight"
CROSS_KV = "cross_attention.linear_kv.weight"
MODULATION = ("adaLN.adaLN_modulation.1.weight", "adaLN.adaLN_modulation.2.weight")
PACKED = (SELF_QKV, CROSS_KV, *MODULATION)
ONE_LAYER = re.compile(r"^decoder\.layers\.(\d+)\.(.+)$")
NOT_WEIGHTS = re.compile(r"^(optimizer|opt_param|rng_state|chained|lr_)|_extra_state")


def is_nemo(folder: Path) -> bool:
    """Whether a folder is a distributed checkpoint."""
    return (folder / METADATA).is_file()


def read_nemo(folder: Path) -> State:
    """Tensors of a distributed checkpoint by diffusers names.

    Args:
        folder: Holds `.metadata` and `*.distcp`.

    Raises:
        MalformedRecordError: If it cannot be read, or lacks or has other tensors.
    """
    return converted(_network(_loaded(folder)), folder)


def converted(state: Mapping[str, Any], folder: Path) -> State:
    """NeMo names, one set a layer, to diffusers names; all of them or an error.

    Raises:
        MalformedRecordError: If tensors are missing or left over; the first few are named.
    """
    layers = sorted({int(m.group(1)) for key in state if (m := ONE_LAYER.match(key))})
    expected = set(TOP_COSMOS1.values()) | {
        f"decoder.layers.{layer}.{name}" for layer in layers for name in (*BLOCK.values(), *PACKED)
    }
    check_names(expected, set(state), folder)
    dense = any(_mixes(state[f"decoder.layers.{layer}.{MODULATION[1]}"]) for layer in layers)
    found = {ours: state[theirs] for ours, theirs in TOP_COSMOS1.items()}
    if dense:
        found.update(_widened_head(state))
    for layer in layers:
        block = {
            name: state[f"decoder.layers.{layer}.{name}"] for name in (*BLOCK.values(), *PACKED)
        }
        names = {**_renamed(block), **_attention(block), **_modulation(block, dense=dense)}
        found.update({f"transformer_blocks.{layer}.{ours}": t for ours, t in names.items()})
    return found


def _renamed(block: Mapping[str, Any]) -> State:
    return {ours: block[theirs] for ours, theirs in BLOCK.items()}


def _attention(block: Mapping[str, Any]) -> State:
    """Queries, keys and values, taken apart head by head."""
    head_dim = int(block["full_self_attention.q_layernorm.weight"].shape[0])
    to_q, to_k, to_v = _unpacked_heads(block[SELF_QKV], parts=3, head_dim=head_dim)
    cross_k, cross_v = _unpacked_heads(block[CROSS_KV], parts=2, head_dim=head_dim)
    return {
        "attn1.to_q.weight": to_q,
        "attn1.to_k.weight": to_k,
        "attn1.to_v.weight": to_v,
        "attn2.to_k.weight": cross_k,
        "attn2.to_v.weight": cross_v,
    }


def _unpacked_heads(packed: Any, *, parts: int, head_dim: int) -> list[Any]:
    width_in = packed.shape[1]
    heads = packed.reshape(-1, parts, head_dim, width_in)
    return [heads[:, part].reshape(-1, width_in).contiguous() for part in range(parts)]


def _mixes(second: Any) -> bool:
    """Whether the modulations of a block share their inner layer, which post-training may make them do."""
    rows, inner = second.shape[0] // 3, second.shape[1] // 3
    blocks = second.reshape(3, rows, 3, inner)
    return any(bool(blocks[i, :, j].any()) for i in range(3) for j in range(3) if i != j)


def _modulation(block: Mapping[str, Any], *, dense: bool) -> State:
    """The three modulations of a block.

    Published weights keep them apart: the second matrix is zero outside three blocks on its diagonal.
    Where training has filled it, each modulation gets the whole inner layer, which computes the same.
    """
    first, second = block[MODULATION[0]], block[MODULATION[1]]
    rows, inner = second.shape[0] // 3, first.shape[0] // 3
    found: State = {}
    for part in range(3):
        upper = second[part * rows : (part + 1) * rows]
        own = slice(part * inner, (part + 1) * inner)
        found[f"norm{part + 1}.linear_1.weight"] = first if dense else first[own].contiguous()
        found[f"norm{part + 1}.linear_2.weight"] = (upper if dense else upper[:, own]).contiguous()
    return found


def _widened_head(state: Mapping[str, Any]) -> State:
    """The output's modulation with its inner layer widened by zeros to that of the blocks."""
    import torch

    inner = int(state[f"decoder.layers.0.{MODULATION[0]}"].shape[0])
    first = state[TOP_COSMOS1["norm_out.linear_1.weight"]]
    second = state[TOP_COSMOS1["norm_out.linear_2.weight"]]
    more = inner - first.shape[0]
    return {
        "norm_out.linear_1.weight": torch.cat([first, first.new_zeros(more, first.shape[1])]),
        "norm_out.linear_2.weight": torch.cat(
            [second, second.new_zeros(second.shape[0], more)], dim=1
        ),
    }


def _network(state: State) -> State:
    """Tensors of the network, one set a layer, without the prefix `module.`."""
    found: State = {}
    for key, value in state.items():
        name = key.removeprefix("module.")
        if IGNORED.search(name):
            continue
        stacked = name.startswith("decoder.layers.") and not ONE_LAYER.match(name)
        if not stacked:
            found[name] = value
            continue
        rest = name.removeprefix("decoder.layers.")
        for layer in range(value.shape[0]):
            found[f"decoder.layers.{layer}.{rest}"] = value[layer]
    return found


def _loaded(folder: Path) -> State:
    """All tensors of a distributed checkpoint that are weights."""
    import torch
    from torch.distributed.checkpoint import FileSystemReader, load
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    reader = FileSystemReader(folder)
    try:
        known = reader.read_metadata().state_dict_metadata
        state = {
            key: torch.empty(entry.size, dtype=entry.properties.dtype)
            for key, entry in known.items()
            if isinstance(entry, TensorStorageMetadata) and not NOT_WEIGHTS.search(key)
        }
        load(state, storage_reader=reader, no_dist=True)
    except (CheckpointException, OSError, EOFError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MalformedRecordError(
            f"distributed checkpoint {folder.name}",
            reason,
            "`.metadata` and all `*.distcp` files of one save",
            "Copy the folder again; a file is missing or cut off.",
        ) from error
    return state
