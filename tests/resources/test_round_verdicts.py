"""What a round settles: no site's word about its own work takes more than the round was given."""

from datetime import UTC, datetime, timedelta

import pytest

from resources.ledger import Ledger
from resources.round_files import publish_round_plan, read_outcome
from resources.round_verdicts import end, finish
from resources.site_keys import SiteKeys
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from tests.sensors.rounds import round_plan
from worldloop import layout
from worldloop.federation.envelopes import sign_record
from worldloop.federation.evaluation import SiteScores
from worldloop.federation.outbox import DELTA, SCORES
from worldloop.federation.outcomes import Participation

HOUR_AGO = (datetime.now(UTC) - timedelta(hours=1)).replace(microsecond=0)
PLAN = round_plan(opened_at=HOUR_AGO.isoformat())
LIAR = 1e15


@pytest.fixture
def kit(tmp_path):
    """Store, log and ledger of a coordinator, with a planned round."""
    store = SiteStore(url=str(tmp_path / "site"))
    publish_round_plan(store, PLAN)
    ledger = Ledger(path=str(tmp_path / "ledger.sqlite"), limits={"gpu_s": 2000.0, "usd": 10.0})
    return store, SiteLog(store=store), ledger


def said(store, **gpu_s):
    """Deltas of sites as the adapter's record has them."""
    for site in gpu_s:
        store.put(layout.sent_key(PLAN.round, site, DELTA), b"a delta")
    return [
        Participation(site, "accepted", took_s=seconds, gpu_s=seconds)
        for site, seconds in gpu_s.items()
    ]


def between(store, site):
    """Seconds from the plan to a site's delta, and a minute for clocks that differ."""
    sent_at = store.modified_at(layout.sent_key(PLAN.round, site, DELTA))
    return (sent_at - HOUR_AGO).total_seconds() + 60


def settled(ledger):
    return ledger.settled_today(PLAN.round)


def test_claims_within_the_reservation_are_settled_as_they_were_said(kit):
    store, _, ledger = kit
    ledger.reserve(PLAN.round, {"gpu_s": 1000.0, "usd": 1.0})
    entries = said(store, aws=400.0, gcp=300.0, local=100.0)

    ended = end(*kit, PLAN, "refused", "a gate", participation=entries, usd_per_gpu_hour=3.6)

    assert (settled(ledger)["gpu_s"], settled(ledger)["usd"]) == (800.0, pytest.approx(0.8))
    assert ended.participation == tuple(entries)


@pytest.mark.parametrize("claim", [LIAR, 5000.0])
def test_a_claim_beyond_the_reservation_takes_what_the_others_leave_and_is_named(kit, claim):
    store, _, ledger = kit
    ledger.reserve(PLAN.round, {"gpu_s": 1000.0, "usd": 1.0})
    entries = said(store, aws=claim, gcp=300.0, local=100.0)

    ended = end(*kit, PLAN, "refused", "a gate", participation=entries, usd_per_gpu_hour=3.6)

    assert (settled(ledger)["gpu_s"], settled(ledger)["usd"]) == (1000.0, pytest.approx(1.0))
    liar, *honest = ended.participation
    assert f"{claim:.6g} gpu_s" in liar.reason
    assert "600 are counted" in liar.reason
    assert [one.reason for one in honest] == ["", ""]
    assert [one.gpu_s for one in ended.participation] == [600.0, 300.0, 100.0]
    assert read_outcome(store, PLAN.round) == ended
    assert [line.split(":")[0] for line in ended.not_counted] == ["aws"]
    assert ledger.reserve("w0002", {"gpu_s": 1000.0})  # others of the day go on


def test_a_claim_of_measuring_is_held_to_the_same_and_is_named(kit, tmp_path):
    store, _, ledger = kit
    ledger.reserve(PLAN.round, {"gpu_s": 1000.0, "usd": 1.0})
    keys = SiteKeys(tmp_path)
    keys.publish(store, "gcp")
    scores = SiteScores("gcp", PLAN.round, PLAN.plan_id, "a" * 64, losses=(), gpu_s=LIAR)
    sent = sign_record(scores.to_record(), keys.private_key("gcp"))
    store.put(layout.sent_key(PLAN.round, "gcp", SCORES), sent)

    ended = end(*kit, PLAN, "refused", "a gate", participation=said(store, aws=400.0, gcp=100.0))

    assert settled(ledger)["gpu_s"] == 1000.0
    (told,) = ended.not_counted
    assert told.startswith("gcp: it claims 1e+15 gpu_s of measuring, of which 500 are counted")
    assert [one.gpu_s for one in ended.participation] == [400.0, 100.0]


def test_without_a_reservation_no_claim_is_longer_than_the_time_between_plan_and_delta(kit):
    store, _, ledger = kit
    entries = said(store, aws=LIAR, gcp=300.0)

    ended = end(*kit, PLAN, "refused", "a gate", participation=entries)

    assert settled(ledger)["gpu_s"] == pytest.approx(300 + 8 * between(store, "aws"))
    assert "between plan and delta" in ended.participation[0].reason


def test_cpu_seconds_are_held_to_the_clock_as_well(kit):
    store, _, ledger = kit
    entries = said(store, aws=0.0, gcp=0.0)
    entries[0] = Participation("aws", "accepted", took_s=LIAR)
    entries[1] = Participation("gcp", "accepted", took_s=3000.0)

    end(*kit, PLAN, "refused", "a gate", participation=entries)

    assert settled(ledger)["cpu_s"] == pytest.approx(3000 + between(store, "aws"))


def test_ending_a_round_again_settles_the_same_once(kit):
    store, log, ledger = kit
    ledger.reserve(PLAN.round, {"gpu_s": 1000.0, "usd": 1.0})
    entries = said(store, aws=LIAR, gcp=300.0)
    ended = end(*kit, PLAN, "refused", "a gate", participation=entries)
    before = settled(ledger)

    for _ in range(2):
        assert finish(store, log, ledger, PLAN, ended) == ended
        assert end(*kit, PLAN, "refused", "a gate", participation=entries) == ended

    assert settled(ledger) == before == {**before, "gpu_s": 1000.0}


def test_a_kill_between_outcome_and_ledger_settles_the_same(kit, monkeypatch):
    import resources.round_verdicts

    store, log, ledger = kit
    ledger.reserve(PLAN.round, {"gpu_s": 1000.0, "usd": 1.0})
    entries = said(store, aws=LIAR, gcp=300.0)

    class Killed(BaseException):
        pass

    def killed(*_, **__):
        raise Killed

    with monkeypatch.context() as context:
        context.setattr(resources.round_verdicts, "priced", killed)
        with pytest.raises(Killed):
            end(*kit, PLAN, "refused", "a gate", participation=entries)
    standing = read_outcome(store, PLAN.round)
    assert standing is not None
    finish(store, log, ledger, PLAN, standing)

    assert settled(ledger)["gpu_s"] == 1000.0
