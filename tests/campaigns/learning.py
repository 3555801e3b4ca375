"""Does the loop learn? Federated rounds of a small world model on three sites, measured on cities that nobody trained on.

    python -m tests.campaigns.learning prepare --folder F
    python -m tests.campaigns.learning rounds --folder F --out F/rounds.jsonl --seeds 5 --rounds 4
    python -m tests.campaigns.learning table --out F/rounds.jsonl

The base knows streets and museums; one site each brings zoos, hospitals, amusement parks. Beside the federation stand
the base without training, the same federation with shuffled targets, and one training on all footage in one place
with three times the batch. A line that stands in the file is not run again.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpu_jobs.posttrain.base import Bases
from gpu_jobs.posttrain.measure import measure
from gpu_jobs.posttrain.spec import MeasureSpec, PosttrainSpec
from gpu_jobs.posttrain.training import train
from gpu_jobs.train_world_model import recipes
from gpu_jobs.train_world_model.job import train_world_model
from tests.campaigns.learning_footage import BASE, HELD_OUT, NEW, SHAPE, SITES, film
from worldloop.federation.adapters import adapter_bytes, difference, read_adapter
from worldloop.federation.codecs import decode, encode
from worldloop.federation.rounds import Aggregation, Training
from worldloop.federation.strategies import Contribution, aggregate

MODEL = "Pocket-Cosmos-1.0-Text2World"
NUM_CLIPS = {BASE: 96, **dict.fromkeys(SITES, 48), HELD_OUT: 60}
TRAINING = Training(
    SHAPE, num_steps=30, batch_size=4, learning_rate=2e-3, warmup_steps=5, precision="fp32"
)
FEDERATED, SHUFFLED, CENTRAL = "federated", "shuffled", "central"
STRATEGIES: dict[str, tuple[str, dict[str, float]]] = {
    FEDERATED: ("fedavg", {}),
    SHUFFLED: ("fedavg", {}),
    CENTRAL: ("fedavg", {}),
    "product": ("fedavg", {"product": 1.0}),
    "doubled": ("fedavg", {"product": 1.0, "learning_rate": 2.0}),
    "diloco": ("diloco", {}),
}
VARIANTS = (FEDERATED, SHUFFLED, CENTRAL)
_ALL = "everything"
_MEASURE_SEED, _INTERVAL = 7, (5, 95)


def prepare(folder: Path) -> None:
    """Film every group, and train the base from nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    for group, num_clips in NUM_CLIPS.items():
        film(group, folder, num_clips=num_clips)
    _gather(folder)
    target = folder / "checkpoints" / MODEL
    if not target.exists():
        report = train_world_model(recipes.pocket(str(folder / f"{BASE}.shards"), str(target)))
        sys.stdout.write(f"base: {report.wall_s} s, {report.stages}\n")


def run_rounds(
    folder: Path, out: Path, *, seeds: int, rounds: int, codec: str, variants: Sequence[str]
) -> None:
    """One line for each seed, variant and round that the file lacks."""
    bases = Bases()
    for seed in range(seeds):
        for variant in variants:
            if any(row["seed"] == seed and row["variant"] == variant for row in _lines(out)):
                continue
            work = folder / "work" / f"{variant}-{seed}"
            shutil.rmtree(work, ignore_errors=True)
            rows = list(_run(folder, work, variant, seed, rounds, codec, bases))
            with out.open("a") as lines:
                lines.writelines(json.dumps(row) + "\n" for row in rows)
            sys.stdout.write(f"{variant} {seed}: {[round(row['loss'], 4) for row in rows]}\n")
            sys.stdout.flush()


def show(out: Path) -> None:
    """Means over seeds with 90 % bootstrap intervals."""
    rows = _lines(out)
    seeds = sorted({row["seed"] for row in rows})
    sys.stdout.write(
        "| variant | round | held-out loss of new places | change | of known places |\n| --- | --- | --- | --- | --- |\n"
    )
    for variant in dict.fromkeys(row["variant"] for row in rows):
        of = [row for row in rows if row["variant"] == variant]
        for number in sorted({row["round"] for row in of}):
            each = {row["seed"]: row for row in of if row["round"] == number}
            before = {row["seed"]: row for row in of if row["round"] == 0}
            losses = [each[seed]["loss"] for seed in seeds if seed in each]
            changes = [each[s]["loss"] - before[s]["loss"] for s in seeds if s in each]
            known = np.mean([each[s]["known_loss"] for s in each])
            low, high = _interval(changes)
            sys.stdout.write(
                f"| {variant} | {number} | {np.mean(losses):.4f} | {np.mean(changes):+.4f} "
                f"[{low:+.4f}, {high:+.4f}] | {known:.4f} |\n"
            )
    for variant in dict.fromkeys(row["variant"] for row in rows):
        lost = _lost_to_central(rows, seeds, variant)
        if lost and variant != CENTRAL:
            low, high = _interval(lost)
            sys.stdout.write(
                f"\n{variant}: of the reduction of central training {100 * np.mean(lost):.1f} % are lost "
                f"[{100 * low:.1f}, {100 * high:.1f}] over {len(lost)} seeds.\n"
            )


