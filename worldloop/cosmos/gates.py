"""Quality gates: what a speed profile may change in the pictures, and which profiles have shown it.

A profile is measured against the dense run of the same prompts and seeds on a small model of the
Cosmos-1.0 architecture. Two controls give the numbers a scale: the dense run in float32 (what
rounding alone changes, the noise floor) and the dense run with another seed (how far two clips of
one prompt are apart). A distance is judged by its share of the way from the one to the other, so
that a gate holds for any model; what a profile must not lose (the prompt, detail, motion) is judged
by itself. The limits are stated in `GATES`, before anything was measured.

A sparse profile can also be measured with weights that were adapted to its window, against the dense
run of the original weights (`judge_adapted`). Such a verdict speaks for adapted weights alone: with
weights as published, the profile is judged by its own measurement.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal, Self

from worldloop.cosmos.profiles import PROFILES, profile
from worldloop.errors import MalformedRecordError

State = Literal["exact", "passed", "failed", "unmeasured"]
METRICS = (
    "psnr_db",
    "ssim",
    "feature_distance",
    "clip_cosine",
    "text_cosine_change",
    "detail_ratio",
    "motion_ratio",
)
NOISE_FLOOR, OTHER_SEED = "noise_floor", "other_seed"
_DATA = "cosmos/data/profile_quality.json"


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts with its bootstrap interval.

    Attributes:
        mean: Over prompts.
        low: Lower end of the 90 % interval.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Gate:
    """What a profile may change.

    Attributes:
        profile: Its name.
        max_feature_share: Most of the way from the noise floor to another seed, in `feature_distance`.
        max_text_loss: Most that the cosine between prompt and clip may fall.
        max_ratio: Detail and motion stay within 1 / this and this, times those of the dense run.
    """

    profile: str
    max_feature_share: float
    max_text_loss: float = 0.02
    max_ratio: float = 1.25

    def reasons(self, measured: "Measured") -> tuple[str, ...]:
        """Why a profile does not pass; empty if it does. The worse end of an interval counts."""
        found = measured.metrics
        share = feature_share(measured)
        problems = []
        if share > self.max_feature_share:
            problems.append(
                f"feature_distance goes {share:.0%} of the way to another seed, at most "
                f"{self.max_feature_share:.0%} may be"
            )
        if -found["text_cosine_change"].low > self.max_text_loss:
            problems.append(
                f"clips fit their prompts worse by {-found['text_cosine_change'].low:.3f} cosine, at most "
                f"{self.max_text_loss:g} may be"
            )
        for name in ("detail_ratio", "motion_ratio"):
            if found[name].low < 1 / self.max_ratio or found[name].high > self.max_ratio:
                problems.append(
                    f"{name} is {found[name].low:.2f} to {found[name].high:.2f}, expected "
                    f"{1 / self.max_ratio:.2f} to {self.max_ratio:.2f}"
                )
        return tuple(problems)


@dataclass(frozen=True)
class Measured:
    """What was measured of one profile.

    Attributes:
        profile: `SpeedProfile.to_record()` that it was measured with.
        metrics: Of the profile against the dense run, keys of `METRICS`.
        controls: Metrics of `noise_floor` and `other_seed` against the dense run.
    """

    profile: Mapping[str, Any]
    metrics: Mapping[str, Estimate]
    controls: Mapping[str, Mapping[str, Estimate]]

    def to_record(self) -> dict[str, Any]:
        """The JSON record."""
        return {
            "profile": dict(self.profile),
            "metrics": _records(self.metrics),
            "controls": {name: _records(found) for name, found in self.controls.items()},
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a record back.

        Raises:
            MalformedRecordError: If a metric or a control is missing.
        """
        try:
            return cls(
                dict(record["profile"]),
                _estimates(record["metrics"]),
                {name: _estimates(record["controls"][name]) for name in (NOISE_FLOOR, OTHER_SEED)},
            )
        except (KeyError, TypeError) as error:
            raise MalformedRecordError(
                "measured quality of a profile",
                str(error),
                f"profile, metrics ({', '.join(METRICS)}) and both controls",
                "Measure it again with gpu_jobs.cosmos_generate.quality.",
            ) from error


@dataclass(frozen=True)
class Verdict:
    """Whether a profile may be used.

    Attributes:
        profile: Its name.
        state: `exact` needs no gate; `unmeasured` has not been measured as it is defined today.
        reasons: Why it failed, or why it counts as unmeasured.
    """

    profile: str
    state: State
    reasons: tuple[str, ...] = ()


_NUMERICS, _SKIPS, _STUDENT = 0.35, 0.6, 0.8
SWEPT = Gate("sweep", _SKIPS)
"""Of a variant that leaves work out and is no profile yet."""
GATES: Mapping[str, Gate] = MappingProxyType(
    {
        gate.profile: gate
        for gate in (
            # Only arithmetic differs: the clip must stay recognisably the same one.
            Gate("fast", _NUMERICS),
            Gate("fast_fp8_attention", _NUMERICS),
            # Work is left out: details may move, the scene may not.
            Gate("thrifty", _SKIPS),
            Gate("lean_fp8_attention", _SKIPS),
            Gate("sparse", _SKIPS),
            Gate("cached", _SKIPS),
            # Other weights: only the prompt and the look bind it.
            Gate("distilled", _STUDENT),
        )
    }
)


