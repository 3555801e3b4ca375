"""Which backend loads which family."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from gpu_jobs.cosmos_generate.protocol import WorldModel
from worldloop.cosmos.models import Model
from worldloop.errors import UnknownKeyError

BACKENDS: Mapping[str, str] = MappingProxyType(
    {
        "cosmos1": "cosmos1",
        "predict1": "cosmos1",
        "predict2": "predict2",
        "predict2.5": "predict25",
        "transfer2.5": "transfer25",
        "cosmos3": "cosmos3",
    }
)
"""Module of this package by family; Predict1 is Cosmos-1.0 under its later name."""


def load_model(
    model: Model,
    checkpoint_dir: Path,
    *,
    transformer_dir: str = "",
    loras: Sequence[dict[str, Any]] = (),
    dtype: Any,
    device: Any,
) -> WorldModel:
    """Load a model; only the backend of its family is imported.

    Args:
        model: What to load.
        checkpoint_dir: Folder of model folders.
        transformer_dir: Folder of post-trained weights in it; empty: the model's own.
        loras: `{"path": str, "weight": float}` each.
        dtype: Precision of weights, a torch dtype.
        device: Where it will run. Parts are loaded on the CPU; residency moves them.

    Raises:
        UnknownKeyError: If no backend knows the family.
        MalformedRecordError: If a folder is missing, or holds weights of another family.
    """
    if model.family not in BACKENDS:
        raise UnknownKeyError("backend", model.family, BACKENDS)
    backend = importlib.import_module(f"gpu_jobs.cosmos_generate.backends.{BACKENDS[model.family]}")
    loaded = backend.load(
        model,
        checkpoint_dir,
        transformer_dir=transformer_dir,
        loras=loras,
        dtype=dtype,
        device=device,
    )
    return cast(WorldModel, loaded)
