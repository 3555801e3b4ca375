import json
import math
import struct

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from worldloop.errors import MalformedRecordError
from worldloop.federation import codecs
from worldloop.federation.codecs import BLOCK_SIZES, LARGEST, MAGIC, decode, encode
from worldloop.federation.rounds import CODECS
from worldloop.seeds import canonical_json, stream

LOSSY = ("int8", "int4")
FAR = float(np.float32(LARGEST * 0.99))
NUMBERS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=40),
    elements=st.floats(-FAR, FAR, width=32),
)


def gaussian(*shape, seed=0, size=1e-3):
    return stream("test", "codecs", seed).normal(0, size, shape).astype(np.float32)


def delta(seed=0):
    return {"up": gaussian(300, 8, seed=seed), "down": gaussian(8, 70, seed=seed + 1000)}


def container(header, payload, *, checksum=True):
    compressor = zstandard.ZstdCompressor(write_checksum=checksum)
    frame = compressor.compress(header if isinstance(header, bytes) else canonical_json(header))
    return MAGIC + struct.pack("<I", len(frame)) + frame + compressor.compress(payload)


def header(**changed):
    return {"version": 1, "codec": "int8", "tensors": [["a", [64]]], **changed}


def steps(numbers, codec):
    """What a block's step may be at most: of its own largest and mean number, a table step more."""
    flat = np.abs(numbers, dtype=np.float64).ravel()
    blocks = np.pad(flat, (0, -flat.size % BLOCK_SIZES[codec])).reshape(-1, BLOCK_SIZES[codec])
    of_peak = blocks.max(axis=1) / (127.5 if codec == "int8" else 7.5)
    of_mean = blocks.mean(axis=1) / 20 if codec == "int8" else 0
    wanted = np.maximum(of_peak, of_mean)
    smallest = max(wanted.max(initial=0) * 2 ** (-127 / 8), 2.0**-125)
    step = np.maximum(wanted, smallest) * 2 ** (1 / 8) * (1 + 1e-5)
    return np.repeat(step, BLOCK_SIZES[codec])[: flat.size].reshape(numbers.shape)


@settings(max_examples=150, deadline=None)
@given(NUMBERS, st.sampled_from(LOSSY))
def test_a_number_comes_back_within_half_a_step_of_its_block(numbers, codec):
    encoded = encode({"a": numbers}, codec)
    found = decode(encoded.content, {"a": numbers.shape})["a"]

    assert found.dtype == np.float32
    assert found.shape == numbers.shape
    lost = np.abs(numbers.astype(np.float64) - found)
    assert (lost <= steps(numbers, codec) / 2).all()


@settings(max_examples=50, deadline=None)
@given(NUMBERS)
def test_float32_comes_back_bit_for_bit(numbers):
    encoded = encode({"a": numbers}, "float32")

    assert decode(encoded.content)["a"].tobytes() == numbers.tobytes()
    assert encoded.residual is None
    assert encoded.relative_error == 0


@settings(max_examples=50, deadline=None)
@given(NUMBERS, st.sampled_from(LOSSY))
def test_what_is_read_and_the_residual_add_up_to_what_was_sent(numbers, codec):
    encoded = encode({"a": numbers}, codec)

    found = decode(encoded.content)["a"]

    assert encoded.residual is not None
    np.testing.assert_array_equal(numbers - found, encoded.residual["a"])


@pytest.mark.parametrize("codec", CODECS)
def test_equal_deltas_give_equal_bytes_in_any_order(codec):
    one = encode(delta(), codec)
    other = encode(dict(reversed(delta().items())), codec)

    assert one.content == other.content


@pytest.mark.parametrize(("codec", "most"), [("int8", 0.0127), ("int4", 0.09)])
def test_the_loss_on_gaussian_deltas_is_as_documented(codec, most):
    big = {"a": gaussian(256, 1024)}
    encoded = encode(big, codec)

    lost = np.linalg.norm(big["a"] - decode(encoded.content)["a"]) / np.linalg.norm(big["a"])

    assert lost == pytest.approx(encoded.relative_error, rel=1e-3)
    assert lost < most


