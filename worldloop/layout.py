"""Where everything lies in a site's store: keys with "/" between their parts, made here only."""

from typing import Literal

LogName = Literal["private", "shared"]

COSMOS_CLIPS = "cosmos_clips"
LANCE = "lance"
GALLERY = "gallery"
PLACES = "atlas/places.parquet"  # of the newest atlas; the others lie under their hash
COVERAGE = "coverage"
SCENE_VALUES = "coverage/scenes"
LOGS = "logs"
PACKS = "packs"
RELEASES = "releases"
REPLICAS = "replicas"
PROJECTIONS = "projections"
LEASES = "leases"
STAGING = "staging"
ERASED = "erased"
RETIRED = "retired"
ROUNDS = "rounds"
REGISTRY = "registry"
FEDERATION = "federation"  # what a site keeps for itself between rounds
GONE = "gone"  # of a backup: contents that were deleted on purpose
_CITY_FOLDERS = frozenset(
    {
        "prompts",
        "clips",
        COSMOS_CLIPS,
        "generations",
        "blocked",
        "failures",
        "receipts",
        "signals",
        "vectors",
        PACKS,
        STAGING,
        ERASED,
    }
)  # <folder>/<wave>/<city>...; everything else belongs to no city
_FORBIDDEN = frozenset("/\\#%*?\0")


def plan_key(wave: str) -> str:
    """The plan of a wave.

    Example:
        >>> plan_key("w0001")
        'plans/w0001.json'
    """
    return f"plans/{_part(wave)}.json"


def wave_claim_key(wave: str) -> str:
    """What a key of a wave was taken for, before its plan stands.

    Example:
        >>> wave_claim_key("w0001")
        'wave_keys/w0001.json'
    """
    return f"wave_keys/{_part(wave)}.json"


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


def coverage_key(name: str) -> str:
    """A file of the coverage of all waves: pictures, page and tables.

    Example:
        >>> coverage_key("map.svg")
        'coverage/map.svg'
    """
    return f"{COVERAGE}/{_part(name)}"


def scene_values_key(wave: str) -> str:
    """Which values the scenes of a wave's released clips have."""
    return f"{SCENE_VALUES}/{_part(wave)}.parquet"


def valid_pairs_key(atlas_hash: str) -> str:
    """Which pairs of values scenes of an atlas can have."""
    return f"{COVERAGE}/valid_pairs/{_part(atlas_hash)}.parquet"


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


def purge_key(log: LogName, kind: str, mark: str) -> str:
    """Says that batches were written anew without some rows; sorts behind every claim.

    So who lists the claims behind the newest that it knows sees it too, at no further cost.
    """
    return f"{log_prefix(log, kind)}/claims/purged-{_part(mark)}"


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


def erased_key(pack: str) -> str:
    """Which clips of a pack were taken back: their bytes in the pack are gone.

    Example:
        >>> erased_key("packs/w0001/tokyo/ab12.tar")
        'erased/w0001/tokyo/ab12.json'
    """
    return f"{ERASED}/{pack.removeprefix(PACKS + '/').removesuffix('.tar')}.json"


def retired_key(wave: str) -> str:
    """Says that packs of a wave were removed to save disk; they can be rendered again."""
    return f"{RETIRED}/{_part(wave)}.json"


def gone_key(kept: str) -> str:
    """Says that a backup's object was deleted on purpose: what it held was taken back.

    Example:
        >>> gone_key("packs/w0001/tokyo/ab12.tar")
        'gone/packs/w0001/tokyo/ab12.tar.json'
    """
    return f"{GONE}/{kept}.json"


def redactions_key(wave: str) -> str:
    """Clips of a wave's release whose captions were taken back, each with its leaf's hash."""
    return f"{RELEASES}/{_part(wave)}/redactions.json"


