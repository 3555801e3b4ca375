"""Does the loop learn? Federated rounds of a small world model on three sites, measured on cities that nobody trained on.

    python -m tests.campaigns.learning prepare --folder F
    python -m tests.campaigns.learning rounds --folder F --out F/cities.jsonl --seeds 0-4
    python -m tests.campaigns.learning rounds --folder F --out F/institutions.jsonl --seeds 0-4 --partition institutions
    python -m tests.campaigns.learning rounds --folder F --out F/short.jsonl --seeds 0-2 --rounds 20 --steps 5 --every 20 --variants federated_fast_kept
    python -m tests.campaigns.learning rounds --folder F --out F/short.jsonl --seeds 0-2 --every 5 --variants central_fast_kept
    python -m tests.campaigns.learning table --out F/cities.jsonl

The base knows streets and museums; zoos, hospitals and amusement parks are new. Sites film them all, each in its own
cities, or (the hard partition) one of them each. Beside the federation stand the base without training, the same
federation with shuffled targets, and one training on all footage in one place: as many steps and rounds, with three
times the batch. Variants whose names end in `_kept` carry the optimizer's state from round to round
(`Training.keep_optimizer`), those with `_fast` have the best rates found for that; rounds may be more and shorter
(`--rounds`, `--steps`). A seed and variant that stand in the file are not run again, so a variant has one length a file.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpu_jobs.posttrain.base import Bases
from gpu_jobs.posttrain.measure import measure
from gpu_jobs.posttrain.spec import MeasureSpec, PosttrainSpec
from gpu_jobs.posttrain.training import train
from gpu_jobs.train_world_model import recipes
from gpu_jobs.train_world_model.job import train_world_model
from tests.campaigns.learning_footage import (
    BASE,
    CITIES,
    HELD_OUT,
    NEW,
    PARTITIONS,
    SHAPE,
    SITES,
    film,
)
from tests.campaigns.paired import interval
from worldloop.federation.adapters import adapter_bytes, difference, read_adapter
from worldloop.federation.codecs import decode, encode
from worldloop.federation.rounds import Aggregation, Training
from worldloop.federation.strategies import Contribution, aggregate

MODEL = "Pocket-Cosmos-1.0-Text2World"
NUM_CLIPS = {BASE: 96, **dict.fromkeys(SITES, 48), HELD_OUT: 60}
TRAINING = Training(SHAPE, num_steps=20, batch_size=4, precision="fp32")
STEPS = TRAINING.num_steps
FEDERATED, SHUFFLED, CENTRAL = "federated", "shuffled", "central"
KEPT, FAST = "_kept", "_fast"
_ALL = "everything"
_MEASURE_SEED = 7


@dataclass(frozen=True)
class Variant:
    """A way to train.

    Attributes:
        learning_rates: One for every `STEPS` steps of a site; the last one goes on.
        warmup_steps: Of every `STEPS` steps, because every round begins its optimizer anew.
        keep_optimizer: Whether it goes on instead; only the first round warms up then.
        strategy: Of the aggregation.
        options: Of the strategy.
    """

    learning_rates: tuple[float, ...]
    warmup_steps: int = 3
    keep_optimizer: bool = False
    strategy: str = "fedavg"
    options: Mapping[str, float] = field(default_factory=dict)

    def training(self, number: int, num_steps: int = STEPS) -> Training:
        """What a site does in a round, counted from 1, of some steps."""
        before = (number - 1) * num_steps
        rate = self.learning_rates[min(before // STEPS, len(self.learning_rates) - 1)]
        # a round that begins anew warms up in proportion; one that goes on has warmed up before
        share = 1.0 if self.keep_optimizer else min(1.0, num_steps / STEPS)
        return replace(
            TRAINING,
            num_steps=num_steps,
            learning_rate=rate,
            warmup_steps=round(self.warmup_steps * share),
            keep_optimizer=self.keep_optimizer,
        )


# In the regime of much noise a step of Adam is the rate times the gradient over its deviation, which is sqrt(3) as large
# at a third of the batch; so a mean of three sites goes as far, with as little noise, at sqrt(3) times the rate.
_OF_ONE_PLACE = Variant(learning_rates=(5e-3, 5e-3, 4.5e-3, 3e-3, 1.5e-3))
_OF_SITES = Variant(learning_rates=(9e-3, 9e-3, 8e-3, 5e-3, 2.5e-3), options={"product": 1.0})
# The best rates found when optimizers are kept, on seed 100: docs/log.md, shorter rounds.
_FAST_ONE_PLACE = replace(_OF_ONE_PLACE, learning_rates=(1e-2, 1e-2, 8.5e-3, 5.5e-3, 2.5e-3))
_FAST_SITES = replace(_OF_SITES, learning_rates=(12e-3, 12e-3, 1e-2, 7e-3, 3.5e-3))
_BEGUN_ANEW = {
    FEDERATED: _OF_SITES,
    SHUFFLED: _OF_SITES,
    CENTRAL: _OF_ONE_PLACE,
    FEDERATED + FAST: _FAST_SITES,
    CENTRAL + FAST: _FAST_ONE_PLACE,
}
VARIANTS: dict[str, Variant] = _BEGUN_ANEW | {
    name + KEPT: replace(variant, keep_optimizer=True) for name, variant in _BEGUN_ANEW.items()
}


@dataclass(frozen=True)
class Campaign:
    """What all runs of a table have in common.

    Attributes:
        folder: With footage and base.
        partition: One of `PARTITIONS`.
        rounds: How many.
        codec: Of the deltas.
        every: Only every so-manieth round is measured, and the last one.
        steps: Of a site in a round.
        bases: Keeps the base loaded.
    """

    folder: Path
    partition: str
    rounds: int
    codec: str
    every: int = 1
    steps: int = STEPS
    bases: Bases = field(default_factory=Bases)

    def work(self, variant: str, seed: int) -> Path:
        """Folder of one run."""
        length = f"-{self.steps}" if self.steps != STEPS else ""
        return self.folder / "work" / f"{self.partition}-{variant}-{seed}{length}"


def prepare(folder: Path) -> None:
    """Film every group in both partitions, and train the base from nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    for group in (BASE, HELD_OUT):
        film(group, folder, num_clips=NUM_CLIPS[group])
    for partition in PARTITIONS:
        for site in SITES:
            film(site, folder / partition, num_clips=NUM_CLIPS[site], partition=partition)
        _gather(folder / partition)
    target = folder / "checkpoints" / MODEL
    if not target.exists():
        report = train_world_model(recipes.pocket(str(folder / f"{BASE}.shards"), str(target)))
        sys.stdout.write(f"base: {report.wall_s} s, {report.stages}\n")


