"""Kills sites and the coordinator of a round at every step, with real trainers on a tiny random model.

Every case is a copy of one federation of three folders; each step is a process that is killed (SIGKILL) at a
named moment, or whose trainer is. What must be the same is compared bit for bit.

    python -m tests.campaigns.round_kills sites --out kills.jsonl          # a site, in every phase
    python -m tests.campaigns.round_kills coordinator --out kills.jsonl    # at every write and failpoint
    python -m tests.campaigns.round_kills secure --out kills.jsonl         # masked sums, with a site that goes
    python -m tests.campaigns.round_kills poison --out kills.jsonl         # deltas that were tampered with

A line of the file is a case that is done; a later call goes on with the others.
"""

import argparse
import contextlib
import json
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg
import numpy as np
import polars as pl

from resources.outbox import Outbox
from resources.round_files import (
    RoundStanding,
    read_adapter_record,
    read_round_adapter,
    read_round_plan,
)
from resources.secure_rounds import FILES
from resources.site_keys import SiteKeys
from tests.campaigns.round_ground import Ended, Ground, Kill, Round, ground, prepare
from tests.campaigns.round_worker import HOMES, NUM_STEPS, ROUND, TRAINER, RealRounds, Task
from worldloop.federation import codecs
from worldloop.federation.adapters import Arrays, difference, norm, start_from_shapes
from worldloop.federation.codecs import decode, encode
from worldloop.federation.envelopes import read_unverified, seal
from worldloop.federation.fixed_point import fixed_point
from worldloop.federation.masking import KEYS, MASKED, SHARES
from worldloop.federation.outbox import DELTA
from worldloop.federation.rounds import ROBUST_STRATEGIES
from worldloop.layout import sent_key

AT = "2026-01-01T00:00:00+00:00"
TEMPLATE, PLANNED, TRAINED, SAMPLED, SCORED = "template", "planned", "trained", "sampled", "scored"
VICTIM = "azure"
_DELTA, _SCORES = f"delta/{VICTIM}", f"scores/{VICTIM}"
_LAST = f"train.step*{NUM_STEPS}"
NEVER_SENT = tuple(
    Kill(_DELTA, moment)
    for moment in (
        *("start", "fetch", "train.started", "train.encoding", "train.step", "train.step*2", _LAST),
        *("site_delta.trained", "write.after*2", "write.after*3", "site_delta.before_send"),
    )
)
SENT = tuple(Kill(_DELTA, moment) for moment in ("write.after*4", "site_delta.sent"))
HEALED = (
    *(Kill(_DELTA, moment, TRAINER) for moment in ("train.encoding", "train.step*2", _LAST)),
    *(Kill(_DELTA, m, comes_back=True) for m in ("train.step*2", "site_delta.before_send")),
)
LOST_TRAINER = (Kill(_DELTA, "train.step*2", TRAINER, always=True),)
SCORING = (
    *(Kill(_SCORES, m) for m in ("start", "measure.started", "site_scores.before_send")),
    Kill(_SCORES, "measure.started", TRAINER, always=True),
    Kill("scores/aws", "write.after*5"),  # in the middle of the samples
)
SITE_KILLS = (*LOST_TRAINER, *SCORING, *HEALED, *SENT, *NEVER_SENT)
# what follows an adapter follows from its bytes, so only these rounds are carried on to their outcome
TO_THE_END = (NEVER_SENT[0], *LOST_TRAINER, *SCORING)


@dataclass(frozen=True)
class Case:
    """What came of a case.

    Attributes:
        name: In words.
        problems: What is not as stated; none if all is well.
        facts: Numbers.
        took_s: Wall seconds.
    """

    name: str
    problems: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    took_s: float = 0.0


