"""Checkpoints of every layout that Cosmos models are published or post-trained in.

`load_transformer` reads a diffusers folder, the makers' `model.pt`, post-trained `iter_*_model.pt`
files and NeMo's distributed checkpoints, and answers diffusers' `CosmosTransformer3DModel`.
`load_jit_tokenizer` runs the CV8x8x8 video tokenizer from its TorchScript files.
"""

import json
from pathlib import Path
from typing import Any

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.cosmos_generate.checkpoints.configs import (
    COSMOS1,
    PREDICT2,
    Network,
    check_network,
    config_of,
    control_config_of,
)
from gpu_jobs.cosmos_generate.checkpoints.jit_tokenizer import (
    is_jit_tokenizer,
    load_jit_tokenizer,
)
from gpu_jobs.cosmos_generate.checkpoints.nemo import is_nemo, read_nemo
from gpu_jobs.cosmos_generate.checkpoints.original import read_control, read_original
from worldloop.cosmos.models import Model
from worldloop.errors import MalformedRecordError

__all__ = [
    "find_weights",
    "is_jit_tokenizer",
    "load_control_network",
    "load_jit_tokenizer",
    "load_transformer",
]

CLASS_NAME = "CosmosTransformer3DModel"
CONTROL_CLASS_NAME = "CosmosControlNetModel"
# where Predict2.5 and Transfer2.5 keep their files; every control of the latter has the same base model
SAME_BASE = "general/*/*.pt"
NESTED = ("base/post-trained/*.pt", "base/pre-trained/*.pt", SAME_BASE)
KEPT_IN_FP32 = "learnable_pos_embed"  # CosmosTransformer3DModel._keep_in_fp32_modules


def load_transformer(folder: Path, model: Model, dtype: Any) -> Any:
    """The transformer of a model, on the CPU.

    Args:
        folder: A diffusers folder (with `transformer/`, or of the transformer itself), a folder with
            `model.pt` or one post-trained `iter_*.pt`, or a NeMo checkpoint (`weights/`).
        model: What the weights should be.
        dtype: Precision of the weights; learnable positions stay in float32, as in diffusers.

    Returns:
        `diffusers.CosmosTransformer3DModel`.

    Raises:
        MalformedRecordError: If the folder holds no weights, more than one choice, weights that cannot
            be read, or those of another family, size or task.
    """
    diffusers = import_diffusers()
    weights = find_weights(folder)
    if (weights / "config.json").is_file() and not is_nemo(weights):
        transformer = _from_diffusers(weights, dtype)
        check_network(_network_of(transformer), model, weights)
        return transformer
    state = read_nemo(weights) if is_nemo(weights) else read_original(weights)[1]
    config = config_of(state, model, folder)
    check_network(Network.of_state(state, config), model, weights)
    with _on_no_device():
        transformer = diffusers.CosmosTransformer3DModel(**config)
    cast = {key: _cast(key, tensor, dtype) for key, tensor in state.items()}
    transformer.load_state_dict(cast, strict=True, assign=True)
    return transformer.eval()


def load_control_network(folder: Path, transformer: Any, dtype: Any) -> Any:
    """A control network of Transfer2.5, on the CPU.

    Args:
        folder: Its diffusers folder, or a folder with one `.pt` file in the makers' layout.
        transformer: The base model; in the makers' layout the network has copies of its tensors.
        dtype: Precision of the weights.

    Returns:
        `diffusers.CosmosControlNetModel`.

    Raises:
        MalformedRecordError: If there is no control network in the folder.
    """
    diffusers = import_diffusers()
    path = folder / "config.json"
    if path.is_file() and json.loads(path.read_text()).get("_class_name") == CONTROL_CLASS_NAME:
        return diffusers.CosmosControlNetModel.from_pretrained(folder, dtype=dtype).eval()
    files = sorted(folder.glob("*.pt"))
    if len(files) != 1:
        raise MalformedRecordError(
            f"control model in {folder.name}",
            [file.name for file in files] or "neither config.json of such a class nor a .pt file",
            f"a diffusers folder of a {CONTROL_CLASS_NAME}, or one .pt file of Transfer2.5",
            "Download the control model of Transfer2.5, or name its folder with model_dir. "
            "Control models of Cosmos-1.0 go with Cosmos-1.0.",
        )
    state = read_control(files[0], transformer.state_dict())
    with _on_no_device():
        network = diffusers.CosmosControlNetModel(**control_config_of(state, transformer.config))
    network.load_state_dict(
        {key: _cast(key, value, dtype) for key, value in state.items()}, strict=True, assign=True
    )
    return network.eval()


