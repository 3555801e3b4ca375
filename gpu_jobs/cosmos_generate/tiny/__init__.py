"""Tiny checkpoints: every family with random weights, in the layout of the real ones.

They are what tests and laptops run. Block types, conditioning channels, position embeddings and
schedulers are those of the published configurations; only widths and depths are small.
"""

import importlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from worldloop.errors import UnknownKeyError

COMPLETE = "model_index.json"
"""The file whose presence says that a folder is complete: folders appear whole or not at all."""

WRITERS: Mapping[str, str] = MappingProxyType(
    {
        "Tiny-Cosmos-1.0-Text2World": "cosmos1:write_tiny_text2world",
        "Tiny-Cosmos-1.0-Video2World": "cosmos1:write_tiny_video2world",
        "Tiny-Cosmos-Predict2-Text2Image": "predict2:write_tiny_text2image",
        "Tiny-Cosmos-Predict2-Video2World": "predict2:write_tiny_video2world",
        "Tiny-Cosmos-Predict2.5": "predict25:write_tiny",
        "Tiny-Cosmos-Transfer2.5": "transfer25:write_tiny",
        "Tiny-Cosmos3": "cosmos3:write_tiny",
        "Tiny-Cosmos3-Edge": "cosmos3:write_tiny_edge",
        "Tiny-Cosmos3-4Step": "cosmos3:write_tiny_four_steps",
    }
)
"""Names of tiny models, and who writes them: module of this package and function."""


def write_tiny_checkpoint(name: str, checkpoint_dir: Path) -> Path:
    """Write the folder of a tiny model, unless it stands.

    Args:
        name: One of `WRITERS`.
        checkpoint_dir: Folder of model folders; made if it is not there.

    Returns:
        `checkpoint_dir / name`.

    Raises:
        UnknownKeyError: If there is no such tiny model.
    """
    if name not in WRITERS:
        raise UnknownKeyError("tiny model", name, WRITERS)
    folder = checkpoint_dir / name
    if (folder / COMPLETE).exists():
        return folder
    checkpoint_dir.mkdir(parents=True, exist_ok=True)
    module, function = WRITERS[name].split(":")
    write = getattr(importlib.import_module(f"{__name__}.{module}"), function)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=checkpoint_dir) as beside:
        written = Path(beside) / name
        write(written)
        _put(written, folder)
    return folder


def _put(written: Path, folder: Path) -> None:
    """Move a finished folder to its place, over a half one but not over a finished one."""
    if folder.exists() and not (folder / COMPLETE).exists():
        shutil.rmtree(folder)
    try:
        written.rename(folder)
    except OSError:
        if not (folder / COMPLETE).exists():  # else another process was faster: the same bytes
            raise