@dataclass
class Campaign:
    """Cases on one ground; what they are compared with is made once.

    Attributes:
        ground: Where.
    """

    ground: Ground
    _known: dict[str, Any] = field(default_factory=dict)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """A thing that several cases need."""
        if name not in self._known:
            self._known[name] = make()
        return self._known[name]

    # --- a site is killed

    def site(self, kill: Kill) -> Case:
        """One site dies in a step; the round goes on with the others."""
        begun = time.monotonic()
        end = kill in TO_THE_END
        ended = self._round(FROM.get(kill.step, PLANNED), kill, to_the_end=end)
        lost = kill in NEVER_SENT or kill in LOST_TRAINER
        adapter_sha256, statuses = self._reference(without=lost)
        problems = [
            f"{name}: {getattr(ended, name)!r}, expected {wanted!r}"
            for name, wanted in (
                ("adapter_sha256", adapter_sha256),
                ("statuses", statuses),
                ("outcome", "promoted" if end else ""),
                ("waited_for", ("training",) if lost else ()),
                ("num_killed", int(kill.victim != TRAINER)),
            )
            if getattr(ended, name) != wanted
        ]
        if kill.site in ended.scored and (lost or kill in SCORING):
            problems.append(f"{kill.site} has scored, though it was gone")
        return Case(str(kill), tuple(problems), asdict(ended), round(time.monotonic() - begun, 1))

    def _reference(self, *, without: bool) -> tuple[str, Mapping[str, str]]:
        """Adapter and statuses of a round that nobody disturbs, or in which one site never came."""
        kills = (Kill(_DELTA, "start"),) if without else ()
        made = self.once(f"reference {without}", lambda: self._round(PLANNED, *kills))
        return made.adapter_sha256, made.statuses

    def _round(self, of: str, *kills: Kill, to_the_end: bool = False) -> Ended:
        self.stage(of)
        one = Round(self.ground, self.ground.fresh(of), kills)
        return one.carry(until=lambda standing: not to_the_end and standing.adapter_at is not None)

    def stage(self, name: str) -> None:
        """A federation that stands so far: planned, trained, with the samples and one site's scores, or scored."""
        stages = [TEMPLATE, PLANNED, TRAINED, SAMPLED, SCORED]
        if name == TEMPLATE or name in self._known:
            return
        before = stages[stages.index(name) - 1]
        self.stage(before)
        one = Round(self.ground, self.ground.fresh(before))
        if name == PLANNED:
            one.plan()
        else:
            one.carry(until=_STANDS[name])
        self.ground.keep(one.home, name)
        self._known[name] = True

    # --- the coordinator is killed

    def coordinator(self, job: str, moment: str) -> Case:
        """The coordinator dies in a step, which is run again: all that stands is what one run leaves."""
        begun = time.monotonic()
        reference, _ = self.undisturbed(job)
        task = self._task(job)
        one = Round(self.ground, Path(task.home))
        codes = [one.do(replace(task, moment=moment)), one.do(task), one.do(task)]
        found = contents(Path(task.home))
        problems = [
            f"{name} differs" for name in sorted(reference.keys() | found.keys())
            if reference.get(name) != found.get(name)
        ]  # fmt: skip
        if codes != [-9, 0, 0]:
            problems.append(f"the runs ended with {codes}, expected [-9, 0, 0]")
        facts = {"num_files": len(found)}
        took_s = round(time.monotonic() - begun, 1)
        return Case(f"coordinator in {job} at {moment}", tuple(problems), facts, took_s)

    def undisturbed(self, job: str) -> tuple[dict[str, Any], list[str]]:
        """What a step leaves that nobody disturbs, and its moments, each numbered."""

        def run() -> tuple[dict[str, Any], list[str]]:
            task = self._task(job)
            counted = Path(task.home) / "moments"
            code = Round(self.ground, Path(task.home)).do(replace(task, count_path=str(counted)))
            assert code == 0, f"{job} failed undisturbed: see {task.home}/workers.log"
            names = counted.read_text(encoding="utf-8").splitlines()
            return contents(Path(task.home)), [
                f"{name}*{names[:i].count(name) + 1}" for i, name in enumerate(names)
            ]

        found: tuple[dict[str, Any], list[str]] = self.once(f"undisturbed {job}", run)
        return found

    def _task(self, job: str) -> Task:
        of = {"round_job": TEMPLATE, "adapter_job": TRAINED, "verdict_job": SCORED}[job]
        self.stage(of)
        home = self.ground.fresh(of)
        config: dict[str, Any] = {}
        if job == "round_job":
            with dg.DagsterInstance.ephemeral() as instance:
                config = RealRounds(home, instance).plan_config()
        where = (str(home), str(self.ground.trainers))
        return Task(*where, job, ROUND, config=config, at=AT)

    # --- masked sums

    def secure(self, gone_in: int, codec: str = "float32") -> Case:
        """A secure round in which a site goes away in a phase: the sum beside the plain mean of the others."""
        begun = time.monotonic()
        plain = self.once("plain deltas", self._plain_deltas)
        one = Round(self.ground, self.ground.fresh(TEMPLATE), _gone_in(gone_in))
        one.plan(aggregation={"secure": True, "codec": codec})
        end = gone_in == KEYS
        ended = one.carry(until=lambda standing: not end and standing.adapter_at is not None)
        lost = _goes_in(gone_in) if gone_in in (KEYS, SHARES, MASKED) else ""
        survivors = [site for site in HOMES if site != lost]
        with dg.DagsterInstance.ephemeral() as instance:
            store = RealRounds(one.home, instance).store
            plan, made = read_round_plan(store, ROUND), read_round_adapter(store, ROUND)
        start = start_from_shapes(plan.seed, {name: each.shape for name, each in made.items()})
        off = _largest(difference(difference(made, start), _mean([plain[s] for s in survivors])))
        numbers = fixed_point(plan, {"any": {"weight_bits": 2}})  # two clips a site
        # each site's number is rounded by half a step; then float32 rounds the adapter
        bound = numbers.step * numbers.max_weight / 4 + 1e-7
        accepted = [site for site, status in ended.statuses.items() if status == "accepted"]
        problems = [f"{ended.num_killed} killed"] if ended.num_killed != (gone_in in FILES) else []
        problems += [f"off by {off:.3g}, bound {bound:.3g}"] if off > bound else []
        if accepted != survivors:
            problems.append(f"summed {accepted}, expected {survivors}")
        if end and ended.outcome != "promoted":
            problems.append(f"{ended.outcome}: {ended.reason}")
        facts: dict[str, Any] = {
            "off": off,
            "bound": bound,
            "largest": _largest(difference(made, start)),
        }
        took_s = round(time.monotonic() - begun, 1)
        facts["waited_for"] = ended.waited_for
        return Case(_secure_name(gone_in, codec), tuple(problems), facts, took_s)

    def _plain_deltas(self) -> dict[str, Arrays]:
        """What each site's training changes, as it is sent without loss."""
        one = Round(self.ground, self.ground.fresh(TEMPLATE))
        one.plan(aggregation={"codec": "float32"})
        one.carry(until=lambda standing: len(standing.deltas) == len(HOMES))
        with dg.DagsterInstance.ephemeral() as instance:
            store = RealRounds(one.home, instance).store
        outbox, self._known["plan"] = Outbox(store), read_round_plan(store, ROUND)
        self._known["headers"] = {
            site: read_unverified(outbox.sent(ROUND, site, DELTA) or b"") for site in HOMES
        }
        return {site: decode(payload) for site, (_, payload) in self._known["headers"].items()}

    # --- poison

    def poison(self, strategy: str, how: str) -> Case:
        """One site sends something else than it learnt, signed: the adapter beside the honest one."""
        begun = time.monotonic()
        plain = self.once("plain deltas", self._plain_deltas)
        honest, _ = self.once(f"honest {strategy}", lambda: self._aggregated(strategy, plain))
        poisoned = {**plain, VICTIM: POISONS[how](plain[VICTIM])}
        made, status = self._aggregated(strategy, poisoned)
        facts: dict[str, Any] = {"status": status}
        problems = []
        if how == "nan" and not status.startswith("refused"):
            problems.append(f"numbers that are no numbers were {status}")
        if made is not None:
            facts |= self._beside(made, honest)
            if strategy in ROBUST_STRATEGIES and facts["between"] < 1.0:
                problems.append(f"only {facts['between']:.4f} lies between the honest sites")
        took_s = round(time.monotonic() - begun, 1)
        return Case(f"{strategy}, {VICTIM} sends {how}", tuple(problems), facts, took_s)

    def _beside(self, made: Arrays, honest: Arrays) -> dict[str, float]:
        """An adapter beside the one that would have been made of what was learnt."""
        plain = self._known["plain deltas"]
        others = [plain[site] for site in HOMES if site != VICTIM]
        seed = self._known["plan"].seed
        start = start_from_shapes(seed, {name: each.shape for name, each in made.items()})
        change, wanted = difference(made, start), difference(honest, start)
        return {
            "length": norm(change) / norm(wanted),
            "apart": norm(difference(change, wanted)) / norm(wanted),
            "cosine": _cosine(change, _mean(others)),
            "between": _share_between(change, others),
        }

    def _aggregated(self, strategy: str, deltas: Mapping[str, Arrays]) -> tuple[Any, str]:
        """Start and adapter that the graph makes of deltas, None if it makes none; and what became of the victim's."""
        one = Round(self.ground, self.ground.fresh(TEMPLATE))
        one.plan(**_asked_for(strategy))
        with dg.DagsterInstance.ephemeral() as instance:
            house = RealRounds(one.home, instance)
            instance.add_dynamic_partitions("round", [ROUND])
            plan, keys = read_round_plan(house.store, ROUND), SiteKeys(one.home)
            for site, delta in deltas.items():
                header = replace(self._known["headers"][site][0], plan_id=plan.plan_id)
                keys.publish(house.store, site)
                with patch.object(codecs, "_check_finite"):  # a site that means harm checks nothing
                    payload = encode(delta, "float32", error_feedback=False).content
                content = seal(payload, header, keys.private_key(site))
                house.store.put(sent_key(ROUND, site, DELTA), content)
            made = house.execute("adapter_job", ROUND, raises=False).success
            if not made:
                return None, "refused, and no adapter is made"
            record = read_adapter_record(house.store, ROUND)
            assert record is not None
            return read_round_adapter(house.store, ROUND), record.of(VICTIM).status


