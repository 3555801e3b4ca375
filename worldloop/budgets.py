"""Budgets: what a run will probably use, and whether that still fits into the day."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from worldloop.cosmos.models import model
from worldloop.cosmos.plans import WorldModelPlan
from worldloop.cosmos.timing import seconds_per_clip
from worldloop.recipes import Shape
from worldloop.sites import Budgets, Generation

KINDS = tuple(Budgets().limits())
# Reserved ahead and corrected by what was really used, so these are on the high side: frames at
# 256x144 with 5 samples a pixel at 15 a CPU second, the rest of the chain a third of that again,
# and 4 MB a clip of 121 frames.
_CPU_S_PER_SAMPLE = 1.33 / (15 * 256 * 144 * 5)
_CPU_S_PER_CLIP = 1.0
_BYTES_PER_PIXEL = 4e6 / (121 * 256 * 144)
_REQUESTS_PER_CLIP = 20
# Of world models: two minutes to load and compile for each city, and 2 bits a pixel.
_START_S = 120.0
# When a job hangs: half an hour to start, two minutes a clip of a tiny model, and a card that is
# twenty times slower than the measured one.
_PATIENCE_S, _TINY_PATIENCE_S, _SLOWEST_CARD = 1800.0, 120.0, 20.0
_GENERATED_BYTES_PER_PIXEL = 0.25
_Who = TypeVar("_Who")


@dataclass(frozen=True)
class BudgetLine:
    """One kind of budget on one day.

    Attributes:
        kind: One of `KINDS`.
        reserved: Held by runs that have not ended.
        settled: Used by runs that have.
        limit: What the day allows.
    """

    kind: str
    reserved: float
    settled: float
    limit: float

    @property
    def left(self) -> float:
        """What may still be reserved today."""
        return self.limit - self.reserved - self.settled


def estimate_clips(num_clips: int, shape: Shape) -> dict[str, float]:
    """What procedural clips will use, by kind."""
    num_pixels = num_clips * shape.num_frames * shape.width_px * shape.height_px
    return {
        "cpu_s": num_clips * _CPU_S_PER_CLIP + num_pixels * shape.num_samples * _CPU_S_PER_SAMPLE,
        "bytes": num_pixels * _BYTES_PER_PIXEL,
        "requests": float(num_clips * _REQUESTS_PER_CLIP),
    }


def estimate_world_model(
    plan: WorldModelPlan, num_clips: int, *, num_cities: int, usd_per_gpu_hour: float = 0.0
) -> dict[str, float]:
    """What the generated clips of a wave will use, by kind, on the card that `timing` was fitted to.

    A tiny model uses no GPU seconds: it runs on the CPU.
    """
    known, shape = model(plan.model), plan.shape
    num_made = num_clips * plan.share
    num_pixels = num_made * shape.num_frames * shape.width_px * shape.height_px
    gpu_s = 0.0
    if not known.tiny:
        time = seconds_per_clip(known, shape, plan.profile, num_steps=plan.num_steps)
        gpu_s = num_made * time.total_s + num_cities * _START_S
    return {
        "gpu_s": gpu_s,
        "usd": gpu_s / 3600 * usd_per_gpu_hour,
        "bytes": num_pixels * _GENERATED_BYTES_PER_PIXEL,
    }


def patience_s(plan: WorldModelPlan, num_clips: int) -> float:
    """Seconds after which a job that makes so many clips must hang."""
    known = model(plan.model)
    if known.tiny:
        return _PATIENCE_S + _TINY_PATIENCE_S * num_clips
    time = seconds_per_clip(known, plan.shape, plan.profile, num_steps=plan.num_steps)
    return _PATIENCE_S + _SLOWEST_CARD * time.total_s * num_clips


def total(*estimates: Mapping[str, float]) -> dict[str, float]:
    """Estimates added up, by kind.

    Example:
        >>> total({"cpu_s": 1.0}, {"cpu_s": 2.0, "gpu_s": 3.0})
        {'cpu_s': 3.0, 'gpu_s': 3.0}
    """
    kinds = dict.fromkeys(kind for estimate in estimates for kind in estimate)
    return {kind: sum(estimate.get(kind, 0.0) for estimate in estimates) for kind in kinds}


def work_of(wall_s: float, gpu_s: float = 0.0) -> dict[str, float]:
    """What a step used: its GPU seconds, or without a GPU the seconds that it took.

    Example:
        >>> work_of(12.0), work_of(12.0, 48.0)
        ({'cpu_s': 12.0, 'gpu_s': 0.0}, {'cpu_s': 0.0, 'gpu_s': 48.0})
    """
    return {"cpu_s": 0.0 if gpu_s else wall_s, "gpu_s": gpu_s}


def priced(used: Mapping[str, float], usd_per_gpu_hour: float) -> dict[str, float]:
    """What was used, with what its GPU seconds cost.

    Example:
        >>> priced({"gpu_s": 7200.0}, 2.5)
        {'gpu_s': 7200.0, 'usd': 5.0}
    """
    return {**used, "usd": used.get("gpu_s", 0.0) / 3600 * usd_per_gpu_hour}


def estimate_wave(generation: Generation, *, usd_per_gpu_hour: float = 0.0) -> dict[str, float]:
    """What a wave that the sensor plans will use, by kind."""
    shape = Shape(
        generation.num_frames,
        generation.width_px,
        generation.height_px,
        generation.rate_fps,
        generation.num_samples,
    )
    num_cities, targets = generation.num_cities, generation.targets
    num_clips = num_cities * generation.clips_per_place
    if targets:
        num_cities = len({place.partition("/")[0] for place in targets})
        num_clips = sum(targets.values())
    sketches, plan = estimate_clips(num_clips, shape), generation.model_plan()
    if plan is None:
        return sketches
    generated = estimate_world_model(
        plan, num_clips, num_cities=num_cities, usd_per_gpu_hour=usd_per_gpu_hour
    )
    return total(sketches, generated)


def granted(claims: Mapping[_Who, float], limit: float) -> dict[_Who, float]:
    """Claims cut so that together they keep to a limit: the largest ones, down to one level.

    What is below the level is not touched, so a claim without measure costs the others nothing.

    Args:
        claims: Amount by who claims it.
        limit: What there is for all of them.

    Example:
        >>> granted({"aws": 1e15, "gcp": 300.0, "local": 100.0}, 1000.0)
        {'aws': 600.0, 'gcp': 300.0, 'local': 100.0}
    """
    given, left = dict(claims), max(limit, 0.0)
    for number, who in enumerate(sorted(claims, key=lambda who: claims[who])):
        given[who] = min(claims[who], left / (len(claims) - number))
        left -= given[who]
    return given


def check_kinds(amounts: Mapping[str, float]) -> None:
    """Refuse amounts that no budget knows.

    Raises:
        ValueError: If a kind is unknown, or an amount is negative or not a number.
    """
    for kind, amount in amounts.items():
        if kind not in KINDS or not amount >= 0:
            raise ValueError(f"{kind}={amount!r} is no amount; use {', '.join(KINDS)} >= 0.")


def refusal(lines: Mapping[str, BudgetLine], estimate: Mapping[str, float]) -> str | None:
    """Why an estimate does not fit into the day, in words; None if it does.

    Args:
        lines: How each kind stands today.
        estimate: What the run will probably use.

    Example:
        >>> line = BudgetLine("cpu_s", reserved=10.0, settled=80.0, limit=100.0)
        >>> print(refusal({"cpu_s": line}, {"cpu_s": 20.0}))
        The run needs 20 cpu_s; today 10 are reserved and 80 used of 100. Wait for the next day (UTC), end a run that holds a reservation, or raise the budget in sites.toml.
    """
    for kind, amount in estimate.items():
        line = lines[kind]
        if amount > line.left:
            return (
                f"The run needs {amount:.6g} {kind}; today {line.reserved:.6g} are reserved and "
                f"{line.settled:.6g} used of {line.limit:.6g}. Wait for the next day (UTC), end a "
                "run that holds a reservation, or raise the budget in sites.toml."
            )
    return None