def round_plan_key(round_key: str) -> str:
    """The plan of a federated round.

    Example:
        >>> round_plan_key("r0001")
        'rounds/r0001/plan.json'
    """
    return f"{ROUNDS}/{_part(round_key)}/plan.json"


def sent_key(round_key: str, site: str, name: str) -> str:
    """What a site sent to the coordinator in a round: `delta.bin`, `scores.json`, ...

    Example:
        >>> sent_key("r0001", "aws", "delta.bin")
        'rounds/r0001/sites/aws/delta.bin'
    """
    return f"{ROUNDS}/{_part(round_key)}/sites/{_part(site)}/{_part(name)}"


def adapter_key(round_key: str, name: str) -> str:
    """What was aggregated in a round: `adapter.safetensors`, `optimizer.safetensors`, `adapter.json`."""
    return f"{ROUNDS}/{_part(round_key)}/adapter/{_part(name)}"


def secure_key(round_key: str, name: str) -> str:
    """Who is in a phase of a round's secure aggregation: `roster-1.json` to `roster-4.json`."""
    return f"{ROUNDS}/{_part(round_key)}/secure/{_part(name)}"


def sample_key(round_key: str, group: str, name: str) -> str:
    """A clip that a round's candidate is judged by: group `before`, `after` or `reference`.

    Example:
        >>> sample_key("r0001", "after", "003.mp4")
        'rounds/r0001/samples/after/003.mp4'
    """
    return f"{ROUNDS}/{_part(round_key)}/samples/{_part(group)}/{_part(name)}"


def evaluation_key(round_key: str) -> str:
    """How a round's candidate was judged."""
    return f"{ROUNDS}/{_part(round_key)}/evaluation.json"


def outcome_key(round_key: str) -> str:
    """How a round ended: promoted, refused or failed, and why. A round with it is over."""
    return f"{ROUNDS}/{_part(round_key)}/outcome.json"


def residual_key(round_key: str) -> str:
    """What the codec lost of a site's delta; in the site's own store."""
    return f"{FEDERATION}/residuals/{_part(round_key)}.bin"


def moments_key(round_key: str) -> str:
    """Where a site's optimizer stood when its delta of a round was made; in the site's own store."""
    return f"{FEDERATION}/moments/{_part(round_key)}.safetensors"


def public_key_key(site: str) -> str:
    """The key that a site's deltas are verified with; at the coordinator, written once."""
    return f"{FEDERATION}/keys/{_part(site)}.pub"


def drift_key(site: str) -> str:
    """How far a site's new footage lies from what was trained on; at the coordinator, a few numbers."""
    return f"{FEDERATION}/drift/{_part(site)}.json"


def registry_key(line: str, *parts: str) -> str:
    """A file of a line of checkpoints, laid out as the hub's cache: `snapshots/<round>/...`, `refs/main`.

    Example:
        >>> registry_key("tiny", "refs", "main")
        'registry/tiny/refs/main'
    """
    return "/".join([REGISTRY, _part(line), *map(_part, parts)])


def city_of(key: str) -> str | None:
    """The city that an object belongs to; None if it belongs to no city, or to several.

    Example:
        >>> city_of("receipts/w0001/tokyo.render.parquet"), city_of("plans/w0001.json")
        ('tokyo', None)
    """
    parts = key.split("/")
    if parts[0] not in _CITY_FOLDERS or len(parts) < 3:
        return None
    return parts[2].split(".", 1)[0] or None


def may_hold_cities(prefix: str) -> bool:
    """Whether objects of cities can lie in a folder."""
    return prefix.split("/", 1)[0] in _CITY_FOLDERS or not prefix


def lease_key(name: str, term: int) -> str:
    """One term of a lease; the highest number holds."""
    return f"{lease_prefix(name)}/{term:012d}"


def heartbeat_key(name: str, holder: str) -> str:
    """What a candidate for a lease writes, to learn the store's time."""
    return f"{lease_prefix(name)}/heartbeats/{_part(holder)}"


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
