"""What a federated round costs beside its training: bytes on the way, loss of the codecs, the coordinator's work.

Deltas are invented (Gaussian, Laplace) in the shapes that Predict1 7B has at rank 8, or read from folders that a
training wrote (`start.safetensors` and `adapter.safetensors` or `delta.safetensors` beside each other), given with
`--deltas`, one a site. Times are wall seconds beside CPU seconds of this process, because the first say little on a
shared machine. `python -m orchestration.bench_federation --only round,bytes` picks sections.
"""

import argparse
import contextlib
import math
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from resources.site_store import SiteStore
from worldloop import layout
from worldloop.cosmos.models import model
from worldloop.federation.adapters import (
    DOWN,
    UP,
    Arrays,
    adapter_bytes,
    adapter_sha256,
    difference,
    norm,
    read_adapter,
    start_from_shapes,
)
from worldloop.federation.codecs import decode, encode
from worldloop.federation.envelopes import (
    DeltaHeader,
    max_payload_bytes,
    open_envelope,
    seal,
)
from worldloop.federation.rounds import CODECS, Aggregation, Codec
from worldloop.federation.strategies import Contribution, aggregate
from worldloop.seeds import stream

_MODEL = "Cosmos-Predict1-7B-Video2World"
_RANK = 8
# diffusers 0.42, models/transformers/transformer_cosmos.py:612, defaults of CosmosTransformer3DModel
_MLP_RATIO, _TEXT_WIDTH = 4, 1024
_SITES = ("aws", "azure", "gcp")
_ROUND = "r0001"
_SIZE = 1e-3  # of an invented delta's numbers
_GOALS_MB = {"int8": 20.0, "int4": 12.0}
_GOAL_S = 2.0
_console = Console(width=110)

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Timed:
    """How long something took.

    Attributes:
        wall_s: Wall seconds.
        cpu_s: CPU seconds of this process, user and system.
    """

    wall_s: float
    cpu_s: float


def main() -> None:
    """Run the sections that were asked for and print a table each."""
    sections: dict[str, Callable[[Sequence[Path]], None]] = {
        "bytes": bench_bytes,
        "feedback": lambda _folders: bench_feedback(),
        "round": lambda _folders: bench_round(),
        "factors": bench_factors,
    }
    parser = argparse.ArgumentParser(prog="orchestration.bench_federation", description=__doc__)
    parser.add_argument("--only", default=",".join(sections))
    parser.add_argument("--deltas", type=Path, nargs="*", default=[], metavar="FOLDER")
    options = parser.parse_args()
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    _console.print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {load}"
    )
    for name in options.only.split(","):
        sections[name](options.deltas)


def bench_bytes(folders: Sequence[Path]) -> None:
    """What a site sends a round, and how much of it the codec loses."""
    shapes = adapter_shapes()
    deltas: dict[str, Arrays] = {
        "Gaussian": invented(shapes, "normal", _SITES[0]),
        "Laplace": invented(shapes, "laplace", _SITES[0]),
    }
    deltas |= {f"trained, {folder.name}": trained(folder)[1] for folder in folders}
    num_shapes = _num_numbers(shapes)
    table = _table(
        f"A site's delta; MB as of {num_shapes / 1e6:.2f} M numbers ({_MODEL}, rank {_RANK})",
        *("delta", "numbers", "codec", "bits", "MB", "goal", "relative error", "CPU s"),
    )
    for name, delta in deltas.items():
        num_numbers = sum(each.size for each in delta.values())
        for codec in CODECS:
            with _timed() as took:
                encoded = encode(delta, codec)
            bytes_each = len(encoded.content) / num_numbers
            table.add_row(
                name,
                f"{num_numbers:,}",
                codec,
                f"{8 * bytes_each:.2f}",
                f"{bytes_each * num_shapes / 1e6:.2f}",
                f"{_GOALS_MB[codec]:.0f}" if codec in _GOALS_MB else "",
                f"{encoded.relative_error:.4f}",
                f"{took().cpu_s:.2f}",
            )
    _console.print(table)


def bench_feedback(num_rounds: int = 100) -> None:
    """How far the sum of what arrived is from the sum of what was meant, with error feedback and without."""
    shown = [number for number in (1, 10, 30, 100) if number <= num_rounds]
    table = _table(
        "Error of the sum over rounds, against its length: the same direction each round, and noise",
        *("codec", "error feedback", *(f"round {number}" for number in shown)),
    )
    common = invented({"a": (256, 1024)}, "normal", "common")["a"]
    codecs: tuple[Codec, ...] = ("int8", "int4")
    for codec in codecs:
        for feedback in (True, False):
            errors = _drift(codec, common, num_rounds, error_feedback=feedback)
            row = [f"{errors[number - 1]:.5f}" for number in shown]
            table.add_row(codec, "yes" if feedback else "no", *row)
    _console.print(table)


