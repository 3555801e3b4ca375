"""What the sites of a round sent, verified at the coordinator: one answer a planned site, accepted or named with its fault.

Verification is a function of the files alone, so whoever does it again comes to the same answers.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from resources.outbox import Outbox
from resources.round_files import (
    Participant,
    clips_to_train_on,
    planned_rounds,
    read_participants,
    read_round_adapter,
    read_round_plan,
)
from resources.secure_rounds import (
    SecureStanding,
    SecureSum,
    missed_phase,
    read_standing,
    secure_sum,
    terms_of,
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
from worldloop.federation.masking import DONE, KEYS, MASKED
from worldloop.federation.outbox import DELTA, MAX_DELTA_BYTES
from worldloop.federation.outcomes import Participation
from worldloop.federation.rounds import RoundPlan, rounds_apart

_NO_CLIPS = "it has no clips to train on"
_NOT_THERE = "no delta of it was there when the adapter's deltas were decided"
_HEAD_BYTES = 8192  # of an envelope: more than magic, header and signature can have
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
        deltas: One a planned site, in the plan's order; in a secure round none has tensors.
        summed: Of a secure round, all that is known of its deltas; None before it is, and otherwise.
    """

    participants: Mapping[str, Participant]
    start: Arrays
    deltas: tuple[SiteDelta, ...]
    summed: SecureSum | None = None

    @property
    def participation(self) -> tuple[Participation, ...]:
        """One entry a planned site, in the plan's order."""
        return tuple(one.participation for one in self.deltas)

    @property
    def num_accepted(self) -> int:
        """Deltas that may be aggregated."""
        return sum(one.status == "accepted" for one in self.participation)


@dataclass
class _Starts:
    """What rounds start from and train on, made once for each round and shape: of 7B a start takes half a second."""

    store: SiteStore
    known: dict[object, tuple[Arrays, str]] = field(default_factory=dict)
    counted: dict[str, Mapping[str, int]] = field(default_factory=dict)

    def of(self, plan: RoundPlan, shapes: _Shapes) -> tuple[Arrays, str]:
        """The tensors and their hash."""
        key = plan.base.adapter or (plan.round, tuple(sorted(shapes.items())))
        if key not in self.known:
            start = start_of(self.store, plan, shapes)
            sha256 = plan.base.adapter_sha256 or adapter_sha256(start)
            self.known[key] = start, sha256
        return self.known[key]

    def released(self, plan: RoundPlan) -> Mapping[str, int]:
        """Clips that each site of a round may train on."""
        if plan.round not in self.counted:
            self.counted[plan.round] = clips_to_train_on(self.store, plan)
        return self.counted[plan.round]


@dataclass(frozen=True)
class _Opened:
    """A delta whose signature and plan hold, decoded."""

    header: DeltaHeader
    delta: Arrays
    participant: Participant


def find_deltas(
    store: SiteStore, plan: RoundPlan, *, shapes: _Shapes | None = None
) -> dict[str, Participant]:
    """The delta of each planned site that there is now: this round's, or a late one that no round has used.

    One that is longer than a delta of its round can be is not read, and has no hash.

    Args:
        store: The coordinator's.
        plan: Of the round.
        shapes: Of the adapter's tensors, if they are known.
    """
    found, limits = {}, _Limits(store, plan, shapes)
    for site in plan.sites:
        for key in (plan.round, *_late_rounds(store, plan)):
            try:
                content = limits.read(key, site)
            except MalformedRecordError:
                sha256 = ""
            else:
                if content is None:
                    continue
                sha256 = hashlib.sha256(content).hexdigest()
            participant = Participant(key, sha256)
            if key == plan.round or not _was_used(store, plan, site, participant):
                found[site] = participant
                break
    return found


def gather(store: SiteStore, plan: RoundPlan) -> Gathered:
    """Verify what the sites of a round sent.

    Once it is decided which deltas an adapter is made of, only those are looked at. Of a secure round
    there is the sum alone, once its last phase has ended.

    Args:
        store: The coordinator's.
        plan: Of the round.

    Raises:
        StoreError: If a delta that an adapter was decided to be made of is gone or has changed.
        MalformedRecordError: If the adapter of the base is gone or has changed.
    """
    if plan.aggregation.secure:
        return _gather_masked(store, plan)
    starts = _Starts(store)
    base = starts.of(plan, {})[0] if plan.base.adapter else None
    shapes = {name: each.shape for name, each in base.items()} if base else None
    limits = _Limits(store, plan, shapes)
    participants = read_participants(store, plan.round)
    if participants is None:
        participants = find_deltas(store, plan, shapes=shapes)
    starts.released(plan)  # a release that is gone is no site's fault
    opened: dict[str, _Opened] = {}
    faults: dict[str, str] = {}
    for site, participant in participants.items():
        try:
            content = _unchanged(limits, plan, site, participant)
            opened[site] = _open(starts, plan, site, participant, content, base)
        except (UnreachableError, AccessError, _ChangedError):
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
    secure = plan.aggregation.secure
    num_accepted = sum(one.status == "accepted" for one in participation)
    needed = terms_of(plan).threshold if secure else plan.terms.quorum
    told: dict[str, list[str]] = {}  # who, by reason: a secure sum fails for all alike
    for one in participation:
        if one.status != "accepted":
            why = f" ({one.reason})" if one.status == "refused" or secure else ""
            told.setdefault(why or f"{one.site} has none", []).append(f"{one.site} {one.status}")
    named = "; ".join(
        ", ".join(sites) + (why if why.startswith(" (") else "") for why, sites in told.items()
    )
    return (
        f"{num_accepted} of {len(plan.sites)} deltas can be used, the quorum is {needed}: "
        f"{named or 'none is missing'}"
    )


