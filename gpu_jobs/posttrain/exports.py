"""Checkpoints as the published guides name them, and adapters as diffusers and PEFT load them.

In `<root>/<project>/<group>/<name>/checkpoints/`:

    iter_000002000_reg_model.pt     all weights trained: as the last step left them
    iter_000002000_ema_model.pt     the same, averaged, where an average is kept
    iter_000005000_model.pt         an adapter with the base's weights, in one file
    iter_000005000_lora/pytorch_lora_weights.safetensors      the adapter alone, for diffusers

The `.pt` files have the makers' names of tensors. Predict1's have adapters of attention beside the
weights (`..._lora.net.0.weight`, `..._lora.net.1.weight`), Predict2's and Predict2.5's as PEFT writes
them (`....base_layer.weight`, `....lora_A.default.weight`); their scale is 1, so that alpha / rank is
multiplied into the second factor. Factors that the line of models has no name for (of the MLP of
Predict1) are multiplied into the weights.

Cosmos 3, which is published in diffusers' layout alone, has folders in place of these files
(`iter_000000500_{reg,ema}/transformer/`), and of an adapter only `iter_000000500_lora/`.
"""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpu_jobs.cosmos_generate.checkpoints.configs import COSMOS1, LAYOUT_OF_FAMILY
from gpu_jobs.cosmos_generate.checkpoints.original import key_map
from gpu_jobs.posttrain.base import Base
from gpu_jobs.posttrain.cosmos3_exports import write_transformer
from worldloop.cosmos.models import Model
from worldloop.errors import MalformedRecordError
from worldloop.federation.adapters import DOWN, UP, Arrays
from worldloop.federation.model_card import diffusers_lora
from worldloop.federation.rounds import Training

Tensor = Any
ADAPTER_NAME = (
    "pytorch_lora_weights.safetensors"  # diffusers.loaders.lora_base.LORA_WEIGHT_NAME_SAFE
)
_EXPORT_FIELDS = ("project", "group", "name", "root")
_ATTENTION = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out.0": "to_out"}


def checkpoints_dir(export: Mapping[str, str]) -> Path:
    """Where the guides' trainings write.

    Args:
        export: `project`, `group`, `name` and `root` of a spec.

    Raises:
        MalformedRecordError: If one of them is missing.

    Example:
        >>> names = {"project": "posttraining", "group": "video2world", "name": "mine", "root": "out"}
        >>> checkpoints_dir(names).as_posix()
        'out/posttraining/video2world/mine/checkpoints'
    """
    missing = [name for name in _EXPORT_FIELDS if not export.get(name)]
    if missing:
        raise MalformedRecordError(
            "export of a training", dict(export), f"{_EXPORT_FIELDS}", f"Add {missing}."
        )
    parts = (export["project"], export["group"], export["name"], "checkpoints")
    return Path(export["root"]).joinpath(*parts)


def export(
    names: Mapping[str, str],
    base: Base,
    training: Training,
    *,
    last: Arrays,
    averaged: Arrays,
    start: Arrays,
    num_steps: int,
) -> list[str]:
    """Write the checkpoints of a training.

    Args:
        names: `export` of the spec.
        base: The model, adapted or not; its frozen weights are what is written beside an adapter.
        training: Mode, alpha and precision.
        last: Trained tensors as the last step left them.
        averaged: The same, averaged; those that became the result.
        start: The tensors at the start.
        num_steps: Steps that were taken; their number is in the names.

    Returns:
        Paths of the files.

    Raises:
        MalformedRecordError: If a name is missing, or the family has no such layout.
    """
    folder = checkpoints_dir(names)
    folder.mkdir(parents=True, exist_ok=True)
    stem, cosmos3 = f"iter_{num_steps:09d}", base.world.family.key == "cosmos3"
    if training.mode == "full":
        kinds = {"reg": last, "ema": averaged} if training.averages else {"reg": last}
        write = _write_folder if cosmos3 else _write_full
        return [
            str(write(folder / f"{stem}_{kind}", base, arrays, training.precision))
            for kind, arrays in kinds.items()
        ]
    beside = folder / f"{stem}_lora" / ADAPTER_NAME
    beside.parent.mkdir(exist_ok=True)
    _put(beside, peft_adapter(averaged, alpha=training.alpha))
    if cosmos3:
        return [str(beside)]
    path = folder / f"{stem}_model.pt"
    saved: dict[str, Any] = {"model": lora_state(base, last, training)}
    if training.averages:
        saved["ema"] = {
            name.replace(".", "-"): value
            for name, value in lora_state(base, averaged, training).items()
        }
    _save(path, saved)
    return [str(path), str(beside)]


def _write_full(stem: Path, base: Base, arrays: Arrays, precision: str) -> Path:
    path = stem.with_name(f"{stem.name}_model.pt")
    _save(path, full_state(base, arrays, precision))
    return path


def _write_folder(stem: Path, base: Base, arrays: Arrays, precision: str) -> Path:
    return write_transformer(stem, base, arrays, dtype=_dtype(precision))


def peft_adapter(adapter: Arrays, *, alpha: float) -> bytes:
    """An adapter as diffusers saves and loads it, `pytorch_lora_weights.safetensors`.

    The scale is multiplied into the second factors and the header says alpha = rank, so that readers
    that look into the header (pipelines of diffusers) and those that do not (`load_lora_adapter`
    with a bare path) agree.

    Args:
        adapter: Factors by diffusers' layer names.
        alpha: Of its training.
    """
    layers = sorted(name.removesuffix(DOWN) for name in adapter if name.endswith(DOWN))
    rank = int(adapter[layers[0] + DOWN].shape[0])
    settings = {"r": rank, "lora_alpha": rank, "target_modules": layers, "bias": "none"}
    scaled = {
        name: each * np.float32(alpha / rank) if name.endswith(UP) else each
        for name, each in adapter.items()
    }
    return diffusers_lora(scaled, settings)