def _drift(
    codec: Codec, common: NDArray[np.float32], num_rounds: int, *, error_feedback: bool
) -> list[float]:
    residual: Arrays | None = None
    sent, meant, errors = np.zeros(common.shape), np.zeros(common.shape), []
    for number in range(num_rounds):
        noise = invented({"a": common.shape}, "normal", f"round {number}")["a"]
        delta = {"a": common + noise}
        encoded = encode(delta, codec, residual=residual, error_feedback=error_feedback)
        residual = encoded.residual
        sent += decode(encoded.content)["a"]
        meant += delta["a"]
        errors.append(float(np.linalg.norm(sent - meant) / np.linalg.norm(meant)))
    return errors


def bench_round(repeats: int = 5) -> None:
    """The coordinator's work of a round: what three sites sent becomes one adapter in the store."""
    shapes = adapter_shapes()
    table = _table(
        f"A round of {len(_SITES)} sites, {_num_numbers(shapes) / 1e6:.2f} M numbers each, "
        f"median of {repeats}; goal {_GOAL_S:.0f} s",
        *("codec", "strategy", "read", "verify", "decode", "start", "aggregate", "publish"),
        *("wall s", "CPU s"),
    )
    kinds: tuple[tuple[Codec, Aggregation], ...] = (
        ("int8", Aggregation("fedavg")),
        ("int8", Aggregation("fedavg", {"product": 1})),
        ("int8", Aggregation("diloco")),
        ("int4", Aggregation("fedavg")),
        ("int4", Aggregation("trimmed_mean")),
        ("int4", Aggregation("fedadam")),
        ("float32", Aggregation("fedavg")),
    )
    for codec, aggregation in kinds:
        with tempfile.TemporaryDirectory(prefix="worldloop-bench-") as folder:
            store = SiteStore(url=f"{folder}/coordinator")
            keys = _send(store, shapes, codec)
            runs = [_carry(store, shapes, codec, aggregation, keys) for _ in range(repeats)]
        walls = {step: statistics.median(run[step].wall_s for run in runs) for step in runs[0]}
        cpu_s = statistics.median(sum(each.cpu_s for each in run.values()) for run in runs)
        row = [f"{wall_s:.2f}" for wall_s in walls.values()]
        name = " ".join([aggregation.strategy, *aggregation.options])
        table.add_row(codec, name, *row, f"{sum(walls.values()):.2f}", f"{cpu_s:.2f}")
    _console.print(table)


def _send(store: SiteStore, shapes: Shapes, codec: Codec) -> dict[str, Ed25519PrivateKey]:
    """What the sites do before the round can go on: encode, sign, send."""
    keys = {}
    for number, site in enumerate(_SITES):
        keys[site] = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
        delta = invented(shapes, "normal", site)
        header = DeltaHeader(
            *(_ROUND, site, "plan", "", "start", codec, 100, 100, norm(delta), 1.0, 0.9, 1.0, 0.0)
        )
        content = seal(encode(delta, codec).content, header, keys[site])
        store.put(layout.sent_key(_ROUND, site, "delta.bin"), content)
    return keys


def _carry(
    store: SiteStore,
    shapes: Shapes,
    codec: Codec,
    aggregation: Aggregation,
    keys: Mapping[str, Ed25519PrivateKey],
) -> dict[str, Timed]:
    """One round at the coordinator, step by step."""
    took: dict[str, Callable[[], Timed]] = {}
    limit = max_payload_bytes(shapes, codec)
    with _timed() as took["read"]:
        sent = {site: store.get(layout.sent_key(_ROUND, site, "delta.bin")) for site in keys}
    with _timed() as took["verify"]:
        opened = {
            site: open_envelope(content, keys[site].public_key(), max_payload_bytes=limit)
            for site, content in sent.items()
        }
    with _timed() as took["decode"]:
        contributions = [
            Contribution(site, decode(payload, shapes), header.num_clips)
            for site, (header, payload) in opened.items()
        ]
    with _timed() as took["start"]:
        start = start_from_shapes(1, shapes)
        adapter_sha256(start)
    with _timed() as took["aggregate"]:
        made = aggregate(contributions, start, {}, aggregation)
    with _timed() as took["publish"]:
        adapter_sha256(made.adapter)
        store.put(layout.adapter_key(_ROUND, "adapter.safetensors"), adapter_bytes(made.adapter))
        if made.state:
            state = adapter_bytes(made.state)
            store.put(layout.adapter_key(_ROUND, "optimizer.safetensors"), state)
    return {step: each() for step, each in took.items()}


