"""Answers of several sites to one search, as one table."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

# What a site tells others of its clips: ids, place keys and scores; no caption, no vector.
OPEN_COLUMNS = (
    "recipe_id",
    "model_id",
    "wave",
    "index",
    "city",
    "institution",
    "generator",
    "status",
    "tier",
    "duration_s",
)
_TYPES: Mapping[str, type[pl.DataType]] = {
    "index": pl.Int32,
    "duration_s": pl.Float64,
    "score": pl.Float64,
    "rgb_offset": pl.Int64,
    "rgb_size_bytes": pl.Int64,
    "poster_offset": pl.Int64,
    "poster_size_bytes": pl.Int64,
}


@dataclass(frozen=True)
class FederatedResults:
    """What came back from the sites that were asked.

    Attributes:
        rows: `site`, the columns of the asker's own index and `score`, best first; a clip of
            another site has only `OPEN_COLUMNS`, the rest is null.
        took_ms: Milliseconds by site, of those that answered.
        missing: Sites that did not answer, each with the reason; their clips are not among `rows`.
    """

    rows: pl.DataFrame
    took_ms: Mapping[str, float]
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether every site that was asked answered."""
        return not self.missing


def merged(
    answers: Mapping[str, pl.DataFrame], *, columns: tuple[str, ...], limit: int
) -> pl.DataFrame:
    """The best rows of all answers.

    Equal scores are ordered by recipe and then by site, so that the same answers give the same
    table; a clip that several sites know counts once.

    Args:
        answers: Rows with `score` by site; columns that a site keeps to itself may lack.
        columns: Columns of the result, before `score`.
        limit: Rows at most.

    Returns:
        `site`, `columns` and `score`, best first.
    """
    schema = {name: _TYPES.get(name, pl.String) for name in ("site", *columns, "score")}
    parts = [
        rows.with_columns(pl.lit(site).alias("site")).select(
            (pl.col(name) if name in (*rows.columns, "site") else pl.lit(None))
            .cast(of_type)
            .alias(name)
            for name, of_type in schema.items()
        )
        for site, rows in answers.items()
    ]
    every = pl.concat([pl.DataFrame(schema=schema), *parts])
    best = every.sort("score", "recipe_id", "site", descending=[True, False, False])
    return best.unique("recipe_id", keep="first", maintain_order=True).head(limit)
