from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from resources.secure_rounds import SecureStanding, due_steps
from worldloop.cosmos.families import ClipShape
from worldloop.federation.round_states import (
    Masking,
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


SECURE_SITES = ("aws", "azure", "gcp", "local")
SECURE = replace(
    PLAN,
    sites=SECURE_SITES,
    aggregation=Aggregation(secure=True),
    terms=Terms(quorum=3, deadline_s=100.0, scores_deadline_s=50.0),
)


def due_masked(phase, sent=(), *, runs=None, is_late=False, now=LATE, problem=""):
    rosters = dict.fromkeys(range(1, phase), SECURE_SITES)
    waits = tuple(site for site in SECURE_SITES if site not in sent)
    steps = due_steps(SecureStanding(phase, waits, rosters), SECURE, is_late=is_late)
    masking = Masking(phase, len(sent), 3, steps, is_late, LATE, problem)
    return due_in_round(SECURE, Standing(runs=runs or {}, masking=masking), now)


def live(*steps):
    return dict.fromkeys(steps, "live")


def test_every_phase_asks_the_sites_that_have_not_sent_once():
    assert due_masked(1).steps == tuple(f"delta/{site}/1" for site in SECURE_SITES)
    first = live(*(f"delta/{site}/1" for site in SECURE_SITES))
    assert due_masked(1, runs=first).steps == ()
    assert due_masked(2, ["aws"], runs=first).steps == tuple(
        f"delta/{site}/2" for site in SECURE_SITES[1:]
    )


def test_a_late_phase_is_ended_by_one_site_that_has_sent_and_then_by_the_next():
    asked = live("delta/local/1")
    first = due_masked(1, SECURE_SITES[:3], runs=asked, is_late=True)
    assert first.steps == ("delta/aws/1/late",)
    failed = {**asked, "delta/aws/1/late": "failed"}
    assert due_masked(1, SECURE_SITES[:3], runs=failed, is_late=True).steps == (
        "delta/azure/1/late",
    )


def test_a_late_phase_without_enough_sites_ends_the_round():
    found = due_masked(1, ["aws"], is_late=True)
    assert found.steps == ("verdict",)
    assert found.reason.startswith("1 sites have sent what phase 1 of secure aggregation needs")


def test_behind_training_a_late_phase_waits_for_runs_that_are_queued():
    queued = live(*(f"delta/{site}/2" for site in SECURE_SITES))
    assert due_masked(2, ["aws"], runs=queued, is_late=True).steps == ()
    much_later = LATE + timedelta(seconds=100)
    found = due_masked(2, ["aws"], runs=queued, is_late=True, now=much_later)
    assert found.steps == ("verdict",)


def test_a_sum_that_can_be_made_asks_for_the_adapter_and_a_problem_for_the_verdict():
    assert due_masked(5).steps == ("adapter",)
    assert due_masked(2, problem="too few are left").steps == ("verdict",)


class SecureWorld(World):
    """The same, with masked deltas: a phase of files of all that are left, then who was in."""

    def __init__(self, seed):
        super().__init__(seed)
        self.rosters, self.sent, self.since = {}, set(), OPENED

    def tick(self):
        masking = None if self.adapter_at is not None else self.masking()
        standing = Standing((), self.scores, self.adapter_at, self.over, dict(self.runs), masking)
        for step in due_in_round(SECURE, standing, self.now).steps:
            assert step not in self.asked
            self.asked.append(step)
            self.runs[step] = "live"

    def masking(self):
        phase = len(self.rosters) + 1
        expected = self.rosters.get(phase - 1, SECURE_SITES) if phase < 5 else ()
        there = [site for site in expected if site in self.sent]
        ends_at = self.since + timedelta(seconds=100 if phase == 1 else 60)
        waits = tuple(site for site in expected if site not in there)
        is_late = self.now >= ends_at
        steps = due_steps(SecureStanding(phase, waits, self.rosters), SECURE, is_late=is_late)
        return Masking(phase, len(there), 3, steps, is_late, ends_at)

    def happen(self):
        """Time passes, and perhaps a run ends, or somebody runs a site's partition by hand."""
        super().happen()
        if self.random.random() < 0.1:
            self._turn(SECURE_SITES[int(self.random.integers(4))])

    def _write(self, step):
        if step.startswith("delta/"):
            self._turn(step.split("/")[1])
        else:
            super()._write(step)

    def _turn(self, site):
        """What a run of a site does: its file, then the end of the phase if it is due."""
        found = self.masking()
        expected = self.rosters.get(found.phase - 1, SECURE_SITES)
        if found.phase == 5 or site not in expected:
            return
        self.sent.add(site)
        there = tuple(each for each in expected if each in self.sent)
        if there == expected or (found.is_late and len(there) >= 3):
            self.rosters[found.phase], self.sent, self.since = there, set(), self.now


@pytest.mark.parametrize("seed", range(300))
def test_in_a_secure_round_nothing_is_asked_twice_either_and_every_round_ends(seed):
    world = SecureWorld(seed)
    for _ in range(600):
        world.tick()
        if world.over:
            break
        world.happen()

    assert world.over
    world.tick()
    assert world.asked.count("verdict") == 1
    assert "adapter" not in world.asked or len(world.rosters) == 4
