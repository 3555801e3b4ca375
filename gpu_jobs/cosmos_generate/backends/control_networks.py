"""Control networks: which ones a clip asks for, with which weights, and loading one for its base model.

Their passes are in `transfer25`; control models of Cosmos-1.0 and Transfer1 are loaded by `control1`.
"""

from pathlib import Path

import torch

from gpu_jobs.cosmos_generate.checkpoints import load_control_network
from gpu_jobs.cosmos_generate.protocol import Module
from worldloop.cosmos.requests import ClipRequest
from worldloop.errors import MalformedRecordError

ControlKey = tuple[str, str]
"""Kind and model folder of a control; an empty folder is the registered one."""


def control_weights(request: ClipRequest) -> dict[ControlKey, float]:
    """Weights of a clip's controls by kind and folder; several are scaled to sum to 1 at most.

    Example:
        >>> from worldloop.cosmos.requests import Control
        >>> both = (Control("edge"), Control("depth"))
        >>> control_weights(ClipRequest("a", controls=both))
        {('edge', ''): 0.5, ('depth', ''): 0.5}
    """
    weights: dict[ControlKey, float] = {
        (control.kind, control.model_dir): control.weight for control in request.controls
    }
    total = sum(weights.values())
    if len(weights) > 1 and total > 1.0:
        return {key: weight / total for key, weight in weights.items()}
    return weights


def load_control(folder: Path, kind: str, transformer: Module, dtype: torch.dtype) -> Module:
    """A control network, on the CPU.

    Args:
        folder: Folder of the network, or one that holds `<kind>/`; in diffusers' or the makers' layout.
        kind: Of the control; `vis` is another name of `blur`.
        transformer: The base model it has to fit.
        dtype: Precision of weights.

    Raises:
        MalformedRecordError: If there is none, or it was made for another base model.
    """
    names = {"vis": ("vis", "blur"), "blur": ("blur", "vis")}.get(kind, (kind,))
    places = [*(folder / name for name in names), folder]
    place = next((path for path in places if path.is_dir()), folder)
    network = load_control_network(place, transformer, dtype)
    _check_fits(network, transformer, place)
    return network


def _check_fits(network: Module, transformer: Module, place: Path) -> None:
    base = transformer.config
    every = base.controlnet_block_every_n or len(transformer.transformer_blocks)
    expected = {
        "width": base.num_attention_heads * base.attention_head_dim,
        "blocks": len(range(0, len(transformer.transformer_blocks), every)),
    }
    found = {
        "width": network.config.model_channels,
        "blocks": network.config.n_controlnet_blocks,
    }
    if found != expected:
        raise MalformedRecordError(
            f"control model in {place.name}",
            found,
            f"{expected}, as its base model has",
            "Use a control model that was trained for this base model.",
        )
