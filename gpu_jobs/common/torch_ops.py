"""Operators that torchvision wants to find when it is imported, where its own library has none."""

import functools
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from worldloop.errors import JobFailedError, MissingExtraError


def import_open_clip() -> ModuleType:
    """`open_clip`, also beside a torchvision whose compiled part does not fit this torch.

    open_clip imports torchvision for its picture transforms, which we do not use. A torchvision
    built for CUDA cannot load its operators on a CPU build of torch and fails at import with
    "operator torchvision::nms does not exist"; declaring the two missing schemas is enough. This
    can go when torchvision publishes CPU wheels on the package index.

    Raises:
        JobFailedError: If open_clip or torchvision is not installed.
    """
    for package, name in (("open_clip", "open_clip_torch"), ("torchvision", "torchvision")):
        if importlib.util.find_spec(package) is None:
            raise JobFailedError(
                f"The package {package!r} is not installed; embedding needs it. "
                f"Install it with: pip install --no-deps {name}"
            )
    _declare_torchvision_operators()
    return importlib.import_module("open_clip")


def import_diffusers() -> ModuleType:
    """`diffusers`, with torchvision working; without it Cosmos transformers cannot run.

    Raises:
        MissingExtraError: If diffusers or transformers is not installed.
    """
    for package in ("diffusers", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "cosmos")
    _declare_torchvision_operators()
    importlib.import_module("torchvision")
    diffusers = importlib.import_module("diffusers")
    for library in (diffusers, importlib.import_module("transformers")):
        library.utils.logging.disable_progress_bar()  # logs hold what happened, not bars
    return diffusers


@functools.cache
def _declare_torchvision_operators() -> Any:
    """Declare `nms` and `qnms` if torchvision's library cannot; what is returned keeps them alive."""
    import torch

    if _loads_own_operators(torch):
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def _loads_own_operators(torch: Any) -> bool:
    """Whether torchvision's compiled library loads into this torch, asked without importing it."""
    spec = importlib.util.find_spec("torchvision")
    folders = (spec.submodule_search_locations if spec else None) or []
    libraries = [path for folder in folders for path in Path(folder).glob("_C*")]
    try:
        for library in libraries:
            torch.ops.load_library(str(library))
    except OSError:
        return False
    return hasattr(torch.ops.torchvision, "nms")
