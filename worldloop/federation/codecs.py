"""Codecs: how a delta is written for the way from a site to the coordinator, and read there.

A delta is cut into blocks, each block gets a step, its numbers become small integers, and zstd takes
what redundancy is left. Three codecs: `float32` loses nothing, `int8` writes a byte a number, `int4` half a byte. What a
codec loses is given back as the residual; added to the site's next delta (error feedback, Seide et al. 2014; arXiv
1901.09847) it is sent late instead of never.

The file (docs/formats.md, "delta"): eight bytes of magic, the little-endian length of the zstd frame of a
JSON header (version, codec, names and shapes), that frame, the zstd frame of the payload. The payload is the largest step of each tensor, then
the step of each block as eighths of an octave below it, then the integers. Steps are read from a table, so a
coordinator reads the same numbers on every machine.
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from worldloop.errors import MalformedRecordError
from worldloop.federation.adapters import Arrays, check_alike
from worldloop.federation.rounds import CODECS, Codec
from worldloop.seeds import canonical_json

MAGIC = b"WLCODED\n"  # of what is in an envelope, whose own is another
DELTA_VERSION = 1
BLOCK_SIZES = {"float32": 1, "int8": 64, "int4": 32}
LARGEST = 1e15  # a delta is nowhere near; its numbers' squares are finite in float32
LIMIT_BYTES = 2 << 30  # of decoded float32 numbers, where no shapes are expected
HEADER_LIMIT_BYTES = 4 << 20  # of names and shapes; a 14B's adapter has 60 kB
_MOST_AXES, _MOST_NUMBERS = 8, 1 << 62

# A block's int8 step is at least its mean size / 20. Then the integers' mean size is at most 20, and of all
# distributions with that mean the two-sided geometric has most entropy, log2(2 e 20) = 6.77 bits: a bound on
# the size of any delta, whatever its distribution.
_MEAN_INT8 = 20.0
_LEVELS_INT8 = 127
_LOW_INT4, _HIGH_INT4 = -8, 7
_PER_OCTAVE = 8  # steps
_LAST_CODE = 127
_MIRRORED = (
    0x80  # of a step's code: the block's longer side is the positive one, and -8 is written for it
)
_SMALLEST_STEP = 2.0**-125  # its inverse is finite; what is smaller becomes zero
_ZSTD_LEVEL = 1  # the integers repeat nothing, so higher levels find no more
_LENGTH = struct.Struct("<I")

# By powers of two exactly, and eight constants: no platform's exp2 decides a bit.
_STEPS = np.ldexp(
    np.array([2.0 ** (-i / _PER_OCTAVE) for i in range(_PER_OCTAVE)], np.float32)[
        np.arange(_LAST_CODE + 1) % _PER_OCTAVE
    ],
    -(np.arange(_LAST_CODE + 1) // _PER_OCTAVE),
)
_NIBBLES = np.stack([np.arange(256) % 16, np.arange(256) // 16], axis=1) + _LOW_INT4
_PAIRS = np.ascontiguousarray(_NIBBLES, np.float32).view(np.uint64).ravel()  # two numbers a byte

Numbers = NDArray[np.float32]
Decoded = dict[str, Numbers]


@dataclass(frozen=True)
class Encoded:
    """A delta as it travels.

    Attributes:
        content: The bytes of the delta, before they are signed.
        residual: What the codec lost, to be added to the next delta; None without error feedback, or if nothing
            can be lost.
        raw_bytes: Size of the same numbers in float32.
        relative_error: Length of what was lost, over the length of what was to be sent.
    """

    content: bytes
    residual: Decoded | None
    raw_bytes: int
    relative_error: float


def encode(
    delta: Arrays, codec: Codec, *, residual: Arrays | None = None, error_feedback: bool = True
) -> Encoded:
    """Write a delta; equal input gives equal bytes.

    Args:
        delta: What a site's training changed, float32.
        codec: `float32`, `int8` or `int4`.
        residual: What was lost of the site's last delta; same names and shapes. Not used without error feedback.
        error_feedback: Whether the residual is sent along and a new one is kept.

    Raises:
        MalformedRecordError: If a number is NaN, infinite or beyond `LARGEST`, a tensor is not float32, there is
            no tensor, the residual has other shapes, or the codec is not known.
    """
    _check_input(delta, codec)
    earlier = residual if error_feedback else None
    if earlier is not None:
        check_alike(earlier, delta)
    tops, codes, integers, left = [], [], [], {}
    sent, lost = 0.0, 0.0
    for name in sorted(delta):
        total = delta[name] if earlier is None else delta[name] + earlier[name]
        _check_finite(name, total)
        written = _WRITERS[codec](total)
        tops.append(written.top)
        codes.append(written.codes.tobytes())
        integers.append(written.integers.tobytes())
        if written.lost is not None:
            sent += _squared(total)
            lost += _squared(written.lost)
            if error_feedback:
                left[name] = written.lost
    payload = b"".join(
        [np.array(tops, "<f4").tobytes() if codec != "float32" else b"", *codes, *integers]
    )
    return Encoded(
        content=_container(delta, codec, payload),
        residual=left or None,
        raw_bytes=4 * sum(each.size for each in delta.values()),
        relative_error=math.sqrt(lost / sent) if sent else 0.0,
    )


def decode(
    content: bytes,
    expected_shapes: Mapping[str, tuple[int, ...]] | None = None,
    *,
    limit_bytes: int = LIMIT_BYTES,
) -> Decoded:
    """Read a delta; sizes are checked before anything is decompressed.

    Args:
        content: What `encode` wrote.
        expected_shapes: Names and shapes that it must have; without them `limit_bytes` bounds it.
        limit_bytes: Most bytes of float32 numbers that are accepted where no shapes are expected.

    Raises:
        MalformedRecordError: If it is cut, altered, foreign, of a later version, too large, holds a number that
            is not finite, or has other tensors than expected.
    """
    codec, shapes, frame = _opened(content)
    if expected_shapes is not None:
        _check_shapes(shapes, expected_shapes)
    elif (size := 4 * sum(map(math.prod, shapes.values()))) > limit_bytes:
        raise _refused(
            f"{size:,} bytes of numbers",
            f"at most {limit_bytes:,}",
            "Name the expected shapes, or raise the limit.",
        )
    payload = _decompressed(frame, _payload_bytes(codec, shapes), "payload")
    return dict(_read(codec, shapes, payload))


@dataclass(frozen=True)
class _Written:
    """One tensor: largest step, codes of the blocks' steps, integers, and what they do not say."""

    top: float
    codes: NDArray[np.uint8]
    integers: NDArray[np.generic]
    lost: Numbers | None


