"""Compilation of blocks: once per shape."""

from collections.abc import Callable
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