def _run(
    folder: Path, work: Path, variant: str, seed: int, rounds: int, codec: str, bases: Bases
) -> Iterator[dict[str, Any]]:
    strategy, options = STRATEGIES[variant]
    aggregation = Aggregation(strategy=strategy, options=options, codec=codec)  # type: ignore[arg-type]
    sites = (_ALL,) if variant == CENTRAL else SITES
    residuals: dict[str, Any] = dict.fromkeys(sites)
    adapters: list[dict[str, str]] = [{"name": "0", "path": ""}]
    state: dict[str, Any] = {}
    sent_bytes = [0]
    for number in range(1, rounds + 1):
        given, sent = [], 0
        for site in sites:
            output = work / f"{number}-{site}"
            spec = _spec(folder, output, variant, seed, number, site, adapters[-1]["path"])
            report = train(spec, bases=bases)
            start = read_adapter(output / "start.safetensors")
            delta = difference(read_adapter(output / "adapter.safetensors"), start)
            encoded = encode(delta, aggregation.codec, residual=residuals[site])
            residuals[site] = encoded.residual
            sent += len(encoded.content)
            given.append(Contribution(site, decode(encoded.content), float(report.num_clips)))
        done = aggregate(given, start, state, aggregation)
        state = done.state
        path = work / f"adapter-{number}.safetensors"
        path.write_bytes(adapter_bytes(done.adapter))
        adapters.append({"name": str(number), "path": str(path)})
        sent_bytes.append(sent)
    yield from _measured(folder, variant, seed, adapters, sent_bytes, bases)


def _spec(
    folder: Path, output: Path, variant: str, seed: int, number: int, site: str, start: str
) -> PosttrainSpec:
    training = TRAINING
    if variant == CENTRAL:
        training = replace(training, batch_size=TRAINING.batch_size * len(SITES))
    return PosttrainSpec(
        model=MODEL,
        revision="",
        checkpoint_dir=str(folder / "checkpoints"),
        footage_dir=str(folder / site),
        output_dir=str(output),
        training=asdict(training),
        seed=1000 * seed + number,
        site=site,
        start_adapter=start,
        shuffle_targets=variant == SHUFFLED,
        device="cpu",
    )


def _measured(
    folder: Path,
    variant: str,
    seed: int,
    adapters: Sequence[dict[str, str]],
    sent_bytes: Sequence[int],
    bases: Bases,
) -> Iterator[dict[str, Any]]:
    report = measure(
        MeasureSpec(
            model=MODEL,
            revision="",
            checkpoint_dir=str(folder / "checkpoints"),
            footage_dir=str(folder / HELD_OUT),
            adapters=tuple(adapters),
            shape=asdict(SHAPE),
            seed=_MEASURE_SEED,
            noise_levels=2,
            alpha=TRAINING.alpha,
            precision="fp32",
            device="cpu",
        ),
        bases=bases,
    )
    for number, sent in enumerate(sent_bytes):
        of = [row for row in report.losses if row["adapter"] == str(number)]
        new = [row["loss"] for row in of if row["institution"] in NEW]
        known = [row["loss"] for row in of if row["institution"] not in NEW]
        yield {
            "seed": seed,
            "variant": variant,
            "round": number,
            "loss": float(np.mean(new)),
            "known_loss": float(np.mean(known)),
            "num_clips": len(of),
            "sent_bytes": sent,
        }


def _gather(folder: Path) -> None:
    """The footage of all sites in one folder, as links."""
    target = folder / _ALL
    if (target / "clips.jsonl").exists():
        return
    lines = ""
    for site in SITES:
        lines += (folder / site / "clips.jsonl").read_text()
        for kind in ("videos", "metas"):
            (target / kind).mkdir(parents=True, exist_ok=True)
            for path in (folder / site / kind).iterdir():
                os.link(path, target / kind / path.name)
    (target / "clips.jsonl").write_text(lines)


def _lost_to_central(
    rows: Sequence[dict[str, Any]], seeds: Sequence[int], variant: str
) -> list[float]:
    """Share of the central training's reduction that a variant misses at the end, by seed."""
    last = max((row["round"] for row in rows), default=0)
    found = {(row["variant"], row["seed"], row["round"]): row["loss"] for row in rows}
    lost = []
    for seed in seeds:
        ends = [found.get((name, seed, last)) for name in (variant, CENTRAL)]
        start = found.get((CENTRAL, seed, 0))
        if None not in ends and start is not None and ends[1] is not None and ends[0] is not None:
            lost.append((ends[0] - ends[1]) / (start - ends[1]))
    return lost


def _interval(values: Sequence[float]) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    means = rng.choice(np.asarray(values), (2000, len(values))).mean(axis=1)
    low, high = np.percentile(means, _INTERVAL)
    return float(low), float(high)


def _lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def main() -> None:
    """Run one of the three steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("prepare", "rounds", "table"))
    parser.add_argument("--folder", type=Path, default=Path("learning"))
    parser.add_argument("--out", type=Path, default=Path("learning/rounds.jsonl"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--codec", default="int8")
    parser.add_argument("--variants", default=",".join(VARIANTS), help=",".join(STRATEGIES))
    asked = parser.parse_args()
    if asked.step == "prepare":
        prepare(asked.folder)
    elif asked.step == "rounds":
        run_rounds(
            asked.folder,
            asked.out,
            seeds=asked.seeds,
            rounds=asked.rounds,
            codec=asked.codec,
            variants=asked.variants.split(","),
        )
    else:
        show(asked.out)


if __name__ == "__main__":
    main()