def _write_float32(numbers: Numbers) -> _Written:
    # First bytes together, second bytes together ...: the exponents compress, the fractions do not.
    planes = np.ascontiguousarray(numbers, "<f4").reshape(-1).view(np.uint8).reshape(-1, 4).T
    return _Written(0.0, np.empty(0, np.uint8), planes, None)


def _write_int8(numbers: Numbers) -> _Written:
    blocks = _blocks(numbers, BLOCK_SIZES["int8"])
    sizes = np.abs(blocks)
    peaks, means = sizes.max(axis=1), sizes.mean(axis=1)
    wanted = np.maximum(peaks / np.float32(_LEVELS_INT8 + 0.5), means / np.float32(_MEAN_INT8))
    top, codes = _step_codes(wanted)
    levels, lost = _quantised(
        blocks, _signed_steps(np.float32(top), codes), -_LEVELS_INT8, _LEVELS_INT8
    )
    return _Written(top, codes, levels.astype(np.int8), _unblocked(lost, numbers.shape))


def _write_int4(numbers: Numbers) -> _Written:
    blocks = _blocks(numbers, BLOCK_SIZES["int4"])
    above, below = blocks.max(axis=1), -blocks.min(axis=1)
    mirrored = above > below
    longer, shorter = np.maximum(above, below), np.minimum(above, below)
    wanted = np.maximum(
        longer / np.float32(0.5 - _LOW_INT4), shorter / np.float32(_HIGH_INT4 + 0.5)
    )
    top, codes = _step_codes(wanted)
    signed = codes | mirrored * np.uint8(_MIRRORED)
    levels, lost = _quantised(blocks, _signed_steps(np.float32(top), signed), _LOW_INT4, _HIGH_INT4)
    pairs = (levels - np.float32(_LOW_INT4)).astype(np.uint8).reshape(-1, 2)
    packed = pairs[:, 0] | pairs[:, 1] << 4
    return _Written(top, signed, packed, _unblocked(lost, numbers.shape))


_WRITERS = {"float32": _write_float32, "int8": _write_int8, "int4": _write_int4}


def _blocks(numbers: Numbers, size: int) -> Numbers:
    """Numbers in rows of a block each, the last filled up with zeros."""
    flat = numbers.reshape(-1)
    missing = -flat.size % size
    return (np.pad(flat, (0, missing)) if missing else flat).reshape(-1, size)


