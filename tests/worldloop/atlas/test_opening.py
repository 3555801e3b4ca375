import datetime as dt

import pytest

from worldloop.atlas.opening import is_closed, parse_closing_days, parse_hours
from worldloop.errors import MalformedRecordError

FRIDAY = dt.date(2026, 5, 15)


@pytest.mark.parametrize(
    ("text", "span"), [("00:00-24:00", (0.0, 24.0)), ("08:45-17:30", (8.75, 17.5))]
)
def test_hours_are_local_clock(text, span):
    assert parse_hours(text) == span


@pytest.mark.parametrize("text", ["9-17", "18:00-02:00", "10:00-24:30", "24:00-24:00", ""])
def test_hours_that_cannot_be_are_refused(text):
    with pytest.raises(MalformedRecordError, match="hours of one day"):
        parse_hours(text)


@pytest.mark.parametrize("text", ["", "sundays", "monday+monday", "never+monday"])
def test_closing_days_that_nobody_knows_are_refused(text):
    with pytest.raises(MalformedRecordError, match="closed_on"):
        parse_closing_days(text)


@pytest.mark.parametrize(
    ("rule", "weekend", "is_holiday", "closed"),
    [
        ("weekend", (4, 5), False, True),  # where Friday is a day off
        ("weekend", (5, 6), False, False),
        ("friday", (5, 6), False, True),
        ("monday+holiday", (5, 6), True, True),
        ("never", (4, 5), True, False),
    ],
)
def test_a_closing_day_depends_on_the_weekend_and_the_holidays_there(
    rule, weekend, is_holiday, closed
):
    days = parse_closing_days(rule)
    assert is_closed(days, FRIDAY, weekend=weekend, is_holiday=is_holiday) == closed
