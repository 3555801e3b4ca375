import dataclasses
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from resources.outbox import Outbox
from resources.round_deltas import gather, why_no_quorum
from resources.secure_rounds import (
    FILES,
    coordinator_turn,
    due_steps,
    forget_ended,
    forget_masks,
    missed_phase,
    phase_deadline,
    read_standing,
    secure_sum,
    site_turn,
    terms_of,
)
from resources.site_keys import SiteKeys
from resources.site_store import SiteStore
from worldloop import layout
from worldloop.cosmos.families import ClipShape
from worldloop.errors import MalformedRecordError, StoreError
from worldloop.federation import masking
from worldloop.federation.adapters import adapter_sha256, start_from_shapes
from worldloop.federation.envelopes import (
    DeltaHeader,
    read_record,
    read_unverified,
    seal,
    sign_record,
)
from worldloop.federation.outbox import DELTA
from worldloop.federation.rounds import Aggregation, Base, RoundPlan, Training, Trial
from worldloop.federation.rounds import Terms as RoundTerms
from worldloop.seeds import stream

SITES = ("aws", "azure", "gcp", "local")
PLAN = RoundPlan(
    round="r0001",
    sites=SITES,
    waves=(),
    releases=(),
    base=Base("tiny", "1"),
    training=Training(ClipShape(9, 64, 64, 16), learning_rate=1e-3, num_steps=100),
    aggregation=Aggregation(secure=True, codec="float32"),
    terms=RoundTerms(quorum=2),
    trial=Trial(),
    seed=1,
    opened_at="2026-11-21T00:00:00+00:00",
)
WEIGHTS = dict(zip(SITES, (100, 250, 900, 30), strict=True))
DELTAS = {
    site: {
        name: stream(site, name).normal(0, 0.01, (8, 40)).astype(np.float32)
        for name in ("a.lora_A.weight", "b.lora_B.weight")
    }
    for site in SITES
}
START = adapter_sha256(start_from_shapes(PLAN.seed, {n: d.shape for n, d in DELTAS["aws"].items()}))


class Federated:
    """Four sites with homes of their own, one coordinator's store."""

    def __init__(self, folder):
        self.outbox = Outbox(SiteStore(url=str(folder / "coordinator")))
        self.keys = {site: SiteKeys(folder / site) for site in SITES}
        self.kept = {}

    def turn(self, site, plan=PLAN, *, is_empty=False, start=START):
        clips, steps = (0, 0) if is_empty else (WEIGHTS[site], 9)
        header = DeltaHeader(
            plan.round, site, plan.plan_id, "", start, "float32", clips, steps, 1.5, 2, 1, 3, 0
        )

        def keep(content, residual):
            assert self.outbox.sent(plan.round, site, DELTA) is None  # it comes before the sending
            self.kept[site] = (content, residual)

        return site_turn(
            self.outbox, self.keys[site], plan, header, lambda: DELTAS[site], keep=keep
        )

    def phase(self, sites=SITES, *, is_late=False):
        for site in sites:
            self.turn(site)
        return coordinator_turn(self.outbox, PLAN, is_late=is_late)

    def sum(self):
        return secure_sum(self.outbox, PLAN)


@pytest.fixture
def federated(tmp_path):
    return Federated(tmp_path)


def weighted(sites):
    total = sum(WEIGHTS[site] for site in sites)
    return {
        name: sum(DELTAS[site][name].astype(np.float64) * WEIGHTS[site] for site in sites) / total
        for name in DELTAS["aws"]
    }


def check_mean(found, sites):
    assert found.survivors == tuple(sorted(sites))
    assert found.weight == sum(WEIGHTS[site] for site in sites)
    for name, exact in weighted(sites).items():
        np.testing.assert_allclose(found.mean[name], exact, atol=2e-8)


