"""What closes the loop: when a round of post-training opens, and what a promoted checkpoint makes anew.

Decisions without Dagster, on what the coordinator may know: lengths and places of released clips, how
rounds ended, one number of drift a site. Each answers in words, whichever way it goes.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from worldloop.sites import Retraining

_S_PER_HOUR = 3600.0
_REQUESTS_PER_SITE = 100.0
_NAMED = 5  # cities in one line


@dataclass(frozen=True)
class ReleasedWave:
    """What every site may know of a released wave.

    Attributes:
        wave: Its key.
        duration_s: Seconds of accepted footage.
        clips_by_place: Accepted clips of each place, `tokyo/zoo`.
    """

    wave: str
    duration_s: float
    clips_by_place: Mapping[str, int]


@dataclass(frozen=True)
class News:
    """What the checkpoint that is used has not learned yet.

    Attributes:
        waves: Released waves that it was not trained on, oldest first.
        hours: Their accepted footage.
        closed_gaps: Places that had too few clips in what it learned and have enough now, in order.
        drift: The farthest that any site's embeddings have moved since; None where no site has said.
    """

    waves: tuple[str, ...]
    hours: float
    closed_gaps: tuple[str, ...]
    drift: float | None = None


@dataclass(frozen=True)
class Answer:
    """Yes or no, and why.

    Attributes:
        yes: Which.
        reason: In words for the UI.
    """

    yes: bool
    reason: str


def news_since(
    released: Iterable[ReleasedWave],
    *,
    learned_waves: Collection[str],
    gap_clips: int,
    drift: float | None = None,
) -> News:
    """What is new to the checkpoint that is used.

    Args:
        released: Every released wave.
        learned_waves: As `rounds.learned_waves` answers for that checkpoint.
        gap_clips: A place with fewer accepted clips is a gap.
        drift: See `News`.
    """
    in_order = sorted(released, key=lambda one: wave_order(one.wave))
    new = [one for one in in_order if one.wave not in learned_waves]
    before = clips_by_place(one for one in in_order if one.wave in learned_waves)
    now = clips_by_place(in_order)
    closed = sorted(place for place in now if before[place] < gap_clips <= now[place])
    hours = sum(one.duration_s for one in new) / _S_PER_HOUR
    return News(tuple(one.wave for one in new), hours, tuple(closed), drift)


def why_train(news: News, settings: Retraining) -> Answer:
    """Whether there is reason to train: enough new footage, closed gaps, or drift.

    Example:
        >>> print(why_train(News(("w0001",), 0.25, ()), Retraining(min_new_hours=1)).reason)
        There is no reason to train yet: 0.25 of 1 new accepted hours (min_new_hours).
    """
    # what is said, how much there is, how much is enough (0: no reason ever), name in sites.toml
    asked: list[tuple[str, float | None, float, str]] = [
        ("new accepted hours", news.hours, settings.min_new_hours, "min_new_hours"),
        (
            "closed coverage gaps",
            float(len(news.closed_gaps)),
            settings.min_closed_gaps,
            "min_closed_gaps",
        ),
        ("drift of the embeddings", news.drift, settings.max_drift, "max_drift"),
    ]
    wanted = [one for one in asked if one[2] > 0]
    met = [
        f"{found:.3g} {what} reach {name} = {limit:g}"
        for what, found, limit, name in wanted
        if found is not None and found >= limit
    ]
    if met:
        places = f" (first {news.closed_gaps[0]})" if news.closed_gaps else ""
        return Answer(True, "; ".join(met) + places)
    short = [
        f"no site has said its {what} ({name})"
        if found is None
        else f"{found:.3g} of {limit:g} {what} ({name})"
        for what, found, limit, name in wanted
    ]
    return Answer(False, f"There is no reason to train yet: {'; '.join(short)}.")


def why_not(
    *,
    settings: Retraining,
    open_rounds: Sequence[str],
    last_opened_at: datetime | None,
    now: datetime,
) -> str | None:
    """Why no round may open now, however much there is to learn; None if one may.

    The money side is the ledger's to answer: it reserves, and says itself why it will not.

    Args:
        settings: The coordinator's.
        open_rounds: Rounds without an outcome.
        last_opened_at: When the last one was planned.
        now: The moment.
    """
    if not settings.model:
        return "No model is post-trained: name one under [sites.NAME.training] in sites.toml."
    if open_rounds:
        return f"Round {open_rounds[0]} is still open; the next one opens when it has its outcome."
    if last_opened_at is not None:
        due_at = last_opened_at + timedelta(hours=settings.min_hours_between_rounds)
        if now < due_at:
            return (
                f"The last round opened at {last_opened_at:%Y-%m-%d %H:%M} UTC; with "
                f"min_hours_between_rounds = {settings.min_hours_between_rounds:g} the next opens at "
                f"{due_at:%Y-%m-%d %H:%M}."
            )
    return None


@dataclass(frozen=True)
class Attempt:
    """A round that came to a verdict, and whose adapter is not part of what is used.

    Attributes:
        round: Its key.
        waves: What it was trained on.
        fate: What became of it, in words: `was refused`.
    """

    round: str
    waves: Collection[str]
    fate: str


def why_again(news: News, attempts: Iterable[Attempt]) -> str | None:
    """Why a round would only repeat an earlier one; None if it would not.

    Footage of a round that was refused or taken back is new to the next one, but alone it is no reason for
    one: the same footage from the same start would come to the same end, again and again.

    Args:
        news: What the next round would be trained on.
        attempts: Rounds that started from the checkpoint that is used now.

    Example:
        >>> print(why_again(News(("w0002",), 1.0, ()), [Attempt("r0003", ("w0002",), "was refused")]))
        Round r0003 was trained on all of this footage from the same start and was refused. The next one opens when a wave comes that it has not seen, or by hand: worldloop rounds plan.
    """
    for one in attempts:
        if news.waves and set(news.waves) <= set(one.waves):
            return (
                f"Round {one.round} was trained on all of this footage from the same start and {one.fate}. "
                "The next one opens when a wave comes that it has not seen, or by hand: worldloop rounds plan."
            )
    return None


def why_no_quorum(clips_by_site: Mapping[str, int], quorum: int) -> str | None:
    """Why too few sites could take part; None if there are enough.

    Args:
        clips_by_site: Clips that each site may train on.
        quorum: Deltas without which nothing is aggregated.
    """
    able = [site for site, num_clips in sorted(clips_by_site.items()) if num_clips > 0]
    if len(able) >= quorum:
        return None
    named = f" ({', '.join(able)})" if able else ""
    return (
        f"{len(able)} sites have released clips outside the held-out cities{named}; a round needs a quorum "
        f"of {quorum}."
    )


def why_no_home(cities: Sequence[str]) -> str | None:
    """Why no round may open while cities with new footage are at home nowhere; None if there are none.

    Args:
        cities: Those that no site names.

    Example:
        >>> print(why_no_home(["oslo"]))
        There are released clips of oslo, and no site is its home: nobody could train on them. Name it in `cities` of the site in sites.toml that has the clips.
    """
    if not cities:
        return None
    named = ", ".join(cities[:_NAMED]) + (
        f" and {len(cities) - _NAMED} more" if len(cities) > _NAMED else ""
    )
    their, them = ("their", "them") if len(cities) > 1 else ("its", "it")
    return (
        f"There are released clips of {named}, and no site is {their} home: nobody could train on them. "
        f"Name {them} in `cities` of the site in sites.toml that has the clips."
    )


def trainable_clips(
    released: Iterable[ReleasedWave], home_of: Mapping[str, str], *, held_out: Collection[str]
) -> dict[str, int]:
    """Released clips of each site that may be trained on.

    Args:
        released: The waves of the round.
        home_of: City to its site.
        held_out: Cities that are left out.
    """
    counts = Counter[str]()
    for place, num_clips in clips_by_place(released).items():
        city = place.split("/")[0]
        counts[home_of[city]] += num_clips if city not in held_out else 0
    return dict(counts)


def estimate_round(
    settings: Retraining, *, num_sites: int, usd_per_gpu_hour: float = 0.0
) -> dict[str, float]:
    """What a round is allowed to use, by kind of the ledger."""
    return {
        "cpu_s": settings.max_cpu_s,
        "gpu_s": settings.max_gpu_s,
        "usd": settings.max_gpu_s / _S_PER_HOUR * usd_per_gpu_hour,
        "requests": num_sites * _REQUESTS_PER_SITE,
    }


def filmed_cities(released: Iterable[ReleasedWave]) -> list[str]:
    """Cities of the accepted clips of some waves, in order.

    Example:
        >>> filmed_cities([ReleasedWave("w0001", 8.0, {"oslo/zoo": 1, "lima/zoo": 1, "lima/park": 1})])
        ['lima', 'oslo']
    """
    return sorted({place.split("/")[0] for one in released for place in one.clips_by_place})


def clips_by_place(released: Iterable[ReleasedWave]) -> Counter[str]:
    """Accepted clips of each place over some waves."""
    total = Counter[str]()
    for one in released:
        total.update(one.clips_by_place)
    return total


def wave_order(wave: str) -> tuple[int, str]:
    """Sorts keys of waves by their number.

    Example:
        >>> sorted(["w10000", "w0002"], key=wave_order)
        ['w0002', 'w10000']
    """
    return len(wave), wave


@dataclass(frozen=True)
class CellCount:
    """What a wave has of one place.

    Attributes:
        num_planned: Clips that were asked for.
        num_accepted: Those of them that are in the release: made, passed by every check, no duplicates.
        sharpness: Mean over those that were measured; breaks ties.
    """

    num_planned: int
    num_accepted: int
    sharpness: float = 0.0

    @property
    def quality(self) -> float:
        """Share that was accepted, 0 to 1."""
        return min(self.num_accepted / self.num_planned, 1.0) if self.num_planned else 1.0


@dataclass(frozen=True)
class MadeWave:
    """A released wave as regeneration looks at it.

    Attributes:
        wave: Its key.
        adapter: Round of the adapter that made its clips; empty: the base, or no world model.
        is_generated: Whether the model of the line made clips; otherwise only sketches are counted.
        cells: By place.
    """

    wave: str
    adapter: str
    is_generated: bool
    cells: Mapping[str, CellCount]


@dataclass(frozen=True)
class RegenerationPlan:
    """A wave that makes places anew.

    Attributes:
        cause: What it is for, `regenerate:r0001` or `regenerate:w0007`; one wave a cause.
        adapter: Round whose adapter makes it.
        places: The weakest first.
        clips_per_place: Clips of each.
        reason: In words.
    """

    cause: str
    adapter: str
    places: tuple[str, ...]
    clips_per_place: int
    reason: str


def regeneration_plan(
    made: Iterable[MadeWave],
    *,
    promoted: str,
    asked: Mapping[str, str],
    settings: Retraining,
    weakest: Sequence[str] = (),
) -> RegenerationPlan | str:
    """What to make anew now, or in words why nothing.

    A promotion comes first: the places of which older checkpoints made nothing that was accepted, those
    that its evaluation found weakest, and those with the smallest share of accepted clips; where no
    checkpoint has made anything, those with the fewest clips. After that every wave in which a place failed its checks or
    fell below the target, unless this adapter has tried the place often enough.

    Args:
        made: Released waves.
        promoted: Round of the adapter that is promoted now; empty: none.
        asked: Causes that were answered before, and the wave of each.
        settings: The coordinator's.
        weakest: Places in the order in which the promoted round's evaluation found them weak.
    """
    if not promoted:
        return "No round has been promoted yet."
    waves = sorted(made, key=lambda one: wave_order(one.wave))
    cause = f"regenerate:{promoted}"
    if cause not in asked:
        places = _weakest(_before(waves, promoted), settings, weakest)
        if not places:
            return f"Round {promoted} was promoted, and there is no released footage to make anew."
        reason = f"{promoted} was promoted; the weakest places are made anew with it"
        return _planned(cause, promoted, places, settings, reason)
    tried = _attempts(waves, promoted)
    latest = {place: one.wave for one in waves if one.is_generated for place in one.cells}
    for one in waves:
        is_after = one.adapter == promoted or wave_order(one.wave) > wave_order(asked[cause])
        cause_of_wave = f"regenerate:{one.wave}"
        if not (one.is_generated and is_after) or cause_of_wave in asked:
            continue
        poor = {
            place: cell
            for place, cell in one.cells.items()
            if latest[place] == one.wave
            and tried[place] < settings.regeneration.max_attempts
            and is_poor(cell, settings.regeneration.min_quality)
        }
        if poor:
            failed = sum(cell.num_accepted == 0 for cell in poor.values())
            reason = (
                f"{len(poor)} places of {one.wave} are below min_quality = "
                f"{settings.regeneration.min_quality:g} or failed their checks ({failed} have no clip)"
            )
            return _planned(cause_of_wave, promoted, _weakest(poor, settings), settings, reason)
    return f"{promoted} has made its places anew, and none is below the target since."


def is_poor(cell: CellCount, min_quality: float) -> bool:
    """Whether a place failed its checks or fell below the target.

    Example:
        >>> is_poor(CellCount(4, 1), 0.5), is_poor(CellCount(4, 2), 0.5), is_poor(CellCount(4, 0), 0.0)
        (True, False, True)
    """
    return cell.num_planned > 0 and (cell.num_accepted == 0 or cell.quality < min_quality)


def _planned(
    cause: str, adapter: str, places: Sequence[str], settings: Retraining, reason: str
) -> RegenerationPlan:
    num_clips = settings.regeneration.clips_per_place
    return RegenerationPlan(cause, adapter, tuple(places), num_clips, reason)


def _before(waves: Sequence[MadeWave], promoted: str) -> dict[str, CellCount]:
    """What older checkpoints made of each place; of sketches alone, how many there are."""
    older = [one for one in waves if one.is_generated and one.adapter != promoted]
    if older:
        return _summed(older)
    sketches = _summed([one for one in waves if not one.is_generated])
    # no model has failed here yet: the fewest clips count as the weakest place
    most = max((cell.num_accepted for cell in sketches.values()), default=0)
    return {place: CellCount(most, cell.num_accepted) for place, cell in sketches.items()}


def _summed(waves: Iterable[MadeWave]) -> dict[str, CellCount]:
    cells: dict[str, list[CellCount]] = {}
    for one in waves:
        for place, cell in one.cells.items():
            cells.setdefault(place, []).append(cell)
    return {
        place: CellCount(
            sum(cell.num_planned for cell in mine),
            sum(cell.num_accepted for cell in mine),
            sum(cell.sharpness for cell in mine) / len(mine),
        )
        for place, mine in cells.items()
    }


def _weakest(
    cells: Mapping[str, CellCount], settings: Retraining, order: Sequence[str] = ()
) -> list[str]:
    found_weak = {place: rank for rank, place in enumerate(order)}

    def strength(place: str) -> tuple[bool, int, float, float, int, str]:
        cell = cells[place]
        is_there = cell.num_accepted > 0 or cell.num_planned == 0
        rank = found_weak.get(place, len(found_weak))
        return is_there, rank, cell.quality, cell.sharpness, cell.num_accepted, place

    return sorted(cells, key=strength)[: settings.regeneration.num_places]


def _attempts(waves: Iterable[MadeWave], promoted: str) -> Counter[str]:
    """Waves that the promoted adapter has tried each place in."""
    return Counter(
        place
        for one in waves
        if one.is_generated and one.adapter == promoted
        for place in one.cells
    )
