"""Checkpoints (in work)."""
from pathlib import Path
from typing import Any
from gpu_jobs.common.torch_ops import import_diffusers
def load_transformer(folder: Path, model: Any, dtype: Any) -> Any:
    return import_diffusers().CosmosTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=dtype)