def test_four_phases_of_files_give_the_weighted_mean(federated):
    assert [federated.phase().phase for _ in range(4)] == [2, 3, 4, 5]
    check_mean(federated.sum(), SITES)
    for site in SITES:
        names = sorted(k.split("/")[-1] for k, _ in federated.outbox.coordinator.list())
        assert set(FILES.values()) <= set(names)
        assert federated.turn(site) == 5


@pytest.mark.parametrize("last", [0, 1, 2, 3])
def test_one_of_four_may_die_after_any_phase(federated, last):
    others = [site for site in SITES if site != "gcp"]
    for phase in range(1, 5):
        standing = federated.phase(SITES if phase <= last else others)
        if phase == last + 1 and phase < 4:
            assert standing.phase == phase
            assert standing.waits_for == ("gcp",)
            assert not standing.problem
            standing = coordinator_turn(federated.outbox, PLAN, is_late=True)
        assert standing.phase == phase + 1
    check_mean(federated.sum(), SITES if last == 3 else others)


def test_a_site_that_missed_a_phase_is_told_so(federated):
    federated.phase(SITES[:3], is_late=True)
    with pytest.raises(StoreError, match="'local' missed phase 1"):
        federated.turn("local")


def test_too_few_sites_in_time_end_the_round_with_one_line(federated):
    standing = federated.phase(SITES[:2], is_late=True)
    assert standing.problem.startswith("Phase 1 of secure round 'r0001' has 2 of 3 sites")
    assert standing.phase == 1
    with pytest.raises(StoreError, match="all four ended"):
        federated.sum()


def test_a_site_without_clips_is_not_waited_for(federated):
    assert federated.turn("gcp", is_empty=True) == 5
    others = [site for site in SITES if site != "gcp"]
    assert [federated.phase(others).phase for _ in range(4)] == [2, 3, 4, 5]
    check_mean(federated.sum(), others)


def test_too_few_sites_with_clips_end_the_round_at_once(federated):
    for site in SITES[:2]:
        federated.turn(site, is_empty=True)
    standing = federated.phase(SITES[2:])
    assert "nothing whole came of aws, azure" in standing.problem


def test_turns_can_run_again_at_any_time(federated):
    for _ in range(4):
        for site in SITES:
            assert federated.turn(site) == federated.turn(site)
        before = federated.outbox.coordinator.list()
        for site in SITES:
            federated.turn(site)
        assert federated.outbox.coordinator.list() == before
        coordinator_turn(federated.outbox, PLAN)
        coordinator_turn(federated.outbox, PLAN)
    check_mean(federated.sum(), SITES)


def test_the_masked_delta_tells_neither_norm_nor_weight(federated):
    for _ in range(3):
        federated.phase()
    header, payload = read_unverified(federated.outbox.sent("r0001", "aws", DELTA))
    assert (header.norm, header.num_clips, header.masked) == (0.0, 1, True)
    plain = DELTAS["aws"]["a.lora_A.weight"].tobytes()
    assert plain[:64] not in payload


def test_what_fixed_point_lost_is_kept_before_the_delta_is_sent(federated):
    for _ in range(3):
        federated.phase()
    content, residual = federated.kept["aws"]
    assert content == federated.outbox.sent("r0001", "aws", DELTA)
    assert residual.keys() == DELTAS["aws"].keys()
    assert max(np.abs(each).max() for each in residual.values()) < 1e-7


def test_a_forged_or_replayed_file_counts_as_not_sent(federated):
    for site in SITES:
        federated.turn(site)
    store = federated.outbox.coordinator
    own, other = (layout.sent_key("r0001", s, FILES[1]) for s in ("aws", "gcp"))
    store.put(own, store.get(other))
    standing = coordinator_turn(federated.outbox, PLAN)
    assert (standing.phase, standing.waits_for) == (1, ("aws",))
    late = coordinator_turn(federated.outbox, PLAN, is_late=True)
    assert late.rosters[1] == ("azure", "gcp", "local")


