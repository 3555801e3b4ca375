"""Compilation of blocks: once per shape, kept in a folder."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

RECOMPILES = 64  # layouts of one block that torch may compile before it gives up


def compiler(device: torch.device) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What compiles the blocks of a transformer: nothing on a CPU.

    Blocks that are alike share what is compiled. Shapes are fixed; a new shape compiles anew.
    """
    if device.type != "cuda":
        return lambda function: function
    torch._dynamo.config.recompile_limit = RECOMPILES
    torch._dynamo.config.accumulated_recompile_limit = 4 * RECOMPILES
    return lambda function: torch.compile(function, dynamic=False, fullgraph=True)


def use_compile_cache(folder: Path) -> None:
    """Keep compiled kernels in a folder, so that the next job of a shape starts at once.

    Call it before anything is compiled. torch and Triton know no other way than the environment.
    """
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")
