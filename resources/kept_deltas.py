"""What a site's training changed, kept on its own disk until the masked delta of a secure round is sent.

Noise is drawn once, so the delta that is masked must be the one that was kept, however often a phase runs
again. It lies in the site's scratch and in no store: the coordinator's own store may be that of a site.
"""

import os
from dataclasses import asdict
from pathlib import Path

from worldloop.federation.adapters import Arrays, adapter_bytes, read_adapter
from worldloop.federation.envelopes import DeltaHeader, read_record
from worldloop.federation.rounds import RoundPlan
from worldloop.seeds import canonical_json

_NAME = "unmasked.delta"  # the header as a line of JSON, then the tensors
_OWNER_ALONE = 0o600


def keep_delta(folder: Path, header: DeltaHeader, delta: Arrays) -> None:
    """Write a delta, whole or not at all, for its owner alone.

    Args:
        folder: The site's scratch of a round.
        header: What is said of it.
        delta: Its tensors, as they will be masked.
    """
    beside = folder / f"{_NAME}.part"
    beside.unlink(missing_ok=True)
    with os.fdopen(
        os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ALONE), "wb"
    ) as file:
        file.write(canonical_json(asdict(header)) + b"\n" + adapter_bytes(delta))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(folder / _NAME)


def read_kept_delta(folder: Path, plan: RoundPlan) -> tuple[DeltaHeader, Arrays] | None:
    """The delta that was kept and its header; None if there is none, or one of another plan.

    Raises:
        MalformedRecordError: If it is damaged.
    """
    path = folder / _NAME
    if not path.exists():
        return None
    head, _, content = path.read_bytes().partition(b"\n")
    header = DeltaHeader(**read_record(head, what=f"{path.name} of round {plan.round}"))
    return (header, read_adapter(content)) if header.plan_id == plan.plan_id else None


def forget_delta(folder: Path) -> None:
    """Remove a kept delta; fine if there is none."""
    for name in (_NAME, f"{_NAME}.part"):
        (folder / name).unlink(missing_ok=True)
