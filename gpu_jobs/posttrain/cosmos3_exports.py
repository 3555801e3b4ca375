"""Post-trained Cosmos 3 as diffusers loads it: a folder of whole weights.

The published training writes distributed checkpoints that its own scripts convert to diffusers'
folders (docs/training.md of NVIDIA/cosmos-framework, commit 5eee9ed); here the folder is written at
once. It is complete: what is not trained, the head that answers in words included, is the base's.
"""

import shutil
from pathlib import Path
from typing import Any

from gpu_jobs.posttrain.base import Base
from worldloop.errors import MalformedRecordError
from worldloop.federation.adapters import Arrays

WEIGHTS_NAME = "diffusion_pytorch_model{suffix}.safetensors"  # diffusers.utils.constants
PART = "transformer"
_MOST_BYTES = "10GB"  # of a file, as ModelMixin.save_pretrained splits

Tensor = Any  # torch.Tensor; torch is imported inside functions


def write_transformer(folder: Path, base: Base, arrays: Arrays, *, dtype: Any) -> Path:
    """Write `<folder>/transformer/`, which `Cosmos3OmniTransformer.from_pretrained` and a `transformer_dir` take.

    Args:
        folder: Appears when it is whole; another one of this name is replaced.
        base: The model that was trained.
        arrays: Trained weights by diffusers' names.
        dtype: Precision of what is written.

    Returns:
        The folder.

    Raises:
        MalformedRecordError: If the base's own folder lacks what is not trained.
    """
    from huggingface_hub import save_torch_state_dict

    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    place = part / PART
    place.mkdir(parents=True)
    base.transformer.save_config(place)
    save_torch_state_dict(
        _state(base, arrays, dtype),
        place,
        filename_pattern=WEIGHTS_NAME,
        max_shard_size=_MOST_BYTES,
        is_main_process=True,
    )
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return folder


def _state(base: Base, arrays: Arrays, dtype: Any) -> dict[str, Tensor]:
    """All weights: the files that the base came from, since its own may be sharded, and what was trained."""
    import torch
    from safetensors.torch import load_file

    owner = Path(base.key.checkpoint_dir) / (base.key.transformer_dir or base.world.model.name)
    state: dict[str, Tensor] = {}
    for path in sorted((owner / PART).glob("*.safetensors")):
        state.update(load_file(path))
    absent = sorted(arrays.keys() - state.keys())
    if absent:
        raise MalformedRecordError(
            f"transformer in {owner.name}",
            f"no tensor {absent[0]}",
            "all weights of Cosmos 3, which an export repeats",
            "Download it again.",
        )
    state.update({name: torch.from_numpy(value) for name, value in arrays.items()})
    return {name: state[name].to(dtype).contiguous() for name in sorted(state)}