def run_rounds(
    campaign: Campaign, out: Path, *, seeds: Sequence[int], variants: Sequence[str]
) -> None:
    """One line for each seed, variant and round that the file lacks."""
    for seed in seeds:
        for variant in variants:
            if any(row["seed"] == seed and row["variant"] == variant for row in lines_of(out)):
                continue
            shutil.rmtree(campaign.work(variant, seed), ignore_errors=True)
            made = _round_by_round(campaign, variant, seed)
            rows = list(_measured(campaign, variant, seed, made))
            with out.open("a") as lines:
                lines.writelines(json.dumps(row) + "\n" for row in rows)
            sys.stdout.write(f"{variant} {seed}: {[round(row['loss'], 4) for row in rows]}\n")
            sys.stdout.flush()


def last_adapter(folder: Path, partition: str, variant: str, seed: int) -> Path:
    """The adapter after the last round of a run."""
    found = (folder / "work" / f"{partition}-{variant}-{seed}").glob("adapter-*.safetensors")
    return max(found, key=lambda path: int(path.stem.rpartition("-")[2]))


def show(out: Path) -> None:
    """Means over seeds with 90 % bootstrap intervals, and what is lost against training in one place."""
    rows = lines_of(out)
    last = max(row["round"] for row in rows)
    heads = " | ".join(f"round {number}" for number in range(1, last + 1))
    sys.stdout.write(
        f"| variant | seeds | before | {heads} | change | known places before, after |\n"
        f"|{' --- |' * (last + 5)}\n"
    )
    for variant in dict.fromkeys(row["variant"] for row in rows):
        of = [row for row in rows if row["variant"] == variant]
        means = {
            number: np.mean([row["loss"] for row in of if row["round"] == number])
            for number in {row["round"] for row in of}
        }
        ends, starts = (
            {row["seed"]: row for row in of if row["round"] == number}
            for number in (_last(rows, variant), 0)
        )
        changes = [ends[seed]["loss"] - starts[seed]["loss"] for seed in ends]
        low, high = interval(changes)
        each = " | ".join(
            f"{means[number]:.4f}" if number in means else "-" for number in range(last + 1)
        )
        known = [np.mean([row["known_loss"] for row in one.values()]) for one in (starts, ends)]
        sys.stdout.write(
            f"| {variant} | {len(ends)} | {each} | {np.mean(changes):+.4f} [{low:+.4f}, {high:+.4f}] "
            f"| {known[0]:.3f}, {known[1]:.3f} |\n"
        )
    names = list(dict.fromkeys(row["variant"] for row in rows))
    for variant in (name for name in names if not name.startswith((CENTRAL, SHUFFLED))):
        for central in (name for name in names if name.startswith(CENTRAL)):
            lost = lost_to_central(rows, variant, central)
            if not lost:
                continue
            low, high = interval(lost)
            sys.stdout.write(
                f"\n{variant}: of the reduction of {central} training {100 * np.mean(lost):.1f} % are lost "
                f"[{100 * low:.1f}, {100 * high:.1f}] over {len(lost)} seeds.\n"
            )