def test_a_site_that_started_elsewhere_is_left_out_of_the_sum(federated):
    for _ in range(2):
        federated.phase()
    federated.turn("gcp", start="5" * 64)
    others = [site for site in SITES if site != "gcp"]
    assert federated.phase(others).waits_for == ("gcp",)
    coordinator_turn(federated.outbox, PLAN, is_late=True)
    assert missed_phase(federated.outbox, PLAN, "gcp") == 3
    assert federated.phase(others).phase == 5
    check_mean(federated.sum(), others)


def test_each_phase_is_held_to_its_own_deadline(federated):
    after_the_first = datetime(2026, 11, 21, 2, tzinfo=UTC)
    for site in SITES[:3]:
        federated.turn(site)
    assert not read_standing(federated.outbox, PLAN, now=datetime(2026, 11, 21, tzinfo=UTC)).is_late
    assert read_standing(federated.outbox, PLAN, now=after_the_first).is_late
    standing = coordinator_turn(federated.outbox, PLAN, now=after_the_first)
    assert (standing.phase, standing.waits_for) == (2, SITES[:3])
    assert not read_standing(federated.outbox, PLAN, now=datetime.now(UTC)).is_late


def test_too_few_sites_with_clips_are_a_problem_that_no_run_can_change(federated):
    federated.turn("aws", is_empty=True)
    assert not read_standing(federated.outbox, PLAN).problem
    federated.turn("gcp", is_empty=True)
    assert "nothing whole came of aws, gcp" in read_standing(federated.outbox, PLAN).problem


def test_a_round_that_is_over_is_forgotten_at_every_site(tmp_path):
    keys = SiteKeys(tmp_path)
    for site in SITES:
        keys.round_secret(site, "r0001")
    keys.round_secret("aws", "r0002")
    forget_masks(keys, PLAN)
    assert keys.round_secrets() == [("aws", "r0002")]


def test_masks_of_a_round_are_forgotten_once_they_are_revealed(federated):
    for _ in range(3):
        federated.phase()
    keys = federated.keys["aws"]
    assert keys.round_secrets() == [("aws", "r0001")]
    for _ in range(2):  # what was revealed stays, so nothing of it is needed again
        federated.turn("aws")
        assert keys.round_secrets() == []


def test_a_site_that_was_left_behind_forgets_once_the_round_is_over(federated):
    federated.turn("aws")
    keys, store = federated.keys["aws"], federated.outbox.coordinator
    assert forget_ended(keys, store) == []
    store.put(layout.outcome_key("r0001"), b"{}")
    assert forget_ended(keys, store) == [("aws", "r0001")]
    assert keys.round_secrets() == []


def test_another_plan_of_the_round_finds_nothing_of_this_one(federated):
    federated.phase()
    other = dataclasses.replace(PLAN, seed=2)
    assert coordinator_turn(federated.outbox, other).phase == 2
    with pytest.raises(MalformedRecordError, match="replay"):
        federated.turn("aws", other)


def test_runs_alone_carry_a_round_in_which_a_site_dies(federated):
    """What a conductor does: it asks for the runs that are due; `gcp` dies after phase 2."""
    asked = []
    for _ in range(40):
        standing = read_standing(federated.outbox, PLAN)
        new = [step for step in due_steps(standing, PLAN, is_late=True) if step not in asked]
        for step in new:
            _, site, phase, *late = step.split("/")
            if not (site == "gcp" and phase in "34"):
                federated.turn(site)
                coordinator_turn(federated.outbox, PLAN, is_late=bool(late))
        asked += new
    assert read_standing(federated.outbox, PLAN).phase == 5
    assert "delta/aws/3/late" in asked
    check_mean(federated.sum(), [site for site in SITES if site != "gcp"])


def test_nobody_is_asked_twice_and_nobody_who_has_sent(federated):
    federated.turn("aws")
    standing = read_standing(federated.outbox, PLAN)
    asked = ("delta/azure/1", "delta/gcp/1", "delta/local/1")
    assert due_steps(standing, PLAN, is_late=False) == asked
    assert due_steps(standing, PLAN, is_late=True) == (*asked, "delta/aws/1/late")


