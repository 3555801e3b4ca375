"""LoRA (in work)."""

from typing import Any


def apply_loras(transformer: Any, loras: Any) -> None: ...