def lost_to_central(
    rows: Sequence[Mapping[str, Any]], variant: str, central: str = CENTRAL
) -> list[float]:
    """Share of a central training's reduction that a variant misses at its end, by seed that has both."""
    starts, ends = _losses(rows, central, 0), _losses(rows, central, _last(rows, central))
    found = _losses(rows, variant, _last(rows, variant))  # its rounds may be of another length
    return [
        (found[seed] - ends[seed]) / (starts[seed] - ends[seed])
        for seed in found.keys() & starts.keys() & ends.keys()
    ]


def _last(rows: Sequence[Mapping[str, Any]], variant: str) -> int:
    return max((row["round"] for row in rows if row["variant"] == variant), default=0)


def _losses(rows: Sequence[Mapping[str, Any]], variant: str, number: int) -> dict[int, float]:
    """The loss of a variant after a round, by seed."""
    at = (variant, number)
    return {row["seed"]: row["loss"] for row in rows if (row["variant"], row["round"]) == at}


def _round_by_round(campaign: Campaign, variant: str, seed: int) -> Iterator[tuple[Path, int]]:
    """The adapter of every round, and what all sites sent of it."""
    work, given = campaign.work(variant, seed), VARIANTS[variant]
    sites = (_ALL,) if variant.startswith(CENTRAL) else SITES
    aggregation = Aggregation(given.strategy, given.options, campaign.codec)  # type: ignore[arg-type]
    residuals: dict[str, Any] = dict.fromkeys(sites)
    state: dict[str, Any] = {}
    before, moments = "", dict.fromkeys(sites, "")
    for number in range(1, campaign.rounds + 1):
        contributions, sent_bytes = [], 0
        for site in sites:
            output = work / f"{number}-{site}"
            spec = _spec(campaign, site, output, variant, number, seed)
            starts = {"start_adapter": before, "start_moments": moments[site]}
            report = train(replace(spec, **starts), bases=campaign.bases)
            if given.keep_optimizer:
                moments[site] = str(output / "moments.safetensors")
            start = read_adapter(output / "start.safetensors")
            delta = difference(read_adapter(output / "adapter.safetensors"), start)
            encoded = encode(delta, aggregation.codec, residual=residuals[site])
            residuals[site] = encoded.residual
            sent_bytes += len(encoded.content)
            contributions.append(
                Contribution(site, decode(encoded.content), float(report.num_clips))
            )
        done = aggregate(contributions, start, state, aggregation)
        state = done.state
        path = work / f"adapter-{number}.safetensors"
        path.write_bytes(adapter_bytes(done.adapter))
        before = str(path)
        yield path, sent_bytes


