"""When a wave opens, which of its steps are due, and when it closes: decisions without Dagster."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

CityState = Literal["live", "done", "failed"]


@dataclass(frozen=True)
class RunSummary:
    """What the conductor needs to know of one run of a city.

    Attributes:
        city: Whose run it is.
        finished: Whether the run has ended.
        succeeded: Whether it ended well.
        will_retry: Whether the platform is about to start it again.
    """

    city: str
    finished: bool
    succeeded: bool
    will_retry: bool


@dataclass(frozen=True)
class DueSteps:
    """What to request now for one wave.

    Attributes:
        cities: Planned cities that no run has been asked for.
        close: Whether every planned city has ended, so the wave-level run is due.
    """

    cities: tuple[str, ...]
    close: bool


def city_states(
    newest_first: Iterable[RunSummary], made: Iterable[str] = ()
) -> dict[str, CityState]:
    """State of each city that has a run or is made; the newest run of a city decides.

    A failed run that will be retried is alive: between a failure and its retry no run exists.

    Args:
        newest_first: Runs of one wave, newest first.
        made: Cities whose last asset stands already, however it came to be (a backfill, say).
    """
    states: dict[str, CityState] = {}
    for run in newest_first:
        if run.city in states:
            continue
        if not run.finished or (not run.succeeded and run.will_retry):
            states[run.city] = "live"
        else:
            states[run.city] = "done" if run.succeeded else "failed"
    for city in made:
        if states.get(city) != "live":
            states[city] = "done"
    return states


def due_steps(planned: Sequence[str], states: Mapping[str, CityState]) -> DueSteps:
    """The steps that are due in a wave.

    Example:
        >>> due_steps(["lima", "tokyo"], {"lima": "failed"})
        DueSteps(cities=('tokyo',), close=False)
        >>> due_steps(["lima", "tokyo"], {"lima": "failed", "tokyo": "done"}).close
        True
    """
    waiting = tuple(city for city in planned if city not in states)
    ended = not waiting and all(states[city] != "live" for city in planned)
    return DueSteps(waiting, close=ended)


def reason_not_to_open(
    *,
    open_waves: Sequence[str],
    last_opened_at: datetime | None,
    now: datetime,
    min_hours_between: float,
    disk_used_gb: float,
    max_disk_gb: float,
) -> str | None:
    """Why no new wave may open now, in words for the UI; None if one may.

    The money side is the ledger's to answer: it reserves, and says itself why it will not.
    """
    if open_waves:
        return f"Wave {open_waves[0]} is still open; the next one opens when it has its release."
    if disk_used_gb >= max_disk_gb:
        return (
            f"The site holds {disk_used_gb:.1f} GB of at most {max_disk_gb:.1f} GB (max_disk_gb in "
            "sites.toml). See what would go with `worldloop gc --dry-run`, or raise the limit."
        )
    if last_opened_at is not None:
        due_at = last_opened_at + timedelta(hours=min_hours_between)
        if now < due_at:
            return (
                f"The last wave opened at {last_opened_at:%Y-%m-%d %H:%M} UTC; with "
                f"min_hours_between_waves = {min_hours_between:g} the next opens at {due_at:%Y-%m-%d %H:%M}."
            )
    return None