DRAWN = {
    "gaussian": lambda random, size: random.normal(size=size),
    "laplace": lambda random, size: random.laplace(size=size),
    "heavy tailed": lambda random, size: random.standard_t(2, size=size),
    "uniform": lambda random, size: random.uniform(-1, 1, size=size),
    "two valued": lambda random, size: random.choice([-1.0, 1.0], size=size),
    "two sided geometric": lambda random, size: random.geometric(1 / 20, size) * 1.0,
}


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize(("codec", "most"), [("int8", 20 / 22.478848), ("int4", 12 / 22.478848)])
def test_no_distribution_breaks_the_promised_size(name, codec, most):
    numbers = DRAWN[name](stream("test", name), 1 << 18).astype(np.float32)

    size = len(encode({"a": numbers}, codec).content)

    assert size / numbers.size < most


@pytest.mark.parametrize("codec", LOSSY)
def test_the_container_takes_less_than_a_hundredth_above_a_megabyte(codec):
    names = [
        f"transformer_blocks.{i}.attn{j}.to_q.lora_A.weight" for i in range(28) for j in (1, 2)
    ]
    encoded = encode({name: gaussian(8, 4096, seed=i) for i, name in enumerate(names)}, codec)

    (length,) = struct.unpack_from("<I", encoded.content, len(MAGIC))

    assert len(encoded.content) > 800_000
    assert len(MAGIC) + 4 + length < 0.01 * len(encoded.content)


@pytest.mark.parametrize("codec", LOSSY)
def test_with_error_feedback_the_sum_over_rounds_does_not_drift(codec):
    residual, sent, meant, drift = None, 0.0, 0.0, []
    for number in range(40):
        each = {"a": gaussian(40, 40, seed=number)}
        encoded = encode(each, codec, residual=residual)
        residual = encoded.residual
        sent = sent + decode(encoded.content)["a"].astype(np.float64)
        meant = meant + each["a"].astype(np.float64)
        drift.append(np.linalg.norm(sent - meant))
    assert max(drift[20:]) < 1.5 * max(drift[:5])
    assert drift[-1] == pytest.approx(np.linalg.norm(residual["a"]), rel=1e-3)


def test_without_error_feedback_a_constant_loss_adds_up_and_with_it_it_does_not():
    each = {"a": np.full(64, 0.3, np.float32)}
    each["a"][0], each["a"][32] = 7.5, 7.5  # a step of about 1: 0.3 is rounded away
    sums = {}
    for feedback in (True, False):
        residual, sums[feedback] = None, 0.0
        for _ in range(50):
            encoded = encode(each, "int4", residual=residual, error_feedback=feedback)
            residual = encoded.residual
            sums[feedback] += float(decode(encoded.content)["a"][5])
    assert sums[False] == 0
    assert sums[True] == pytest.approx(50 * 0.3, abs=0.6)


@pytest.mark.parametrize("codec", CODECS)
def test_a_residual_is_left_out_without_error_feedback(codec):
    residual = delta(seed=5)

    plain = encode(delta(), codec, residual=residual, error_feedback=False)

    assert plain.content == encode(delta(), codec).content
    assert plain.residual is None


def test_float32_sends_what_an_earlier_codec_lost_and_leaves_nothing():
    encoded = encode({"a": np.float32([1.0])}, "float32", residual={"a": np.float32([0.25])})

    assert decode(encoded.content)["a"].tolist() == [1.25]
    assert encoded.residual is None


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, 3e38])
def test_a_delta_with_a_number_that_is_not_finite_is_refused(codec, odd):
    numbers = gaussian(100)
    numbers[70] = odd

    with pytest.raises(
        MalformedRecordError, match=r"delta, a: found -?(nan|inf|3.*e.38), expected finite"
    ):
        encode({"a": numbers}, codec)


def test_a_received_number_that_is_not_finite_is_refused():
    steps = np.array([math.nan], "<f4").tobytes()

    with pytest.raises(MalformedRecordError, match="delta, step: found nan, expected finite"):
        decode(container(header(), steps + bytes(1 + 64)))
    planes = np.array([math.inf], "<f4").tobytes()
    with pytest.raises(MalformedRecordError, match="delta, a: found inf, expected finite"):
        decode(container(header(codec="float32", tensors=[["a", [1]]]), planes))


