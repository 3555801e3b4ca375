"""What is due in a round: decisions on its plan, on what stands of it and on its runs, without Dagster.

A round goes plan -> deltas -> adapter -> scores -> verdict -> outcome. Each step is asked for once; a
step that failed is run again by a person, from its partition. Every round ends: a deadline, a failed
run or the last of the runs leads to the verdict, which writes the outcome whatever there is.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from worldloop.federation.rounds import RoundPlan

RunState = Literal["live", "done", "failed"]
Kind = Literal["delta", "adapter", "scores", "verdict", "end"]
ADAPTER, VERDICT, END = "adapter", "verdict", "end"
LATE = "late"  # end of the step in which a phase that is late is ended
_SUMMED = 5  # phase of a secure round in which the sum can be made, `masking.DONE`


@dataclass(frozen=True)
class RoundRun:
    """What the conductor needs to know of one run.

    Attributes:
        step: `delta/aws`, `adapter`, `scores/aws`, `verdict` or `end`; in a secure round `delta/aws/2`
            and `delta/aws/2/late`, by phase.
        finished: Whether the run has ended.
        succeeded: Whether it ended well.
        will_retry: Whether the platform is about to start it again.
    """

    step: str
    finished: bool
    succeeded: bool
    will_retry: bool


@dataclass(frozen=True)
class Masking:
    """How far the masked deltas of a secure round are.

    Attributes:
        phase: The one that is open, 1 to 4; 5: the sum can be made.
        num_sent: Sites whose file of this phase is there.
        needed: As many must send in every phase.
        steps: What this phase can need of the sites: first those that have not sent, then, late, those that have.
        is_late: Whether the phase's deadline has passed.
        ends_at: When it passes.
        problem: Why no run can carry it on, in one line; empty if one can.
    """

    phase: int
    num_sent: int
    needed: int
    steps: tuple[str, ...]
    is_late: bool
    ends_at: datetime
    problem: str = ""


@dataclass(frozen=True)
class Standing:
    """What stands of a round, and its runs.

    Attributes:
        deltas: Sites whose delta, or word that they have none, is at the coordinator.
        scores: Sites whose scores are.
        adapter_at: When the adapter was published; None without one.
        has_outcome: Whether the round is over.
        runs: State of every step that was ever asked for.
        masking: Of a secure round that has no adapter yet.
        by_agents: Sites whose part an agent of their own carries: nothing is asked for them.
        gone: Sites that the sites file does not have any more: nothing can be asked for them.
    """

    deltas: Collection[str] = ()
    scores: Collection[str] = ()
    adapter_at: datetime | None = None
    has_outcome: bool = False
    runs: Mapping[str, RunState] = field(default_factory=dict)
    masking: Masking | None = None
    by_agents: Collection[str] = ()
    gone: Collection[str] = ()

    def asks(self, site: str) -> bool:
        """Whether a site's part is asked for."""
        return site not in self.by_agents and site not in self.gone


@dataclass(frozen=True)
class Due:
    """What to ask for now.

    Attributes:
        steps: As in `RoundRun.step`, in order; empty: nothing.
        reason: What the round is waiting for, or why the steps are due, in words.
    """

    steps: tuple[str, ...]
    reason: str


def run_states(newest_first: Iterable[RoundRun]) -> dict[str, RunState]:
    """State of each step that has a run; the newest run decides.

    A failed run that will be retried is alive: between a failure and its retry no run exists.
    """
    states: dict[str, RunState] = {}
    for run in newest_first:
        if run.step in states:
            continue
        if not run.finished or (not run.succeeded and run.will_retry):
            states[run.step] = "live"
        else:
            states[run.step] = "done" if run.succeeded else "failed"
    return states


def due_in_round(plan: RoundPlan, standing: Standing, now: datetime) -> Due:
    """What is due in a round.

    A delta that comes after the adapter changes nothing; whether the next round takes it is for
    `Terms.max_staleness` to say.

    Args:
        plan: The round's.
        standing: What stands of it now.
        now: The moment, with its time zone.
    """
    if standing.has_outcome:
        return Due((), f"{plan.round} is over")
    for due in (_judging(standing), _ending(standing)):
        if due is not None:
            return due
    if standing.adapter_at is None:
        return _before_adapter(plan, standing, now)
    return _after_adapter(plan, standing, standing.adapter_at, now)


def deadline(plan: RoundPlan) -> datetime:
    """When the deltas that are there are aggregated without the others."""
    return datetime.fromisoformat(plan.opened_at) + timedelta(seconds=plan.terms.deadline_s)


def missing_quorum(plan: RoundPlan, num_deltas: int) -> str:
    """Why a round without quorum ends, in one line."""
    return (
        f"{num_deltas} of {len(plan.sites)} sites sent a delta in {plan.terms.deadline_s:g} s; the round "
        f"needs a quorum of {plan.terms.quorum}. Look at the runs of the sites that are missing, or give "
        "the next round a longer deadline_s."
    )


def _judging(standing: Standing) -> Due | None:
    """Once the verdict was asked for it is all that the round waits for."""
    state = standing.runs.get(VERDICT)
    if state == "live":
        return Due((), "its verdict is being reached")
    if state is not None and END not in standing.runs:
        return Due((END,), "its verdict came to no outcome, so the round is ended")
    return None


