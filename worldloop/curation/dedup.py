"""Dedup: which clips repeat an earlier one, decided on an endless stream as if it were one batch.

Clips have a fixed order: wave, index, city. A clip is a duplicate if a clip of its own tier before it
has the same bytes, shows the same scene by the same generator, or lies within `epsilon` of cosine
distance, whatever that clip's own status is; it is then a duplicate of the first such clip. A sketch,
a draft and a hero shot of one scene are meant to be alike, so tiers are never compared. A decision
depends on pairs only, and on neither batches nor restarts. A clip that arrives after clips it
comes before leaves `SUPERSEDED` rows for those it changes; `with_superseded` applies them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import polars as pl
from numpy.typing import NDArray

from worldloop.errors import MalformedRecordError
from worldloop.records import DEDUP, SUPERSEDED

Int = NDArray[np.int64]
Float = NDArray[np.float32]

# Cosine distance of clip vectors up to which two clips show the same thing. With the starter, one
# pair in 100 of different scenes at one kind of place lies within 0.0036, and half of all pairs of
# interleaved frames of one clip within 0.0081 (its card.json), so this side errs on keeping. A model
# of another kind needs another value: gpu_jobs.train_embedder.evaluate prints both distances.
EPSILON = 0.003
CLIP_SCHEMA: Mapping[str, pl.DataType | type[pl.DataType]] = MappingProxyType(
    {
        "wave": pl.String,
        "index": pl.Int32,
        "city": pl.String,
        "institution": pl.String,
        "scene_id": pl.String,
        "generator": pl.String,
        "tier": pl.String,
        "recipe_id": pl.String,
        "content_sha256": pl.String,
        "vector": pl.List(pl.Float32),
    }
)
_IDENTITY = ("wave", "city", "recipe_id")  # the same recipe may stand in two waves
_NEVER = np.iinfo(np.int64).max
_BLOCK = 2048  # 16 MB of similarities at a time
_ROUNDING = 2e-5  # matrix products differ by less than this from the exact sum, at any block size


@dataclass(frozen=True)
class Verdicts:
    """What a batch of clips adds to the log.

    Attributes:
        decisions: One row per clip of the batch, `records.DEDUP`.
        superseded: One row per earlier decision that the batch changes, `records.SUPERSEDED`.
    """

    decisions: pl.DataFrame
    superseded: pl.DataFrame


def decide(
    batch: pl.DataFrame, known: pl.DataFrame, *, model_id: str, epsilon: float = EPSILON
) -> Verdicts:
    """Decide about a batch of clips, given all clips seen before.

    Args:
        batch: Clips to decide about, `CLIP_SCHEMA`, in any order.
        known: Clips decided before, `CLIP_SCHEMA` and `duplicate_of` as `with_superseded` has it
            (null for unique clips). Clips that are in `batch` too are decided again.
        model_id: What made the vectors, all of them.
        epsilon: Cosine distance up to which clips are duplicates.

    Raises:
        MalformedRecordError: If a vector is missing, not finite, zero or of another length.
    """
    batch = _conform(batch).with_columns(
        duplicate_of=pl.lit(None, pl.String), fresh=pl.lit(value=True)
    )
    known = _conform(known, "duplicate_of").with_columns(fresh=pl.lit(value=False))
    clips = in_order(pl.concat([batch, known.join(batch, on=_IDENTITY, how="anti")]))
    pairs = _Pairs(clips, epsilon)
    fresh = np.flatnonzero(clips["fresh"].to_numpy())
    stale = np.flatnonzero(~clips["fresh"].to_numpy())
    first = pairs.first_match(fresh, np.arange(clips.height))
    decisions = (
        clips[fresh]
        .select(DEDUP.columns.keys() & CLIP_SCHEMA.keys())
        .hstack(pairs.describe(fresh, first, "duplicate_of"))
        .with_columns(
            status=pl.when(pl.col("duplicate_of").is_null())
            .then(pl.lit("unique"))
            .otherwise(pl.lit("duplicate")),
            epsilon=epsilon,
            model_id=pl.lit(model_id),
        )
    )
    return Verdicts(DEDUP.conform(decisions), _changes(clips, pairs, stale, fresh))


def reconcile(known: pl.DataFrame, *, epsilon: float = EPSILON) -> pl.DataFrame:
    """`SUPERSEDED` rows that are missing because batches were decided side by side.

    Args:
        known: All clips with their standing decision, as `decide` takes them.
        epsilon: As in the decisions.
    """
    clips = in_order(_conform(known, "duplicate_of"))
    everyone = np.arange(clips.height)
    return _changes(clips, _Pairs(clips, epsilon), everyone, everyone)


def with_superseded(decisions: pl.DataFrame, superseded: pl.DataFrame) -> pl.DataFrame:
    """Decisions as they stand after all late arrivals.

    Args:
        decisions: `records.DEDUP` rows of every wave.
        superseded: `records.SUPERSEDED` rows, in any order.

    Returns:
        `decisions` in the fixed order, with `status`, `duplicate_of`, `kind` and `similarity` as
        if all clips had been decided in one batch.
    """
    ordered = in_order(decisions).with_row_index("rank")
    rank_of = ordered.group_by("recipe_id").agg(pl.col("rank").min())
    held_by = rank_of.select(duplicate_of="recipe_id", rank_held="rank")
    changes = (
        superseded.join(
            rank_of.select(superseded_by="recipe_id", rank_by="rank"), on="superseded_by"
        )
        .sort("rank_by")
        .group_by("recipe_id", maintain_order=True)
        .first()
        .select("recipe_id", "superseded_by", "rank_by", kind_by="kind", similarity_by="similarity")
    )
    joined = ordered.join(held_by, on="duplicate_of", how="left").join(
        changes, on="recipe_id", how="left"
    )
    earlier = pl.col("rank_by") < pl.min_horizontal("rank", "rank_held")
    renewed = {
        "status": pl.lit("duplicate"),
        "duplicate_of": pl.col("superseded_by"),
        "kind": pl.col("kind_by"),
        "similarity": pl.col("similarity_by"),
    }
    return (
        joined.sort("rank")
        .with_columns(
            pl.when(earlier.fill_null(value=False)).then(value).otherwise(pl.col(name)).alias(name)
            for name, value in renewed.items()
        )
        .select(DEDUP.columns.keys())
    )


def _conform(clips: pl.DataFrame, *extra: str) -> pl.DataFrame:
    return clips.select(*(pl.col(name).cast(t) for name, t in CLIP_SCHEMA.items()), *extra)


def in_order(clips: pl.DataFrame) -> pl.DataFrame:
    """Clips, or decisions on clips, in the fixed order; `w9999` comes before `w10000`."""
    return clips.sort(pl.col("wave").str.len_chars(), "wave", "index", "city", "recipe_id")


def _changes(clips: pl.DataFrame, pairs: "_Pairs", decided: Int, others: Int) -> pl.DataFrame:
    """Superseded rows of decided clips whose first match among others beats the one they have."""
    if others.size:
        decided = decided[decided > others[0]]
    first = pairs.first_match(decided, others)
    changed = first < pairs.held[decided]
    rows = clips[decided[changed]].select("recipe_id")
    return SUPERSEDED.conform(
        rows.hstack(pairs.describe(decided[changed], first[changed], "superseded_by")).unique()
    )


class _Pairs:
    """Comparisons between clips that are in the fixed order; a clip's rank is its row."""

    def __init__(self, clips: pl.DataFrame, epsilon: float):
        self.threshold = 1 - epsilon
        self.recipe_ids = clips["recipe_id"]
        self.vectors = _unit_vectors(clips)
        self.tiers = _labels(clips, "tier")
        self.has_one_tier = clips["tier"].n_unique() < 2
        self.contents = _labels(clips, "tier", "content_sha256")
        self.scenes = _labels(clips, "tier", "scene_id", "generator")
        rank_of = dict(
            zip(reversed(self.recipe_ids.to_list()), range(clips.height)[::-1], strict=True)
        )
        self.held = np.array(
            [rank_of.get(recipe_id, _NEVER) for recipe_id in clips["duplicate_of"]], np.int64
        )

    def first_match(self, ranks: Int, others: Int) -> Int:
        """For each rank the smallest of `others` before it that matches it; `_NEVER` if none does.

        Args:
            ranks: Ascending.
            others: Ascending.
        """
        first = np.minimum(
            _first_equal(self.contents, ranks, others), _first_equal(self.scenes, ranks, others)
        )
        for start in range(0, len(ranks), _BLOCK):
            block = slice(start, start + _BLOCK)
            first[block] = np.minimum(first[block], self._first_near(ranks[block], others))
        return first

    def _first_near(self, ranks: Int, others: Int) -> Int:
        first = np.full(len(ranks), _NEVER)
        for start in range(0, len(others), _BLOCK):
            block = others[start : start + _BLOCK]
            todo = np.flatnonzero((first == _NEVER) & (ranks > block[0]))
            if not todo.size:
                continue
            near = self.vectors[ranks[todo]] @ self.vectors[block].T >= self.threshold - _ROUNDING
            near &= block < ranks[todo, None]
            if not self.has_one_tier:
                near &= self.tiers[block] == self.tiers[ranks[todo], None]
            first[todo] = self._first_sure(near, ranks[todo], block)
        return first

    def _first_sure(self, near: NDArray[np.bool_], ranks: Int, others: Int) -> Int:
        """First candidate of each row that stands a recount without rounding."""
        first = np.full(len(ranks), _NEVER)
        rows = np.flatnonzero(near.any(axis=1))
        while rows.size:
            column = near[rows].argmax(axis=1)
            sure = self.similarity(ranks[rows], others[column]) >= self.threshold
            first[rows[sure]] = others[column[sure]]
            near[rows[~sure], column[~sure]] = False
            rows = rows[~sure]
            rows = rows[near[rows].any(axis=1)]
        return first

    def similarity(self, left: Int, right: Int) -> NDArray[np.float64]:
        """Cosine similarity of pairs, one row at a time, so that no block size can change it."""
        product = self.vectors[left].astype(np.float64) * self.vectors[right]
        return np.asarray(product.sum(axis=1).round(12), np.float64)

    def describe(self, ranks: Int, matches: Int, name: str) -> pl.DataFrame:
        """Columns `name` (recipe id of the match), kind and similarity; null without a match."""
        found = matches != _NEVER
        safe = np.where(found, matches, ranks)
        same_bytes = self.contents[ranks] == self.contents[safe]
        same_scene = self.scenes[ranks] == self.scenes[safe]
        kind = np.where(same_bytes, "content", np.where(same_scene, "scene", "semantic"))
        return pl.DataFrame(
            {
                name: self.recipe_ids.gather(safe),
                "kind": pl.Series(kind.tolist(), dtype=pl.String),
                "similarity": self.similarity(ranks, safe),
            }
        ).select(pl.when(pl.Series(found)).then(pl.all()))


