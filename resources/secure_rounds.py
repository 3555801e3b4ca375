"""Secure aggregation by files: what a site and the coordinator do next, by what lies in the store.

A phase is one file of each site, sent through the outbox and signed; then the coordinator writes who is
in (`roster-<phase>.json`, created if absent), which starts the next phase. Both sides' turns can run at
any time and again: they do what is due, and nothing twice. A sensor only reads (`read_standing`,
`phase_deadline`, `due_steps`) and asks for runs. The mathematics is in `worldloop.federation.masking`.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resources.outbox import Outbox
from resources.site_keys import SiteKeys, public_key
from resources.site_store import SiteStore
from resources.store_refusals import MissingObjectError
from worldloop import layout
from worldloop.errors import MalformedRecordError, StoreError
from worldloop.federation import masking
from worldloop.federation.adapters import Arrays, adapter_sha256, start_from_shapes
from worldloop.federation.envelopes import (
    MASKED_CODEC,
    DeltaHeader,
    check_header,
    open_envelope,
    open_record,
    read_record,
    seal,
    sign_record,
)
from worldloop.federation.fixed_point import fixed_point
from worldloop.federation.masking import DONE, KEYS, MASKED, REVEALED, SHARES
from worldloop.federation.outbox import (
    DELTA,
    SECURE_KEYS,
    SECURE_REVEALED,
    SECURE_SHARES,
    check_outgoing,
)
from worldloop.federation.rounds import RoundPlan
from worldloop.seeds import canonical_json

FILES: Mapping[int, str] = {
    KEYS: SECURE_KEYS,
    SHARES: SECURE_SHARES,
    MASKED: DELTA,
    REVEALED: SECURE_REVEALED,
}
MAX_PHASE_S = 600.0  # of the phases after the first, which need no training
_Messages = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class SecureStanding:
    """How far a secure round is.

    Attributes:
        phase: The one that is open, 1 to 4; 5: the sum can be made.
        waits_for: Sites whose file of this phase is not there.
        rosters: Who is in, by ended phase.
        problem: Why it cannot go on, in one line; empty if it can.
        num_sent: Sites whose file of this phase is there.
        ends_at: When the phase ends with whoever has sent; None if nobody asked, or all have ended.
        is_late: Whether that moment has passed.
    """

    phase: int
    waits_for: tuple[str, ...]
    rosters: Mapping[int, tuple[str, ...]]
    problem: str = ""
    num_sent: int = 0
    ends_at: datetime | None = None
    is_late: bool = False


@dataclass(frozen=True)
class SecureSum:
    """What the coordinator learns.

    Attributes:
        mean: Weighted mean of the survivors' deltas.
        weight: Sum of their weights.
        survivors: Whose deltas are in it.
        headers: What each said of its delta.
        odd: In a line each, shares that were wrong or lacking, though others sufficed.
    """

    mean: dict[str, NDArray[np.float32]]
    weight: int
    survivors: tuple[str, ...]
    headers: Mapping[str, DeltaHeader]
    odd: tuple[str, ...] = ()


def terms_of(plan: RoundPlan) -> masking.Terms:
    """What the sites agree on: the quorum suffices, and never half of the sites or fewer."""
    threshold = max(plan.terms.quorum, len(plan.sites) // 2 + 1)
    return masking.Terms(plan.round, plan.plan_id, plan.sites, threshold)


def site_turn(
    outbox: Outbox,
    keys: SiteKeys,
    plan: RoundPlan,
    header: DeltaHeader,
    delta: Callable[[], Arrays],
    *,
    keep: Callable[[bytes, Arrays], None] = lambda _, __: None,
) -> int:
    """Send what a site can send now.

    Args:
        outbox: To the coordinator.
        keys: Of this machine.
        plan: Of the round.
        header: What is said of the delta; its `num_clips` is the weight. Norm and weight are not sent. A site
            without clips sends an empty delta in the first phase and takes no part.
        delta: Gives the delta, clipped and noised as planned, the same at every call; asked in phase 3 alone.
        keep: Takes the file of the masked delta and what fixed point lost of the delta, before it is
            sent: the residual of error feedback.

    Returns:
        The phase that the site waits in; 5 once it is through.

    Raises:
        StoreError: If the round goes on without this site, because it missed a phase.
        MalformedRecordError: If a roster or message is odd.
    """
    site, store = header.site, outbox.coordinator
    keys.publish(store, site)
    if header.is_empty:
        silent = replace(header, codec=MASKED_CODEC, masked=True)
        outbox.send(plan.round, site, DELTA, seal(b"", silent, keys.private_key(site)))
        return DONE
    present = _open_phase(outbox, plan)
    for phase in range(KEYS, min(present, REVEALED) + 1):
        roster = _roster(outbox, plan.round, phase - 1) if phase > KEYS else plan.sites
        if site not in roster:
            raise StoreError(
                f"Site {site!r} missed phase {phase - 1} of secure round {plan.round!r}, which goes on "
                "without it; nothing is lost. It takes part in the next round."
            )
        if phase == present and outbox.sent(plan.round, site, FILES[phase]) is None:
            content = _message(outbox, keys, plan, header, delta, keep, phase)
            outbox.send(plan.round, site, FILES[phase], content)
    if present >= REVEALED:  # all is sent, and stays
        keys.forget_round_secret(site, plan.round)
    return present


def coordinator_turn(
    outbox: Outbox, plan: RoundPlan, *, is_late: bool = False, now: datetime | None = None
) -> SecureStanding:
    """End the open phase if all have sent, or if it is late and enough have; then look at the next.

    The last phase ends as soon as what was revealed unmasks the sum. A file that is unsigned, odd or of another
    round counts as not sent.

    Args:
        outbox: Of the coordinator.
        plan: Of the round.
        is_late: Whether the deadline of the open phase is over.
        now: The moment, with its time zone; each phase that opens meanwhile is then held to its own deadline.
    """
    terms = terms_of(plan)
    while (phase := _open_phase(outbox, plan)) != DONE:
        is_late = is_late or (now is not None and now >= _deadline(outbox, plan, phase))
        expected = _expected(outbox, plan, phase)
        there = _there(outbox, plan, phase, expected)
        all_sent = there == expected
        if is_late or phase == REVEALED or all_sent:  # only then is it worth reading all of it
            there = _whole(outbox, plan, there, phase)
        enough = len(there) >= terms.threshold
        if enough and phase == REVEALED and not (is_late or all_sent):
            enough = _unmasks(outbox, plan, there)
        if not enough or (there != expected and not (is_late or phase == REVEALED)):
            missing = tuple(site for site in expected if site not in there)
            problem = "" if enough or (missing and not is_late) else _too_few(phase, terms, there)
            rosters = _rosters(outbox, plan.round)
            return SecureStanding(phase, missing, rosters, problem, num_sent=len(there))
        record = {"phase": phase, "sites": sorted(there)}
        key = layout.secure_key(plan.round, _roster_name(phase))
        outbox.coordinator.create(key, canonical_json(record))
        is_late = False
    return SecureStanding(DONE, (), _rosters(outbox, plan.round))


def read_standing(
    outbox: Outbox, plan: RoundPlan, *, now: datetime | None = None
) -> SecureStanding:
    """How far a secure round is, by what lies there; nothing is verified or written.

    A problem is what no run can change: that too few sites are left, or have clips.

    Args:
        outbox: Of the coordinator.
        plan: Of the round.
        now: The moment, with its time zone, if the deadline is asked for as well.
    """
    rosters, terms = _rosters(outbox, plan.round), terms_of(plan)
    phase = 1 + max(rosters, default=0)
    if phase == DONE:
        return SecureStanding(DONE, (), rosters)
    expected = _expected(outbox, plan, phase)
    there = _there(outbox, plan, phase, expected)
    ends_at = _deadline(outbox, plan, phase) if now is not None else None
    return SecureStanding(
        phase,
        tuple(site for site in expected if site not in there),
        rosters,
        _too_few(phase, terms, expected) if len(expected) < terms.threshold else "",
        num_sent=len(there),
        ends_at=ends_at,
        is_late=now is not None and ends_at is not None and now >= ends_at,
    )


def phase_deadline(outbox: Outbox, plan: RoundPlan) -> datetime:
    """When the open phase ends with whoever has sent: the plan's deadline for the first, which trains."""
    return _deadline(outbox, plan, _open_phase(outbox, plan))


