from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from worldloop.cosmos.families import ClipShape
from worldloop.federation.round_states import (
    RoundRun,
    Standing,
    deadline,
    due_in_round,
    run_states,
)
from worldloop.federation.rounds import Aggregation, Base, RoundPlan, Terms, Training, Trial

OPENED = datetime(2026, 11, 21, 12, tzinfo=UTC)
EARLY, LATE = OPENED + timedelta(seconds=10), OPENED + timedelta(seconds=101)
SITES = ("aws", "azure", "gcp")
PLAN = RoundPlan(
    round="r0001",
    sites=SITES,
    waves=("w0001",),
    releases=("ff",),
    base=Base("Tiny-Cosmos3", "tiny"),
    training=Training(ClipShape(9, 64, 64, 16)),
    aggregation=Aggregation(),
    terms=Terms(quorum=2, deadline_s=100.0, scores_deadline_s=50.0),
    trial=Trial(),
    seed=1,
    opened_at=OPENED.isoformat(),
)
TRAINING = {f"delta/{site}": "live" for site in SITES}
SCORING = {f"scores/{site}": "live" for site in SITES}


def due(now=EARLY, **standing):
    return due_in_round(PLAN, Standing(**standing), now)


def test_every_site_is_asked_to_train_once():
    assert due().steps == ("delta/aws", "delta/azure", "delta/gcp")
    assert due(runs={"delta/aws": "failed"}).steps == ("delta/azure", "delta/gcp")
    assert due(runs=TRAINING).steps == ()


def test_a_site_whose_delta_stands_is_not_asked_whoever_made_it():
    assert due(deltas=["aws"]).steps == ("delta/azure", "delta/gcp")


def test_with_all_deltas_the_adapter_waits_for_no_deadline():
    assert due(deltas=SITES, runs=TRAINING).steps == ("adapter",)


def test_with_a_quorum_the_adapter_waits_for_the_deadline():
    assert due(deltas=["aws", "gcp"], runs=TRAINING).steps == ()
    assert due(LATE, deltas=["aws", "gcp"], runs=TRAINING).steps == ("adapter",)


def test_the_deadline_counts_from_the_plan():
    assert deadline(PLAN) == OPENED + timedelta(seconds=100)
    assert due(deadline(PLAN), deltas=["aws", "gcp"], runs=TRAINING).steps == ("adapter",)


def test_a_deadline_without_quorum_ends_the_round_with_one_clear_line():
    found = due(LATE, deltas=["aws"], runs=TRAINING)

    assert found.steps == ("verdict",)
    assert found.reason.startswith(
        "1 of 3 sites sent a delta in 100 s; the round needs a quorum of 2"
    )
    assert "\n" not in found.reason


def test_a_failed_site_is_waited_for_until_the_deadline_and_named():
    runs = {**TRAINING, "delta/gcp": "failed"}

    assert "gcp failed and can be run again" in due(deltas=["aws", "azure"], runs=runs).reason


def test_an_adapter_that_cannot_be_made_ends_the_round():
    runs = {**TRAINING, "adapter": "failed"}

    assert due(LATE, deltas=["aws", "gcp"], runs=runs).steps == ("verdict",)


def test_a_delta_behind_the_adapter_asks_for_nothing():
    without = due(LATE, deltas=["aws", "gcp"], adapter_at=LATE, runs=SCORING)

    assert due(LATE, deltas=SITES, adapter_at=LATE, runs=SCORING) == without


def test_every_site_scores_the_adapter_and_then_the_verdict_is_due():
    assert due(adapter_at=EARLY).steps == ("scores/aws", "scores/azure", "scores/gcp")
    assert due(adapter_at=EARLY, runs=SCORING, scores=["aws"]).steps == ()
    assert due(adapter_at=EARLY, runs=SCORING, scores=SITES).steps == ("verdict",)


def test_a_site_that_cannot_score_or_is_late_holds_nothing_up():
    failed = {**SCORING, "scores/gcp": "failed"}

    assert due(adapter_at=EARLY, runs=failed, scores=["aws", "azure"]).steps == ("verdict",)
    late = EARLY + timedelta(seconds=50)
    assert due(late, adapter_at=EARLY, runs=SCORING, scores=["aws"]).steps == ("verdict",)


def test_a_verdict_that_came_to_nothing_is_followed_by_the_end_and_that_by_nothing():
    runs = {**SCORING, "verdict": "failed"}

    assert due(adapter_at=EARLY, runs=runs).steps == ("end",)
    assert due(adapter_at=EARLY, runs={**runs, "end": "live"}).steps == ()
    stuck = due(adapter_at=EARLY, runs={**runs, "end": "failed"})
    assert (stuck.steps, "in the UI" in stuck.reason) == ((), True)


def test_a_round_with_an_outcome_is_over():
    assert due(LATE, has_outcome=True).steps == ()


def test_the_newest_run_decides_and_one_that_will_be_retried_is_alive():
    runs = [
        RoundRun("delta/aws", finished=True, succeeded=False, will_retry=True),
        RoundRun("delta/aws", finished=True, succeeded=True, will_retry=False),
        RoundRun("adapter", finished=True, succeeded=False, will_retry=False),
        RoundRun("delta/gcp", finished=True, succeeded=True, will_retry=False),
    ]

    assert run_states(runs) == {"delta/aws": "live", "adapter": "failed", "delta/gcp": "done"}


class World:
    """Runs that end in any order, with or without what they were to write."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.now, self.runs, self.asked = OPENED, {}, []
        self.deltas, self.scores, self.adapter_at, self.over = set(), set(), None, False

    def tick(self):
        standing = Standing(self.deltas, self.scores, self.adapter_at, self.over, dict(self.runs))
        for step in due_in_round(PLAN, standing, self.now).steps:
            assert step not in self.asked
            self.asked.append(step)
            self.runs[step] = "live"

    def happen(self):
        """Time passes, and perhaps a run ends or a site sends late."""
        self.now += timedelta(seconds=float(self.random.uniform(0, 40)))
        live = sorted(step for step, state in self.runs.items() if state == "live")
        if live and self.random.random() < 0.6:
            self._end(live[int(self.random.integers(len(live)))])
        if self.random.random() < 0.1:
            self.deltas.add(SITES[int(self.random.integers(3))])

    def _end(self, step):
        fate = self.random.random()
        self.runs[step] = "done" if fate < 0.7 else "failed"
        if fate < 0.6 or step == "end":  # done without having written, failed after having written
            self._write(step)

    def _write(self, step):
        kind, _, site = step.partition("/")
        if kind == "adapter":
            self.adapter_at = self.now
        elif kind in ("verdict", "end"):
            self.over = True
        else:
            (self.deltas if kind == "delta" else self.scores).add(site)


@pytest.mark.parametrize("seed", range(300))
def test_in_any_order_of_events_nothing_is_asked_twice_and_every_round_ends(seed):
    world = World(seed)
    for _ in range(400):
        world.tick()
        if world.over:
            break
        world.happen()

    assert world.over
    world.tick()
    assert world.asked.count("verdict") == 1
