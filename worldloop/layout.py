"""Where everything lies in a site's store: keys with "/" between their parts, made here only."""

from typing import Literal

LogName = Literal["private", "shared"]

COSMOS_CLIPS = "cosmos_clips"
LANCE = "lance"
GALLERY = "gallery"
LOGS = "logs"
PACKS = "packs"
RELEASES = "releases"
REPLICAS = "replicas"
PROJECTIONS = "projections"
LEASES = "leases"
STAGING = "staging"
_FORBIDDEN = frozenset("/\\#%*?\0")


def plan_key(wave: str) -> str:
    """The plan of a wave.

    Example:
        >>> plan_key("w0001")
        'plans/w0001.json'
    """
    return f"plans/{_part(wave)}.json"


def prompts_key(wave: str, city: str) -> str:
    """The prompts of one city in one wave."""
    return _shard("prompts", wave, city)


def clips_key(wave: str, city: str) -> str:
    """The clips of one city in one wave."""
    return _shard("clips", wave, city)


def cosmos_clips_key(wave: str, city: str) -> str:
    """The clips that a world model made of one city in one wave."""
    return _shard(COSMOS_CLIPS, wave, city)


def generations_key(wave: str, city: str) -> str:
    """How the world-model clips of one city in one wave were made."""
    return _shard("generations", wave, city)


def blocked_key(wave: str, city: str) -> str:
    """The world-model clips of one city in one wave that a guard stopped."""
    return _shard("blocked", wave, city)


def failures_key(wave: str, city: str, step: str = "render") -> str:
    """The clips of one city in one wave that a step could not make or read."""
    return f"failures/{_part(wave)}/{_part(city)}.{_part(step)}.parquet"


def receipts_key(wave: str, city: str, step: str = "render") -> str:
    """What one step of one city in one wave cost."""
    return f"receipts/{_part(wave)}/{_part(city)}.{_part(step)}.parquet"


def signals_key(wave: str, city: str) -> str:
    """What was measured on the clips of one city in one wave."""
    return _shard("signals", wave, city)


def vectors_key(wave: str, city: str) -> str:
    """The embeddings of the clips of one city in one wave."""
    return _shard("vectors", wave, city)


def dedup_key(wave: str) -> str:
    """Which clips of a wave are duplicates."""
    return f"dedup/{_part(wave)}.parquet"


def superseded_key(wave: str) -> str:
    """Which older clips became duplicates through a wave."""
    return f"superseded/{_part(wave)}.parquet"


def pack_key(wave: str, city: str, sha256: str) -> str:
    """A pack of clips, named by its bytes."""
    return f"{PACKS}/{_part(wave)}/{_part(city)}/{_part(sha256)}.tar"


def release_key(wave: str) -> str:
    """The record of a wave's release: counts, rejects, root hash."""
    return f"{RELEASES}/{_part(wave)}/release.json"


def manifest_key(wave: str) -> str:
    """The clips of a wave's release."""
    return f"{RELEASES}/{_part(wave)}/manifest.parquet"


def staging_key(wave: str, city: str) -> str:
    """Scratch of a running job: finished clips that have no pack yet. Local stores only."""
    return f"{STAGING}/{_part(wave)}/{_part(city)}"


def log_prefix(log: LogName, kind: str) -> str:
    """The folder of one kind of log rows."""
    return f"{LOGS}/{log}/{_part(kind)}"


def batch_key(log: LogName, kind: str, seq: int, sha256: str) -> str:
    """A batch of log rows.

    Example:
        >>> batch_key("shared", "lineage", 3, "ab12")
        'logs/shared/lineage/000000000003-ab12.parquet'
    """
    return f"{log_prefix(log, kind)}/{seq:012d}-{_part(sha256)}.parquet"


def claim_key(log: LogName, kind: str, seq: int) -> str:
    """The claim of a sequence number: its content is the SHA-256 of the batch that has it."""
    return f"{log_prefix(log, kind)}/claims/{seq:012d}"


def checkpoint_key(log: LogName, kind: str, seq: int) -> str:
    """All rows of a log up to a sequence number."""
    return f"{log_prefix(log, kind)}/checkpoints/{seq:012d}.parquet"


def replica_prefix(site: str) -> str:
    """Where a store keeps the shared logs of another site, with the same keys beneath.

    Example:
        >>> replica_prefix("aws")
        'replicas/aws'
    """
    return f"{REPLICAS}/{_part(site)}"


def projection_key(name: str) -> str:
    """How far a projection that cannot say so itself has come."""
    return f"{PROJECTIONS}/{_part(name)}.json"


def lease_prefix(name: str) -> str:
    """The terms of a lease, one object each, numbered."""
    return f"{LEASES}/{_part(name)}"


def _shard(folder: str, wave: str, city: str) -> str:
    return f"{folder}/{_part(wave)}/{_part(city)}.parquet"


def _part(name: str) -> str:
    """One part of a key, refused if it could leave its folder."""
    if not name or name.startswith(".") or _FORBIDDEN & set(name):
        raise ValueError(f"{name!r} cannot be part of a key; use letters, digits, '_', '-' and '.'")
    return name