def missed_phase(outbox: Outbox, plan: RoundPlan, site: str) -> int:
    """The phase from which a secure round went on without a site's delta; 0 if it takes part."""
    rosters = _rosters(outbox, plan.round)
    return next((p for p, sites in rosters.items() if p < REVEALED and site not in sites), 0)


def forget_ended(keys: SiteKeys, coordinator: SiteStore) -> list[tuple[str, str]]:
    """Forget the masks of this machine's sites whose rounds are over: of sites that were left behind, or killed.

    Returns:
        Site and round of each.
    """
    over = [
        (site, key)
        for site, key in keys.round_secrets()
        if coordinator.exists(layout.outcome_key(key))
    ]
    for site, key in over:
        keys.forget_round_secret(site, key)
    return over


def forget_masks(keys: SiteKeys, plan: RoundPlan) -> None:
    """Forget, at every site of a round that is over, what its masks come from."""
    for site in plan.sites:
        keys.forget_round_secret(site, plan.round)


def due_steps(standing: SecureStanding, plan: RoundPlan, *, is_late: bool) -> tuple[str, ...]:
    """Runs of `site_delta` that a round needs now, as ends of run keys; asked for again they are the same.

    Every site that has not sent gets one a phase (`delta/aws/2`). Once the phase is late, the sites that
    have sent get one more (`delta/aws/2/late`), in which the coordinator's turn ends the phase; it is enough
    to ask for the next of them when one has failed.

    Args:
        standing: Of the round.
        plan: Of the round.
        is_late: Whether the deadline of the open phase is over.
    """
    if standing.phase == DONE:
        return ()
    asked = standing.rosters.get(standing.phase - 1, plan.sites)
    there = [site for site in asked if site not in standing.waits_for]
    late = [f"delta/{site}/{standing.phase}/late" for site in there] if is_late else []
    return (*(f"delta/{site}/{standing.phase}" for site in standing.waits_for), *late)


