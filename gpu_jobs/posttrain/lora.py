"""Adapters inside a transformer: small factors beside frozen linear layers.

Tensors have the names of PEFT and diffusers, `<layer>.lora_A.weight` (rank, in) and
`<layer>.lora_B.weight` (out, rank), and are float32 whatever the precision of the layer.
"""

# I width in, O width out, R rank

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldloop.errors import MalformedRecordError
from worldloop.federation.adapters import DOWN, UP, Arrays
from worldloop.federation.rounds import COSMOS3_ATTENTION, COSMOS3_MLP, LORA_TARGETS

_BLOCK = re.compile(r"^(?:transformer_blocks|layers)\.(\d+)\.")


def blocks_of(transformer: Any) -> Any:
    """The repeated blocks; Cosmos 3 calls them `layers`."""
    return getattr(transformer, "transformer_blocks", None) or transformer.layers


def is_cosmos3(transformer: Any) -> bool:
    """Whether a transformer is `Cosmos3OmniTransformer`, which has a reasoner beside the generator."""
    return not hasattr(transformer, "transformer_blocks")


def target_layers(
    transformer: Any, targets: Sequence[str], *, first_blocks: int = 0
) -> dict[str, tuple[int, int]]:
    """Linear layers of the blocks whose names end so, with their (out, in); of Cosmos 3 the generator's alone.

    Args:
        transformer: diffusers' network.
        targets: Ends of names, e.g. `to_q` or `ff.net.2`; the default, `LORA_TARGETS`, stands for attention
            and MLP of Cosmos 3's generator too.
        first_blocks: Only this many leading blocks; 0: all.

    Raises:
        MalformedRecordError: If a target names no layer.
    """
    import torch

    from gpu_jobs.posttrain.cosmos3 import is_generators

    cosmos3 = is_cosmos3(transformer)
    if cosmos3 and tuple(targets) == LORA_TARGETS:
        targets = _generator_targets(transformer)
    ends = tuple(f".{target}" for target in targets)
    found: dict[str, tuple[int, int]] = {}
    for name, layer in transformer.named_modules():
        block = _BLOCK.match(name)
        early = block and (not first_blocks or int(block[1]) < first_blocks)
        mine = not cosmos3 or is_generators(f"{name}.weight")
        if early and mine and name.endswith(ends) and isinstance(layer, torch.nn.Linear):
            found[name] = (layer.out_features, layer.in_features)
    absent = [target for target in targets if not any(n.endswith(f".{target}") for n in found)]
    if absent or not found:
        named = ("add_q_proj", "mlp_moe_gen.up_proj") if cosmos3 else ("to_q", "ff.net.0.proj")
        raise MalformedRecordError(
            "targets of an adapter",
            absent or list(targets),
            f"ends of names of linear layers{' of the generator' if cosmos3 else ''}, such as "
            f"{named[0]!r} or {named[1]!r}",
            "Correct the targets of the plan.",
        )
    return found


def _generator_targets(transformer: Any) -> tuple[str, ...]:
    """Attention and MLP of Cosmos 3's generator; Edge has an MLP without a gate."""
    mlp = transformer.layers[0].mlp_moe_gen
    parts = (each for each in COSMOS3_MLP if hasattr(mlp, each.rpartition(".")[2]))
    return (*COSMOS3_ATTENTION, *parts)


def attach(transformer: Any, adapter: Arrays, *, alpha: float) -> dict[str, Any]:
    """Put an adapter into a transformer.

    Args:
        transformer: Its adapted layers are wrapped; the rest stays as it is.
        adapter: Factors by name.
        alpha: The scale is alpha / rank.

    Returns:
        The trainable parameters by name, float32 on the device of their layers.

    Raises:
        MalformedRecordError: If factors do not fit the layers.
    """
    import torch

    from gpu_jobs.posttrain.model import AdaptedLinear

    layers, parameters = _checked(transformer, adapter), {}
    for layer in sorted(layers):
        base_layer = transformer.get_submodule(layer)
        down_RI, up_OR = (
            torch.from_numpy(np.array(adapter[layer + part], np.float32)).to(
                base_layer.weight.device
            )
            for part in (DOWN, UP)
        )
        wrapped = AdaptedLinear(base_layer, down_RI, up_OR, alpha / len(down_RI))
        _put(transformer, layer, wrapped)
        parameters[layer + DOWN] = wrapped.lora_A.weight
        parameters[layer + UP] = wrapped.lora_B.weight
    return parameters


