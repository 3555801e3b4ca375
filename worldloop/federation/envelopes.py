"""Deltas and reports as they travel: signed by the site, checked by the coordinator before use.

A delta is one file: magic, length of the header, header (canonical JSON), Ed25519 signature over all
of that, payload. The header holds the payload's hash, so the signature covers it as well. A report is
a JSON record with a field `signature` over the rest.

What a payload means is the codec's matter (`worldloop.federation.codecs`); nothing of it is read here.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from worldloop.errors import MalformedRecordError
from worldloop.federation.rounds import RoundPlan
from worldloop.seeds import canonical_json

ENVELOPE_VERSION = 1
MAGIC = b"WLDELTA1"
MASKED_CODEC = "masked"  # of a delta that secure aggregation hides, see masking.py
SIGNATURE_BYTES = 64
MAX_HEADER_BYTES = 4096
MAX_NUMBER = 1e15  # of what a site says; sums of a few are finite
_LENGTH_BYTES = 4
_FRAME_BYTES = len(MAGIC) + _LENGTH_BYTES
_REPORT_DOMAIN = b"worldloop report 1\n"  # a report's signature is no delta's
# bytes of a number, with the scales of blocks of 32 and what zstd adds to what it cannot compress
_WIDTHS: Mapping[str, float] = {"float32": 4.05, "int8": 1.25, "int4": 0.75, MASKED_CODEC: 4.0}
_BYTES_PER_TENSOR = 512  # name, shape, place
_FLOOR_BYTES = 4096
_NOTHING = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class DeltaHeader:
    """What a site says of its delta; numbers and ids alone.

    Attributes:
        round: Key of the round.
        site: Who sends it.
        plan_id: Of the plan that it was trained by.
        base: Round whose adapter it starts from; empty: a new adapter.
        start_sha256: Hash of the tensors at the start, equal at all sites.
        codec: How the payload is written: the plan's, or `masked`.
        num_clips: Clips that it was trained on; its weight. 0: the site has none, and the payload is empty.
            1 when it is masked.
        num_steps: Optimizer steps.
        norm: Length of the delta; 0 when it is masked, as it would tell of the single delta.
        loss_before: Mean loss of the first steps.
        loss_after: Mean loss of the last steps.
        took_s: Seconds of the training.
        gpu_s: The same on a GPU.
        payload_sha256: Hash of the payload; `seal` fills it in.
        masked: Whether the payload is masked.
        version: Of this format.
    """

    round: str
    site: str
    plan_id: str
    base: str
    start_sha256: str
    codec: str
    num_clips: int
    num_steps: int
    norm: float
    loss_before: float
    loss_after: float
    took_s: float
    gpu_s: float
    payload_sha256: str = ""
    masked: bool = False
    version: int = ENVELOPE_VERSION

    @property
    def is_empty(self) -> bool:
        """Whether the site only says that it has nothing to train on."""
        return self.num_clips == 0


def seal(payload: bytes, header: DeltaHeader, private_key: Ed25519PrivateKey) -> bytes:
    """A delta's file. Equal payload, header and key give equal bytes.

    Args:
        payload: The encoded delta.
        header: What is said of it; `payload_sha256` is filled in.
        private_key: Of the site.

    Raises:
        MalformedRecordError: If a number of the header is not finite.
    """
    filled = replace(header, payload_sha256=hashlib.sha256(payload).hexdigest())
    record = asdict(filled)
    _checked(record)
    encoded = canonical_json(record)
    head = MAGIC + len(encoded).to_bytes(_LENGTH_BYTES, "little") + encoded
    return head + private_key.sign(head) + payload


def open_envelope(
    content: bytes, public_key: Ed25519PublicKey, *, max_payload_bytes: int = 0
) -> tuple[DeltaHeader, bytes]:
    """Header and payload of a delta's file whose signature holds.

    Args:
        content: The file.
        public_key: Of the site that is said to have sent it, for that round.
        max_payload_bytes: Largest payload that is taken, see `max_payload_bytes`; 0: any.

    Raises:
        MalformedRecordError: If it is unsigned, signed with another key, truncated, altered, too
            large, or its header is odd. The payload is not looked at before that is clear.
    """
    head, signature, payload = _split(content)
    try:
        public_key.verify(signature, head)
    except InvalidSignature:
        found = "none" if not any(signature) else "one that this site's key did not make"
        raise _refusal(
            "signature", found, "the site's own", "Have the site send its delta again."
        ) from None
    if 0 < max_payload_bytes < len(payload):
        raise _refusal(
            "size",
            f"{len(payload)} bytes",
            f"at most {max_payload_bytes} for this adapter and codec",
            "Train with the rank and targets that the round plans.",
        )
    return _whole(head, payload), payload


def read_unverified(content: bytes) -> tuple[DeltaHeader, bytes]:
    """Header and payload of a delta's file, whoever signed it; for the sender, never for what is trusted.

    Raises:
        MalformedRecordError: If it is truncated, altered or no such file.
    """
    head, _, payload = _split(content)
    return _whole(head, payload), payload


def read_header(content: bytes) -> DeltaHeader:
    """The header of a delta's file, whoever signed it; for what is shown, never for what is trusted.

    Raises:
        MalformedRecordError: If it is no such file.
    """
    return _header(_split(content)[0][_FRAME_BYTES:])


def check_header(header: DeltaHeader, plan: RoundPlan, site: str, *, start_sha256: str) -> None:
    """Refuse a delta that does not belong to a plan.

    Args:
        header: Of an opened envelope.
        plan: Of the round that it was sent in; for a late delta that round's plan, not today's.
        site: Where it was found.
        start_sha256: Hash of the tensors that the round starts from; empty: not known yet, and the
            caller compares the sites' with each other.

    Raises:
        MalformedRecordError: Naming the first field that differs.
    """
    aggregation = plan.aggregation
    secure = aggregation.secure
    expected: list[tuple[str, object, object, str]] = [
        ("site", header.site, site, "A site sends its own delta alone."),
        ("round", header.round, plan.round, "It is a replay; send this round's delta."),
        ("plan_id", header.plan_id, plan.plan_id, "Train by the plan of the round."),
        ("base", header.base, plan.base.adapter, "Train from the base that the round plans."),
        ("masked", header.masked, secure, "Send it as the plan's `secure` says."),
        (
            "codec",
            header.codec,
            MASKED_CODEC if secure else aggregation.codec,
            "Encode it as the round plans.",
        ),
    ]
    if start_sha256 and not header.is_empty:
        expected.append(
            ("start", header.start_sha256, start_sha256, "Train from the round's start.")
        )
    for field, found, wanted, remedy in expected:
        if found != wanted:
            raise _refusal(field, found, repr(wanted), remedy)
    _check_numbers(header, aggregation.max_norm)


def max_payload_bytes(shapes: Mapping[str, tuple[int, ...]], codec: str) -> int:
    """The largest payload that tensors of these shapes can need.

    Args:
        shapes: Shape of each tensor of the adapter.
        codec: One of `worldloop.federation.rounds.CODECS`, or `masked`.

    Example:
        >>> max_payload_bytes({"layer.lora_A.weight": (8, 1000)}, "int8")
        14608
    """
    num_numbers = sum(math.prod(shape) for shape in shapes.values())
    return math.ceil(num_numbers * _WIDTHS[codec]) + _BYTES_PER_TENSOR * len(shapes) + _FLOOR_BYTES


def sign_record(record: Mapping[str, Any], private_key: Ed25519PrivateKey) -> bytes:
    """A report as canonical JSON with a signature over its other fields.

    Raises:
        ValueError: If a number in it is not finite.
    """
    unsigned = {name: value for name, value in record.items() if name != "signature"}
    signature = private_key.sign(_REPORT_DOMAIN + canonical_json(unsigned)).hex()
    return canonical_json({**unsigned, "signature": signature})


def open_record(content: bytes, public_key: Ed25519PublicKey, *, what: str) -> dict[str, Any]:
    """The fields of a signed report, without the signature.

    Args:
        content: The file.
        public_key: Of the site that is said to have sent it.
        what: Name of the file, for the error.

    Raises:
        MalformedRecordError: If it is no JSON object, unsigned, or signed with another key.
    """
    record = read_record(content, what=what)
    signature = record.pop("signature", "")
    try:
        raw = bytes.fromhex(signature) if isinstance(signature, str) else b""
        public_key.verify(raw, _REPORT_DOMAIN + canonical_json(record))
    except (InvalidSignature, ValueError):
        raise MalformedRecordError(
            f"{what}, signature",
            "one that this site's key did not make" if signature else "none",
            "the site's own",
            "Have the site send it again.",
        ) from None
    return record


def read_record(content: bytes, *, what: str) -> dict[str, Any]:
    """A JSON object without NaN and without a field twice; the error shows nothing of its content.

    Raises:
        MalformedRecordError: If it is none.
    """
    try:
        record = json.loads(
            content,
            parse_constant=_no_constant,
            parse_float=_finite,
            object_pairs_hook=_once_each,
        )
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise MalformedRecordError(
            what,
            f"{len(content)} bytes that are none",
            "one JSON object with finite numbers and each field once",
            "Send it again.",
        )
    return record


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _finite(text: str) -> float:
    """A number that float64 can hold: `1e999` is none, and JSON allows it."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a field twice")
    return record


