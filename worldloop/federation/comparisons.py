"""Whether a checkpoint that is in use, or tried as shadow, makes worse clips than what it replaces.

Old and new clips of one place are paired, and `should_roll_back` says whether a measure is shown to
have fallen. Decisions without Dagster, on what the coordinator may know: scores, statuses, places.
"""

import re
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from worldloop.federation.gates import RollBack, should_roll_back
from worldloop.federation.rounds import ROUND_KEY
from worldloop.waves import WavePlan

Action = Literal["roll_back", "promote", "withdraw", ""]
MIN_PAIRS = 12
# How far a measure may fall; all of them go from 0 to 1. With none, one look at 12 pairs takes back 23 % of the
# checkpoints that are as good, and four looks 44 %; with 0.1 both take back 2 %. Measured by
# tests/campaigns/false_alarms.py, docs/log.md.
SLACK = 0.1
# Looks are at 1, 2, 4 and 8 times the pairs, not after every wave: each look is a chance of a false alarm.
_LOOKS = 4


@dataclass(frozen=True)
class ScoredClip:
    """A generated clip of a released wave, as every site may know it.

    Attributes:
        wave: Its wave.
        index: Its number there.
        place: `tokyo/zoo`.
        adapter: Round of the adapter that made it; empty: the base alone.
        settings: What else decides how it looks (model, tier, shape, steps, control ...), hashed.
        scores: By measure, 0 to 1, more is better; see `quality`.
    """

    wave: str
    index: int
    place: str
    adapter: str
    settings: str
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Line:
    """How a line of checkpoints stands.

    Attributes:
        name: Of the line.
        promoted: What was promoted in turn and not taken back, oldest first: the base (empty), ..., what is used now.
        shadow: Round that is tried; empty: none.
        shadow_base: Round whose adapter the shadow goes on from; empty: none.
        rolled_back: Rounds that were ever taken back.
        withdrawn: Rounds whose trial was ever ended.
    """

    name: str
    promoted: tuple[str, ...] = ("",)
    shadow: str = ""
    shadow_base: str = ""
    rolled_back: frozenset[str] = frozenset()
    withdrawn: frozenset[str] = frozenset()

    @property
    def main(self) -> str:
        """The promoted round; empty: the base alone."""
        return self.promoted[-1]


@dataclass(frozen=True)
class Comparison:
    """A checkpoint's clips beside those that it replaces.

    Attributes:
        num_pairs: Pairs that there are.
        num_seen: Pairs that the verdict rests on; 0: there are too few for one.
        verdict: What `should_roll_back` says of these.
    """

    num_pairs: int
    num_seen: int
    verdict: RollBack


@dataclass(frozen=True)
class Due:
    """What is to be done about a line.

    Attributes:
        action: What; empty: nothing.
        round: About which checkpoint.
        reason: Why, or what is waited for, in words.
    """

    action: Action
    round: str
    reason: str

    @property
    def cause(self) -> str:
        """Names it, `roll_back:r0003`; a cause is acted upon once."""
        return f"{self.action}:{self.round}" if self.action else ""


def adapter_of(plan: WavePlan) -> str:
    """Round of the newest adapter that made a wave's clips; empty for the base."""
    loras = plan.world_model.loras if plan.world_model else ()
    parts = [part for lora in loras for part in re.split(r"[/\\]", lora.path)]
    found = [part for part in parts if ROUND_KEY.fullmatch(part)]
    return max(found, key=lambda key: (len(key), key), default="")


def quality(
    *,
    accepted: bool,
    distinct: bool | None,
    kept: Mapping[str, tuple[float | None, float | None]],
) -> dict[str, float]:
    """Scores of a clip, 0 to 1, more is better.

    More motion or sharpness than footage has is no merit: noise has most of both. So they count as the
    share of what the sketch of the same scene has, and at most 1.

    Args:
        accepted: Whether it passed its checks.
        distinct: Whether it repeats no other clip; None if that was not decided.
        kept: The clip's and its sketch's value by measure; None where one was not measured.

    Example:
        >>> quality(accepted=True, distinct=None, kept={"sharpness": (0.1, 0.2), "motion": (3.0, 2.0)})
        {'accepted': 1.0, 'sharpness': 0.5, 'motion': 1.0}
    """
    scores = {"accepted": float(accepted)}
    if distinct is not None:
        scores["distinct"] = float(distinct)
    for measure, (found, wanted) in kept.items():
        if found is not None and wanted is not None:
            scores[measure] = min(found / wanted, 1.0) if wanted > 0 else 1.0
    return scores