def _unblocked(blocks: Numbers, shape: tuple[int, ...]) -> Numbers:
    return blocks.reshape(-1)[: math.prod(shape)].reshape(shape)


def _step_codes(wanted: Numbers) -> tuple[float, NDArray[np.uint8]]:
    """The largest step, and of each block the code of the least step that is not below the wanted one."""
    top = max(float(wanted.max(initial=0)), _SMALLEST_STEP)
    least = max(top * float(_STEPS[_LAST_CODE]), _SMALLEST_STEP)
    below_top = np.log2(np.float32(top) / np.maximum(wanted, np.float32(least)))
    codes = np.floor(below_top * np.float32(_PER_OCTAVE)).clip(0, _LAST_CODE).astype(np.uint8)
    return top, codes


def _quantised(blocks: Numbers, steps: Numbers, low: int, high: int) -> tuple[Numbers, Numbers]:
    """The nearest levels, as whole float32 numbers, and what they do not say."""
    levels = blocks * (np.float32(1) / steps)[:, None]
    np.rint(levels, out=levels)
    np.clip(levels, low, high, out=levels)
    lost = levels * steps[:, None]
    np.subtract(blocks, lost, out=lost)
    return levels, lost


def _read(
    codec: str, shapes: Mapping[str, tuple[int, ...]], payload: bytes
) -> Iterator[tuple[str, Numbers]]:
    """The tensors of a payload whose size is right; they share one piece of memory."""
    counts = [_num_blocks(codec, shape) for shape in shapes.values()]
    block = BLOCK_SIZES[codec]
    room = np.empty((sum(counts), block), np.float32)
    is_exact = codec == "float32"
    tops = np.frombuffer(payload, "<f4", 0 if is_exact else len(shapes))
    if tops.size and not 0 <= tops.min() <= tops.max() <= LARGEST:
        raise _not_finite("step", float(tops[~((tops >= 0) & (tops <= LARGEST))][0]))
    codes = np.frombuffer(payload, np.uint8, 0 if is_exact else sum(counts), tops.nbytes)
    integers = np.frombuffer(payload, np.uint8, offset=tops.nbytes + codes.nbytes)
    integers = integers.reshape(len(room), _block_bytes(codec))
    start = 0
    for number, (name, shape) in enumerate(shapes.items()):
        part = slice(start, start + counts[number])
        if is_exact:
            _read_planes(integers[part], room[part])
            _check_finite(name, room[part])
        else:
            _read_levels(codec, integers[part], room[part])
            room[part] *= _signed_steps(tops[number], codes[part])[:, None]
        yield name, _unblocked(room[part], shape)
        start = part.stop


def _read_planes(planes: NDArray[np.uint8], room: Numbers) -> None:
    bytes_each = planes.reshape(4, -1).T
    room.reshape(-1)[:] = np.ascontiguousarray(bytes_each).reshape(-1).view("<f4")


def _read_levels(codec: str, integers: NDArray[np.uint8], room: Numbers) -> None:
    if codec == "int8":
        room[:] = integers.view(np.int8)
    else:
        _PAIRS.take(integers, out=room.view(np.uint64), mode="clip")  # the mode that has no copy


def _signed_steps(top: np.float32, codes: NDArray[np.uint8]) -> Numbers:
    """The step of each block, below 0 where it is mirrored."""
    steps: Numbers = np.float32(top) * _STEPS[codes & _LAST_CODE]
    np.negative(steps, out=steps, where=codes >= _MIRRORED)
    return steps