FROM = {_SCORES: SAMPLED, "scores/aws": TRAINED}
_STANDS: Mapping[str, Callable[[RoundStanding], bool]] = {
    TRAINED: lambda standing: len(standing.deltas) == len(HOMES),
    SAMPLED: lambda standing: len(standing.scores) == 1,
    SCORED: lambda standing: len(standing.scores) == len(HOMES),
}
POISONS: Mapping[str, Callable[[Arrays], Arrays]] = {
    "x100": lambda delta: {n: each * np.float32(100) for n, each in delta.items()},
    "flipped": lambda delta: {n: -each for n, each in delta.items()},
    "flipped x100": lambda delta: {n: each * np.float32(-100) for n, each in delta.items()},
    "nan": lambda delta: {n: np.full_like(each, np.nan) for n, each in delta.items()},
}
STRATEGIES = ("fedavg", "fedavg with max_norm", "trimmed_mean", "median")
SECURE = (*((phase, "float32") for phase in (1, 2, 3, 4, 0)), (3, "int8"))
COORDINATOR_JOBS = ("round_job", "adapter_job", "verdict_job")


# what judging took is told by a clock; what the round took is in its files
_LEDGER = (
    "select key, kind, reserved, case key when ? then settled end from entries order by key, kind"
)


def is_deadly(moment: str) -> bool:
    """Whether the coordinator is killed at a moment: after every write, at every failpoint, while samples are judged.

    Before a write all is as after the one before it.
    """
    name = moment.partition("*")[0]
    told = name.split(".")[0] in ("train", "measure", "judge")
    return moment in ("judge.started*1", "write.before*1") or not (
        told or name in ("start", "fetch", "write.before")
    )