def bench_factors(folders: Sequence[Path]) -> None:
    """How far the product of an adapter's factors is from the mean of the sites' products."""
    if len(folders) < 2:
        _console.print("factors: needs two or more trainings, given with --deltas")
        return
    start, deltas = trained(folders[0])[0], [trained(folder)[1] for folder in folders]
    table = _table(
        f"Product of the factors against the mean of {len(deltas)} products, over what that changes",
        *("deltas at", "mean factors", "worst layer", "option product", "worst layer"),
    )
    for share in (1.0, 0.3, 0.1):
        given = [
            Contribution(str(number), {n: np.float32(share) * each for n, each in delta.items()}, 1)
            for number, delta in enumerate(deltas)
        ]
        row = [f"{share:.0%}"]
        for product in (0, 1):
            made = aggregate(given, start, {}, Aggregation("fedavg", {"product": product}))
            gaps, sizes = _gaps(given, start, made.adapter)
            whole = math.sqrt(sum(gap**2 for gap in gaps) / sum(size**2 for size in sizes))
            worst = max(gap / size for gap, size in zip(gaps, sizes, strict=True) if size)
            row += [f"{whole:.4f}", f"{worst:.4f}"]
        table.add_row(*row)
    _console.print(table)


def _gaps(
    given: Sequence[Contribution], start: Arrays, adapter: Arrays
) -> tuple[list[float], list[float]]:
    """Of each layer: length of the difference, and of what the mean product changes."""
    gaps, sizes = [], []
    for layer in sorted(name.removesuffix(DOWN) for name in start if name.endswith(DOWN)):
        down, up = layer + DOWN, layer + UP
        products = [
            (start[up] + each.delta[up]) @ (start[down] + each.delta[down]) for each in given
        ]
        meant = np.mean(products, axis=0)
        gaps.append(float(np.linalg.norm(adapter[up] @ adapter[down] - meant)))
        sizes.append(float(np.linalg.norm(meant - start[up] @ start[down])))
    return gaps, sizes


def adapter_shapes() -> Shapes:
    """Shapes of a LoRA adapter on the attention and MLP projections of the 7B."""
    shapes: Shapes = {}
    width = model(_MODEL).token_width
    for block in range(model(_MODEL).num_layers):
        ends = {
            "ff.net.0.proj": (_MLP_RATIO * width, width),
            "ff.net.2": (width, _MLP_RATIO * width),
        }
        for attention, key_width in (("attn1", width), ("attn2", _TEXT_WIDTH)):
            ends |= {f"{attention}.{end}": (width, width) for end in ("to_q", "to_out.0")}
            ends |= {f"{attention}.{end}": (width, key_width) for end in ("to_k", "to_v")}
        for end, (num_out, num_in) in ends.items():
            layer = f"transformer_blocks.{block}.{end}"
            shapes |= {layer + DOWN: (_RANK, num_in), layer + UP: (num_out, _RANK)}
    return shapes


def invented(
    shapes: Mapping[str, tuple[int, ...]], distribution: str, name: str
) -> dict[str, NDArray[np.float32]]:
    """A delta drawn from a distribution; the same name gives the same numbers."""
    random = stream("bench", distribution, name)
    found = {}
    for each, shape in shapes.items():
        if distribution == "normal":
            numbers = random.standard_normal(shape, np.float32)
        else:
            numbers = random.laplace(size=shape).astype(np.float32)
        found[each] = numbers * np.float32(_SIZE)
    return found


def trained(folder: Path) -> tuple[Arrays, Arrays]:
    """Start and delta of a training."""
    start = read_adapter(folder / "start.safetensors")
    if (folder / "delta.safetensors").exists():
        return start, read_adapter(folder / "delta.safetensors")
    return start, difference(read_adapter(folder / "adapter.safetensors"), start)


def _num_numbers(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(map(math.prod, shapes.values()))


@contextlib.contextmanager
def _timed() -> Iterator[Callable[[], Timed]]:
    """Gives a question that is answered once the block has ended."""
    took: list[Timed] = []
    wall, cpu = time.perf_counter(), _cpu_s()
    yield lambda: took[0]
    took.append(Timed(time.perf_counter() - wall, _cpu_s() - cpu))


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title)


if __name__ == "__main__":
    main()