def _spec(
    campaign: Campaign, site: str, output: Path, variant: str, number: int, seed: int
) -> PosttrainSpec:
    training = VARIANTS[variant].training(number, campaign.steps)
    if site == _ALL:  # all that the sites would have drawn
        training = replace(training, batch_size=training.batch_size * len(SITES))
    return PosttrainSpec(
        model=MODEL,
        revision="",
        checkpoint_dir=_checkpoints(campaign),
        footage_dir=str(campaign.folder / campaign.partition / site),
        output_dir=str(output),
        training=asdict(training),
        seed=1000 * seed + number,
        site=site,
        shuffle_targets=variant.startswith(SHUFFLED),
        device="cpu",
    )


def _checkpoints(campaign: Campaign) -> str:
    return str(campaign.folder / "checkpoints")


def _measured(
    campaign: Campaign, variant: str, seed: int, made: Iterator[tuple[Path, int]]
) -> Iterator[dict[str, Any]]:
    """One row a round, from the base on."""
    found = {0: ("", 0)}
    found |= {i: (str(path), sent_bytes) for i, (path, sent_bytes) in enumerate(made, start=1)}
    found = {i: one for i, one in found.items() if i % campaign.every == 0 or i == campaign.rounds}
    report = measure(
        MeasureSpec(
            model=MODEL,
            revision="",
            checkpoint_dir=_checkpoints(campaign),
            footage_dir=str(campaign.folder / HELD_OUT),
            adapters=tuple({"name": str(i), "path": path} for i, (path, _) in found.items()),
            shape=asdict(SHAPE),
            seed=_MEASURE_SEED,
            noise_levels=2,
            alpha=TRAINING.alpha,
            precision="fp32",
            device="cpu",
            other_captions=False,
        ),
        bases=campaign.bases,
    )
    for number, (_, sent_bytes) in found.items():
        of = [row for row in report.losses if row["adapter"] == str(number)]
        new = [row["loss"] for row in of if row["institution"] in NEW]
        known = [row["loss"] for row in of if row["institution"] not in NEW]
        yield {
            "seed": seed,
            "variant": variant,
            "round": number,
            "steps": campaign.steps,
            "loss": float(np.mean(new)),
            "known_loss": float(np.mean(known)),
            "num_clips": len(of),
            "sent_bytes": sent_bytes,
        }


def _gather(folder: Path) -> None:
    """The footage of all sites of a partition in one folder, as links."""
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


def numbers_of(text: str) -> list[int]:
    """Seeds as they are written on a command line.

    Example:
        >>> numbers_of("0-2,100")
        [0, 1, 2, 100]
    """
    parts = [part.partition("-") for part in text.split(",")]
    return [
        number for first, _, last in parts for number in range(int(first), int(last or first) + 1)
    ]


def lines_of(out: Path) -> list[dict[str, Any]]:
    """The rows of a file of results; none if there is no file."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def main() -> None:
    """Run one of the three steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("prepare", "rounds", "table"))
    parser.add_argument("--folder", type=Path, default=Path("learning"))
    parser.add_argument("--out", type=Path, default=Path("learning/cities.jsonl"))
    parser.add_argument("--partition", default=CITIES, choices=PARTITIONS)
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS, help="of a site in a round")
    parser.add_argument(
        "--every", type=int, default=1, help="rounds from one measuring to the next"
    )
    parser.add_argument("--codec", default="int8")
    parser.add_argument(
        "--variants", default=f"{FEDERATED},{SHUFFLED},{CENTRAL}", help=",".join(VARIANTS)
    )
    asked = parser.parse_args()
    if asked.step == "prepare":
        prepare(asked.folder)
    elif asked.step == "rounds":
        run_rounds(
            Campaign(
                asked.folder,
                asked.partition,
                asked.rounds,
                asked.codec,
                asked.every,
                asked.steps,
            ),
            asked.out,
            seeds=numbers_of(asked.seeds),
            variants=asked.variants.split(","),
        )
    else:
        show(asked.out)


if __name__ == "__main__":
    main()