def secure_sum(outbox: Outbox, plan: RoundPlan) -> SecureSum:
    """The mean of the survivors' deltas, once phase 4 has ended.

    Raises:
        StoreError: If it has not.
        MalformedRecordError: If what was sent does not fit together.
    """
    rosters = _rosters(outbox, plan.round)
    if REVEALED not in rosters:
        raise StoreError(
            f"Secure round {plan.round!r} is in phase {_open_phase(outbox, plan)}; expected all four "
            "ended. Let the sites send what is due."
        )
    keys = _messages(outbox, plan, rosters[KEYS], KEYS)
    revealed = _messages(outbox, plan, rosters[REVEALED], REVEALED)
    opened = {site: _masked(outbox, plan, site) for site in rosters[MASKED]}
    shapes = next(iter(opened.values()))[1].shapes
    if any(each.shapes != shapes for _, each in opened.values()):
        raise MalformedRecordError(
            "masked deltas",
            "tensors of several shapes",
            "the same at all sites",
            "Open a new round.",
        )
    rings = {site: each.ring for site, (_, each) in opened.items()}
    secrets = masking.recovered(terms_of(plan), rosters[MASKED], keys, revealed, rosters[SHARES])
    total = masking.unmasked_with(terms_of(plan), rings, keys, secrets)
    mean, weight = fixed_point(plan, keys).mean(total)
    headers = {site: header for site, (header, _) in opened.items()}
    odd = tuple(
        f"Of the shares of site {site!r}, {', '.join(wrong)} handed over wrong ones or none: one of them, or it, "
        "does not follow secure aggregation. The others' sufficed."
        for site, wrong in secrets.odd.items()
    )
    return SecureSum(masking.unflattened(mean, shapes), weight, rosters[MASKED], headers, odd)