def detach(transformer: Any) -> None:
    """Take the adapter out again; the transformer is what it was."""
    from gpu_jobs.posttrain.model import AdaptedLinear

    adapted = [
        (name, one) for name, one in transformer.named_modules() if isinstance(one, AdaptedLinear)
    ]
    for name, wrapped in adapted:
        _put(transformer, name, wrapped.base_layer)


@contextlib.contextmanager
def added(transformer: Any, arrays: Arrays, *, alpha: float) -> Iterator[None]:
    """A transformer with an adapter, or with the difference of whole weights, while the block lasts.

    Args:
        transformer: It is as before afterwards, to the last bit.
        arrays: Factors, or what is added to weights by their names; empty changes nothing.
        alpha: Of factors.

    Raises:
        MalformedRecordError: If they do not fit.
    """
    if not arrays:
        yield
    elif any(name.endswith((DOWN, UP)) for name in arrays):
        attach(transformer, arrays, alpha=alpha)
        try:
            yield
        finally:
            detach(transformer)
    else:
        kept = _add(transformer, arrays)
        try:
            yield
        finally:
            _set(transformer, kept)


def to_arrays(parameters: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    """Tensors as float32 arrays, copies, by name in order."""
    return {
        name: parameters[name].detach().float().cpu().numpy().copy() for name in sorted(parameters)
    }


def _add(transformer: Any, difference: Arrays) -> dict[str, Any]:
    """Add to weights; what they were, on the CPU."""
    import torch

    weights = dict(transformer.named_parameters())
    odd = sorted(
        name
        for name in difference
        if name not in weights or tuple(weights[name].shape) != difference[name].shape
    )
    if odd:
        raise MalformedRecordError(
            "difference of weights",
            f"{len(odd)} tensors that the transformer does not have so: {odd[:3]}",
            "names and shapes of this model's weights",
            "Use a difference that was trained on this model.",
        )
    kept = {}
    with torch.no_grad():
        for name, change in difference.items():
            weight = weights[name]
            kept[name] = weight.detach().cpu().clone()
            added_to = torch.from_numpy(np.array(change, np.float32)).to(weight.device)
            weight.copy_(weight.float() + added_to)
    return kept


def _set(transformer: Any, kept: Mapping[str, Any]) -> None:
    import torch

    weights = dict(transformer.named_parameters())
    with torch.no_grad():
        for name, value in kept.items():
            weights[name].copy_(value)


def _checked(transformer: Any, adapter: Arrays) -> set[str]:
    """Names of the layers that an adapter is for."""
    import torch

    layers = {name.removesuffix(DOWN).removesuffix(UP) for name in adapter}
    modules = dict(transformer.named_modules())
    for layer in sorted(layers):
        target: Any = modules.get(layer)
        down, up = adapter.get(layer + DOWN), adapter.get(layer + UP)
        is_linear = isinstance(target, torch.nn.Linear)
        shape = (target.out_features, target.in_features) if is_linear else None
        fits = (
            shape is not None
            and down is not None
            and up is not None
            and (up.shape[0], down.shape[1]) == shape
            and up.shape[1] == down.shape[0]
        )
        if not fits:
            raise MalformedRecordError(
                f"adapter of {layer!r}",
                [each.shape if each is not None else "no factor" for each in (down, up)],
                f"factors (rank, in) and (out, rank) of a linear layer (out, in) {shape}",
                "Use an adapter that was trained on this model.",
            )
    return layers


def _put(transformer: Any, name: str, layer: Any) -> None:
    parent, _, last = name.rpartition(".")
    setattr(transformer.get_submodule(parent), last, layer)