def _ending(standing: Standing) -> Due | None:
    state = standing.runs.get(END)
    if state is None:
        return None
    if state == "live":
        return Due((), "it is being ended")
    return Due((), "it could not be ended: run verdict_job of this round again in the UI")


def _before_adapter(plan: RoundPlan, standing: Standing, now: datetime) -> Due:
    sent = [site for site in plan.sites if site in standing.deltas]
    state = standing.runs.get(ADAPTER)
    if state == "live":
        return Due((), "its adapter is being made")
    if state is not None:
        return Due((VERDICT,), "its adapter could not be made")
    if standing.masking is not None:
        return _in_phase(plan, standing.masking, standing, now)
    if len(sent) == len(plan.sites):
        return Due((ADAPTER,), "every site has sent its delta")
    counted = f"{len(sent)} of {len(plan.sites)} deltas are in"
    if now >= deadline(plan):
        if len(sent) >= plan.terms.quorum:
            return Due((ADAPTER,), f"the deadline has passed; {counted}, which is a quorum")
        return Due((VERDICT,), missing_quorum(plan, len(sent)))
    waiting = [site for site in plan.sites if site not in sent]
    counted += _not_asked(waiting, standing)
    ours = [f"delta/{site}" for site in waiting if standing.asks(site)]
    asked = tuple(step for step in ours if step not in standing.runs)
    if asked:
        return Due(asked, f"{counted}; sites are asked to train")
    failed = [site for site in plan.sites if standing.runs.get(f"delta/{site}") == "failed"]
    also = [site for site in failed if site not in sent]
    words = f", {', '.join(also)} failed and can be run again until then" if also else ""
    return Due((), f"{counted}{words}; the deadline is {deadline(plan):%Y-%m-%d %H:%M:%S} UTC")


def _not_asked(waiting: Iterable[str], standing: Standing) -> str:
    """Whose part the round waits for without asking, in words."""
    left = [site for site in waiting if site in standing.by_agents]
    gone = [site for site in waiting if site in standing.gone]
    words = f"; {', '.join(left)} left to agents of their own" if left else ""
    return words + (f"; {', '.join(gone)} not in sites.toml any more" if gone else "")


def _in_phase(plan: RoundPlan, masking: Masking, standing: Standing, now: datetime) -> Due:
    """A phase of a secure round: sites are asked once, and once more to end it when it is late.

    Agents are not asked. To end a late phase needs nothing of a site, so that is asked for theirs too.

    Only the first phase trains, so only its deadline holds whatever runs: the others wait for runs that
    are queued behind other work, at most as long as training may take.
    """
    if masking.phase == _SUMMED:
        return Due((ADAPTER,), "the sum of the masked deltas can be made")
    counted = (
        f"{masking.num_sent} sites have sent what phase {masking.phase} of secure aggregation needs"
    )
    if masking.problem:
        return Due((VERDICT,), masking.problem)
    runs = standing.runs
    waiting = [step.split("/")[1] for step in masking.steps if not step.endswith(LATE)]
    counted += _not_asked(waiting, standing)
    new = tuple(
        step
        for step in masking.steps
        if step not in runs and not step.endswith(LATE) and standing.asks(step.split("/")[1])
    )
    if new and not (masking.is_late and masking.phase == 1):
        return Due(new, f"{counted}; the others are asked")
    if not masking.is_late:
        return Due((), f"{counted}; its deadline is {masking.ends_at:%Y-%m-%d %H:%M:%S} UTC")
    alive = any(
        state == "live" and (step.endswith(LATE) or masking.phase > 1)
        for step, state in runs.items()
        if step.split("/")[2:3] == [str(masking.phase)]
    )
    if alive and now < masking.ends_at + timedelta(seconds=plan.terms.deadline_s):
        return Due((), f"{counted}; its deadline has passed, and runs of it are under way")
    if masking.num_sent < masking.needed:
        return Due((VERDICT,), f"{counted} in time, of {masking.needed} that it needs")
    late = [
        step
        for step in masking.steps
        if step not in runs and step.endswith(LATE) and step.split("/")[1] not in standing.gone
    ]
    if late:
        return Due((late[0],), f"{counted}; its deadline has passed, so it is ended")
    return Due((VERDICT,), f"{counted}, and it could not be ended: see the runs of delta_job")


def _after_adapter(plan: RoundPlan, standing: Standing, since: datetime, now: datetime) -> Due:
    waiting = [site for site in plan.sites if site not in standing.scores]
    counted = f"{len(plan.sites) - len(waiting)} of {len(plan.sites)} sites have scored it"
    if not waiting:
        return Due((VERDICT,), counted)
    due_at = since + timedelta(seconds=plan.terms.scores_deadline_s)
    if now >= due_at:
        return Due((VERDICT,), f"the deadline for scores has passed; {counted}")
    counted += _not_asked(waiting, standing)
    ours = [f"scores/{site}" for site in waiting if standing.asks(site)]
    asked = tuple(step for step in ours if step not in standing.runs)
    if asked:
        return Due(asked, f"{counted}; sites are asked to measure")
    by_agent = any(site in standing.by_agents for site in waiting)
    if not by_agent and all(standing.runs[step] != "live" for step in ours):
        return Due((VERDICT,), f"{counted}, and no other is measuring")
    return Due((), f"{counted}; the deadline is {due_at:%Y-%m-%d %H:%M:%S} UTC")
