import dataclasses
import math

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from worldloop.cosmos.families import ClipShape
from worldloop.errors import MalformedRecordError
from worldloop.federation.envelopes import (
    MAGIC,
    DeltaHeader,
    check_header,
    max_payload_bytes,
    open_envelope,
    open_record,
    read_header,
    read_record,
    read_unverified,
    seal,
    sign_record,
)
from worldloop.federation.rounds import Aggregation, Base, RoundPlan, Terms, Training, Trial

KEY = Ed25519PrivateKey.from_private_bytes(b"a" * 32)
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"g" * 32)
START = "5" * 64
PLAN = RoundPlan(
    round="r0002",
    sites=("aws", "azure", "gcp"),
    waves=(),
    releases=(),
    base=Base("tiny", "1", adapter="r0001", adapter_sha256="a" * 64),
    training=Training(ClipShape(9, 64, 64, 16)),
    aggregation=Aggregation(max_norm=10.0),
    terms=Terms(),
    trial=Trial(),
    seed=1,
    opened_at="2026-11-21T00:00:00+00:00",
)
HEADER = DeltaHeader(
    round="r0002",
    site="aws",
    plan_id=PLAN.plan_id,
    base="r0001",
    start_sha256=START,
    codec="int8",
    num_clips=12,
    num_steps=100,
    norm=1.5,
    loss_before=0.5,
    loss_after=0.25,
    took_s=10.0,
    gpu_s=0.0,
)
PAYLOAD = b"a delta, encoded"
SEALED = seal(PAYLOAD, HEADER, KEY)


def test_what_was_sealed_is_opened_again_and_belongs_to_its_plan():
    header, payload = open_envelope(SEALED, KEY.public_key())
    assert payload == PAYLOAD
    assert dataclasses.replace(header, payload_sha256="") == HEADER
    check_header(header, PLAN, "aws", start_sha256=START)
    assert read_header(SEALED) == header == read_unverified(SEALED)[0]


def test_the_same_delta_gives_the_same_file():
    assert seal(PAYLOAD, HEADER, KEY) == SEALED


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (PAYLOAD, "without one"),
        (b"", "without one"),
        (seal(PAYLOAD, HEADER, OTHER_KEY), "this site's key did not make"),
        (SEALED[: -len(PAYLOAD) - 64] + bytes(64) + PAYLOAD, "signature: found 'none'"),
        (SEALED[:-1], "cut short"),
        (SEALED[:40], "cut short"),
        (MAGIC + b"\xff\xff\xff\xff" + SEALED[12:], "cut short"),
    ],
)
def test_an_unsigned_foreign_or_truncated_file_is_refused_in_one_line(content, words):
    with pytest.raises(MalformedRecordError, match=words) as caught:
        open_envelope(content, KEY.public_key())
    assert "\n" not in str(caught.value)


@given(place=st.integers(0, len(SEALED) - 1), flip=st.integers(1, 255))
def test_no_byte_can_be_altered(place, flip):
    altered = SEALED[:place] + bytes([SEALED[place] ^ flip]) + SEALED[place + 1 :]
    with pytest.raises(MalformedRecordError):
        open_envelope(altered, KEY.public_key())


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_and_never_a_crash(content):
    with pytest.raises(MalformedRecordError):
        open_envelope(MAGIC + content, KEY.public_key())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"site": "gcp"}, "delta, site"),
        ({"round": "r0001"}, "delta, round.*replay"),
        ({"plan_id": "0" * 32}, "delta, plan_id"),
        ({"base": ""}, "delta, base"),
        ({"start_sha256": "6" * 64}, "delta, start"),
        ({"codec": "float32"}, "delta, codec"),
        ({"masked": True}, "delta, masked"),
        ({"num_clips": -1}, "delta, counts"),
        ({"num_clips": 0}, "delta, counts"),
        ({"num_clips": 0, "num_steps": 0}, "without clips"),
        ({"norm": 10.5}, "delta, norm.*poisoned"),
        ({"took_s": 1e300}, r"delta, took_s: found 1e\+300"),
        ({"loss_before": -1e16}, "delta, loss_before"),
        ({"num_clips": 10**16}, "delta, num_clips"),
    ],
)
def test_a_delta_of_another_site_round_plan_or_base_is_refused(change, words):
    sealed = seal(PAYLOAD, dataclasses.replace(HEADER, **change), KEY)
    header, _ = open_envelope(sealed, KEY.public_key())
    with pytest.raises(MalformedRecordError, match=words):
        check_header(header, PLAN, "aws", start_sha256=START)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["norm", "loss_before", "loss_after", "took_s", "gpu_s"])
def test_a_number_that_is_none_is_neither_sealed_nor_opened(field, value):
    with pytest.raises(MalformedRecordError, match=field):
        seal(PAYLOAD, dataclasses.replace(HEADER, **{field: value}), KEY)
    encoded = SEALED[12:-80].replace(b'"norm":1.5', b'"norm":NaN')
    head = MAGIC + len(encoded).to_bytes(4, "little") + encoded
    with pytest.raises(MalformedRecordError, match="finite"):
        open_envelope(head + KEY.sign(head) + PAYLOAD, KEY.public_key())


def test_a_delta_larger_than_the_adapter_is_refused_before_it_is_read():
    limit = max_payload_bytes({"layer.lora_A.weight": (8, 100)}, "int8")
    sealed = seal(bytes(limit + 1), HEADER, KEY)
    with pytest.raises(MalformedRecordError, match=f"{limit + 1} bytes.*at most {limit}"):
        open_envelope(sealed, KEY.public_key(), max_payload_bytes=limit)
    open_envelope(seal(bytes(limit), HEADER, KEY), KEY.public_key(), max_payload_bytes=limit)


def test_a_site_without_clips_says_so_with_an_empty_delta():
    empty = dataclasses.replace(HEADER, num_clips=0, num_steps=0, norm=0.0, start_sha256="")
    header, _ = open_envelope(seal(b"", empty, KEY), KEY.public_key())
    check_header(header, PLAN, "aws", start_sha256=START)
    assert header.is_empty


def test_a_signed_report_is_opened_with_its_sites_key_alone():
    signed = sign_record({"site": "aws", "loss": 0.5}, KEY)
    assert open_record(signed, KEY.public_key(), what="scores.json")["loss"] == 0.5
    for odd in (signed.replace(b"0.5", b"0.4"), b'{"loss":0.5,"site":"aws"}', b"[]", b"{"):
        with pytest.raises(MalformedRecordError, match=r"scores\.json"):
            open_record(odd, KEY.public_key(), what="scores.json")
    with pytest.raises(MalformedRecordError, match="did not make"):
        open_record(signed, OTHER_KEY.public_key(), what="scores.json")


def test_a_field_that_stands_twice_is_refused():
    with pytest.raises(MalformedRecordError, match="each field once"):
        open_record(b'{"a":1,"a":2}', KEY.public_key(), what="scores.json")


@pytest.mark.parametrize("odd", [b"1e999", b"-1e999", b"NaN", b"Infinity"])
def test_no_number_of_a_record_is_infinite(odd):
    with pytest.raises(MalformedRecordError, match="one JSON object with finite numbers"):
        read_record(b'{"losses":[{"step":' + odd + b"}]}", what="receipt.json")