def _num_blocks(codec: str, shape: tuple[int, ...]) -> int:
    return -(-math.prod(shape) // BLOCK_SIZES[codec])


def _block_bytes(codec: str) -> int:
    return {"float32": 4, "int8": BLOCK_SIZES["int8"], "int4": BLOCK_SIZES["int4"] // 2}[codec]


def _payload_bytes(codec: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
    num_blocks = sum(_num_blocks(codec, shape) for shape in shapes.values())
    of_steps = 0 if codec == "float32" else 4 * len(shapes) + num_blocks
    return of_steps + num_blocks * _block_bytes(codec)


def _container(delta: Arrays, codec: Codec, payload: bytes) -> bytes:
    header = {
        "version": DELTA_VERSION,
        "codec": codec,
        "tensors": [[name, list(delta[name].shape)] for name in sorted(delta)],
    }
    compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True)
    frame = compressor.compress(canonical_json(header))
    return b"".join([MAGIC, _LENGTH.pack(len(frame)), frame, compressor.compress(payload)])


def _opened(content: bytes) -> tuple[str, dict[str, tuple[int, ...]], memoryview]:
    """Codec, shapes by name in order, and the frame of the payload."""
    start = len(MAGIC) + _LENGTH.size
    if content[: len(MAGIC)] != MAGIC or len(content) < start:
        raise _refused(bytes(content[: len(MAGIC)]), f"{MAGIC!r} at its start", "Send a delta.")
    (length,) = _LENGTH.unpack_from(content, len(MAGIC))
    view = memoryview(content)
    header = view[start : start + length]
    try:
        size = zstandard.frame_content_size(header) if len(header) == length else -1
    except zstandard.ZstdError:
        size = -1
    if not 0 <= size <= HEADER_LIMIT_BYTES:
        raise _refused(
            f"a header of {size:,} bytes" if size > 0 else "a header that is cut or altered",
            f"a whole one of at most {HEADER_LIMIT_BYTES:,} bytes",
            "Send it again.",
        )
    codec, shapes = _header(_decompressed(header, size, "header"))
    return codec, shapes, view[start + length :]


def _header(content: bytes) -> tuple[str, dict[str, tuple[int, ...]]]:
    """Codec and shapes of a JSON header."""
    try:
        record: Any = json.loads(content)
        version, codec, tensors = record["version"], record["codec"], record["tensors"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _refused(
            str(error)[:80], "a header with version, codec and tensors", "Send it again."
        ) from error
    if version != DELTA_VERSION:
        raise _refused(
            f"version {version!r}",
            f"version {DELTA_VERSION}",
            "Use the release that the round runs.",
        )
    if codec not in CODECS:
        raise _refused(f"codec {codec!r}", f"one of {CODECS}", "Use the codec of the round's plan.")
    if not (isinstance(tensors, list) and tensors and all(map(_is_tensor, tensors))):
        raise _refused("odd tensors", "at least one [name, [sizes]]", "Send it again.")
    shapes = {name: tuple(shape) for name, shape in tensors}
    if list(shapes) != sorted(shapes) or len(shapes) < len(tensors):
        raise _refused("names out of order", "each name once, sorted", "Send it again.")
    return codec, shapes


def _is_tensor(entry: object) -> bool:
    """Whether it is a name with a shape that an array can have."""
    match entry:
        case [str(), list(sizes)] if len(sizes) <= _MOST_AXES:
            if all(type(size) is int and size >= 0 for size in sizes):
                return bool(math.prod(max(size, 1) for size in sizes) < _MOST_NUMBERS)
    return False


def _decompressed(frame: memoryview, size: int, what: str) -> bytes:
    """What a frame holds, which says beforehand that it has this size."""
    try:
        declared = zstandard.frame_content_size(frame)
        if declared != size:
            raise _refused(
                f"a {what} of {declared:,} bytes"
                if declared >= 0
                else f"a {what} of no stated size",
                f"{size:,} bytes, which its codec and shapes need",
                "Send it again.",
            )
        content: bytes = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise _refused(
            f"a {what} that is cut or altered ({error})", "whole zstd frames", "Send it again."
        ) from error
    return content


def _check_input(delta: Arrays, codec: str) -> None:
    if codec not in CODECS:
        raise _refused(f"codec {codec!r}", f"one of {CODECS}", "Choose one of them.")
    if not delta:
        raise _refused("no tensor", "at least one", "Train something, or send nothing.")
    odd = {name: str(each.dtype) for name, each in delta.items() if each.dtype != np.float32}
    if odd:
        raise _refused(odd, "float32 in every tensor", "Convert the delta.")


def _check_shapes(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    odd = sorted(
        name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
    )
    if odd:
        raise _refused(
            {name: found.get(name) for name in odd[:3]},
            repr({name: expected.get(name) for name in odd[:3]}),
            "Train from the base and with the rank that the round plans.",
        )


def _check_finite(name: str, numbers: Numbers) -> None:
    # A NaN is the largest and the smallest of its tensor, and within no limit.
    if numbers.size and not (numbers.max() <= LARGEST and numbers.min() >= -LARGEST):
        odd = numbers[~(np.abs(numbers) <= LARGEST)]
        raise _not_finite(name, float(odd[0]))


def _not_finite(name: str, number: float) -> MalformedRecordError:
    return MalformedRecordError(
        f"delta, {name}",
        number,
        f"finite numbers up to {LARGEST:g}",
        "Train with a smaller learning rate; nothing of this delta was used.",
    )


def _squared(numbers: Numbers) -> float:
    return float(np.square(numbers, dtype=np.float64).sum())


def _refused(found: object, expected: str, remedy: str) -> MalformedRecordError:
    return MalformedRecordError("delta", found, expected, remedy)