def _late_rounds(store: SiteStore, plan: RoundPlan) -> list[str]:
    """Earlier rounds whose deltas may still count, the newest first."""
    if not plan.terms.max_staleness:
        return []
    near = [
        key
        for key in planned_rounds(store)
        if 0 < rounds_apart(key, plan.round) <= plan.terms.max_staleness
        and not read_round_plan(
            store, key
        ).aggregation.secure  # masked deltas go into one sum alone
    ]
    return near[::-1]


def _was_used(store: SiteStore, plan: RoundPlan, site: str, participant: Participant) -> bool:
    between = [participant.round, *_late_rounds(store, plan)]
    decided = (read_participants(store, key) or {} for key in between if key != plan.round)
    return any(deltas.get(site) == participant for deltas in decided)


class _ChangedError(StoreError):
    """A delta that an adapter was decided to be made of is not what it was."""


class _Limits:
    """Reads deltas, none that is longer than the adapter's shapes and the codec of its round allow."""

    def __init__(self, store: SiteStore, plan: RoundPlan, shapes: _Shapes | None):
        self.outbox, self.plan, self.shapes = Outbox(store), plan, shapes

    def read(self, round_key: str, site: str) -> bytes | None:
        """The delta of a site in a round; None if it sent none.

        Raises:
            MalformedRecordError: If it is too long; it is not read then.
        """
        most = MAX_DELTA_BYTES  # of a new adapter nobody but the sites knows the shapes
        if self.shapes is not None:
            late = round_key != self.plan.round
            own = read_round_plan(self.outbox.coordinator, round_key) if late else self.plan
            most = max_payload_bytes(self.shapes, own.aggregation.codec) + _HEAD_BYTES
        return self.outbox.sent(round_key, site, DELTA, max_bytes=most)


def _unchanged(limits: _Limits, plan: RoundPlan, site: str, participant: Participant) -> bytes:
    """The bytes of a delta that counts.

    Raises:
        MalformedRecordError: If it is too long to be read.
        _ChangedError: If it is gone or has changed.
    """
    content = limits.read(participant.round, site)
    if content is None or hashlib.sha256(content).hexdigest() != participant.sha256:
        raise _ChangedError(
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
    _check_claims(header, plan, delta, starts.released(own).get(site, 0))
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


def _check_claims(header: DeltaHeader, plan: RoundPlan, delta: Arrays, num_released: int) -> None:
    """Its weight is what was released, and its length what it is, not what the site says."""
    if header.num_clips > num_released:
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
    if participant is None:  # the same words whenever it is asked: they stand in `adapter.json`
        return SiteDelta(Participation(site, "missing", _NOT_THERE))
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


def _gather_masked(store: SiteStore, plan: RoundPlan) -> Gathered:
    """What is known of a secure round: who took part, and the mean of those who did."""
    outbox, decided = Outbox(store), read_participants(store, plan.round)
    standing, summed, fault = read_standing(outbox, plan), None, ""
    if standing.phase == DONE:
        try:
            summed = secure_sum(outbox, plan)
        except (UnreachableError, AccessError):
            raise
        except (MalformedRecordError, StoreError) as error:
            fault = f"the sum of the masked deltas: {error}"
    sent = {
        site: outbox.sent(plan.round, site, DELTA)
        for site in (plan.sites if decided is None else decided)
    }
    answers: list[Participation] = []
    for site in plan.sites:
        content = sent.get(site)
        if summed is not None and site in summed.survivors and content is not None:
            answers.append(_summed_answer(summed.headers[site], content))
        elif fault and site in standing.rosters[MASKED]:
            answers.append(Participation(site, "refused", fault))
        else:
            answers.append(_unsummed_answer(outbox, plan, site, content, standing))
    participants = {
        one.site: Participant(plan.round, one.content_sha256)
        for one in answers
        if one.status in ("accepted", "empty")
    }
    start: Arrays = {}
    if summed is not None:
        start = start_of(store, plan, {name: each.shape for name, each in summed.mean.items()})
    return Gathered(participants, start, tuple(SiteDelta(one) for one in answers), summed)


def _summed_answer(header: DeltaHeader, content: bytes) -> Participation:
    """Part of a site in a sum; its clips and the length of its delta are not known."""
    return Participation(
        header.site,
        "accepted",
        num_steps=header.num_steps,
        size_bytes=len(content),
        took_s=header.took_s,
        gpu_s=header.gpu_s,
        loss_before=header.loss_before,
        loss_after=header.loss_after,
        content_sha256=hashlib.sha256(content).hexdigest(),
    )


def _unsummed_answer(
    outbox: Outbox, plan: RoundPlan, site: str, content: bytes | None, standing: SecureStanding
) -> Participation:
    """Part of a site whose delta is in no sum; once there is one it is the same whenever it is asked."""
    phase = missed_phase(outbox, plan, site)
    if content is not None and phase <= KEYS:
        sent = Participation(
            site,
            "empty",
            _NO_CLIPS,
            size_bytes=len(content),
            content_sha256=hashlib.sha256(content).hexdigest(),
        )
        try:
            key = public_key(outbox.coordinator, site, plan.round)
            header, _ = open_envelope(content, key)
            check_header(header, plan, site, start_sha256="")
        except (UnreachableError, AccessError):
            raise
        except (MalformedRecordError, StoreError) as error:
            return replace(sent, status="refused", reason=str(error))
        if header.is_empty:
            return sent
    if phase:
        return Participation(site, "missing", f"it missed phase {phase} of secure aggregation")
    reason = f"the round stopped in phase {standing.phase} of its secure aggregation"
    if site in standing.waits_for:
        reason += ", in which nothing came of it"
    return Participation(site, "missing", reason)
