"""The allow list: what may leave a site, and what may stand in Dagster's event log.

A site sends files of a few names, and each may hold only the fields below: numbers, truth values, ids
(hex), keys of places and rounds, names of sites. No free text, no list of numbers, no foreign bytes. An
error names the field and describes what was found by kind and length, never by content, because the
error itself stands in the event log.

This guards against mistakes, not against a site that hides footage in the digits of its losses: what
a delta tells of the footage is limited by secure aggregation and noise (masking.py, privacy.py).
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from worldloop.atlas.atlas import load_atlas
from worldloop.errors import MalformedRecordError
from worldloop.federation.codecs import decode
from worldloop.federation.envelopes import (
    MASKED_CODEC,
    MAX_NUMBER,
    read_record,
    read_unverified,
)
from worldloop.federation.masking import is_public_key, read_masked
from worldloop.federation.rounds import CODECS
from worldloop.seeds import canonical_json

DELTA, SCORES, RECEIPT = "delta.bin", "scores.json", "receipt.json"
DRIFT = "drift.json"  # of no round; it lies at `layout.drift_key`
# the phases of secure aggregation; the third one sends the masked delta as `delta.bin`
SECURE_KEYS, SECURE_SHARES, SECURE_REVEALED = "secure-1.json", "secure-2.json", "secure-4.json"
MAX_REPORT_BYTES = 8 << 20
MAX_DELTA_BYTES = 8 << 30
MAX_ROWS = 100_000  # clips that a site measures
MAX_LOSS_POINTS = 1024  # of a curve
MAX_WEIGHT_BITS = 50  # of a weight up to `MAX_NUMBER`

# A rule looks at a value and says what it expected instead; None if the value may leave.
Rule = Callable[[Any], str | None]
_Fields = Mapping[str, Rule]

_TENSOR = re.compile(r"[A-Za-z_]\w*(\.\w+)*\.(weight|bias)", re.ASCII)
_FIELD = re.compile(r"[a-z][a-z0-9_]{0,31}")  # what looks like a field's name is named in errors


def _matching(pattern: str, what: str) -> Rule:
    compiled = re.compile(pattern, re.ASCII)

    def rule(value: Any) -> str | None:
        fits = isinstance(value, str) and compiled.fullmatch(value) is not None
        return None if fits else what

    return rule


def _one_of(*allowed: str) -> Rule:
    return lambda value: None if value in allowed else f"one of {allowed}"


def _number(value: Any) -> str | None:
    fits = type(value) in (int, float) and math.isfinite(value) and abs(value) <= MAX_NUMBER
    return None if fits else "a finite number"


def _count(value: Any) -> str | None:
    fits = type(value) is int and 0 <= value <= MAX_NUMBER
    return None if fits else "a count"


def _weight_bits(value: Any) -> str | None:
    fits = type(value) is int and 1 <= value <= MAX_WEIGHT_BITS
    return None if fits else f"1 to {MAX_WEIGHT_BITS} bits"


def _public_key(value: Any) -> str | None:
    fits = _SHA256(value) is None and is_public_key(value)
    return None if fits else "a public key of 64 hex digits"


def _flag(value: Any) -> str | None:
    return None if type(value) is bool else "true or false"


def _maybe(rule: Rule) -> Rule:
    return lambda value: None if value is None else rule(value)


def _city(value: Any) -> str | None:
    known = value == "" or (isinstance(value, str) and value in load_atlas().cities)
    return None if known else "a city's key"


def _institution(value: Any) -> str | None:
    known = value == "" or (isinstance(value, str) and value in load_atlas().institutions)
    return None if known else "an institution's key"


def _place(value: Any) -> str | None:
    city, _, institution = value.partition("/") if isinstance(value, str) else ("", "", "")
    fits = bool(city and institution) and not (_city(city) or _institution(institution))
    return None if fits else "a place's key"


_ROUND = _matching(r"r\d{4,9}", "a round's key")
_BASE = _matching(r"(r\d{4,9})?", "a round's key, or nothing")
_WAVE = _matching(r"w\d{4,9}", "a wave's key")
_SITE = _matching(r"[a-z][a-z0-9_-]{0,23}", "a site's name")
_ID = _matching(r"[0-9a-f]{32}", "an id of 32 hex digits")
_SHA256 = _matching(r"[0-9a-f]{64}", "a hash of 64 hex digits")
_MAYBE_SHA256 = _matching(r"([0-9a-f]{64})?", "a hash of 64 hex digits, or nothing")
_SIGNATURE = _matching(r"[0-9a-f]{128}", "a signature of 128 hex digits")
_SHARE = _matching(r"[0-9a-f]{132}", "a share of 132 hex digits")
_SEALED_SHARES = _matching(r"[0-9a-f]{296}", "two encrypted shares of 296 hex digits")
_ADAPTER = _matching(r"before|after|base|candidate|r\d{4,9}", "`before` or `after`")
_CODEC = _one_of(*CODECS, MASKED_CODEC)
_FEATURES = re.compile(r"[a-z]{1,16}(_[a-z]{1,16})?")
_HEX = re.compile(r"[0-9a-f]{32}|[0-9a-f]{64}")

_HEADER: _Fields = {
    "round": _ROUND,
    "site": _SITE,
    "plan_id": _ID,
    "base": _BASE,
    "start_sha256": _MAYBE_SHA256,
    "codec": _CODEC,
    "num_clips": _count,
    "num_steps": _count,
    "norm": _number,
    "loss_before": _number,
    "loss_after": _number,
    "took_s": _number,
    "gpu_s": _number,
    "payload_sha256": _SHA256,
    "masked": _flag,
    "version": _count,
}
_SENDER: _Fields = {"round": _ROUND, "site": _SITE, "plan_id": _ID}
_OPTIONAL: _Fields = {"signature": _SIGNATURE, "version": _count, "scores_version": _count}
_LOSS: _Fields = {
    "recipe_id": _ID,
    "city": _city,
    "institution": _institution,
    "before": _number,
    "after": _number,
    "before_other": _maybe(_number),
    "after_other": _maybe(_number),
    "site": _SITE,
}
_NEAREST: _Fields = {
    "adapter": _ADAPTER,
    "sample": _count,
    "similarity": _number,
    "typical": _number,
    "site": _SITE,
}
_POINT: _Fields = {"step": _count, "loss": _number}
_SCORES: _Fields = {
    "adapter_sha256": _SHA256,
    "num_training_clips": _count,
    "num_clips": _count,
    "wall_s": _number,
    "gpu_s": _number,
}
_RECEIPT: _Fields = {
    "status": _one_of("trained", "empty", "failed"),
    "codec": _CODEC,
    "start_sha256": _MAYBE_SHA256,
    "payload_sha256": _SHA256,
    **dict.fromkeys(
        ("num_clips", "num_windows", "num_steps", "num_parameters", "size_bytes", "resumed_at"),
        _count,
    ),
    **dict.fromkeys(
        ("loss_before", "loss_after", "norm", "tokens_per_s", "tflops", "load_s", "encode_s")
        + ("train_s", "wall_s", "took_s", "gpu_s", "peak_gpu_gb", "relative_error"),
        _number,
    ),
}
_DRIFT: _Fields = {
    "site": _SITE,
    "base": _BASE,
    "wave": _WAVE,
    "drift": _number,
    "num_clips": _count,
    "drift_version": _count,
}
_KEYS: _Fields = {
    "encryption_key": _public_key,
    "mask_key": _public_key,
    "self_commitment": _SHA256,
    "weight_bits": _weight_bits,
}
# texts that an asset may show, by the name of the field; every other text must be an id
_SHOWN: _Fields = {
    "round": _ROUND,
    "base": _BASE,
    "wave": _WAVE,
    "site": _SITE,
    "city": _city,
    "institution": _institution,
    "place": _place,
    "codec": _CODEC,
    "status": _one_of("trained", "empty", "failed", "sent", "waiting", "accepted", "missing"),
}


def check_outgoing(name: str, content: bytes, *, round_key: str = "", site: str = "") -> None:
    """Refuse what may not leave a site.

    Args:
        name: Of the file.
        content: Its bytes.
        round_key: Round that it must say it is of; empty: any.
        site: Site that it must say it is of; empty: any.

    Raises:
        MalformedRecordError: Naming the file and the field; nothing of the content is repeated.
    """
    checks = {DELTA: _check_delta, **dict.fromkeys(_REPORTS, _check_report)}
    if name not in checks:
        raise _withheld("outbox", _described(name), f"one of the files {sorted(checks)}")
    limit = MAX_DELTA_BYTES if name == DELTA else MAX_REPORT_BYTES
    if len(content) > limit:
        raise _withheld(name, f"{len(content)} bytes", f"at most {limit}")
    sender = checks[name](name, content)
    for field, wanted in (("round", round_key), ("site", site)):
        if wanted and sender.get(field) != wanted:
            raise _withheld(f"{name}, {field}", _described(sender.get(field)), repr(wanted))


def facts(values: Mapping[str, Any]) -> dict[str, Any]:
    """What an asset at a site may put into Dagster's event log: numbers, truth values and ids alone.

    Args:
        values: Metadata by name. Text is allowed under `round`, `site`, `wave`, `city`,
            `institution`, `place`, `codec`, `status`, `base` if it is one, and elsewhere as 32 or 64 hex digits.

    Returns:
        The same.

    Raises:
        MalformedRecordError: Naming the field that may not be shown.

    Example:
        >>> facts({"num_clips": 12, "site": "aws", "loss_after": 0.25})
        {'num_clips': 12, 'site': 'aws', 'loss_after': 0.25}
    """
    for name, value in values.items():
        if not _FIELD.fullmatch(name.removeprefix("dagster/")):
            raise _withheld("metadata", _described(name), "a short name in lower case")
        problem = _SHOWN.get(name, _fact)(value)
        if problem:
            raise _withheld(f"metadata, {name}", _described(value), problem)
    return dict(values)


def _fact(value: Any) -> str | None:
    if isinstance(value, str):
        return None if _HEX.fullmatch(value) else "a number or an id of 32 or 64 hex digits"
    return _flag(value) and _number(value)


def _check_delta(name: str, content: bytes) -> Mapping[str, Any]:
    header, payload = read_unverified(content)
    record = vars(header)
    _check_fields(f"{name}, header", record, _HEADER, {})
    if header.is_empty and not payload:
        return record
    if header.masked != (header.codec == MASKED_CODEC):
        raise _withheld(f"{name}, codec", header.codec, "`masked` for what is masked")
    try:
        tensors = read_masked(payload).shapes if header.masked else decode(payload)
    except MalformedRecordError:
        raise _withheld(
            f"{name}, payload", f"{len(payload)} bytes", f"a delta of codec {header.codec}"
        ) from None
    for number, tensor in enumerate(sorted(tensors)):
        if len(tensor) > 200 or not _TENSOR.fullmatch(tensor):
            raise _withheld(
                f"{name}, payload, name of tensor {number}",
                _described(tensor),
                "a layer's name in Latin letters that ends in .weight or .bias",
            )
    return record


def _check_report(name: str, content: bytes) -> Mapping[str, Any]:
    record = read_record(content, what=name)
    try:
        canonical = canonical_json(record) == content
    except ValueError:
        canonical = False
    if not canonical:
        raise _withheld(name, "other bytes", "the record as canonical JSON and nothing beside it")
    _REPORTS[name](name, record)
    return record


def _check_scores(name: str, record: Mapping[str, Any]) -> None:
    tables = {"losses", "nearest", "drift"}
    flat = {field: value for field, value in record.items() if field not in tables}
    _check_fields(name, flat, _SENDER, {**_OPTIONAL, **_SCORES})
    _check_rows(f"{name}, losses", record.get("losses", []), _LOSS, ("recipe_id",))
    _check_rows(f"{name}, nearest", record.get("nearest", []), _NEAREST, ("adapter", "sample"))
    _check_named(f"{name}, drift", record.get("drift", {}), _FEATURES, _number, 8)
    for row in (*record.get("losses", []), *record.get("nearest", [])):
        if row.get("site", record["site"]) != record["site"]:
            raise _withheld(f"{name}, site of a row", _described(row["site"]), "the sender's name")


def _check_receipt(name: str, record: Mapping[str, Any]) -> None:
    flat = {field: value for field, value in record.items() if field != "losses"}
    _check_fields(name, flat, _SENDER, {**_OPTIONAL, **_RECEIPT})
    points = record.get("losses", [])
    _check_rows(f"{name}, losses", points, _POINT, ("step",), limit=MAX_LOSS_POINTS)


def _check_drift(name: str, record: Mapping[str, Any]) -> None:
    _check_fields(name, record, _DRIFT, {})


def _check_keys(name: str, record: Mapping[str, Any]) -> None:
    _check_fields(name, record, {**_SENDER, **_KEYS}, _OPTIONAL)


def _check_shares(name: str, record: Mapping[str, Any]) -> None:
    _check_tables(name, record, {"shares": _SEALED_SHARES})


def _check_revealed(name: str, record: Mapping[str, Any]) -> None:
    _check_tables(name, record, {"mask_shares": _SHARE, "self_shares": _SHARE})


def _check_tables(name: str, record: Mapping[str, Any], tables: _Fields) -> None:
    """A report whose tables hold one text for each of some sites."""
    flat = {field: value for field, value in record.items() if field not in tables}
    _check_fields(name, flat, _SENDER, _OPTIONAL)
    for table, rule in tables.items():
        _check_named(f"{name}, {table}", record.get(table), _SITE, rule, 256)


_REPORTS: Mapping[str, Callable[[str, Mapping[str, Any]], None]] = {
    SCORES: _check_scores,
    RECEIPT: _check_receipt,
    DRIFT: _check_drift,
    SECURE_KEYS: _check_keys,
    SECURE_SHARES: _check_shares,
    SECURE_REVEALED: _check_revealed,
}
NAMES = (DELTA, *_REPORTS)


def _check_fields(where: str, record: Any, needed: _Fields, optional: _Fields) -> None:
    if not isinstance(record, Mapping):
        raise _withheld(where, _described(record), "a record")
    known = {**optional, **needed}
    for field, value in record.items():
        if field not in known:
            shown = field if _FIELD.fullmatch(field) else f"a name of {len(field)} characters"
            raise _withheld(f"{where}, {shown}", _described(value), f"one of {sorted(known)}")
        problem = known[field](value)
        if problem:
            raise _withheld(f"{where}, {field}", _described(value), problem)
    missing = sorted(needed.keys() - record.keys())
    if missing:
        raise _withheld(where, f"no {missing[0]}", f"the fields {sorted(needed)}")


def _check_rows(
    where: str, rows: Any, fields: _Fields, unique: tuple[str, ...], *, limit: int = MAX_ROWS
) -> None:
    """Rows of known fields, each key once: a clip has one loss, so that rows are no vector."""
    if not isinstance(rows, list) or len(rows) > limit:
        raise _withheld(where, _described(rows), f"at most {limit} rows")
    seen = set()
    optional = {
        name: fields[name] for name in ("before_other", "after_other", "site") if name in fields
    }
    needed = {name: rule for name, rule in fields.items() if name not in optional}
    for number, row in enumerate(rows):
        _check_fields(f"{where}[{number}]", row, needed, optional)
        key = tuple(row[name] for name in unique)
        if key in seen:
            raise _withheld(f"{where}[{number}]", f"a second row of the same {unique}", "one each")
        seen.add(key)


def _check_named(
    where: str, values: Any, name: Rule | re.Pattern[str], rule: Rule, limit: int
) -> None:
    """A few values by name."""
    if not isinstance(values, Mapping) or len(values) > limit:
        raise _withheld(where, _described(values), f"at most {limit} named values")
    for number, (key, value) in enumerate(values.items()):
        odd = not name.fullmatch(key) if isinstance(name, re.Pattern) else name(key) is not None
        if odd:
            raise _withheld(f"{where}, name {number}", _described(key), "a short known name")
        problem = rule(value)
        if problem:
            raise _withheld(f"{where}, value {number}", _described(value), problem)


def _described(value: Any) -> str:
    """Kind and length of a value, nothing of its content."""
    if isinstance(value, str):
        return f"a text of {len(value)} characters"
    if isinstance(value, (list, tuple, bytes, Mapping)):
        return f"{type(value).__name__} of {len(value)}"
    return "no finite number" if isinstance(value, float) else type(value).__name__


def _withheld(where: str, found: str, expected: str) -> MalformedRecordError:
    return MalformedRecordError(
        where, found, expected, "It was not sent; nothing else may leave a site."
    )
