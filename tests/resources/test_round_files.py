import numpy as np
import pytest

from resources.residuals import carried_residual, keep_residual
from resources.round_files import (
    Participant,
    decide_participants,
    end_round,
    log_ended_rounds,
    open_rounds,
    planned_rounds,
    publish_adapter,
    publish_round_plan,
    read_adapter_record,
    read_outcome,
    read_participants,
    read_round_adapter,
    standing_of,
)
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from tests.sensors.rounds import round_plan
from worldloop import layout
from worldloop.errors import MalformedRecordError, PlanConflictError, StoreError, UnknownKeyError
from worldloop.federation.outcomes import AdapterRecord, Outcome, Participation
from worldloop.federation.rounds import Base
from worldloop.seeds import canonical_json

DELTA_FILE = b"a delta"


@pytest.fixture
def store(tmp_path):
    return SiteStore(url=str(tmp_path / "site"))


@pytest.fixture
def log(store):
    return SiteLog(store=store)


def adapter(value=1.0):
    return {"layer.lora_A.weight": np.full((2, 3), value, np.float32)}


def record(key="r0001", **changes):
    entries = (
        Participation("aws", "accepted", norm=0.5, **changes),
        Participation("gcp", "missing"),
    )
    return AdapterRecord(key, "id", "fedavg", "a", "b", "", 6, 0.5, entries, {"num_deltas": 1})


def outcome(key="r0001", ending="promoted", reason="it passed"):
    entries = (Participation("aws", "accepted", num_clips=3, size_bytes=10),)
    moment = "2026-01-02T00:00:00+00:00"
    return Outcome(key, "id", ending, reason, moment, participation=entries)


def test_a_plan_is_written_once(store):
    assert publish_round_plan(store, round_plan())
    assert not publish_round_plan(store, round_plan())
    with pytest.raises(PlanConflictError, match="with other reason, seed;"):
        publish_round_plan(store, round_plan(seed=2, reason="another"))


def test_rounds_are_listed_in_the_order_of_their_numbers(store):
    for key in ("r10000", "r0002", "r0001"):
        publish_round_plan(store, round_plan(key))
    store.put(layout.outcome_key("r0001"), b"{}")

    assert planned_rounds(store) == ["r0001", "r0002", "r10000"]
    assert open_rounds(store) == ["r0002", "r10000"]


def test_what_stands_of_a_round_says_its_phase(store):
    publish_round_plan(store, round_plan())
    assert standing_of(store, "r0001").phase == "training"
    store.put(layout.sent_key("r0001", "aws", "receipt.json"), b"{}")
    store.put(layout.sent_key("r0001", "gcp", "delta.bin"), b"delta")
    assert standing_of(store, "r0001").deltas == ("gcp",)

    publish_adapter(store, record(), adapter(), {})
    assert standing_of(store, "r0001").phase == "scoring"
    assert standing_of(store, "r0002").phase == "unplanned"


def test_who_takes_part_is_decided_once(store):
    first = {"aws": Participant("r0001", "aa")}
    assert read_participants(store, "r0001") is None
    assert decide_participants(store, "r0001", first) == first
    later = {"aws": Participant("r0001", "aa"), "gcp": Participant("r0001", "bb")}
    assert decide_participants(store, "r0001", later) == first


def test_an_adapter_without_its_record_is_not_published_yet(store):
    store.put(layout.adapter_key("r0001", "adapter.safetensors"), b"")
    store.delete(layout.adapter_key("r0001", "adapter.safetensors"))
    assert publish_adapter(store, record(), adapter(), {})
    assert not publish_adapter(store, record(), adapter(), {})

    assert read_adapter_record(store, "r0001") == record()
    assert (read_round_adapter(store, "r0001")["layer.lora_A.weight"] == 1).all()


def test_another_adapter_is_refused(store):
    publish_adapter(store, record(), adapter(), {})

    with pytest.raises(StoreError, match="a published adapter never changes"):
        publish_adapter(store, record(), adapter(2.0), {})


def test_the_first_outcome_stays_and_is_logged_once(store, log):
    publish_round_plan(store, round_plan())
    end_round(store, log, outcome())
    standing = end_round(store, log, outcome(ending="failed", reason="too late"))

    assert standing.outcome == "promoted"
    assert read_outcome(store, "r0001") == outcome()
    assert log.read("rounds").select("outcome", "num_deltas", "size_bytes").rows() == [
        ("promoted", 1, 10)
    ]
    assert log.read("round_deltas")["num_clips"].to_list() == [3]


def test_rows_that_a_kill_kept_out_of_the_log_are_written_later(store, log):
    publish_round_plan(store, round_plan())
    store.put(layout.outcome_key("r0001"), canonical_json(outcome().to_record()))

    assert log_ended_rounds(store, log, ["r0001"]) == 1
    assert log_ended_rounds(store, log, ["r0001"]) == 0
    assert log.read("round_waves")["root_hash"].to_list() == ["ff"]


def test_a_record_of_a_later_version_is_refused():
    with pytest.raises(MalformedRecordError, match="record_version 1"):
        Outcome.from_record({**outcome().to_record(), "record_version": 2})


def test_a_round_without_a_plan_is_named(store):
    from resources.round_files import read_round_plan

    with pytest.raises(UnknownKeyError, match="No planned round has the key 'r0009'"):
        read_round_plan(store, "r0009")


class TestResiduals:
    """Which residual goes into the next delta: that of the newest delta in what is started from."""

    @pytest.fixture
    def own(self, tmp_path):
        return SiteStore(url=str(tmp_path / "aws"))

    def send(self, store, own, key, *, base="", value=1.0, delta_file=DELTA_FILE, sent=DELTA_FILE):
        import hashlib

        publish_round_plan(store, round_plan(key, base=Base("Tiny", "tiny", adapter=base)))
        keep_residual(own, key, delta_file, adapter(value))
        sha256 = hashlib.sha256(sent).hexdigest()
        publish_adapter(store, record(key, content_sha256=sha256), adapter(), {})

    def carried(self, store, own, base, site="aws"):
        plan = round_plan("r0009", base=Base("Tiny", "tiny", adapter=base))
        found = carried_residual(own, store, plan, site)
        return None if found is None else float(found["layer.lora_A.weight"][0, 0])

    def test_a_new_adapter_has_none(self, store, own):
        self.send(store, own, "r0001")
        assert self.carried(store, own, "") is None

    def test_that_of_the_base_is_carried(self, store, own):
        self.send(store, own, "r0001", value=1.0)
        self.send(store, own, "r0002", base="r0001", value=2.0)
        assert self.carried(store, own, "r0002") == 2.0

    def test_a_refused_round_is_rolled_back_with_its_residual(self, store, own):
        self.send(store, own, "r0001", value=1.0)
        self.send(store, own, "r0002", base="r0001", value=2.0)
        assert self.carried(store, own, "r0001") == 1.0

    def test_a_site_that_took_no_part_takes_the_one_before(self, store, own):
        self.send(store, own, "r0001", value=1.0)
        assert self.carried(store, own, "r0001", site="gcp") is None

    def test_one_whose_delta_was_never_sent_is_not_used(self, store, own):
        self.send(store, own, "r0001", delta_file=b"another attempt")
        assert self.carried(store, own, "r0001") is None
