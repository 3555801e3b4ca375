"""What is written of a round: who took part in its adapter, and how it ended.

The adapter's record is a function of the plan and the deltas alone, so making it again gives the same
bytes; the outcome is the one record of a round that has a time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, TypeVar

from worldloop.errors import MalformedRecordError

RECORD_VERSION = 1
DeltaStatus = Literal["accepted", "empty", "refused", "missing"]
Ending = Literal["promoted", "refused", "failed"]
DELTA_STATUSES: tuple[DeltaStatus, ...] = ("accepted", "empty", "refused", "missing")
ENDINGS: tuple[Ending, ...] = ("promoted", "refused", "failed")
_Record = TypeVar("_Record")


@dataclass(frozen=True)
class Participation:
    """What one site gave to a round.

    Attributes:
        site: Its name.
        status: `accepted`; `empty`, it said that it has no clips to train on; `refused`; or `missing`.
        reason: Why, in words; of an accepted one what is not counted of the work that it claims, or nothing.
        weight: Share of the aggregate, 0 to 1; 0 where a strategy has no weights, and in secure mode.
        num_clips: Clips that it trained on.
        num_steps: Its optimizer steps.
        size_bytes: What it sent.
        took_s: Seconds that training took; in an outcome, what was counted of them.
        gpu_s: The same on a GPU; 0 on a CPU.
        loss_before: Mean loss of its first steps.
        loss_after: Mean loss of its last steps.
        norm: Length of its delta.
        staleness: Rounds that its plan is behind.
        content_sha256: Hash of what it sent; empty if it sent nothing.
    """

    site: str
    status: DeltaStatus
    reason: str = ""
    weight: float = 0.0
    num_clips: int = 0
    num_steps: int = 0
    size_bytes: int = 0
    took_s: float = 0.0
    gpu_s: float = 0.0
    loss_before: float = 0.0
    loss_after: float = 0.0
    norm: float = 0.0
    staleness: int = 0
    content_sha256: str = ""


@dataclass(frozen=True)
class AdapterRecord:
    """`adapter.json`: what an aggregated adapter was made of.

    Attributes:
        round: Its round.
        plan_id: Of the plan.
        strategy: How deltas became one.
        start_sha256: `adapter_sha256` of what the sites started from.
        adapter_sha256: `adapter_sha256` of the result.
        optimizer_sha256: The same of the outer optimizer's state; empty without one.
        num_parameters: Numbers of the adapter.
        update_norm: Length of what the round changed.
        participation: One entry a planned site, in the plan's order.
        facts: What the strategy says of itself, e.g. bytes or epsilon; numbers alone.
    """

    round: str
    plan_id: str
    strategy: str
    start_sha256: str
    adapter_sha256: str
    optimizer_sha256: str
    num_parameters: int
    update_norm: float
    participation: tuple[Participation, ...]
    facts: Mapping[str, float]
    record_version: int = RECORD_VERSION

    @property
    def accepted(self) -> tuple[Participation, ...]:
        """The sites whose deltas are in it."""
        return tuple(one for one in self.participation if one.status == "accepted")

    def of(self, site: str) -> Participation | None:
        """What a site gave; None if it was not asked."""
        return next((one for one in self.participation if one.site == site), None)

    def to_record(self) -> dict[str, Any]:
        """The JSON record."""
        return _to_record(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a record back.

        Raises:
            MalformedRecordError: If a field is missing, unknown or of another version.
        """
        return _read(cls, record, "adapter.json")


@dataclass(frozen=True)
class Outcome:
    """`outcome.json`: how a round ended. A round that has one is over.

    Attributes:
        round: Its round.
        plan_id: Of the plan.
        outcome: `promoted`, `refused` by its gates, or `failed`.
        reason: Why, in one line.
        ended_at: ISO time in UTC.
        adapter_sha256: Of the candidate; empty if there was none.
        failed_gates: Names of the gates that refused it.
        loss_before: Held-out loss of the base; None if it was not measured.
        loss_after: Held-out loss of the candidate; None if it was not measured.
        participation: One entry a planned site, in the plan's order.
    """

    round: str
    plan_id: str
    outcome: Ending
    reason: str
    ended_at: str
    adapter_sha256: str = ""
    failed_gates: tuple[str, ...] = ()
    loss_before: float | None = None
    loss_after: float | None = None
    participation: tuple[Participation, ...] = ()
    record_version: int = RECORD_VERSION

    def __post_init__(self) -> None:
        """Refuse an ending that does not exist.

        Raises:
            MalformedRecordError: Naming it.
        """
        if self.outcome not in ENDINGS:
            raise MalformedRecordError(
                "outcome.json", self.outcome, f"one of {ENDINGS}", "Write one of them."
            )

    @property
    def not_counted(self) -> tuple[str, ...]:
        """What is not counted of the work that sites claim, a line a site."""
        told = (one for one in self.participation if one.status == "accepted" and one.reason)
        return tuple(f"{one.site}: {one.reason}" for one in told)

    def to_record(self) -> dict[str, Any]:
        """The JSON record."""
        return _to_record(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a record back.

        Raises:
            MalformedRecordError: If a field is missing, unknown or of another version.
        """
        return _read(cls, record, "outcome.json")


def participation_table(entries: Sequence[Participation]) -> str:
    """Who took part, as a Markdown table."""
    lines = [
        "| site | delta | clips | steps | bytes | seconds | loss before | after | norm | weight | why |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {one.site} | {one.status} | {one.num_clips} | {one.num_steps} | {one.size_bytes} | "
        f"{one.took_s:.1f} | {one.loss_before:.4g} | {one.loss_after:.4g} | {one.norm:.4g} | "
        f"{one.weight:.3g} | {one.reason or '-'} |"
        for one in entries
    ]
    return "\n".join(lines)


def _to_record(one: Any) -> dict[str, Any]:
    record = asdict(one)
    return {name: list(v) if isinstance(v, tuple) else v for name, v in record.items()}


def _read(kind: type[_Record], record: Mapping[str, Any], what: str) -> _Record:
    version = record.get("record_version")
    if version != RECORD_VERSION:
        raise MalformedRecordError(
            what,
            version,
            f"record_version {RECORD_VERSION}",
            "Read it with the release of worldloop that wrote it.",
        )
    try:
        values: dict[str, Any] = dict(record)
        values["participation"] = tuple(Participation(**one) for one in record["participation"])
        if "failed_gates" in {field.name for field in fields(kind)}:  # type: ignore[arg-type]
            values["failed_gates"] = tuple(record["failed_gates"])
        return kind(**values)
    except (KeyError, TypeError) as error:
        raise MalformedRecordError(
            what,
            str(error),
            f"the fields of docs/formats.md#{what.replace('.', '')}",
            "Write it again.",
        ) from error
