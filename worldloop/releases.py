"""Releases: the clips of a wave that go into training, frozen under one root hash.

The root hash is a Merkle root over the accepted clips in key order. It says what is in the
footage and its captions, and nothing of where or when it was made: a run that was killed and
resumed, another machine or another pack gives the same one.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from worldloop.cosmos.guards import is_guarded
from worldloop.curation.dedup import with_superseded
from worldloop.errors import MalformedRecordError
from worldloop.records import (
    BLOCKED,
    FAILURES,
    GENERATIONS,
    MANIFEST,
    RELEASE_CLIPS,
    RELEASES,
    SUPERSEDED,
)
from worldloop.seeds import canonical_json

RELEASE_VERSION = 1
_CONTENT = (
    "wave",
    "index",
    "city",
    "institution",
    "scene_id",
    "recipe_id",
    "content_sha256",
    "num_frames",
    "generator",
    "caption",
)


@dataclass(frozen=True)
class Release:
    """A frozen training set of one wave at one site.

    Attributes:
        manifest: `records.MANIFEST`, one row a clip in key order (wave, index).
        record: What `release.json` holds.
        root_hash: SHA-256 Merkle root of the content, hex.
    """

    manifest: pl.DataFrame
    record: dict[str, Any]
    root_hash: str

    def log_row(self) -> pl.DataFrame:
        """The release as a row of `records.RELEASES`."""
        names = ("wave", "site", "root_hash", "num_clips", "num_rejected", "duration_s")
        row = {name: self.record[name] for name in (*names, "atlas_hash", "log_position")}
        return RELEASES.conform(pl.DataFrame([row], schema=dict(RELEASES.columns)))

    def log_clips(self) -> pl.DataFrame:
        """Its clips as rows of `records.RELEASE_CLIPS`: lineage from a clip to its release."""
        return RELEASE_CLIPS.conform(
            self.manifest.select(
                pl.lit(self.record["wave"]).alias("release"),
                "wave",
                "recipe_id",
                "content_sha256",
                "pack_key",
            )
        )


@dataclass(frozen=True)
class Reject:
    """Why some clips of a wave are not in its release.

    Attributes:
        stage: `build`, `render`, ... for clips that were not made, `incomplete` for those whose city
            failed later, `signals`, `guardrail` for those that a guard stopped or none looked at, or
            `dedup`.
        reason: In words.
        num_clips: How many.
    """

    stage: str
    reason: str
    num_clips: int


def compose_release(
    *,
    clips: pl.DataFrame,
    signals: pl.DataFrame,
    dedup: pl.DataFrame,
    captions: pl.DataFrame,
    wave: str,
    site: str,
    position: str,
    atlas_hash: str,
    superseded: pl.DataFrame | None = None,
    failures: pl.DataFrame | None = None,
    generations: pl.DataFrame | None = None,
    blocked: pl.DataFrame | None = None,
    allow_unguarded: bool = False,
) -> Release:
    """The release of a wave: its accepted clips that repeat no other.

    A clip whose city failed before it was measured or compared is not accepted: it is counted among
    the rejects, as `incomplete`. Clips that no guard looked at, and those of models with random
    weights, stay out unless the wave's plan names them.

    Args:
        clips: `records.CLIPS` of the wave, all cities.
        signals: `records.SIGNALS` of the wave.
        dedup: `records.DEDUP` of the wave; rows of earlier waves may be there too.
        captions: Any table with `recipe_id` and `caption`, such as the prompts.
        wave: Key of the wave.
        site: Where the packs are.
        position: Position of the logs that this was read at.
        atlas_hash: The atlas that the wave's plan pins.
        superseded: `records.SUPERSEDED`: clips that late arrivals made duplicates.
        failures: `records.FAILURES` of the wave.
        generations: `records.GENERATIONS` of the wave.
        blocked: `records.BLOCKED` of the wave.
        allow_unguarded: Whether unguarded clips and those of tiny models may be in it.

    Raises:
        MalformedRecordError: If a clip has no caption.
    """
    clips = clips.filter(pl.col("wave") == wave).sort("index", "recipe_id")
    decided = with_superseded(dedup, superseded if superseded is not None else SUPERSEDED.empty())
    _check_captions(clips, captions, wave)
    judged = (
        clips.join(signals.select("recipe_id", "accepted", "reason"), on="recipe_id", how="left")
        .join(decided.select("recipe_id", "status", "kind"), on="recipe_id", how="left")
        .join(captions.select("recipe_id", "caption"), on="recipe_id")
        .join(_barred(generations, allow_unguarded=allow_unguarded), on="recipe_id", how="left")
        .sort("index", "recipe_id")
    )
    chosen = judged.filter(
        pl.col("accepted") & (pl.col("status") == "unique") & pl.col("barred").is_null()
    )
    manifest = _manifest(chosen, site)
    root_hash = merkle_root([canonical_json(list(row)) for row in manifest.select(_CONTENT).rows()])
    rejects = _rejects(
        judged,
        failures if failures is not None else FAILURES.empty(),
        blocked if blocked is not None else BLOCKED.empty(),
    )
    record = {
        "version": RELEASE_VERSION,
        "wave": wave,
        "site": site,
        "root_hash": root_hash,
        "atlas_hash": atlas_hash,
        "log_position": position,
        "generators": _generators(chosen),
        "num_clips": manifest.height,
        "num_frames": int(manifest["num_frames"].sum()),
        "duration_s": float(manifest["duration_s"].sum()),
        "num_rejected": sum(reject.num_clips for reject in rejects),
        "rejects": [asdict(reject) for reject in rejects],
        "num_clips_by_place": _by_place(manifest),
    }
    return Release(manifest, record, root_hash)


def read_release(record: dict[str, Any]) -> dict[str, Any]:
    """A release record of any released version, in today's fields.

    Raises:
        MalformedRecordError: If the version is not one that we read, or the root hash is missing.
    """
    if record.get("version") != RELEASE_VERSION or not record.get("root_hash"):
        raise MalformedRecordError(
            "release",
            record.get("version"),
            f"version 1 to {RELEASE_VERSION} with a root_hash",
            "Read it with the release of worldloop that wrote it.",
        )
    return record


def redact(manifest: pl.DataFrame, recipe_ids: Collection[str]) -> pl.DataFrame:
    """A manifest without the captions of clips that were taken back; their rows stay.

    With the hashes of their leaves (`leaf_hashes`) its root hash can still be computed.
    """
    taken = pl.col("recipe_id").is_in(sorted(recipe_ids))
    return manifest.with_columns(caption=pl.when(taken).then(pl.lit("")).otherwise("caption"))


def leaf_hashes(manifest: pl.DataFrame) -> dict[str, str]:
    """The hash of each clip's leaf, hex, by recipe id, in the order of the manifest."""
    rows = manifest.select(_CONTENT).rows()
    hashes = [_leaf(canonical_json(list(row))).hex() for row in rows]
    return dict(zip(manifest["recipe_id"], hashes, strict=True))