def _split(content: bytes) -> tuple[bytes, bytes, bytes]:
    """Signed head, signature and payload."""
    if not content.startswith(MAGIC):
        raise _refusal(
            "envelope",
            f"{len(content)} bytes without one",
            f"a file that begins with {MAGIC.decode()}, signed by its site",
            "Seal it with the site's key.",
        )
    length = int.from_bytes(content[len(MAGIC) : _FRAME_BYTES], "little")
    end = _FRAME_BYTES + length
    if length > MAX_HEADER_BYTES or len(content) < end + SIGNATURE_BYTES:
        raise _refusal(
            "envelope",
            f"{len(content)} bytes, a header of {length}",
            f"a header of at most {MAX_HEADER_BYTES} bytes, a signature and a payload behind it",
            "It was cut short; have the site send it again.",
        )
    return content[:end], content[end : end + SIGNATURE_BYTES], content[end + SIGNATURE_BYTES :]


def _whole(head: bytes, payload: bytes) -> DeltaHeader:
    """The header, if the payload is the one that it names."""
    header = _header(head[_FRAME_BYTES:])
    if hashlib.sha256(payload).hexdigest() != header.payload_sha256:
        raise _refusal(
            "payload",
            f"{len(payload)} bytes with another hash",
            f"the payload with SHA-256 {header.payload_sha256[:12]}...",
            "It was cut short or altered; have the site send it again.",
        )
    return header


