from datetime import UTC, datetime, timedelta

import pytest

from worldloop.conducting import RunSummary, city_states, due_steps, reason_not_to_open

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def run(city, *, finished=True, succeeded=True, will_retry=False):
    return RunSummary(city, finished, succeeded, will_retry)


def test_a_city_without_a_run_is_requested_and_the_wave_stays_open():
    due = due_steps(["lima", "tokyo"], city_states([run("lima")]))

    assert due.cities == ("tokyo",)
    assert not due.close


def test_the_newest_run_of_a_city_decides():
    newest_first = [run("lima"), run("lima", succeeded=False)]

    assert city_states(newest_first) == {"lima": "done"}


def test_a_failure_that_will_be_retried_keeps_the_wave_open():
    states = city_states([run("lima", succeeded=False, will_retry=True)])

    assert not due_steps(["lima"], states).close


def test_a_city_that_failed_for_good_does_not_block_the_wave():
    states = city_states([run("lima", succeeded=False), run("tokyo")])

    assert due_steps(["lima", "tokyo"], states).close


def test_a_city_made_by_a_backfill_counts_as_done_unless_a_run_is_live():
    assert city_states([], made=["lima"]) == {"lima": "done"}
    assert city_states([run("lima", finished=False)], made=["lima"]) == {"lima": "live"}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"open_waves": ["w0001"]}, "w0001"),
        ({"disk_used_gb": 10.5}, "max_disk_gb"),
        ({"last_opened_at": NOW - timedelta(hours=3)}, "min_hours_between_waves"),
    ],
)
def test_a_wave_does_not_open_and_says_why(change, word):
    facts = {
        "open_waves": [],
        "last_opened_at": None,
        "now": NOW,
        "min_hours_between": 24.0,
        "disk_used_gb": 1.0,
        "max_disk_gb": 10.0,
    }

    assert reason_not_to_open(**facts) is None
    assert word in reason_not_to_open(**{**facts, **change})