def root_of(manifest: pl.DataFrame, *, redacted: Mapping[str, str] | None = None) -> str:
    """The root hash of a manifest.

    Args:
        manifest: `records.MANIFEST`.
        redacted: Recipe id to leaf hash of the clips whose captions were taken back.
    """
    hashes = leaf_hashes(manifest) | {
        recipe_id: leaf
        for recipe_id, leaf in (redacted or {}).items()
        if recipe_id in set(manifest["recipe_id"])
    }
    return _root([bytes.fromhex(leaf) for leaf in hashes.values()])


def merkle_root(leaves: Sequence[bytes]) -> str:
    """SHA-256 Merkle root: leaves and nodes are told apart, an odd one moves up unchanged.

    Example:
        >>> merkle_root([b"a", b"b"]) == merkle_root([b"b", b"a"])
        False
        >>> merkle_root([])[:8]
        'e3b0c442'
    """
    return _root([_leaf(leaf) for leaf in leaves])


def _leaf(content: bytes) -> bytes:
    return hashlib.sha256(b"\0" + content).digest()


def _root(level: list[bytes]) -> str:
    if not level:
        return hashlib.sha256().hexdigest()
    while len(level) > 1:
        pairs = [level[i : i + 2] for i in range(0, len(level), 2)]
        level = [
            hashlib.sha256(b"\1" + pair[0] + pair[1]).digest() if len(pair) == 2 else pair[0]
            for pair in pairs
        ]
    return level[0].hex()


