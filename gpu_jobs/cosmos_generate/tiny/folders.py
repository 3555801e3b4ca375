"""What tiny diffusers folders have in common."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpu_jobs.common.torch_ops import import_diffusers


def write_index(folder: Path, pipeline: str, parts: Mapping[str, tuple[str, str]]) -> None:
    """Write `model_index.json`, last of all, as diffusers' `save_pretrained` would.

    Args:
        folder: Folder of the model.
        pipeline: Class name of the pipeline.
        parts: Library and class name of each part, by the name of its folder.
    """
    index = {
        "_class_name": pipeline,
        "_diffusers_version": import_diffusers().__version__,
        "safety_checker": [None, None],
        **{name: list(part) for name, part in sorted(parts.items())},
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def without_bias(autoencoder: Any) -> None:
    """Zero the biases of a random autoencoder: untrained, they would drown what frames and latents say."""
    for name, parameter in autoencoder.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
