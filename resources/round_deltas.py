"""What the sites of a round sent, verified at the coordinator: one answer a planned site, accepted or named with its fault.

Verification is a function of the files alone, so whoever does it again comes to the same answers.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from resources.round_files import (
    Participant,
    clips_to_train_on,
    planned_rounds,
    read_participants,
    read_round_adapter,
    read_round_plan,
    read_sent,
)
from resources.site_keys import public_key
from resources.site_store import SiteStore
from worldloop import layout
from worldloop.errors import AccessError, MalformedRecordError, StoreError, UnreachableError
from worldloop.federation.adapters import (
    DOWN,
    Arrays,
    adapter_sha256,
    check_alike,
    norm,
    start_from_shapes,
)
from worldloop.federation.codecs import decode
from worldloop.federation.envelopes import (
    DeltaHeader,
    check_header,
    max_payload_bytes,
    open_envelope,
)
from worldloop.federation.outbox import DELTA
from worldloop.federation.outcomes import Participation
from worldloop.federation.rounds import RoundPlan, rounds_apart

_NO_CLIPS = "it has no clips to train on"
_Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class SiteDelta:
    """What one site gave to a round.

    Attributes:
        participation: In words and numbers; its weight is 0 until it is aggregated.
        delta: Decoded, if it was accepted.
    """

    participation: Participation
    delta: Arrays | None = None


@dataclass(frozen=True)
class Gathered:
    """All that the sites of a round gave.

    Attributes:
        participants: The deltas that were looked at, by site.
        start: What the sites started from; empty if no delta was accepted and there is no base.
        deltas: One a planned site, in the plan's order.
    """

    participants: Mapping[str, Participant]
    start: Arrays
    deltas: tuple[SiteDelta, ...]

    @property
    def participation(self) -> tuple[Participation, ...]:
        """One entry a planned site, in the plan's order."""
        return tuple(one.participation for one in self.deltas)

    @property
    def num_accepted(self) -> int:
        """Deltas that may be aggregated."""
        return sum(one.delta is not None for one in self.deltas)


@dataclass
class _Starts:
    """What rounds start from, made once for each round and shape: of 7B a start takes half a second."""

    store: SiteStore
    known: dict[object, tuple[Arrays, str]] = field(default_factory=dict)

    def of(self, plan: RoundPlan, shapes: _Shapes) -> tuple[Arrays, str]:
        """The tensors and their hash."""
        key = plan.base.adapter or (plan.round, tuple(sorted(shapes.items())))
        if key not in self.known:
            start = start_of(self.store, plan, shapes)
            sha256 = plan.base.adapter_sha256 or adapter_sha256(start)
            self.known[key] = start, sha256
        return self.known[key]


@dataclass(frozen=True)
class _Opened:
    """A delta whose signature and plan hold, decoded."""

    header: DeltaHeader
    delta: Arrays
    participant: Participant


def find_deltas(store: SiteStore, plan: RoundPlan) -> dict[str, Participant]:
    """The delta of each planned site that there is now: this round's, or a late one that no round has used."""
    found = {}
    for site in plan.sites:
        for key in (plan.round, *_late_rounds(store, plan)):
            content = read_sent(store, key, site, DELTA)
            if content is None:
                continue
            participant = Participant(key, hashlib.sha256(content).hexdigest())
            if key == plan.round or not _was_used(store, plan, site, participant):
                found[site] = participant
                break
    return found


def gather(store: SiteStore, plan: RoundPlan) -> Gathered:
    """Verify what the sites of a round sent.

    Once it is decided which deltas an adapter is made of, only those are looked at.

    Args:
        store: The coordinator's.
        plan: Of the round.

    Raises:
        StoreError: If a delta that an adapter was decided to be made of is gone or has changed.
        MalformedRecordError: If the adapter of the base is gone or has changed.
    """
    participants = read_participants(store, plan.round)
    if participants is None:
        participants = find_deltas(store, plan)
    starts = _Starts(store)
    base = starts.of(plan, {})[0] if plan.base.adapter else None
    released = clips_to_train_on(store, plan)
    opened: dict[str, _Opened] = {}
    faults: dict[str, str] = {}
    for site, participant in participants.items():
        content = _unchanged(store, plan, site, participant)
        try:
            opened[site] = _open(starts, plan, site, participant, content, base, released[site])
        except (UnreachableError, AccessError):
            raise
        except (MalformedRecordError, StoreError) as error:  # a site without a key is one of them
            faults[site] = str(error)
    start, odd = _common_start(plan, opened, base, starts)
    for site, why in odd.items():
        del opened[site]
        faults[site] = why
    answers = tuple(
        _answer(store, plan, site, participants.get(site), opened.get(site), faults.get(site, ""))
        for site in plan.sites
    )
    return Gathered(participants, start, answers)