def pair_clips(
    clips: Iterable[ScoredClip], *, new: str, replaced: Sequence[str]
) -> list[tuple[ScoredClip, ScoredClip]]:
    """Each new clip with an old one of its place, made with the same settings; no clip is in two pairs.

    Args:
        clips: Of released waves.
        new: Round whose clips are the new ones.
        replaced: What was used before it, oldest first, the base as an empty key. Clips of the last one
            come first, then those of newer waves.

    Returns:
        Old and new, in the order in which the new ones were planned.
    """
    known = sorted(clips, key=lambda one: (_in_order(one.wave), one.index))
    old: dict[tuple[str, str], list[ScoredClip]] = defaultdict(list)
    for one in known:
        if one.adapter in replaced and one.adapter != new:
            old[one.settings, one.place].append(one)
    last = replaced[-1] if replaced else ""

    def usefulness(one: ScoredClip) -> tuple[bool, tuple[int, str], int]:
        return one.adapter == last, _in_order(one.wave), -one.index

    left = {at: deque(sorted(some, key=usefulness, reverse=True)) for at, some in old.items()}
    pairs = []
    for one in known:
        candidates = left.get((one.settings, one.place))
        if one.adapter == new and candidates:
            pairs.append((candidates.popleft(), one))
    return pairs


def compare(
    clips: Iterable[ScoredClip], *, new: str, replaced: Sequence[str], min_pairs: int = MIN_PAIRS
) -> Comparison:
    """Whether a checkpoint makes worse clips than what was used before it.

    The verdict rests on the first `min_pairs` pairs, or 2, 4, 8 times as many; later ones change nothing.
    """
    pairs = pair_clips(clips, new=new, replaced=replaced)
    looks = [min_pairs * 2**step for step in range(_LOOKS)]
    num_seen = max((size for size in looks if size <= len(pairs)), default=0)
    before, after = _columns(pairs[:num_seen] if num_seen else pairs)
    verdict = should_roll_back(before, after, min_pairs=min_pairs, slack=SLACK)
    return Comparison(len(pairs), num_seen, verdict)


def due_in_line(line: Line, clips: Collection[ScoredClip], *, min_pairs: int = MIN_PAIRS) -> Due:
    """What is to be done about a line now: one thing, the promoted checkpoint first.

    A checkpoint that was taken back and promoted again is left to whoever did that, and so is a shadow
    that was withdrawn and is tried again.

    Args:
        line: How it stands.
        clips: Of its released waves.
        min_pairs: With fewer pairs nothing is decided.
    """
    about_main = _about_main(line, clips, min_pairs)
    if about_main.action or not line.shadow:
        return about_main
    about_shadow = _about_shadow(line, clips, min_pairs)
    if about_shadow.action:
        return about_shadow
    return Due("", line.main, f"{about_main.reason} {about_shadow.reason}")


def _about_main(line: Line, clips: Collection[ScoredClip], min_pairs: int) -> Due:
    main = line.main
    if not main:
        return Due("", "", f"Nothing is promoted in {line.name}: its base makes what comes.")
    if main in line.rolled_back:
        return Due(
            "", main, f"{main} was taken back and promoted again; it stays as somebody wants it."
        )
    found = compare(clips, new=main, replaced=line.promoted[:-1], min_pairs=min_pairs)
    if found.verdict.roll_back:
        to = line.promoted[-2] or "the base alone, as nothing was promoted before"
        return Due("roll_back", main, f"{found.verdict.why}; back to {to}")
    if not found.num_seen:
        return Due("", main, f"{main} is used: {_too_few(found, min_pairs)}.")
    return Due(
        "",
        main,
        f"{main} is used: {found.verdict.why} ({found.num_seen} pairs{_next_look(found, min_pairs)}).",
    )


def _about_shadow(line: Line, clips: Collection[ScoredClip], min_pairs: int) -> Due:
    shadow = line.shadow
    if shadow in line.withdrawn:
        return Due(
            "", shadow, f"{shadow} was withdrawn and is tried again; whoever wants that decides."
        )
    if line.shadow_base and line.shadow_base in line.rolled_back - {line.main}:
        why = f"it goes on from {line.shadow_base}, which was taken back"
        return Due("withdraw", shadow, why)
    found = compare(clips, new=shadow, replaced=line.promoted, min_pairs=min_pairs)
    if found.verdict.roll_back:
        return Due("withdraw", shadow, found.verdict.why)
    if not found.num_seen:
        return Due("", shadow, f"{shadow} is tried: {_too_few(found, min_pairs)}.")
    return Due("promote", shadow, f"as shadow {found.verdict.why} ({found.num_seen} pairs)")


def _too_few(found: Comparison, min_pairs: int) -> str:
    return (
        f"{found.num_pairs} of its clips have an older one of their place beside them, {min_pairs} are "
        "needed (min_pairs)"
    )


def _next_look(found: Comparison, min_pairs: int) -> str:
    if found.num_seen >= min_pairs * 2 ** (_LOOKS - 1):
        return ", the last look"
    return f", the next look at {2 * found.num_seen}"


def _columns(
    pairs: Sequence[tuple[ScoredClip, ScoredClip]],
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Scores before and after by measure, of the pairs in which both were measured."""
    before: dict[str, list[float]] = defaultdict(list)
    after: dict[str, list[float]] = defaultdict(list)
    for old, new in pairs:
        for measure in sorted(old.scores.keys() & new.scores.keys()):
            before[measure].append(old.scores[measure])
            after[measure].append(new.scores[measure])
    return before, after


def _in_order(key: str) -> tuple[int, str]:
    return len(key), key