@pytest.mark.parametrize("codec", CODECS)
def test_a_delta_that_is_cut_anywhere_is_refused(codec):
    content = encode(delta(), codec).content

    for end in [*range(40), len(content) // 2, len(content) - 1]:
        with pytest.raises(MalformedRecordError, match="delta: found"):
            decode(content[:end])


@pytest.mark.parametrize("codec", CODECS)
def test_a_delta_with_any_byte_altered_is_refused(codec):
    content = encode({"a": gaussian(33)}, codec).content

    for place in range(len(content)):
        altered = bytearray(content)
        altered[place] ^= 0x41
        with pytest.raises(MalformedRecordError, match="delta: found"):
            decode(bytes(altered))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_foreign_content_is_refused(content):
    for each in (content, MAGIC + content):
        with pytest.raises(MalformedRecordError, match="delta: found"):
            decode(each)


def test_content_behind_a_delta_is_refused():
    with pytest.raises(MalformedRecordError, match="cut or altered"):
        decode(encode(delta(), "int8").content + b"more")


BAD_HEADERS = {
    "later version": (header(version=2), "'version 2', expected version 1"),
    "codec": (header(codec="int2"), "codec 'int2'"),
    "no tensor": (header(tensors=[]), "odd tensors"),
    "negative size": (header(tensors=[["a", [-64]]]), "odd tensors"),
    "many axes": (header(tensors=[["a", [1] * 100]]), "odd tensors"),
    "empty and endless": (header(tensors=[["a", [0, 1 << 70]]]), "odd tensors"),
    "odd size": (header(tensors=[["a", [6.4]]]), "odd tensors"),
    "twice": (header(tensors=[["a", [32]], ["a", [32]]]), "names out of order"),
    "other order": (header(tensors=[["b", [32]], ["a", [32]]]), "names out of order"),
    "a list": ([1], "a header with version"),
    "no JSON": (b"\xff", "a header with version"),
    "deep": (b"[" * 100_000, "a header with version"),
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_an_odd_header_is_refused(name):
    bad, message = BAD_HEADERS[name]

    with pytest.raises(MalformedRecordError, match=message):
        decode(container(bad, bytes(69)))


def test_what_would_grow_too_large_is_refused_before_it_is_decompressed(monkeypatch):
    monkeypatch.setattr(codecs.zstandard, "ZstdDecompressor", decompressors_of_headers_only())
    bomb = container(header(), bytes(100 << 20))
    honest = container(header(tensors=[["a", [1 << 30]]]), bytes(1000))
    huge = container(b" " * (17 << 20), b"")

    for content, message in (
        (bomb, "payload of 104,857,600 bytes"),
        (honest, "4,294,967,296 bytes of numbers"),
        (huge, "a header of 17,825,792 bytes"),
    ):
        with pytest.raises(MalformedRecordError, match=message):
            decode(content)


def decompressors_of_headers_only():
    real = zstandard.ZstdDecompressor

    class OfHeadersOnly:
        def decompress(self, frame, **options):
            assert len(frame) < 1000, "a payload was decompressed"
            return real().decompress(frame, **options)

    return OfHeadersOnly


def test_a_frame_that_does_not_state_its_size_is_refused():
    whole = container(header(), b"")
    (length,) = struct.unpack_from("<I", whole, len(MAGIC))
    stream_of = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    silent = stream_of.compress(bytes(69)) + stream_of.flush()

    with pytest.raises(MalformedRecordError, match="a payload of no stated size"):
        decode(whole[: len(MAGIC) + 4 + length] + silent)


def test_other_tensors_than_expected_are_refused_by_name():
    content = encode(delta(), "int8").content

    with pytest.raises(MalformedRecordError, match=r"\{'up': \(300, 8\)\}.*\{'up': \(8, 300\)\}"):
        decode(content, {"up": (8, 300), "down": (8, 70)})


@pytest.mark.parametrize(
    ("bad", "codec", "message"),
    [
        ({}, "int8", "no tensor"),
        ({"a": np.zeros(3)}, "int8", "'a': 'float64'"),
        ({"a": np.zeros(3, np.float32)}, "int3", "codec 'int3'"),
    ],
)
def test_what_is_no_delta_is_not_written(bad, codec, message):
    with pytest.raises(MalformedRecordError, match=message):
        encode(bad, codec)


def test_a_residual_of_another_rank_is_refused():
    with pytest.raises(MalformedRecordError, match="tensors of an adapter"):
        encode(delta(), "int8", residual={"up": gaussian(300, 4), "down": gaussian(4, 70)})


def test_the_header_is_plain_json_in_a_zstd_frame():
    content = encode(delta(), "int4").content
    (length,) = struct.unpack_from("<I", content, len(MAGIC))

    found = json.loads(zstandard.ZstdDecompressor().decompress(content[12 : 12 + length]))

    tensors = [["down", [8, 70]], ["up", [300, 8]]]
    assert found == {"version": 1, "codec": "int4", "tensors": tensors}
