"""The files of a federated round at the coordinator, typed: who opens a key of `rounds/` does it here.

What stands is never replaced. `plan.json`, `adapter/participants.json` and `outcome.json` are decisions:
they are created if absent, whoever comes second finds the first. Formats: docs/formats.md#round-plan.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import polars as pl

from resources.failpoints import reached
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.tables import publish_record, read, read_record
from worldloop import layout
from worldloop.errors import PlanConflictError, StoreError, UnknownKeyError
from worldloop.federation.adapters import Arrays, adapter_bytes, read_adapter
from worldloop.federation.outbox import DELTA, SCORES
from worldloop.federation.outcomes import AdapterRecord, Outcome
from worldloop.federation.rounds import RoundPlan
from worldloop.records import MANIFEST, ROUND_DELTAS, ROUND_WAVES, ROUNDS
from worldloop.seeds import canonical_json

_PLAN = "plan.json"
_ADAPTER, _OPTIMIZER, _RECORD, _PARTICIPANTS = (
    "adapter.safetensors",
    "optimizer.safetensors",
    "adapter.json",
    "participants.json",
)


class Participant(NamedTuple):
    """A delta that an adapter is made of.

    Attributes:
        round: Round that it was sent in; an earlier one if it came late.
        sha256: Of its file.
    """

    round: str
    sha256: str


@dataclass(frozen=True)
class RoundStanding:
    """What stands of a round, by one listing.

    Attributes:
        round: Its key.
        deltas: Sites whose delta, or word that they have none, is at the coordinator.
        scores: Sites whose scores are.
        sent: Size in bytes and time (UTC, the store's clock) of everything that sites sent, by (site, name).
        planned_at: When the plan was written; None without one.
        adapter_at: When the adapter was published; None without one.
        evaluated_at: When the evaluation was; None without one.
        ended_at: When the outcome was; None without one.
        size_bytes: Of everything.
    """

    round: str
    deltas: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    sent: Mapping[tuple[str, str], tuple[int, datetime]] = field(default_factory=dict)
    planned_at: datetime | None = None
    adapter_at: datetime | None = None
    evaluated_at: datetime | None = None
    ended_at: datetime | None = None
    size_bytes: int = 0

    @property
    def phase(self) -> str:
        """Where it is: `unplanned`, `training`, `scoring`, `judged` or `over`."""
        for moment, name in (
            (self.ended_at, "over"),
            (self.evaluated_at, "judged"),
            (self.adapter_at, "scoring"),
            (self.planned_at, "training"),
        ):
            if moment is not None:
                return name
        return "unplanned"


def planned_rounds(store: SiteStore) -> list[str]:
    """Every round that has a plan, oldest first."""
    keys = [key.split("/") for key, _ in store.list(layout.ROUNDS)]
    return sorted(
        (parts[1] for parts in keys if len(parts) == 3 and parts[2] == _PLAN), key=_in_order
    )


def read_round_plan(store: SiteStore, round_key: str) -> RoundPlan:
    """The plan of a round.

    Raises:
        UnknownKeyError: If the round has no plan.
        MalformedRecordError: If the plan does not follow its format.
    """
    key = layout.round_plan_key(round_key)
    if not store.exists(key):
        raise UnknownKeyError("planned round", round_key, planned_rounds(store))
    return RoundPlan.from_record(read_record(store, key))


def publish_round_plan(store: SiteStore, plan: RoundPlan) -> bool:
    """Write a plan unless the same one stands already; a plan never changes.

    Returns:
        Whether this call wrote it.

    Raises:
        PlanConflictError: If the round stands with another plan.
    """
    key = layout.round_plan_key(plan.round)
    if store.create(key, canonical_json(plan.to_record())):
        return True
    standing = RoundPlan.from_record(read_record(store, key))
    if standing != plan:
        mine, theirs = plan.to_record(), standing.to_record()
        other = sorted(name for name in mine if mine[name] != theirs.get(name))
        raise PlanConflictError(
            f"Round {plan.round!r} is planned already, with other {', '.join(other)}; plans never "
            "change. Open a new round for the new plan."
        )
    return False


def standing_of(store: SiteStore, round_key: str) -> RoundStanding:
    """What stands of a round, by one listing; nothing is read."""
    prefix = f"{layout.ROUNDS}/{round_key}"
    found = {item.key.removeprefix(f"{prefix}/"): item for item in store.scan(prefix)}
    sent = {
        (parts[1], parts[2]): (item.size_bytes, item.modified_at)
        for name, item in found.items()
        if (parts := name.split("/"))[0] == "sites" and len(parts) == 3
    }

    def moment(name: str) -> datetime | None:
        return found[name].modified_at if name in found else None

    whole = f"adapter/{_ADAPTER}" in found
    return RoundStanding(
        round=round_key,
        deltas=tuple(sorted({site for site, name in sent if name == DELTA})),
        scores=tuple(sorted(site for site, name in sent if name == SCORES)),
        sent=sent,
        planned_at=moment(_PLAN),
        adapter_at=moment(f"adapter/{_RECORD}") if whole else None,
        evaluated_at=moment("evaluation.json"),
        ended_at=moment("outcome.json"),
        size_bytes=sum(item.size_bytes for item in found.values()),
    )


def open_rounds(store: SiteStore) -> list[str]:
    """Rounds that have a plan and no outcome, oldest first."""
    ended = {
        key.split("/")[1] for key, _ in store.list(layout.ROUNDS) if key.endswith("/outcome.json")
    }
    return [key for key in planned_rounds(store) if key not in ended]


def read_sent(store: SiteStore, round_key: str, site: str, name: str) -> bytes | None:
    """What a site sent, as it came; None if it sent nothing of this name."""
    key = layout.sent_key(round_key, site, name)
    return store.get(key) if store.exists(key) else None


def read_participants(store: SiteStore, round_key: str) -> dict[str, Participant] | None:
    """Which deltas the adapter is made of, by site; None before that was decided."""
    key = layout.adapter_key(round_key, _PARTICIPANTS)
    if not store.exists(key):
        return None
    return {site: Participant(**one) for site, one in read_record(store, key)["deltas"].items()}


def decide_participants(
    store: SiteStore, round_key: str, deltas: Mapping[str, Participant]
) -> dict[str, Participant]:
    """Decide, once and for all, which deltas an adapter is made of.

    A delta that comes later does not change it: an aggregation that was killed and runs again gives
    the same bytes, however late it is.

    Args:
        store: The coordinator's.
        round_key: The round.
        deltas: What each site sent, by site.

    Returns:
        The decision that stands, this one or an earlier one.
    """
    record = {"deltas": {site: one._asdict() for site, one in deltas.items()}}
    store.create(layout.adapter_key(round_key, _PARTICIPANTS), canonical_json(record))
    standing = read_participants(store, round_key)
    assert standing is not None
    return standing


def released_waves(store: SiteStore) -> list[str]:
    """Waves that have a release, oldest first."""
    keys = [key.split("/") for key, _ in store.list(layout.RELEASES)]
    waves = {parts[1] for parts in keys if parts[-1] == "release.json"}
    return sorted(waves, key=_in_order)


def released_clips(store: SiteStore, waves: Iterable[str]) -> pl.DataFrame:
    """The released clips of some waves.

    Returns:
        wave, site, city, institution and recipe_id, in order of the waves.
    """
    names = ["wave", "site", "city", "institution", "recipe_id"]
    found = [read(store, MANIFEST, layout.manifest_key(wave)).select(names) for wave in waves]
    return pl.concat([MANIFEST.empty().select(names), *found])


def trial_waves(store: SiteStore, plan: RoundPlan) -> list[str]:
    """Waves whose held-out clips a candidate is measured on: the round's, and those of earlier rounds of its model.

    So a round whose own waves have none of a held-out city is measured on what was filmed before.
    """
    earlier = [read_round_plan(store, key) for key in planned_rounds(store) if key != plan.round]
    known = {
        wave
        for one in (*earlier, plan)
        if one.base.model == plan.base.model and _in_order(one.round) <= _in_order(plan.round)
        for wave in one.waves
    }
    return sorted(known, key=_in_order)


def trial_places(clips: pl.DataFrame, held_out: Collection[str]) -> list[str]:
    """Places that samples show: those with held-out clips, else all with clips.

    Args:
        clips: As `released_clips` gives them.
        held_out: Cities.
    """
    rows = clips.select((pl.col("city") + "/" + pl.col("institution")).alias("place"), "city")
    tried = rows.filter(pl.col("city").is_in(sorted(held_out)))
    return sorted(set(tried["place"])) or sorted(set(rows["place"]))


def clips_to_train_on(store: SiteStore, plan: RoundPlan) -> dict[str, int]:
    """How many clips of each planned site a round may train on; held-out cities are left out."""
    clips = released_clips(store, plan.waves).filter(
        ~pl.col("city").is_in(plan.trial.held_out_cities)
    )
    counted = dict(clips.group_by("site").len().iter_rows())
    return {site: int(counted.get(site, 0)) for site in plan.sites}


def publish_adapter(
    store: SiteStore, record: AdapterRecord, adapter: Arrays, optimizer: Arrays
) -> bool:
    """Write an aggregated adapter: the tensors first, then the record that names them.

    Returns:
        Whether anything was written; False if all of it stood already.

    Raises:
        StoreError: If another adapter stands.
    """
    files = {_OPTIMIZER: adapter_bytes(optimizer)} if optimizer else {}
    files[_ADAPTER] = adapter_bytes(adapter)
    written = False
    for name, content in files.items():
        key = layout.adapter_key(record.round, name)
        if store.create(key, content):
            written = True
        elif store.get(key) != content:
            raise StoreError(
                f"{key!r} stands already with other bytes; expected the same ones, as a published "
                "adapter never changes. Its deltas or the code that aggregates changed: open a new "
                "round."
            )
        reached("adapter.between_files")
    key = layout.adapter_key(record.round, _RECORD)
    return publish_record(store, key, record.to_record()) or written


def read_adapter_record(store: SiteStore, round_key: str) -> AdapterRecord | None:
    """What the adapter of a round was made of; None if there is none yet."""
    key = layout.adapter_key(round_key, _RECORD)
    return AdapterRecord.from_record(read_record(store, key)) if store.exists(key) else None


def read_round_adapter(store: SiteStore, round_key: str) -> dict[str, Any]:
    """The tensors of a round's adapter, float32 by name.

    Raises:
        StoreError: If there is none.
    """
    return read_adapter(store.get(layout.adapter_key(round_key, _ADAPTER)))


def read_optimizer(store: SiteStore, round_key: str) -> dict[str, Any]:
    """State of the outer optimizer after a round; empty if it had none."""
    key = layout.adapter_key(round_key, _OPTIMIZER)
    return read_adapter(store.get(key)) if store.exists(key) else {}


def read_evaluation_record(store: SiteStore, round_key: str) -> dict[str, Any] | None:
    """The evaluation of a round as a record; None if there is none yet."""
    key = layout.evaluation_key(round_key)
    return read_record(store, key) if store.exists(key) else None


def publish_evaluation_record(store: SiteStore, round_key: str, record: Mapping[str, Any]) -> bool:
    """Write an evaluation.

    Returns:
        Whether this call wrote it.

    Raises:
        StoreError: If another one stands.
    """
    return publish_record(store, layout.evaluation_key(round_key), record)


def read_outcome(store: SiteStore, round_key: str) -> Outcome | None:
    """How a round ended; None while it is open."""
    key = layout.outcome_key(round_key)
    return Outcome.from_record(read_record(store, key)) if store.exists(key) else None


def end_round(store: SiteStore, site_log: SiteLog, outcome: Outcome) -> Outcome:
    """End a round: write its outcome, then its rows of the coordinator's shared log.

    The first outcome stays, whoever comes second; rows that a kill kept out of the log are written
    by the next call, and by `log_ended_rounds`.

    Returns:
        The outcome that stands.
    """
    store.create(layout.outcome_key(outcome.round), canonical_json(outcome.to_record()))
    standing = read_outcome(store, outcome.round)
    assert standing is not None
    reached("outcome.before_log")
    _log(store, site_log, standing)
    return standing


def log_ended_rounds(store: SiteStore, site_log: SiteLog, rounds: Iterable[str]) -> int:
    """Write the log rows that ended rounds lack.

    Returns:
        Rounds that lacked theirs.
    """
    ended = [found for key in rounds if (found := read_outcome(store, key)) is not None]
    known = set(site_log.read("rounds")["round"])
    lacking = [outcome for outcome in ended if outcome.round not in known]
    for outcome in lacking:
        _log(store, site_log, outcome)
    return len(lacking)


def now_text() -> str:
    """The moment as it stands in plans and outcomes: ISO, UTC, whole seconds."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()


def _log(store: SiteStore, site_log: SiteLog, outcome: Outcome) -> None:
    """Rows of `rounds` last: who finds them finds the others too."""
    plan = read_round_plan(store, outcome.round)
    waves = [
        {"round": plan.round, "wave": wave, "root_hash": root_hash}
        for wave, root_hash in zip(plan.waves, plan.releases, strict=True)
    ]
    deltas = [
        {"round": plan.round, **{n: getattr(one, n) for n in ROUND_DELTAS.columns if n != "round"}}
        for one in outcome.participation
    ]
    opened, ended = (datetime.fromisoformat(t) for t in (plan.opened_at, outcome.ended_at))
    summary = {
        "round": plan.round,
        "opened_at": opened,
        "ended_at": ended,
        "model": plan.base.model,
        "strategy": plan.aggregation.strategy,
        "codec": plan.aggregation.codec,
        "outcome": outcome.outcome,
        "num_sites": len(plan.sites),
        "num_deltas": sum(one.status == "accepted" for one in outcome.participation),
        "size_bytes": sum(one.size_bytes for one in outcome.participation),
        "took_s": (ended - opened).total_seconds(),
        "loss_before": outcome.loss_before,
        "loss_after": outcome.loss_after,
        "adapter_sha256": outcome.adapter_sha256,
        "base_round": plan.base.adapter,
        "lineage_depth": plan.base.lineage_depth,
    }
    for table, rows in ((ROUND_WAVES, waves), (ROUND_DELTAS, deltas), (ROUNDS, [summary])):
        frame = pl.DataFrame(rows, schema=dict(table.columns))
        site_log.append(table.name, frame)


def _in_order(round_key: str) -> tuple[int, str]:
    return len(round_key), round_key
