"""`worldloop models`: which world models there are, and their weights."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from resources.model_hub import Fetched, ModelHub, needed_folders
from worldloop.cosmos.companions import COMPANIONS
from worldloop.cosmos.models import MODELS, Layout, Model, model, select
from worldloop.errors import JobFailedError, MalformedRecordError, WorldloopError

_TINY_TOOL = "gpu_jobs.cosmos_generate.tiny"


def folders_to_download(
    names: Sequence[str],
    *,
    sizes: Sequence[str] = (),
    types: Sequence[str] = (),
    line: str = "",
    layout: Layout | None = None,
    guardrail_only: bool = False,
    guardrail: bool = True,
    upsampler: bool = True,
) -> tuple[str, ...]:
    """Folders that a download brings.

    Args:
        names: Models or companions by name; empty selects by size and type.
        sizes: As in the public download scripts.
        types: Likewise.
        line: Key of a family.
        layout: Asked layout of models; one that a model does not have is not asked of it.
        guardrail_only: Whether only the guard folders of those models are wanted; of all, if nothing is selected.
        guardrail: Whether guard folders come along.
        upsampler: Whether prompt upsamplers come along.

    Raises:
        UnknownKeyError: If a name is unknown.
        MalformedRecordError: If nothing has such a size and type, or a tiny model is named.
    """
    alone = [name for name in names if name in COMPANIONS]
    chosen = [model(name) for name in names if name not in COMPANIONS]
    if not names:
        everything = guardrail_only and not (sizes or types or line)
        chosen = (
            [*MODELS.values()] if everything else [*select(tuple(sizes), tuple(types), line=line)]
        )
    tiny = [one.name for one in chosen if one.tiny and one.name in names]
    if tiny:
        raise MalformedRecordError(
            "model to download",
            tiny[0],
            "a published model",
            f"Run: worldloop models tiny {tiny[0]}",
        )
    if guardrail_only:
        return tuple(dict.fromkeys(guard for one in chosen for guard in one.guards))
    folders = needed_folders(chosen, layout=layout, guardrail=guardrail, upsampler=upsampler)
    return tuple(dict.fromkeys((*folders, *alone)))


def download_all(
    hub: ModelHub,
    folders: Sequence[str],
    *,
    layout: Layout | None = None,
    revision: str = "",
    on_start: Callable[[str], None] = lambda name: None,
) -> tuple[list[Fetched], list[tuple[str, WorldloopError]]]:
    """Download folders one after the other; one that is refused does not stop the rest.

    Args:
        hub: Where from and where to.
        folders: Their names.
        layout: Of models that have it.
        revision: Of the first folder, instead of the registered one.
        on_start: Called with each name before it is downloaded.

    Returns:
        What stands, and what does not with its error.
    """
    done: list[Fetched] = []
    failed: list[tuple[str, WorldloopError]] = []
    for number, name in enumerate(folders):
        on_start(name)
        has_it = name in MODELS and layout in MODELS[name].layouts
        try:
            done.append(
                hub.download(
                    name,
                    layout=layout if has_it else None,
                    revision=revision if number == 0 else "",
                )
            )
        except WorldloopError as error:
            failed.append((name, error))
    return done, failed


def write_tiny(name: str, checkpoint_dir: Path) -> Path:
    """Write the random weights of a tiny model, in a process of its own.

    Args:
        name: A tiny model.
        checkpoint_dir: Folder of all model folders.

    Returns:
        The model's folder.

    Raises:
        UnknownKeyError: If there is no such model.
        MalformedRecordError: If it is not tiny.
        JobFailedError: If it could not be written; says why.
    """
    if not model(name).tiny:
        tiny = ", ".join(one.name for one in MODELS.values() if one.tiny)
        raise MalformedRecordError(
            "tiny model", name, f"one of {tiny}", f"Run: worldloop models download {name}"
        )
    arguments = [sys.executable, "-m", _TINY_TOOL, name, str(checkpoint_dir)]
    answer = subprocess.run(arguments, capture_output=True, text=True, check=False)
    folder = checkpoint_dir / name
    if answer.returncode != 0 or not folder.is_dir():
        words = answer.stderr.strip().splitlines()
        raise JobFailedError(f"{name} was not written: {words[-1] if words else 'no words'}")
    return folder


def state_of(hub: ModelHub, one: Model) -> str:
    """Whether a model is here: `here`, `incomplete`, or `-`."""
    if not (hub.root / one.name).is_dir():
        return "-"
    return "incomplete" if hub.verify(one.name) else "here"