def _unmasks(outbox: Outbox, plan: RoundPlan, revealed: tuple[str, ...]) -> bool:
    """Whether what these sites revealed is enough; of a site that revealed wrong shares it may not be."""
    rosters = _rosters(outbox, plan.round)
    keys = _messages(outbox, plan, rosters[KEYS], KEYS)
    said = _messages(outbox, plan, revealed, REVEALED)
    try:
        masking.recovered(terms_of(plan), rosters[MASKED], keys, said, rosters[SHARES])
    except MalformedRecordError:
        return False
    return True


def _message(
    outbox: Outbox,
    keys: SiteKeys,
    plan: RoundPlan,
    header: DeltaHeader,
    delta: Callable[[], Arrays],
    keep: Callable[[bytes, Arrays], None],
    phase: int,
) -> bytes:
    """A site's file of a phase."""
    site, signer = header.site, keys.private_key(header.site)
    masker = masking.MaskingSite(terms_of(plan), site, keys.round_secret(site, plan.round))
    if phase == KEYS:
        return sign_record(masker.keys(header.num_clips), signer)
    rosters = _rosters(outbox, plan.round)
    public = _messages(outbox, plan, rosters[KEYS], KEYS)
    if phase == SHARES:
        return sign_record(masker.shares(public), signer)
    if phase == REVEALED:
        shares = _messages(outbox, plan, rosters[SHARES], SHARES)
        return sign_record(
            masker.revealed(public, shares, rosters[SHARES], rosters[MASKED]), signer
        )
    numbers = fixed_point(plan, public)
    flat, shapes = masking.flattened(delta())
    ring = numbers.quantised(flat, header.num_clips)
    masked = masking.Masked(shapes, masker.masked(ring, public, rosters[SHARES]))
    silent = replace(header, codec=MASKED_CODEC, masked=True, norm=0.0, num_clips=1)
    content = seal(masking.masked_bytes(masked), silent, signer)
    keep(content, masking.unflattened(numbers.lost(flat, header.num_clips), shapes))
    return content


def _deadline(outbox: Outbox, plan: RoundPlan, phase: int) -> datetime:
    """When a phase that is open ends with whoever has sent."""
    if phase == KEYS:
        opened = datetime.fromisoformat(plan.opened_at)
        opened = opened if opened.tzinfo else opened.replace(tzinfo=UTC)
        return opened + timedelta(seconds=plan.terms.deadline_s)
    ended = layout.secure_key(plan.round, _roster_name(phase - 1))
    most = min(plan.terms.deadline_s, MAX_PHASE_S)
    return outbox.coordinator.modified_at(ended) + timedelta(seconds=most)


def _open_phase(outbox: Outbox, plan: RoundPlan) -> int:
    return 1 + max(_rosters(outbox, plan.round), default=0)


def _rosters(outbox: Outbox, round_key: str) -> dict[int, tuple[str, ...]]:
    """Who is in, by ended phase."""
    found = {}
    for phase in FILES:
        try:
            found[phase] = _roster(outbox, round_key, phase)
        except MissingObjectError:
            break
    return found


def _roster(outbox: Outbox, round_key: str, phase: int) -> tuple[str, ...]:
    key = layout.secure_key(round_key, _roster_name(phase))
    sites = read_record(outbox.coordinator.get(key), what=key).get("sites")
    if not isinstance(sites, list) or not all(isinstance(site, str) for site in sites):
        raise MalformedRecordError(
            key, type(sites).__name__, "a list of sites", "Open a new round."
        )
    return tuple(sites)


def _roster_name(phase: int) -> str:
    return f"roster-{phase}.json"


def _there(
    outbox: Outbox, plan: RoundPlan, phase: int, expected: tuple[str, ...]
) -> tuple[str, ...]:
    """Expected sites whose file of a phase is there, whatever is in it, and whose key is known."""
    senders = outbox.senders(plan.round, FILES[phase])
    return tuple(
        site
        for site in expected
        if site in senders and outbox.coordinator.exists(layout.public_key_key(site))
    )


def _expected(outbox: Outbox, plan: RoundPlan, phase: int) -> tuple[str, ...]:
    """Sites of which a phase needs a file; who sent an empty delta at first takes no part."""
    if phase > KEYS:
        return _roster(outbox, plan.round, phase - 1)
    empty = outbox.senders(plan.round, DELTA)
    return tuple(site for site in plan.sites if site not in empty)


