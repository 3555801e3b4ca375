import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from resources.outbox import Outbox
from resources.site_store import SiteStore
from worldloop import layout
from worldloop.errors import MalformedRecordError, StoreError
from worldloop.federation.codecs import encode
from worldloop.federation.envelopes import DeltaHeader, seal
from worldloop.federation.masking import Masked, masked_bytes
from worldloop.federation.outbox import DELTA, RECEIPT, SCORES, SECURE_KEYS
from worldloop.seeds import canonical_json

KEY = Ed25519PrivateKey.from_private_bytes(b"a" * 32)
HEADER = DeltaHeader(
    "r0001", "aws", "b" * 32, "", "5" * 64, "int8", 12, 100, 1.5, 0.5, 0.25, 10.0, 0.0
)


@pytest.fixture
def outbox(tmp_path):
    return Outbox(SiteStore(url=str(tmp_path / "coordinator")))


def delta(value=0.5, site="aws", **change):
    arrays = {"a.lora_A.weight": np.full((2, 2), value, np.float32)}
    header = dataclasses.replace(HEADER, site=site, **change)
    return seal(encode(arrays, "int8").content, header, KEY)


def masked(value):
    header = dataclasses.replace(HEADER, codec="masked", masked=True)
    ring = Masked({"a.lora_A.weight": (1, 2)}, np.full(3, value, np.uint32))
    return seal(masked_bytes(ring), header, KEY)


def report(**more):
    return canonical_json({"round": "r0001", "site": "aws", "plan_id": "b" * 32, **more})


def test_what_was_sent_is_read_back(outbox):
    assert outbox.send("r0001", "aws", DELTA, delta())
    assert outbox.sent("r0001", "aws", DELTA) == delta()
    assert outbox.sent("r0001", "gcp", DELTA) is None
    assert [key for key, _ in outbox.coordinator.list()] == ["rounds/r0001/sites/aws/delta.bin"]


def test_senders_are_those_of_one_file_and_round(outbox):
    for site in ("gcp", "aws"):
        outbox.send("r0001", site, DELTA, delta(site=site))
    outbox.send("r0001", "aws", RECEIPT, report())
    assert outbox.senders("r0001", DELTA) == ["aws", "gcp"]
    assert outbox.senders("r0001", RECEIPT) == ["aws"]
    assert outbox.senders("r0002", DELTA) == []


def test_the_same_bytes_again_are_fine_and_others_are_refused(outbox):
    outbox.send("r0001", "aws", DELTA, delta())
    assert not outbox.send("r0001", "aws", DELTA, delta())
    with pytest.raises(StoreError, match=r"'delta.bin' of round 'r0001'.*The first stays"):
        outbox.send("r0001", "aws", DELTA, delta(0.25))
    assert outbox.sent("r0001", "aws", DELTA) == delta()


@pytest.mark.parametrize("made", ["adapter.json", "participants.json"])
def test_a_wrong_delta_is_replaced_until_the_round_went_on(outbox, made):
    outbox.send("r0001", "aws", DELTA, delta())
    assert outbox.send("r0001", "aws", DELTA, delta(0.25), replace=True)
    outbox.coordinator.put(layout.adapter_key("r0001", made), b"{}")
    with pytest.raises(StoreError, match="open a new round"):
        outbox.send("r0001", "aws", DELTA, delta(), replace=True)
    assert outbox.sent("r0001", "aws", DELTA) == delta(0.25)


def test_scores_are_replaced_until_the_evaluation(outbox):
    outbox.coordinator.put(layout.adapter_key("r0001", "adapter.json"), b"{}")
    outbox.send("r0001", "aws", SCORES, report(num_clips=1))
    assert outbox.send("r0001", "aws", SCORES, report(num_clips=2), replace=True)
    outbox.coordinator.put(layout.evaluation_key("r0001"), b"{}")
    with pytest.raises(StoreError, match="went on"):
        outbox.send("r0001", "aws", SCORES, report(num_clips=3), replace=True)


def test_nothing_of_secure_aggregation_is_ever_replaced(outbox):
    keys = {"encryption_key": "1" * 64, "mask_key": "2" * 64, "weight_bits": 4}
    keys |= {"self_commitment": "4" * 64}
    outbox.send("r0001", "aws", DELTA, masked(1))
    outbox.send("r0001", "aws", SECURE_KEYS, report(**keys))
    other = report(**keys | {"mask_key": "3" * 64})
    for name, content in ((DELTA, masked(2)), (DELTA, delta()), (SECURE_KEYS, other)):
        with pytest.raises(StoreError, match="never replaced"):
            outbox.send("r0001", "aws", name, content, replace=True)


def test_a_late_first_delta_is_taken(outbox):
    outbox.coordinator.put(layout.adapter_key("r0001", "adapter.json"), b"{}")
    assert outbox.send("r0001", "aws", DELTA, delta())


@pytest.mark.parametrize(
    ("site", "name", "content"),
    [
        ("gcp", DELTA, delta()),
        ("aws", DELTA, delta(round="r0002")),
        ("aws", DELTA, b"\xff\xd8\xff\xe0JFIF"),
        ("aws", "clip.mp4", b"ftypmp42"),
        ("aws", SCORES, report(caption="a red car")),
    ],
)
def test_what_may_not_leave_is_not_written(outbox, site, name, content):
    with pytest.raises(MalformedRecordError):
        outbox.send("r0001", site, name, content)
    assert outbox.coordinator.list() == []


def test_an_oversized_file_is_refused_before_it_is_read(outbox):
    outbox.coordinator.put(layout.sent_key("r0001", "aws", DELTA), bytes(1000))
    with pytest.raises(MalformedRecordError, match=r"1000 bytes.*at most 999"):
        outbox.sent("r0001", "aws", DELTA, max_bytes=999)
    assert outbox.sent("r0001", "aws", DELTA, max_bytes=1000) == bytes(1000)


def test_nothing_else_writes_where_sites_send():
    writes = re.compile(r"\.(put|put_file|create|copy_from)\(\s*(layout\.)?sent_key")
    root = Path(__file__).parents[2]
    rooms = ("assets", "resources", "sensors")
    sources = [path for room in rooms for path in (root / room).rglob("*.py")]
    assert len(sources) > 50
    assert not [path.name for path in sources if writes.search(path.read_text())]