def find_weights(folder: Path) -> Path:
    """What in a folder holds the transformer: a diffusers folder, a `.pt` file or a NeMo folder.

    Where several files lie, `model.pt` is taken first, then averaged (EMA) weights, then regular ones.

    Raises:
        MalformedRecordError: If there is nothing, or no telling which file is meant.
    """
    for place in (folder / "transformer", folder):
        if _is_diffusers(place):
            return place
    for place in (folder, folder / "weights", folder / "nemo" / "weights", folder / "nemo"):
        if is_nemo(place):
            return place
    for pattern in ("model.pt", "*ema*.pt", "*reg*.pt", "*.pt", *NESTED):
        found = [path for path in sorted(folder.glob(pattern)) if path.name != "mean_std.pt"]
        found = found[:1] if pattern == SAME_BASE else found
        if len(found) == 1:
            return found[0]
        if found:
            raise MalformedRecordError(
                f"weights in {folder.name}",
                [path.name for path in found],
                "one file",
                "Keep the one that is meant, or rename it to model.pt.",
            )
    names = sorted(path.name for path in folder.iterdir())[:5] if folder.is_dir() else "no folder"
    raise MalformedRecordError(
        f"weights in {folder.name}",
        names,
        "transformer/, model.pt, iter_*_model.pt or weights/.metadata",
        f"Run: worldloop models download {folder.name}. NeMo checkpoints saved as zarr have to be "
        "saved again as torch_dist.",
    )


def _is_diffusers(folder: Path) -> bool:
    path = folder / "config.json"
    if not path.is_file():
        return False
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MalformedRecordError(
            f"{folder.name}/config.json", str(error), "JSON", "Download the folder again."
        ) from error
    return bool(config.get("_class_name") == CLASS_NAME)


def _from_diffusers(folder: Path, dtype: Any) -> Any:
    """A diffusers folder; what is missing or left over in it is an error."""
    diffusers = import_diffusers()
    try:
        transformer, told = diffusers.CosmosTransformer3DModel.from_pretrained(
            folder, dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise MalformedRecordError(
            f"weights in {folder.name}",
            str(error).splitlines()[0],
            "a whole diffusers folder",
            "Download it again.",
        ) from error
    missing, extra = sorted(told["missing_keys"]), sorted(told["unexpected_keys"])
    if missing or extra:
        raise MalformedRecordError(
            f"weights in {folder.name}",
            f"{len(missing)} tensors missing {missing[:3]}, {len(extra)} left over {extra[:3]}",
            "exactly the tensors of its config.json",
            "Download it again.",
        )
    return transformer.eval()


def _network_of(transformer: Any) -> Network:
    config = transformer.config
    return Network(
        layout=COSMOS1 if config.extra_pos_embed_type else PREDICT2,
        width=config.num_attention_heads * config.attention_head_dim,
        num_layers=config.num_layers,
        in_channels=config.in_channels,
    )


def _cast(key: str, tensor: Any, dtype: Any) -> Any:
    import torch

    return tensor.to(torch.float32 if KEPT_IN_FP32 in key else dtype)


def _on_no_device() -> Any:
    """Builds modules without memory; their weights are assigned."""
    import torch

    return torch.device("meta")