def contents(home: Path) -> dict[str, Any]:
    """All that the coordinator keeps of a round: files byte for byte, rows of the log as often as they stand there, the ledger."""
    site = home / "site"
    found: dict[str, Any] = {
        str(path.relative_to(site)): path.read_bytes()
        for folder in ("rounds", "registry")
        for path in (site / folder).rglob("*")
        if path.is_file()
    }
    for kind in ("rounds", "round_waves", "round_deltas"):
        found[f"log of {kind}"] = _logged(site / "logs" / "shared" / kind)
    with contextlib.closing(sqlite3.connect(home / "ledger.sqlite")) as ledger:
        if ledger.execute("select 1 from sqlite_master where name = 'entries'").fetchone():
            found["ledger"] = ledger.execute(_LEDGER, (ROUND,)).fetchall()
    return found


def _logged(folder: Path) -> list[str]:
    """Rows of every committed batch, read without our log code."""
    batches = [
        pl.read_parquet(folder / f"{claim.name}-{claim.read_text()}.parquet")
        for claim in folder.glob("claims/*")
    ]
    return sorted(str(row) for batch in batches for row in batch.iter_rows(named=True))


def _goes_in(phase: int) -> str:
    """Who goes away in a phase: one that is asked for it, not the last one of the phase before, which goes on by itself."""
    return "aws" if phase == MASKED else VICTIM