def start_of(store: SiteStore, plan: RoundPlan, shapes: _Shapes | None) -> Arrays:
    """What the sites of a round start from.

    Args:
        store: The coordinator's.
        plan: Of the round.
        shapes: Of the adapter's tensors; needed for a new adapter only.

    Raises:
        MalformedRecordError: If the base's adapter is not the one that the plan names, or a shape is none
            of an adapter.
    """
    base = plan.base
    if not base.adapter:
        assert shapes is not None
        return start_from_shapes(plan.seed, shapes)
    adapter = read_round_adapter(store, base.adapter)
    found = adapter_sha256(adapter)
    if found != base.adapter_sha256:
        raise MalformedRecordError(
            f"adapter of round {base.adapter}",
            f"hash {found[:12]}...",
            f"{base.adapter_sha256[:12]}..., which round {plan.round} goes on from",
            "Bring the coordinator's store back from its backup, and run it again.",
        )
    return adapter


def why_no_quorum(plan: RoundPlan, participation: tuple[Participation, ...]) -> str:
    """In one line, why there is no adapter."""
    num_accepted = sum(one.status == "accepted" for one in participation)
    others = [
        f"{one.site} {one.status}" + (f" ({one.reason})" if one.status == "refused" else "")
        for one in participation
        if one.status != "accepted"
    ]
    return (
        f"{num_accepted} of {len(plan.sites)} deltas can be used, the quorum is {plan.terms.quorum}: "
        f"{'; '.join(others) or 'none is missing'}"
    )


def _late_rounds(store: SiteStore, plan: RoundPlan) -> list[str]:
    """Earlier rounds whose deltas may still count, the newest first."""
    if not plan.terms.max_staleness:
        return []
    near = [
        key
        for key in planned_rounds(store)
        if 0 < rounds_apart(key, plan.round) <= plan.terms.max_staleness
    ]
    return near[::-1]


def _was_used(store: SiteStore, plan: RoundPlan, site: str, participant: Participant) -> bool:
    between = [participant.round, *_late_rounds(store, plan)]
    decided = (read_participants(store, key) or {} for key in between if key != plan.round)
    return any(deltas.get(site) == participant for deltas in decided)


def _unchanged(store: SiteStore, plan: RoundPlan, site: str, participant: Participant) -> bytes:
    content = read_sent(store, participant.round, site, DELTA)
    if content is None or hashlib.sha256(content).hexdigest() != participant.sha256:
        raise StoreError(
            f"The delta of {site!r} in round {participant.round!r} is gone or has changed; expected "
            f"SHA-256 {participant.sha256[:12]}..., which the adapter of {plan.round!r} is made of. "
            "Bring the coordinator's store back from its backup."
        )
    return content


def _open(
    starts: _Starts,
    plan: RoundPlan,
    site: str,
    participant: Participant,
    content: bytes,
    base: Arrays | None,
    num_released: int,
) -> _Opened:
    """Signature, plan, sizes and numbers of one delta.

    Raises:
        MalformedRecordError: Naming what is wrong with it.
        StoreError: If the site has published no key.
    """
    store, is_late = starts.store, participant.round != plan.round
    own = read_round_plan(store, participant.round) if is_late else plan
    _check_line(own, plan)
    shapes = {name: each.shape for name, each in base.items()} if base else None
    limit = max_payload_bytes(shapes, own.aggregation.codec) if shapes else 0
    key = public_key(store, site, own.round)
    header, payload = open_envelope(content, key, max_payload_bytes=limit)
    check_header(header, own, site, start_sha256="")
    if header.is_empty:
        return _Opened(header, {}, participant)
    delta = decode(payload, shapes)
    start, start_sha256 = starts.of(own, {name: each.shape for name, each in delta.items()})
    check_alike(delta, start)
    check_header(header, own, site, start_sha256=start_sha256)
    _check_claims(header, plan, delta, None if is_late else num_released)
    return _Opened(header, delta, participant)