def _manifest(chosen: pl.DataFrame, site: str) -> pl.DataFrame:
    """One row a clip; offset and size span its members, so one ranged read brings all of it."""
    first = pl.col("members").list.eval(pl.element().struct.field("offset")).list.min()
    ends = pl.element().struct.field("offset") + pl.element().struct.field("size_bytes")
    end = pl.col("members").list.eval(ends).list.max()
    rows = chosen.with_columns(
        pl.lit(site).alias("site"), first.alias("offset"), (end - first).alias("size_bytes")
    )
    return MANIFEST.conform(rows.select(list(MANIFEST.columns)))


def _barred(generations: pl.DataFrame | None, *, allow_unguarded: bool) -> pl.DataFrame:
    """Clips that no release takes unless its plan names them, and why."""
    made = generations if generations is not None else GENERATIONS.empty()
    unguarded = [state for state in made["guardrail"].unique() if not is_guarded(state)]
    reason = (
        pl.when(pl.col("tiny"))
        .then(pl.lit("made by a model with random weights"))
        .when(pl.col("guardrail").is_in(unguarded))
        .then(pl.format("not guarded: {}", "guardrail"))
    )
    barred = made.select("recipe_id", barred=reason).drop_nulls("barred")
    return barred.clear() if allow_unguarded else barred


def _rejects(judged: pl.DataFrame, failures: pl.DataFrame, blocked: pl.DataFrame) -> list[Reject]:
    """Counts of every reason, the commonest first; a clip that is both counts as unaccepted."""
    undone = pl.col("accepted").is_null() | (pl.col("accepted") & pl.col("status").is_null())
    incomplete = judged.filter(undone).select(
        pl.lit("incomplete").alias("stage"),
        pl.when(pl.col("accepted").is_null())
        .then(pl.lit("not measured"))
        .otherwise(pl.lit("not compared"))
        .alias("reason"),
    )
    unaccepted = judged.filter(~pl.col("accepted")).select(
        pl.lit("signals").alias("stage"), pl.col("reason").fill_null("no reason given")
    )
    looked_at = judged.filter(pl.col("accepted") & pl.col("status").is_not_null())
    unguarded = looked_at.filter(pl.col("barred").is_not_null()).select(
        pl.lit("guardrail").alias("stage"), pl.col("barred").alias("reason")
    )
    repeats = looked_at.filter(pl.col("barred").is_null() & (pl.col("status") != "unique")).select(
        pl.lit("dedup").alias("stage"), pl.format("duplicate: {}", "kind").alias("reason")
    )
    unmade = failures.join(judged, on="recipe_id", how="anti").select("stage", "reason")
    stopped = blocked.join(judged, on="recipe_id", how="anti").select(
        pl.lit("guardrail").alias("stage"),
        pl.format("blocked by {}: {}", "guard", "category").alias("reason"),
    )
    counted = (
        pl.concat([unmade, stopped, incomplete, unaccepted, unguarded, repeats])
        .group_by("stage", "reason")
        .agg(pl.len().alias("num_clips"))
        .sort("num_clips", "stage", "reason", descending=[True, False, False])
    )
    return [Reject(**row) for row in counted.iter_rows(named=True)]


def _generators(chosen: pl.DataFrame) -> list[str]:
    names = chosen.select(pl.format("{} {}", "generator", "generator_version")).to_series()
    return sorted(names.unique().to_list())


def _by_place(manifest: pl.DataFrame) -> dict[str, int]:
    counted = manifest.group_by(pl.format("{}/{}", "city", "institution").alias("place")).len()
    return dict(counted.sort("place").iter_rows())


def _check_captions(clips: pl.DataFrame, captions: pl.DataFrame, wave: str) -> None:
    missing = clips.join(captions, on="recipe_id", how="anti")["recipe_id"].to_list()
    if missing:
        raise MalformedRecordError(
            f"release of wave {wave}",
            f"{len(missing)} clips without captions, first {missing[0]}",
            "a caption of every clip",
            "Run the asset `prompts` for the cities of this wave again.",
        )