def _header(encoded: bytes) -> DeltaHeader:
    record = read_record(encoded, what="header of a delta")
    if record.get("version") != ENVELOPE_VERSION:
        raise _refusal(
            "version",
            record.get("version"),
            str(ENVELOPE_VERSION),
            "Read it with the release of worldloop that wrote it.",
        )
    _checked(record)
    return DeltaHeader(**record)


def _checked(record: Mapping[str, Any]) -> None:
    """Refuse other fields, other types and numbers that are not finite."""
    kinds = {field.name: field.type for field in fields(DeltaHeader)}
    odd = sorted(record.keys() ^ kinds.keys())
    if odd:
        raise _refusal(
            "header", odd[:3], f"the {len(kinds)} fields of DeltaHeader", "Seal it again."
        )
    for name, kind in kinds.items():
        value = record[name]
        fits = type(value) is kind or (kind is float and type(value) is int)
        if not fits or (kind is float and not math.isfinite(value)):
            found = value if isinstance(value, float) else type(value).__name__
            raise _refusal(
                name, found, f"a finite {getattr(kind, '__name__', kind)}", "Train again."
            )


def _check_numbers(header: DeltaHeader, max_norm: float) -> None:
    said = {name: value for name, value in asdict(header).items() if type(value) in (int, float)}
    for name, value in said.items():
        if abs(value) > MAX_NUMBER:
            raise _refusal(name, value, f"at most {MAX_NUMBER:g}", "Train again.")
    counts = (header.num_clips, header.num_steps, header.norm, header.took_s, header.gpu_s)
    if min(counts) < 0 or (header.num_clips > 0) != (header.num_steps > 0):
        raise _refusal(
            "counts",
            counts,
            "nothing negative, and steps if there were clips",
            "Train again.",
        )
    if header.is_empty and header.payload_sha256 != _NOTHING:
        raise _refusal(
            "payload", "one without clips", "none", "Say how many clips it was trained on."
        )
    if 0 < max_norm < header.norm:
        raise _refusal(
            "norm",
            header.norm,
            f"at most {max_norm}",
            "The site's training ran away, or it is poisoned; look at its losses.",
        )


def _refusal(field: str, found: object, expected: str, remedy: str) -> MalformedRecordError:
    return MalformedRecordError(f"delta, {field}", found, expected, remedy)