def _gone_in(phase: int) -> tuple[Kill, ...]:
    return (Kill(f"delta/{_goes_in(phase)}/{phase}", "start"),) if phase in FILES else ()


def _secure_name(gone_in: int, codec: str) -> str:
    bits = 32 if codec == "float32" else 16
    gone = f"{_goes_in(gone_in)} gone in phase {gone_in}" if gone_in in FILES else "nobody gone"
    return f"secure, {bits} bits, {gone}"


def _asked_for(strategy: str) -> dict[str, Any]:
    """Config of a plan that aggregates so."""
    name, _, limited = strategy.partition(" with ")
    aggregation = {"strategy": name, "codec": "float32", "max_norm": 3.0 if limited else 0.0}
    return {
        "aggregation": aggregation,
        "terms": {"quorum": 3 if name == "trimmed_mean" else 2},
    }


def _mean(deltas: Sequence[Arrays]) -> Arrays:
    """Of sites with as many clips each."""
    return {
        name: (sum(each[name].astype(np.float64) for each in deltas) / len(deltas))
        for name in deltas[0]
    }


def _largest(arrays: Arrays) -> float:
    return max(float(np.abs(each).max()) for each in arrays.values())


def _flat(arrays: Arrays) -> Any:
    return np.concatenate([arrays[name].ravel() for name in sorted(arrays)]).astype(np.float64)


def _cosine(one: Arrays, other: Arrays) -> float:
    a, b = _flat(one), _flat(other)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _share_between(change: Arrays, honest: Sequence[Arrays]) -> float:
    """Share of numbers that lie where those of the honest sites do; float32 rounds the adapter."""
    found, sent = _flat(change), np.array([_flat(each) for each in honest])
    low, high = sent.min(axis=0), sent.max(axis=0)
    return float(((found >= low - 1e-7) & (found <= high + 1e-7)).mean())


# --- by hand


def cases(campaign: Campaign, family: str) -> Iterator[tuple[str, Callable[[], Case]]]:
    """The cases of a family with their names."""
    if family == "sites":
        for kill in SITE_KILLS:
            yield str(kill), lambda kill=kill: campaign.site(kill)
    elif family == "coordinator":
        for job in COORDINATOR_JOBS:
            for moment in filter(is_deadly, campaign.undisturbed(job)[1]):
                name = f"coordinator in {job} at {moment}"
                yield name, lambda job=job, moment=moment: campaign.coordinator(job, moment)
    elif family == "secure":
        for gone_in, codec in SECURE:
            yield _secure_name(gone_in, codec), lambda g=gone_in, c=codec: campaign.secure(g, c)
    else:
        for strategy in STRATEGIES:
            for how in POISONS:
                name = f"{strategy}, {VICTIM} sends {how}"
                yield name, lambda s=strategy, h=how: campaign.poison(s, h)


def main() -> None:
    """Run the cases of a family that the file does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=["sites", "coordinator", "secure", "poison"])
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # what was started is ended
        signal.signal(number, signal.default_int_handler)
    lines = asked.out.read_text(encoding="utf-8").splitlines() if asked.out.exists() else []
    done = {json.loads(line)["name"] for line in lines}
    failed = 0
    with ground() as made, asked.out.open("a", encoding="utf-8") as out:
        for name, run in cases(Campaign(made), asked.family):
            if name in done:
                continue
            case = replace(run(), name=name)
            failed += bool(case.problems)
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            out.write(json.dumps({**asdict(case), "at": at}) + "\n")
            out.flush()
    if failed:
        raise SystemExit(f"{failed} cases are not as stated: see {asked.out}")


if __name__ == "__main__":
    prepare()
    main()