def feature_share(measured: Measured) -> float:
    """How far a profile is on the way from the noise floor to another seed, by its upper end.

    A floor that is as far away as another seed says nothing, and counts as all the way.
    """
    floor = measured.controls[NOISE_FLOOR]["feature_distance"].mean
    seed = measured.controls[OTHER_SEED]["feature_distance"].mean
    found = measured.metrics["feature_distance"].high
    if seed <= floor:
        return 0.0 if found <= floor else 1.0
    return max(0.0, (found - floor) / (seed - floor))


def judge(profile_name: str, record: Mapping[str, Any] | None) -> Verdict:
    """Whether a profile passes its gate.

    Args:
        profile_name: Key in `PROFILES`.
        record: `Measured.to_record()`, or None if it was not measured.

    Raises:
        UnknownKeyError: If there is no such profile.
        MalformedRecordError: If the record lacks something.
    """
    today = profile(profile_name).to_record()
    if profile_name not in GATES:
        return Verdict(profile_name, "exact")
    if record is None:
        return Verdict(profile_name, "unmeasured", ("It has not been measured.",))
    measured = Measured.from_record(record)
    changed = sorted(key for key, value in today.items() if measured.profile.get(key) != value)
    if changed:
        return Verdict(
            profile_name, "unmeasured", (f"It was measured with another {', '.join(changed)}.",)
        )
    reasons = GATES[profile_name].reasons(measured)
    return Verdict(profile_name, "failed" if reasons else "passed", reasons)


def judge_adapted(profile_name: str, record: Mapping[str, Any] | None) -> Verdict:
    """Whether a profile passes its gate with weights that were adapted to its window.

    The limits are those of the profile, and the reference is the dense run of the original weights.

    Args:
        profile_name: Key in `PROFILES`.
        record: `Measured.to_record()` of the adapted weights, or None if they were not measured.

    Raises:
        UnknownKeyError: If there is no such profile.
        MalformedRecordError: If the record lacks something.
    """
    verdict = judge(profile_name, record)
    if verdict.state == "unmeasured" and record is None:
        return replace(verdict, reasons=("No weights that were adapted to it have been measured.",))
    return replace(
        verdict, reasons=tuple(f"with adapted weights, {reason}" for reason in verdict.reasons)
    )


def refusal(profile_name: str, measured: Mapping[str, Any], *, family: str = "") -> str | None:
    """Why a profile must not be used; None if it may.

    A profile that was never measured is not refused: it is `unmeasured`, and its clips say so.

    Args:
        profile_name: Key in `PROFILES`.
        measured: `measured_quality()`.
        family: Of the model; a family that the measurement does not speak for is not gated. Empty:
            gated in any case.

    Raises:
        UnknownKeyError: If there is no such profile.
        MalformedRecordError: If a record lacks something.

    Example:
        >>> refusal("exact", {}) is None
        True
    """
    verdict = judge(profile_name, measured.get("profiles", {}).get(profile_name))
    if verdict.state != "failed" or (family and family not in measured.get("families", ())):
        return None
    allowed = ", ".join(name for name in PROFILES if _is_open(name, measured))
    adapted = judge_adapted(profile_name, measured.get("adapted", {}).get(profile_name))
    hint = (
        "With weights that are adapted to its window it passed. "
        if adapted.state == "passed"
        else ""
    )
    return (
        f"The profile {profile_name!r} failed its quality gate: {'; '.join(verdict.reasons)}. "
        f"{hint}Choose one of: {allowed}."
    )


def check_gate(profile_name: str, *, family: str, accept_failed: bool = False) -> None:
    """Refuse a profile that degraded the clips it was measured on.

    Args:
        profile_name: Key in `PROFILES`.
        family: Of the model.
        accept_failed: Whether the user has named it all the same.

    Raises:
        MalformedRecordError: If it failed its gate and is not accepted.
        UnknownKeyError: If there is no such profile.
    """
    words = refusal(profile_name, measured_quality(), family=family)
    if words is not None and not accept_failed:
        raise MalformedRecordError(
            "speed profile",
            profile_name,
            "one that passed its quality gate",
            f"{words} Or accept it with accept_failed_gate: the gate is measured on a small model.",
        )


def verdicts(measured: Mapping[str, Any]) -> list[Verdict]:
    """The verdict of every profile, in the order of `PROFILES`."""
    found = measured.get("profiles", {})
    return [judge(name, found.get(name)) for name in PROFILES]


def measured_quality() -> dict[str, Any]:
    """The committed measurement: `families`, `model`, `machine`, `date` and `profiles` by name.

    Raises:
        MalformedRecordError: If the file is not JSON.
    """
    source = files("worldloop").joinpath(_DATA)
    try:
        content: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MalformedRecordError(
            _DATA, str(error), "JSON", "Measure again with gpu_jobs.cosmos_generate.quality_report."
        ) from error
    return content


def _is_open(name: str, measured: Mapping[str, Any]) -> bool:
    return judge(name, measured.get("profiles", {}).get(name)).state != "failed"


def _records(metrics: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: asdict(estimate) for name, estimate in metrics.items()}


def _estimates(record: Mapping[str, Mapping[str, float]]) -> dict[str, Estimate]:
    return {name: Estimate(**record[name]) for name in _required(record)}


def _required(record: Mapping[str, Any]) -> Sequence[str]:
    """All metrics; a missing one is a `KeyError` where it is read."""
    return METRICS
