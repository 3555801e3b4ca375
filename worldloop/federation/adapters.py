"""Adapters as named arrays: where they start, how they are flattened, written and told apart.

An adapter (or a delta of one) is a mapping from tensor name to float32 array. Sites start from the
same numbers: the first factor of a layer is drawn from the round's seed and the layer's name, the
second is zero, so that a new adapter changes nothing.
"""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from worldloop.errors import MalformedRecordError
from worldloop.seeds import stream

Arrays = Mapping[str, NDArray[np.float32]]
DOWN, UP = ".lora_A.weight", ".lora_B.weight"


def initial_factor(seed: int, layer: str, shape: tuple[int, int]) -> NDArray[np.float32]:
    """The first factor of a new adapter, uniform as PEFT draws it (Kaiming with a = sqrt 5).

    Args:
        seed: Of the round.
        layer: Name of the adapted layer, as in `transformer_blocks.0.attn1.to_q`.
        shape: (rank, in).
    """
    bound = 1 / math.sqrt(shape[1])
    drawn = stream(seed, "adapter", layer).uniform(-bound, bound, shape)
    return drawn.astype(np.float32)


def initial_adapter(
    seed: int, layers: Mapping[str, tuple[int, int]], rank: int
) -> dict[str, NDArray[np.float32]]:
    """A new adapter.

    Args:
        seed: Of the round.
        layers: (out, in) of each adapted layer.
        rank: Of the adapter.
    """
    adapter: dict[str, NDArray[np.float32]] = {}
    for layer in sorted(layers):
        num_out, num_in = layers[layer]
        adapter[layer + DOWN] = initial_factor(seed, layer, (rank, num_in))
        adapter[layer + UP] = np.zeros((num_out, rank), np.float32)
    return adapter


def start_from_shapes(
    seed: int, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[np.float32]]:
    """The new adapter that tensors of these shapes were trained from.

    Raises:
        MalformedRecordError: If a name is not a factor of an adapter.
    """
    start: dict[str, NDArray[np.float32]] = {}
    for name, shape in shapes.items():
        if name.endswith(DOWN) and len(shape) == 2:
            start[name] = initial_factor(seed, name.removesuffix(DOWN), (shape[0], shape[1]))
        elif name.endswith(UP) and len(shape) == 2:
            start[name] = np.zeros(shape, np.float32)
        else:
            raise MalformedRecordError(
                "tensor of an adapter",
                f"{name!r} {shape}",
                f"(rank, in) named <layer>{DOWN} or (out, rank) named <layer>{UP}",
                "Send the delta of a LoRA adapter.",
            )
    return start


def difference(end: Arrays, start: Arrays) -> dict[str, NDArray[np.float32]]:
    """What training changed.

    Raises:
        MalformedRecordError: If the two do not have the same tensors.
    """
    check_alike(end, start)
    return {name: end[name] - start[name] for name in sorted(end)}


def norm(arrays: Arrays) -> float:
    """Euclidean length over all numbers, summed in float64 in order of the names."""
    squares = [float(np.square(arrays[name], dtype=np.float64).sum()) for name in sorted(arrays)]
    return math.sqrt(math.fsum(squares))


def check_alike(found: Arrays, expected: Arrays) -> None:
    """Refuse arrays with other names or shapes.

    Raises:
        MalformedRecordError: Naming the first that differ.
    """
    shapes = [{name: each.shape for name, each in arrays.items()} for arrays in (found, expected)]
    odd = sorted(
        name
        for name in shapes[0].keys() | shapes[1].keys()
        if shapes[0].get(name) != shapes[1].get(name)
    )
    if odd:
        raise MalformedRecordError(
            "tensors of an adapter",
            {name: shapes[0].get(name) for name in odd[:3]},
            repr({name: shapes[1].get(name) for name in odd[:3]}),
            "Train from the base and with the rank that the round plans.",
        )


def adapter_sha256(arrays: Arrays) -> str:
    """Hash of names, shapes and numbers."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name}{arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name], "<f4").reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def adapter_bytes(arrays: Arrays) -> bytes:
    """Arrays as a safetensors file; equal arrays give equal bytes."""
    # not ascontiguousarray, which makes one number of no dimension a row of one
    content: bytes = save({name: np.asarray(arrays[name], order="C") for name in sorted(arrays)})
    return content


def read_adapter(content: bytes | Path) -> dict[str, NDArray[np.float32]]:
    """Arrays of a safetensors file, in float32.

    Raises:
        MalformedRecordError: If it is none.
    """
    raw = content.read_bytes() if isinstance(content, Path) else content
    try:
        found = load(raw)
    except Exception as error:
        raise MalformedRecordError(
            "adapter", str(error)[:80], "a safetensors file", "Write it again."
        ) from error
    return {name: np.asarray(each, np.float32) for name, each in found.items()}