def test_training_has_the_plan_s_deadline_and_later_phases_a_short_one(federated):
    opened = datetime(2026, 11, 21, tzinfo=UTC)
    assert phase_deadline(federated.outbox, PLAN) == opened + timedelta(hours=1)
    federated.phase()
    left_s = (phase_deadline(federated.outbox, PLAN) - datetime.now(UTC)).total_seconds()
    assert 500 < left_s <= 601


def send_around_the_outbox(federated, name, **changes):
    """What `gcp` sent, changed, signed anew and put straight into the coordinator's store."""
    key, store = layout.sent_key("r0001", "gcp", name), federated.outbox.coordinator
    record = {**read_record(store.get(key), what=name), **changes}
    said = {field: value for field, value in record.items() if value is not None}
    store.put(key, sign_record(said, federated.keys["gcp"].private_key("gcp")))


OTHERS = tuple(site for site in SITES if site != "gcp")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("secure-1.json", {"weight_bits": 10**12}),
        ("secure-1.json", {"weight_bits": "many"}),
        ("secure-1.json", {"encryption_key": "00" * 32}),
        ("secure-1.json", {"mask_key": None}),
        ("secure-2.json", {"shares": {}}),
        ("secure-2.json", {"shares": None}),
        ("secure-4.json", {"self_shares": None}),
    ],
)
def test_a_signed_file_that_nobody_could_use_costs_the_others_nothing(federated, name, changes):
    for phase in range(1, 5):
        for site in SITES if phase <= int(name[7]) else OTHERS:
            federated.turn(site)
        if FILES[phase] == name:
            send_around_the_outbox(federated, name, **changes)
        standing = coordinator_turn(federated.outbox, PLAN, is_late=True)

    assert standing.phase == 5
    check_mean(federated.sum(), SITES if name == "secure-4.json" else OTHERS)


def test_a_masked_delta_of_another_shape_is_left_out_of_the_sum(federated, monkeypatch):
    federated.phase()
    federated.phase()
    monkeypatch.setitem(DELTAS, "gcp", {n: d[:, :7] for n, d in DELTAS["gcp"].items()})
    shapes = {name: each.shape for name, each in DELTAS["gcp"].items()}
    federated.turn("gcp", start=adapter_sha256(start_from_shapes(PLAN.seed, shapes)))
    federated.phase(OTHERS, is_late=True)
    federated.phase(OTHERS)

    monkeypatch.undo()
    check_mean(federated.sum(), OTHERS)


def seal_garbage(federated, holders, *, opens):
    """Shares of `gcp` for some sites that are none: noise, or sealed as it should be with noise inside."""
    keys = {
        site: read_record(federated.outbox.sent("r0001", site, FILES[1]), what=site)
        for site in SITES
    }
    own = federated.keys["gcp"]
    masker = masking.MaskingSite(terms_of(PLAN), "gcp", own.round_secret("gcp", "r0001"))
    shares = masker.shares(keys)["shares"]
    for holder in holders:
        noise = stream("garbage", holder).bytes(132)
        if opens:
            key = masker._pair_key(keys[holder], "gcp", holder, sorted(SITES))
            shares[holder] = ChaCha20Poly1305(key).encrypt(bytes(12), noise, None).hex()
        else:
            shares[holder] = (noise + noise)[:148].hex()
    send_around_the_outbox(federated, FILES[2], shares=shares)