def _too_few(phase: int, terms: masking.Terms, there: tuple[str, ...]) -> str:
    others = ", ".join(site for site in terms.sites if site not in there)
    return (
        f"Phase {phase} of secure round {terms.round!r} has {len(there)} of {terms.threshold} sites "
        f"that it needs; nothing whole came of {others}. Open a new round."
    )


def _whole(outbox: Outbox, plan: RoundPlan, sites: tuple[str, ...], phase: int) -> tuple[str, ...]:
    """Of some sites those whose file of a phase can be used; masked deltas are summed if they are shaped as most."""
    kinds: dict[str, object] = {}
    for site in sites:
        with contextlib.suppress(MalformedRecordError):
            kinds[site] = _kind(outbox, plan, site, phase)
    common = Counter(kinds.values()).most_common(1)
    return tuple(site for site, kind in kinds.items() if kind == common[0][0])


def _kind(outbox: Outbox, plan: RoundPlan, site: str, phase: int) -> object:
    """What must be the same in a phase's file of all sites.

    Raises:
        MalformedRecordError: If the file cannot be used.
    """
    if phase == MASKED:
        _, masked = _masked(outbox, plan, site)
        return masked.ring.dtype, tuple(sorted(masked.shapes.items()))
    said = _messages(outbox, plan, (site,), phase)[site]
    if phase == SHARES and said["shares"].keys() != set(_roster(outbox, plan.round, KEYS)):
        raise MalformedRecordError(
            f"{FILES[phase]} of site {site!r}",
            f"shares for {len(said['shares'])} sites",
            "one for each site of the first roster",
            "Open a new round.",
        )
    return None


def _messages(outbox: Outbox, plan: RoundPlan, sites: tuple[str, ...], phase: int) -> _Messages:
    """What sites sent in a phase, each signed by its site and of this round."""
    found = {}
    for site in sites:
        what = f"{FILES[phase]} of site {site!r}"
        content = _standing(outbox, plan, site, phase)
        _check_fields(what, FILES[phase], content)
        key = public_key(outbox.coordinator, site, plan.round)
        found[site] = open_record(content, key, what=what)
        said = {name: found[site].get(name) for name in ("round", "plan_id", "site")}
        if said != {"round": plan.round, "plan_id": plan.plan_id, "site": site}:
            raise MalformedRecordError(what, said, "this round, plan and site", "It is a replay.")
    return found


def _check_fields(what: str, name: str, content: bytes) -> None:
    """What may not leave a site is not taken from one either: it may have gone round its outbox."""
    try:
        check_outgoing(name, content)
    except MalformedRecordError as error:
        raise MalformedRecordError(what, error.found, error.expected, "It is not used.") from None


def _masked(outbox: Outbox, plan: RoundPlan, site: str) -> tuple[DeltaHeader, masking.Masked]:
    key = public_key(outbox.coordinator, site, plan.round)
    header, payload = open_envelope(_standing(outbox, plan, site, MASKED), key)
    check_header(header, plan, site, start_sha256="")
    masked = masking.read_masked(payload)
    shapes = tuple(sorted(masked.shapes.items()))
    start_sha256 = plan.base.adapter_sha256 or _start_sha256(plan.seed, shapes)
    check_header(header, plan, site, start_sha256=start_sha256)  # what is summed starts alike
    return header, masked


@lru_cache(maxsize=4)
def _start_sha256(seed: int, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> str:
    """Of what a new adapter starts from: made once for all sites, as of 7B it takes half a second."""
    return adapter_sha256(start_from_shapes(seed, dict(shapes)))


def _standing(outbox: Outbox, plan: RoundPlan, site: str, phase: int) -> bytes:
    content = outbox.sent(plan.round, site, FILES[phase])
    if content is None:
        raise StoreError(
            f"{FILES[phase]!r} of site {site!r} in round {plan.round!r} is gone; expected it, as the "
            "site is in that phase's roster. Open a new round."
        )
    return content
