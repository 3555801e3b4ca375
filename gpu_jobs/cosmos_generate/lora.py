"""LoRA adapters, multiplied into a transformer's weights when it is loaded.

Merged adapters cost nothing while denoising and work with every speed profile. Four spellings are
read: diffusers (`transformer.<layer>.lora_A.weight`), PEFT (`base_model.model.<layer>.lora_A...`),
Predict2's post-training (`net.<original layer>.lora_A.default.weight`) and Predict1's
(`net.<original layer>.to_q_lora.net.0.weight`).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_jobs.cosmos_generate.checkpoints.original import (
    LORA,
    key_map,
    layout_of,
    lora_factors,
    read_tensors,
)
from worldloop.errors import MalformedRecordError

NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors", "model.pt")
PREFIXES = ("base_model.model.", "transformer.", "model.", "net.")
FACTOR = re.compile(r"^(?P<layer>.+)\.lora_(?P<part>[AB])(?:\.default)?\.weight$")
ALPHA = re.compile(r"^(?P<layer>.+)\.alpha$")
METADATA_KEY = "lora_adapter_metadata"  # diffusers.loaders.lora_base.LORA_ADAPTER_METADATA_KEY


@dataclass(frozen=True)
class Adapter:
    """What an adapter adds to one weight.

    Attributes:
        target: Name of the weight in diffusers' transformer.
        down: (rank, in).
        up: (out, rank).
        scale: alpha / rank of its training; 1 where a file does not say.
    """

    target: str
    down: Any
    up: Any
    scale: float


def apply_loras(transformer: Any, loras: Sequence[Mapping[str, Any]]) -> None:
    """Add adapters to a transformer's weights, in their order.

    Args:
        transformer: `CosmosTransformer3DModel`; its weights are changed.
        loras: `{"path": str, "weight": float}` each; a weight of 0 changes no bit, 1 is the default.

    Raises:
        MalformedRecordError: If an adapter cannot be read, or was trained for another model; nothing
            of that adapter has been added then.
    """
    for lora in loras:
        path, weight = Path(str(lora["path"])), float(lora.get("weight", 1.0))
        parameters = dict(transformer.named_parameters())
        adapters = read_lora(path, num_layers=len(_blocks(transformer)))
        _check_fit(adapters, parameters, path)
        if weight:
            for adapter in adapters:
                _merge(parameters[adapter.target], adapter, weight)


def read_lora(path: Path, *, num_layers: int) -> list[Adapter]:
    """The adapters of a file or folder.

    Args:
        path: `.safetensors` or `.pt` file, or a folder that holds one under a usual name.
        num_layers: Blocks of the transformer that it is for.

    Raises:
        MalformedRecordError: If there is none, or its tensors are no adapter.
    """
    file = _file_of(path)
    state = read_tensors(file)
    adapters = _of_predict1(state, num_layers) or _of_peft(state, _settings(file), num_layers, file)
    if not adapters:
        raise MalformedRecordError(
            f"LoRA {file.name}",
            f"tensors such as {sorted(state)[:3]}",
            "pairs of lora_A and lora_B, or of to_q_lora.net.0 and to_q_lora.net.1",
            "Name the file of the adapter.",
        )
    return adapters


def _of_predict1(state: Mapping[str, Any], num_layers: int) -> list[Adapter]:
    """Adapters that Predict1's post-training wrote beside or without the weights."""
    bare = {_bare(key): value for key, value in state.items()}
    if not any(LORA.match(key) for key in bare):
        return []
    names = _diffusers_names(bare, num_layers)
    return [
        Adapter(names.get(target, target), down, up, 1.0)
        for target, (down, up) in lora_factors(bare).items()
    ]