@pytest.mark.parametrize("opens", [False, True])
@pytest.mark.parametrize("last", [2, 4])
def test_one_sealed_share_that_is_garbage_costs_nobody_anything(federated, opens, last):
    federated.phase()
    for site in SITES:
        federated.turn(site)
    seal_garbage(federated, ["aws"], opens=opens)
    coordinator_turn(federated.outbox, PLAN)
    for phase in (3, 4):
        for site in SITES if phase <= last else OTHERS:
            federated.turn(site)
        if last < 4 and phase == 3:
            coordinator_turn(federated.outbox, PLAN, is_late=True)
        else:
            coordinator_turn(federated.outbox, PLAN)

    if last < 4:  # its pairwise masks need three shares, and the other two hold one each
        with pytest.raises(MalformedRecordError, match=r"site 'gcp'.*Plan the next round without"):
            federated.sum()
        return
    found = federated.sum()
    check_mean(found, SITES)
    (line,) = found.odd
    assert "shares of site 'gcp'" in line
    assert "aws" in line


@pytest.mark.parametrize("opens", [False, True])
def test_a_site_that_seals_garbage_for_all_ends_the_round_with_its_name(federated, opens):
    federated.phase()
    for site in SITES:
        federated.turn(site)
    seal_garbage(federated, OTHERS, opens=opens)
    coordinator_turn(federated.outbox, PLAN)
    for _ in (3, 4):
        standing = federated.phase()

    assert standing.phase == 5
    with pytest.raises(MalformedRecordError, match="site 'gcp'") as caught:
        federated.sum()
    assert "without it" in str(caught.value)
    gathered = gather(federated.outbox.coordinator, PLAN)
    why = why_no_quorum(PLAN, gathered.participation)
    assert why.startswith("0 of 4 deltas can be used, the quorum is 3: aws refused, azure refused,")
    assert why.count("site 'gcp'") == 1
    assert "\n" not in why
    assert not any(repr(site) in str(caught.value) for site in OTHERS)


def reveal_garbage(federated, table="self_shares"):
    """What `gcp` revealed, with noise in the place of the shares of all others."""
    sent = federated.outbox.sent("r0001", "gcp", FILES[4])
    shares = read_record(sent, what="revealed")[table]
    noise = {site: ("00" + stream("revealed", site).bytes(64).hex() + "00") for site in shares}
    send_around_the_outbox(federated, FILES[4], **{table: noise})


def test_a_site_that_reveals_garbage_first_is_outvoted_by_those_that_come(federated):
    for _ in range(3):
        federated.phase()
    federated.turn("gcp")
    reveal_garbage(federated)
    for site in ("aws", "azure"):
        federated.turn(site)
    standing = coordinator_turn(federated.outbox, PLAN)
    assert (standing.phase, standing.waits_for, standing.problem) == (4, ("local",), "")

    federated.turn("local")
    assert coordinator_turn(federated.outbox, PLAN).phase == 5

    found = federated.sum()
    check_mean(found, SITES)
    assert all("gcp" in line for line in found.odd)


def test_garbage_that_was_revealed_and_nobody_else_in_time_end_the_round_in_one_line(federated):
    for _ in range(3):
        federated.phase()
    federated.turn("gcp")
    reveal_garbage(federated)
    standing = federated.phase(("aws", "azure"), is_late=True)

    assert standing.phase == 5
    with pytest.raises(MalformedRecordError, match="which site is wrong cannot be told") as caught:
        federated.sum()
    assert "\n" not in str(caught.value)


def test_a_masked_delta_that_is_noise_is_noticed_in_the_sum(federated):
    for _ in range(2):
        federated.phase()
    for site in SITES:
        federated.turn(site)
    content = federated.outbox.sent("r0001", "gcp", DELTA)
    header, payload = read_unverified(content)
    masked = masking.read_masked(payload)
    noise = stream("noise").integers(0, 2**32, masked.ring.size, np.uint32)
    own = federated.keys["gcp"].private_key("gcp")
    noisy = seal(masking.masked_bytes(dataclasses.replace(masked, ring=noise)), header, own)
    federated.outbox.coordinator.put(layout.sent_key("r0001", "gcp", DELTA), noisy)
    coordinator_turn(federated.outbox, PLAN)
    federated.phase()

    with pytest.raises(MalformedRecordError, match="sum of masked deltas"):
        federated.sum()