def _check_line(late: RoundPlan, plan: RoundPlan) -> None:
    """A late delta counts only where it goes on from the same adapter's line."""
    if late is plan:
        return
    same_start = late.base.adapter == plan.base.adapter and (
        plan.base.adapter or late.seed == plan.seed
    )
    if late.base.model != plan.base.model or not (same_start or plan.base.adapter == late.round):
        raise MalformedRecordError(
            f"late delta of round {late.round}",
            f"{late.base.model} from {late.base.adapter or 'a new adapter'}",
            f"the line of {plan.base.model} from {plan.base.adapter or 'this new adapter'}",
            "It is left out; the site's next delta counts.",
        )


def _check_claims(
    header: DeltaHeader, plan: RoundPlan, delta: Arrays, num_released: int | None
) -> None:
    """Its weight is what was released, and its length what it is, not what the site says."""
    if num_released is not None and header.num_clips > num_released:
        raise MalformedRecordError(
            "delta, num_clips",
            header.num_clips,
            f"at most the {num_released} clips that were released for it",
            "Train on the clips of the round's waves, without held-out cities.",
        )
    rank = plan.training.rank
    ranks = {
        each.shape[0] if name.endswith(DOWN) else each.shape[1] for name, each in delta.items()
    }
    if ranks != {rank}:
        raise MalformedRecordError(
            "delta, rank", sorted(ranks), str(rank), "Train with the rank that the round plans."
        )
    limit = plan.aggregation.max_norm
    if 0 < limit < (length := norm(delta)):
        raise MalformedRecordError(
            "delta, norm",
            round(length, 6),
            f"at most {limit:g}",
            "The site's training ran away, or it is poisoned; look at its losses.",
        )


def _common_start(
    plan: RoundPlan, opened: Mapping[str, _Opened], base: Arrays | None, starts: _Starts
) -> tuple[Arrays, dict[str, str]]:
    """What most sites started from; the others with what is odd about them."""
    if base is not None:
        return base, {}
    kinds = {
        site: tuple((name, each.shape) for name, each in sorted(one.delta.items()))
        for site, one in opened.items()
        if one.delta
    }
    if not kinds:
        return {}, {}
    common = Counter(kinds[site] for site in plan.sites if site in kinds).most_common(1)[0][0]
    odd = {
        site: "delta, tensors: found other names or shapes than most sites sent, expected those of the "
        "planned adapter. Train with the rank and targets that the round plans."
        for site, kind in kinds.items()
        if kind != common
    }
    return starts.of(plan, dict(common))[0], odd


def _answer(
    store: SiteStore,
    plan: RoundPlan,
    site: str,
    participant: Participant | None,
    opened: _Opened | None,
    fault: str,
) -> SiteDelta:
    if participant is None:
        late = read_sent(store, plan.round, site, DELTA) is not None
        reason = "it came after the adapter's deltas were decided" if late else "it sent nothing"
        return SiteDelta(Participation(site, "missing", reason))
    sent = Participation(
        site,
        "refused",
        fault,
        size_bytes=store.size(layout.sent_key(participant.round, site, DELTA)),
        staleness=rounds_apart(participant.round, plan.round),
        content_sha256=participant.sha256,
    )
    if opened is None:
        return SiteDelta(sent)
    if opened.header.is_empty:
        return SiteDelta(replace(sent, status="empty", reason=_NO_CLIPS))
    header = opened.header
    accepted = replace(
        sent,
        status="accepted",
        num_clips=header.num_clips,
        num_steps=header.num_steps,
        took_s=header.took_s,
        gpu_s=header.gpu_s,
        loss_before=header.loss_before,
        loss_after=header.loss_after,
        norm=norm(opened.delta),
    )
    return SiteDelta(accepted, opened.delta)
