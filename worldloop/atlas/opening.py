"""Opening hours and closing days, as the decorum slots `hours` and `closed_on` write them."""

import datetime as dt
import re
from collections.abc import Collection

from worldloop.errors import MalformedRecordError

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
CLOSING_DAYS = ("weekend", "holiday", *WEEKDAYS)
NEVER = "never"
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)")


def parse_hours(text: str) -> tuple[float, float]:
    """Opening and closing hour of a text such as `09:00-17:30`, local clock.

    Raises:
        MalformedRecordError: If it is written otherwise, closes after 24:00 or not after it opens.

    Example:
        >>> parse_hours("09:00-17:30")
        (9.0, 17.5)
    """
    match = _HOURS.fullmatch(text)
    if match:
        opens, opens_min, closes, closes_min = (int(group) for group in match.groups())
        span = opens + opens_min / 60, closes + closes_min / 60
        if span[0] < span[1] <= 24:
            return span
    raise MalformedRecordError(
        "hours", text, "hours of one day such as '09:00-17:30'", "Write 24:00 for midnight."
    )


def parse_closing_days(text: str) -> frozenset[str]:
    """The days of a text such as `monday+holiday`; none for `never`.

    Raises:
        MalformedRecordError: If it names a day that is none of `CLOSING_DAYS`, or one twice.

    Example:
        >>> sorted(parse_closing_days("weekend+holiday"))
        ['holiday', 'weekend']
    """
    if text == NEVER:
        return frozenset()
    days = text.split("+")
    if not set(days) <= set(CLOSING_DAYS) or len(set(days)) < len(days):
        raise MalformedRecordError(
            "closed_on", text, f"'never' or some of {', '.join(CLOSING_DAYS)}", "Join them by '+'."
        )
    return frozenset(days)


def is_closed(
    days: Collection[str], date: dt.date, *, weekend: Collection[int], is_holiday: bool
) -> bool:
    """Whether closing days fall on a date.

    Args:
        days: What `parse_closing_days` returns.
        date: Local date.
        weekend: Days off of the country, 0 is Monday.
        is_holiday: Whether the date is a public holiday there.
    """
    return (
        WEEKDAYS[date.weekday()] in days
        or ("weekend" in days and date.weekday() in weekend)
        or ("holiday" in days and is_holiday)
    )