def _of_peft(
    state: Mapping[str, Any], settings: Mapping[str, Any], num_layers: int, file: Path
) -> list[Adapter]:
    """Adapters as PEFT and diffusers save them."""
    parts: dict[str, dict[str, Any]] = {}
    alphas: dict[str, float] = {}
    for key, value in state.items():
        if match := FACTOR.match(key):
            parts.setdefault(_bare(match["layer"]), {})[match["part"]] = value
        elif match := ALPHA.match(key):
            alphas[_bare(match["layer"])] = float(value)
    single = sorted(layer for layer, pair in parts.items() if len(pair) < 2)
    if single:
        raise MalformedRecordError(
            f"LoRA {file.name}",
            f"one factor alone for {single[:3]}",
            "lora_A and lora_B for every layer",
            "The file is cut off; save it again.",
        )
    names = _diffusers_names({f"{layer}.weight": None for layer in parts}, num_layers)
    return [
        Adapter(
            target=names.get(f"{layer}.weight", f"{layer}.weight"),
            down=pair["A"],
            up=pair["B"],
            scale=_scale(layer, int(pair["A"].shape[0]), alphas, settings),
        )
        for layer, pair in parts.items()
    ]


def _scale(
    layer: str, rank: int, alphas: Mapping[str, float], settings: Mapping[str, Any]
) -> float:
    """How much factors count: alpha / rank, from the file or the settings beside it; 1 where neither says."""
    alpha = alphas.get(layer, settings.get("lora_alpha"))
    if alpha is None:
        return 1.0
    for pattern, value in dict(settings.get("alpha_pattern") or {}).items():
        if layer == pattern or layer.endswith(f".{pattern}"):
            alpha = value
    return float(alpha) / (rank**0.5 if settings.get("use_rslora") else rank)


def _diffusers_names(present: Mapping[str, Any], num_layers: int) -> dict[str, str]:
    """Original name to diffusers name; empty if names are those of diffusers already."""
    layout = layout_of(present)
    if layout is None:
        return {}
    mapped = key_map(layout, num_layers=num_layers, present=present)
    return {theirs: ours for ours, theirs in mapped.items()}


def _check_fit(adapters: Sequence[Adapter], parameters: Mapping[str, Any], path: Path) -> None:
    """Refuse adapters of another model.

    Raises:
        MalformedRecordError: Naming the first layers that do not fit.
    """
    unknown = sorted(one.target for one in adapters if one.target not in parameters)
    if unknown:
        raise MalformedRecordError(
            f"LoRA {path.name}",
            f"{len(unknown)} layers that the transformer does not have: {unknown[:3]}",
            "an adapter of this model",
            "Use an adapter that was trained for this model.",
        )
    for one in adapters:
        shape, rank = tuple(parameters[one.target].shape), one.down.shape[0]
        product = (one.up.shape[0], one.down.shape[1])
        if product != shape or one.up.shape[1] != rank:
            raise MalformedRecordError(
                f"LoRA {path.name}, {one.target}",
                f"factors {tuple(one.up.shape)} x {tuple(one.down.shape)}",
                f"a product of {shape}, with one rank",
                "Use an adapter that was trained for this model.",
            )


def _merge(parameter: Any, adapter: Adapter, weight: float) -> None:
    import torch

    with torch.no_grad():
        change = adapter.up.float() @ adapter.down.float()
        parameter.copy_(parameter.float() + weight * adapter.scale * change)


def _bare(key: str) -> str:
    """A name without what wrappers put before it."""
    for prefix in PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _settings(file: Path) -> dict[str, Any]:
    """Settings of training: from the file's own header, or `adapter_config.json` beside it."""
    beside = file.parent / "adapter_config.json"
    if beside.is_file():
        return dict(json.loads(beside.read_text()))
    if file.suffix != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        said = json.loads((opened.metadata() or {}).get(METADATA_KEY, "{}"))
    return {key.removeprefix("transformer."): value for key, value in said.items()}


def _file_of(path: Path) -> Path:
    if path.is_file():
        return path
    found = [path / name for name in NAMES if (path / name).is_file()]
    others = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    if not found and len(others) != 1:
        raise MalformedRecordError(
            f"LoRA {path.name}",
            "no such file" if not path.is_dir() else [other.name for other in others],
            f"a .safetensors or .pt file, or a folder with one of {NAMES}",
            "Check its path.",
        )
    return (found or others)[0]


def _blocks(transformer: Any) -> Any:
    """The repeated blocks; Cosmos 3 calls them `layers`."""
    return getattr(transformer, "transformer_blocks", None) or transformer.layers