def full_state(base: Base, arrays: Arrays, precision: str) -> dict[str, Tensor]:
    """All weights by the makers' names, with the prefix `net.`.

    Args:
        base: The model that was trained.
        arrays: Its weights by diffusers names.
        precision: `bf16` or `fp32`.
    """
    import torch

    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    return _original(base.world.model, tensors, _dtype(precision))


def lora_state(base: Base, adapter: Arrays, training: Training) -> dict[str, Tensor]:
    """The base's weights and an adapter's factors by the makers' names, with the prefix `net.`.

    Args:
        base: The model, the adapter in it or not.
        adapter: Factors by diffusers' layer names.
        training: Its alpha and precision.
    """
    dtype, known = _dtype(training.precision), base.world.model
    tensors = frozen_weights(base.transformer)
    factors = _factors(adapter, training.alpha)
    if LAYOUT_OF_FAMILY[known.family] == COSMOS1:
        beside = {layer: pair for layer, pair in factors.items() if _attention_part(layer)}
        for layer, (down, up) in factors.items():
            if layer not in beside:
                name = f"{layer}.weight"
                tensors[name] = tensors[name].float() + up @ down
        names = _names(known, tensors)
        state = _original(known, tensors, dtype)
        for layer, pair in beside.items():
            stem = names[f"{layer}.weight"].removesuffix(".0.weight")
            for number, factor in enumerate(pair):
                state[f"net.{stem}_lora.net.{number}.weight"] = factor
        return state
    names, state = _names(known, tensors), _original(known, tensors, dtype)
    for layer, (down, up) in factors.items():
        stem = f"net.{names[f'{layer}.weight']}".removesuffix(".weight")
        state[f"{stem}.base_layer.weight"] = state.pop(f"{stem}.weight")
        state[f"{stem}.lora_A.default.weight"] = down
        state[f"{stem}.lora_B.default.weight"] = up
    return state


def frozen_weights(transformer: Any) -> dict[str, Tensor]:
    """Weights of a transformer by diffusers names, on the CPU, without an adapter that is in it."""
    return {
        name.replace(".base_layer.", "."): value.detach().cpu()
        for name, value in transformer.state_dict().items()
        if not name.endswith((DOWN, UP))
    }


def place_post_trained(checkpoint: Path, checkpoint_dir: Path, model: Model, *, lora: bool) -> Path:
    """Copy a checkpoint to where the guides' inference looks for it: `<model>_post-trained[-lora]/model.pt`.

    Args:
        checkpoint: An `iter_*_model.pt`, or a folder of Cosmos 3.
        checkpoint_dir: Folder of the model folders.
        model: What was trained.
        lora: Whether the checkpoint has an adapter beside the weights.

    Returns:
        The folder, whose name is a `transformer_dir`.
    """
    folder = checkpoint_dir / f"{model.name}_post-trained{'-lora' if lora else ''}"
    if checkpoint.is_dir():
        shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "model.pt.part"
    shutil.copyfile(checkpoint, part)
    part.replace(folder / "model.pt")
    return folder


def _factors(adapter: Arrays, alpha: float) -> dict[str, tuple[Tensor, Tensor]]:
    """Factors of each layer, their scale in the second."""
    import torch

    layers = sorted(name.removesuffix(DOWN) for name in adapter if name.endswith(DOWN))
    found = {}
    for layer in layers:
        down, up = (torch.from_numpy(adapter[layer + part].copy()) for part in (DOWN, UP))
        found[layer] = (down, up * (alpha / len(down)))
    return found


def _attention_part(layer: str) -> str:
    """The makers' name of a projection of attention; empty for other layers."""
    place = layer.partition(".attn")[2].partition(".")[2]
    return _ATTENTION.get(place, "")


def _names(model: Model, tensors: Iterable[str]) -> dict[str, str]:
    """The makers' names by diffusers names.

    Raises:
        MalformedRecordError: If there is a tensor that the makers' layout does not have.
    """
    present = list(tensors)
    blocks = {int(name.split(".")[1]) for name in present if name.startswith("transformer_blocks.")}
    layout = LAYOUT_OF_FAMILY[model.family]
    names = key_map(layout, num_layers=len(blocks), present=present)
    odd = sorted(set(present) ^ set(names))
    if odd:
        raise MalformedRecordError(
            f"tensors of {model.name}",
            odd[:3],
            f"those of {layout}",
            "Export a model in the published architecture, or leave export empty.",
        )
    return names


def _original(model: Model, tensors: Mapping[str, Tensor], dtype: Any) -> dict[str, Tensor]:
    names = _names(model, tensors)
    return {f"net.{names[name]}": tensors[name].to(dtype).contiguous() for name in sorted(tensors)}


def _dtype(precision: str) -> Any:
    import torch

    return torch.float32 if precision == "fp32" else torch.bfloat16


def _save(path: Path, state: Mapping[str, Any]) -> None:
    import torch

    part = path.with_name(f"{path.name}.part")
    torch.save(dict(state), part)
    part.replace(path)


def _put(path: Path, content: bytes) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    part.replace(path)
