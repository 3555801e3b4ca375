"""Models: every checkpoint that worldloop can run, where it comes from, and how large it is.

A model is a transformer of one family with a name, which is also its folder in `checkpoint_dir`.
Each line of models has a module here; what models need beside themselves (text encoder, video
tokenizer, guardrail, prompt upsampler) is in `worldloop.cosmos.companions`. Revisions are commits
where a public source pins them; `main` and branches are resolved once by `worldloop models
download`, which writes the commit to `models.lock.json` beside the folders.

Sources: the download scripts of nvidia-cosmos/cosmos-predict1 (4ed35fa), cosmos-predict2
(661da47), cosmos-predict2.5 (50369b8) and cosmos-transfer2.5 (2ff49d0), the README of
NVIDIA/cosmos (aca7057), and diffusers 0.42.1. Whether a repository is gated can change: the answer
of the hub decides, `gated` only says what its page said.
"""

from collections.abc import Mapping
from itertools import chain
from types import MappingProxyType

from worldloop.cosmos.families import FAMILIES
from worldloop.cosmos.models.cosmos1 import cosmos1_line
from worldloop.cosmos.models.cosmos3 import cosmos3_line
from worldloop.cosmos.models.predict2 import predict2_line
from worldloop.cosmos.models.record import Layout, Model
from worldloop.cosmos.models.tiny import tiny_line
from worldloop.errors import MalformedRecordError, UnknownKeyError

__all__ = ["MODELS", "Layout", "Model", "model", "select"]

MODELS: Mapping[str, Model] = MappingProxyType(
    {one.name: one for one in chain(cosmos1_line(), predict2_line(), cosmos3_line(), tiny_line())}
)


def model(name: str) -> Model:
    """The model with a name.

    Raises:
        UnknownKeyError: If there is none.

    Example:
        >>> model("Cosmos3-Nano").licence
        'OpenMDW-1.1'
    """
    if name not in MODELS:
        raise UnknownKeyError("world model", name, MODELS)
    return MODELS[name]


# which line a size belongs to in the public download scripts; 14B alone is of the oldest line
_LINE_OF_SIZE = {
    "7B": "cosmos1",
    "0.6B": "predict2",
    "2B": "predict2",
    "Edge": "cosmos3",
    "Nano": "cosmos3",
    "Super": "cosmos3",
}


def select(sizes: tuple[str, ...], types: tuple[str, ...], *, line: str = "") -> tuple[Model, ...]:
    """Models by the sizes and types of the public download scripts.

    Args:
        sizes: `7B`, `14B`, `2B`, `Nano` ...; empty takes every size of the line.
        types: `Text2World`, `Video2World`, `Text2Image`, `Control2World`, in any case; empty takes every type.
        line: Key of a family; empty follows from the sizes: 7B and 14B are Cosmos 1.0, 2B and 14B are Predict2,
            Edge, Nano and Super are Cosmos 3.

    Returns:
        Published models in the order of the registry, without tiny ones and variants.

    Raises:
        UnknownKeyError: If there is no such family.
        MalformedRecordError: If nothing has such a size and type.

    Example:
        >>> [one.name for one in select(("2B", "14B"), ("Video2World",))]
        ['Cosmos-Predict2-2B-Video2World', 'Cosmos-Predict2-14B-Video2World']
    """
    if line and line not in FAMILIES:
        raise UnknownKeyError("family of world models", line, FAMILIES)
    lines = {line} if line else {_LINE_OF_SIZE[size] for size in sizes if size in _LINE_OF_SIZE}
    lines = lines or {"cosmos1"}
    wanted = {kind.casefold() for kind in types}
    found = tuple(
        one
        for one in MODELS.values()
        if one.family in lines
        and not (one.tiny or one.variant)
        and (not sizes or one.size in sizes)
        and (not wanted or wanted & set(one.all_tasks))
    )
    if not found:
        raise MalformedRecordError(
            "models to download",
            {"sizes": list(sizes), "types": list(types), "families": sorted(lines)},
            "sizes and types that exist together",
            "See `worldloop models list`.",
        )
    return found