def _labels(clips: pl.DataFrame, *columns: str) -> Int:
    """One number per distinct combination of columns."""
    ranked = clips.select(pl.struct(columns).rank("dense")).to_series()
    return ranked.to_numpy().astype(np.int64)


def _first_equal(labels: Int, ranks: Int, others: Int) -> Int:
    """For each rank the smallest of `others` before it with the same label."""
    first = np.full(labels.max(initial=0) + 1, _NEVER)
    np.minimum.at(first, labels[others], others)
    found = first[labels[ranks]]
    return np.where(found < ranks, found, _NEVER)


def _unit_vectors(clips: pl.DataFrame) -> Float:
    """float32 (N, D), each row of length one."""
    lengths = clips["vector"].list.len()
    if clips.height == 0:
        return np.zeros((0, 1), np.float32)
    width = lengths[0]
    odd = clips.filter(lengths.ne_missing(width) | (lengths == 0))
    if odd.height:
        raise _bad_vector(odd, f"length {odd['vector'].list.len()[0]}", f"{width} numbers")
    vectors = clips["vector"].explode().to_numpy().astype(np.float64).reshape(clips.height, width)
    norm = np.sqrt((vectors * vectors).sum(axis=1))
    broken = ~np.isfinite(norm) | (norm == 0)
    if broken.any():
        found = "only zeros" if norm[broken.argmax()] == 0 else "NaN or infinity"
        raise _bad_vector(clips.filter(broken), found, "finite numbers, not all zero")
    return np.asarray(vectors / norm[:, None], np.float32)


def _bad_vector(clips: pl.DataFrame, found: str, expected: str) -> MalformedRecordError:
    return MalformedRecordError(
        f"vector of clip {clips['recipe_id'][0]}", found, expected, "Embed its partition again."
    )
