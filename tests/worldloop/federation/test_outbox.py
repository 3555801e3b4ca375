import base64
import dataclasses
import io
import json
import math

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from worldloop.atlas.atlas import load_atlas
from worldloop.cosmos.families import ClipShape
from worldloop.errors import MalformedRecordError
from worldloop.federation.adapters import adapter_bytes
from worldloop.federation.codecs import encode
from worldloop.federation.envelopes import DeltaHeader, seal, sign_record
from worldloop.federation.evaluation import SiteScores
from worldloop.federation.masking import Masked, masked_bytes
from worldloop.federation.moments import untouched
from worldloop.federation.outbox import DELTA, DRIFT, NAMES, RECEIPT, SCORES, check_outgoing, facts
from worldloop.federation.rounds import Aggregation, Base, RoundPlan, Terms, Training, Trial
from worldloop.seeds import canonical_json, content_id

KEY = Ed25519PrivateKey.from_private_bytes(b"a" * 32)
PLAN = RoundPlan(
    round="r0001",
    sites=("aws", "gcp"),
    waves=(),
    releases=(),
    base=Base("tiny", "1"),
    training=Training(ClipShape(9, 64, 64, 16)),
    aggregation=Aggregation(),
    terms=Terms(),
    trial=Trial(),
    seed=1,
    opened_at="2026-11-21T00:00:00+00:00",
)
HEADER = DeltaHeader(
    "r0001", "aws", PLAN.plan_id, "", "5" * 64, "int8", 12, 100, 1.5, 0.5, 0.25, 10.0, 0.0
)
DELTA_ARRAYS = {"blocks.0.attn1.to_q.lora_A.weight": np.full((2, 3), 0.5, np.float32)}
GOOD_DELTA = seal(encode(DELTA_ARRAYS, "int8").content, HEADER, KEY)


def scores_record():
    """What a site makes of a real report: three clips, two of them in places, two samples."""
    adapters, homes = ("before", "after"), (("tokyo", "zoo"), ("lima", "museum"), ("", ""))
    report = {
        "losses": [
            {
                "adapter": adapter,
                "recipe_id": content_id({"clip": number}),
                "city": city,
                "institution": institution,
                "loss": 0.5 + 0.01 * number + 1e-7,
            }
            for adapter in adapters
            for number, (city, institution) in enumerate(homes)
        ],
        "nearest": [
            {"adapter": adapter, "sample": sample, "similarity": 0.7, "typical": 0.9}
            for adapter in adapters
            for sample in range(2)
        ],
    }
    scores = SiteScores.from_report(
        report, site="aws", plan=PLAN, adapter_sha256="a" * 64, num_training_clips=12
    )
    return scores.to_record()


RECEIPT_RECORD = {
    "round": "r0001",
    "site": "aws",
    "plan_id": PLAN.plan_id,
    "version": 1,
    "status": "trained",
    "num_clips": 12,
    "losses": [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.4}],
}
DRIFT_RECORD = {
    "site": "aws",
    "base": "r0001",
    "wave": "w0003",
    "drift": 0.25,
    "num_clips": 40,
    "drift_version": 1,
}
RECORDS = {SCORES: scores_record(), RECEIPT: RECEIPT_RECORD, DRIFT: DRIFT_RECORD}
ROUND_OF = {SCORES: "r0001", RECEIPT: "r0001", DRIFT: ""}


def places(value, path=()):
    """The path of every value in a record, containers included."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def placed(record, path, odd):
    """A copy of a record with an odd value at a path; in a container as one more member."""
    copy = json.loads(json.dumps(record))
    holder = copy
    for key in path[:-1]:
        holder = holder[key]
    inner = holder[path[-1]] if path else copy
    if isinstance(inner, dict):
        inner["note"] = odd
    elif isinstance(inner, list):
        inner.append(odd)
    else:
        holder[path[-1]] = odd
    return copy


def picture(kind):
    buffer = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(buffer, kind)
    return buffer.getvalue()


VIDEO = b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom" + bytes(range(256))
MEDIA = [picture("JPEG"), picture("PNG"), VIDEO]
WORDS = st.sampled_from(["a", "red", "car", "old", "zoo", "night", "wait"])
CAPTIONS = st.lists(WORDS, min_size=2, max_size=20).map(" ".join) | st.text(min_size=1)
VECTORS = st.lists(st.floats(-1, 1), min_size=1, max_size=64)
ENCODED = st.sampled_from(MEDIA).map(lambda raw: base64.b64encode(raw).decode())
HEXED = st.sampled_from(MEDIA).map(bytes.hex)
ODD = CAPTIONS | VECTORS | ENCODED | HEXED
SPOTS = [(name, path) for name, record in RECORDS.items() for path in places(record)]
CLOSED = {"before", "after", "base", "candidate", "trained", "empty", "failed"}
CLOSED |= set(load_atlas().cities) | set(load_atlas().institutions) | {""}


@pytest.mark.parametrize("name", RECORDS)
def test_a_report_of_ids_and_numbers_leaves_signed_or_not(name):
    check_outgoing(name, canonical_json(RECORDS[name]), round_key=ROUND_OF[name], site="aws")
    if name != DRIFT:
        check_outgoing(name, sign_record(RECORDS[name], KEY), round_key="r0001", site="aws")


@settings(max_examples=300, deadline=None)
@given(spot=st.sampled_from(SPOTS), odd=ODD)
def test_no_caption_vector_or_picture_leaves_anywhere_in_a_report(spot, odd):
    name, path = spot
    if isinstance(odd, str) and odd in CLOSED:
        return
    content = canonical_json(placed(RECORDS[name], path, odd))
    with pytest.raises(MalformedRecordError) as caught:
        check_outgoing(name, content, round_key=ROUND_OF[name], site="aws")
    if isinstance(odd, str) and len(odd) > 24:
        assert odd not in str(caught.value)


@pytest.mark.parametrize("name", ["moments.safetensors", DELTA, RECEIPT])
def test_an_optimizer_s_state_leaves_under_no_name(name):
    stands = {key: np.ascontiguousarray(each) for key, each in untouched(DELTA_ARRAYS).items()}
    with pytest.raises(MalformedRecordError):
        check_outgoing(name, adapter_bytes(stands), round_key="r0001", site="aws")


@pytest.mark.parametrize("odd", ["a red car", "car", "gcp"])
def test_only_the_sites_own_name_stands_for_the_site(odd):
    content = canonical_json({**RECORDS[RECEIPT], "site": odd})
    with pytest.raises(MalformedRecordError, match="site"):
        check_outgoing(RECEIPT, content, round_key="r0001", site="aws")


def test_the_error_names_the_field_and_not_what_stands_in_it():
    record = placed(RECORDS[SCORES], ("losses", 1), "a red car at night")
    with pytest.raises(MalformedRecordError) as caught:
        check_outgoing(SCORES, canonical_json(record))
    assert "scores.json, losses[1], note: found 'a text of 18 characters'" in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [*MEDIA, b"a red car", b"", b"[0.1, 0.2]"])
def test_foreign_bytes_leave_under_no_name(name, content):
    with pytest.raises(MalformedRecordError):
        check_outgoing(name, content)


@pytest.mark.parametrize("name", ["clip.mp4", "metas.json", "", "../delta.bin", "embeddings.npy"])
def test_a_file_of_another_name_does_not_leave(name):
    with pytest.raises(MalformedRecordError, match="one of the files"):
        check_outgoing(name, canonical_json(RECORDS[SCORES]))


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(RECORDS[RECEIPT]).encode(),
        canonical_json(RECORDS[RECEIPT]) + b"\n",
        canonical_json(RECORDS[RECEIPT])[:-1] + b',"site":"aws"}',
        canonical_json(RECORDS[RECEIPT]).replace(b"0.5", b"NaN"),
        canonical_json(RECORDS[RECEIPT]).replace(b'"aws"', b'"\\u0061ws"'),
    ],
)
def test_nothing_hides_between_the_fields(content):
    with pytest.raises(MalformedRecordError):
        check_outgoing(RECEIPT, content)


def test_rows_of_one_clip_are_no_vector():
    record = json.loads(json.dumps(RECORDS[SCORES]))
    record["losses"] += [{**record["losses"][0], "before": 0.25}]
    with pytest.raises(MalformedRecordError, match="second row"):
        check_outgoing(SCORES, canonical_json(record))


def test_a_sealed_delta_of_any_codec_leaves():
    for codec in ("float32", "int8", "int4"):
        header = dataclasses.replace(HEADER, codec=codec)
        check_outgoing(DELTA, seal(encode(DELTA_ARRAYS, codec).content, header, KEY))
    masked = dataclasses.replace(HEADER, codec="masked", masked=True)
    ring = masked_bytes(Masked({"a.lora_A.weight": (2, 2)}, np.arange(5, dtype=np.uint32)))
    check_outgoing(DELTA, seal(ring, masked, KEY), round_key="r0001", site="aws")
    empty = dataclasses.replace(HEADER, num_clips=0, num_steps=0, start_sha256="")
    check_outgoing(DELTA, seal(b"", empty, KEY))


@pytest.mark.parametrize(
    ("change", "payload", "words"),
    [
        ({"site": "a red car"}, None, "header, site"),
        ({"base": "tokyo zoo"}, None, "header, base"),
        ({"start_sha256": "abc"}, None, "header, start_sha256"),
        ({"codec": "jpeg"}, None, "header, codec"),
        ({"masked": True}, None, "masked"),
        ({}, MEDIA[0], "payload"),
        ({}, b"a red car", "payload"),
        ({"codec": "masked", "masked": True}, VIDEO, "payload"),
        (
            {},
            encode({"a red car.weight": np.ones(3, np.float32)}, "int8").content,
            "name of tensor",
        ),
    ],
)
def test_a_delta_that_carries_something_else_does_not_leave(change, payload, words):
    content = payload or encode(DELTA_ARRAYS, "int8").content
    with pytest.raises(MalformedRecordError, match=words):
        check_outgoing(DELTA, seal(content, dataclasses.replace(HEADER, **change), KEY))


def test_facts_are_numbers_and_ids():
    shown = {"num_clips": 3, "ok": True, "loss": 0.5, "sha256": "a" * 64, "place": "tokyo/zoo"}
    assert facts({**shown, "dagster/row_count": 3, "round": "r0001"})["loss"] == 0.5


@settings(max_examples=200, deadline=None)
@given(name=st.sampled_from(["note", "loss", "round", "city", "place", "codec"]), odd=ODD)
def test_no_caption_or_vector_gets_into_the_event_log(name, odd):
    if isinstance(odd, str) and odd in CLOSED:
        return
    with pytest.raises(MalformedRecordError, match=f"metadata, {name}"):
        facts({name: odd})


@pytest.mark.parametrize("odd", [math.nan, math.inf, None, [1.0], {"a": 1}, b"abc"])
def test_other_kinds_do_not_get_into_the_event_log_either(odd):
    with pytest.raises(MalformedRecordError, match="metadata, loss"):
        facts({"loss": odd})
    with pytest.raises(MalformedRecordError, match="a short name"):
        facts({"a red car": 1})
