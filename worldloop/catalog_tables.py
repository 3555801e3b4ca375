"""The tables of a site's Iceberg catalog: which kinds of log rows stand there, and the wide table `clips`.

Only scalars: no vector, caption, scene, prompt or recipe text. A column keeps its place for ever, as
its field id is its place counted from 1; new columns are added behind the others. How the tables are
written is in resources/iceberg_projection.py.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import polars as pl

from worldloop.cosmos.tiers import SKETCH
from worldloop.curation.dedup import with_superseded
from worldloop.errors import MalformedRecordError
from worldloop.logs import KINDS, log_kind, payload
from worldloop.records import DEDUP, LINEAGE, SCORES, SUPERSEDED
from worldloop.seeds import canonical_json

CLIPS = "clips"
VERSION = 1  # of the tables' meaning; counts up when rows must be made anew
_TAG = "release-"
_TEXTS_AT_HOME = frozenset({"prompt", "upsampled_prompt", "negative_prompt", "recipe"})
_NAMES = {"clips": "clip_files"}  # the name `clips` belongs to the wide table
_PRIVATE = ("clips", "failures", "receipts", "generations", "blocked", "audits")
_SCALARS = frozenset(
    {pl.String, pl.Int32, pl.Int64, pl.Float64, pl.Boolean, pl.Datetime("us", "UTC")}
)
_Columns = Mapping[str, pl.DataType | type[pl.DataType]]


@dataclass(frozen=True)
class CatalogTable:
    """One table of the catalog.

    Attributes:
        name: In its namespace.
        columns: Name to polars type; the place, counted from 1, is the field id.
        key: Columns that name a row, of one writer.
        kinds: Names of the log kinds that it is made from, as `SiteLog.read_after` takes them.
        writer: Column with the site whose log has the row.
        kind: The log kind of which it holds the rows; empty for `clips`.
        is_shared: Whether it holds rows of every site; otherwise those of its own site only.
    """

    name: str
    columns: _Columns
    key: tuple[str, ...]
    kinds: tuple[str, ...]
    writer: str = "origin"
    kind: str = ""
    is_shared: bool = True

    @property
    def partition(self) -> str | None:
        """The column by which its files are kept apart."""
        return "wave" if self.name == CLIPS else None

    @property
    def order(self) -> tuple[str, ...]:
        """Columns by which the rows of a file are sorted once files are merged."""
        place = tuple(name for name in ("wave", "index") if name in self.columns)
        return tuple(dict.fromkeys((*place, *self.key, self.writer)))

    @property
    def ids(self) -> pl.Expr:
        """The log's id of each row."""
        return pl.concat_str([pl.col(name).cast(pl.String) for name in self.key], separator="/")

    def rows(self, origin: str, rows: pl.DataFrame) -> pl.DataFrame:
        """Log rows of its kind as rows of this table.

        Args:
            origin: The site whose log they are from.
            rows: As `SiteLog.read` gives them.
        """
        plain = payload(log_kind(self.kind), rows)
        if "origin" not in plain.columns:
            plain = plain.with_columns(origin=pl.lit(origin))
        return plain.select(pl.col(name).cast(kind) for name, kind in self.columns.items())

    def empty(self) -> pl.DataFrame:
        """A table with no rows."""
        return pl.DataFrame(schema=dict(self.columns))


def _table_of(kind: str) -> CatalogTable:
    of_kind = KINDS[kind]
    scalars = {
        name: value
        for name, value in of_kind.table.columns.items()
        if value in _SCALARS and name not in _TEXTS_AT_HOME
    }
    has_origin = "origin" in scalars  # of what was measured; its writer is `site`
    return CatalogTable(
        name=_NAMES.get(kind, kind),
        columns=MappingProxyType(scalars if has_origin else {"origin": pl.String, **scalars}),
        key=of_kind.table.key,
        kinds=(kind, f"{of_kind.log}/retractions"),
        writer="site" if has_origin else "origin",
        kind=kind,
        is_shared=of_kind.log == "shared",
    )


_WIDE: _Columns = MappingProxyType(
    {
        "origin": pl.String,
        "wave": pl.String,
        "index": pl.Int32,
        "city": pl.String,
        "institution": pl.String,
        "scene_id": pl.String,
        "recipe_id": pl.String,
        "sketch_recipe_id": pl.String,
        "generator": pl.String,
        "generator_version": pl.String,
        "tier": pl.String,
        "content_sha256": pl.String,
        "pack_key": pl.String,
        "num_frames": pl.Int32,
        "duration_s": pl.Float64,
        "size_bytes": pl.Int64,
        "motion_mean_px": pl.Float64,
        "motion_still_share": pl.Float64,
        "sharpness": pl.Float64,
        "exposure_mean": pl.Float64,
        "exposure_dark_share": pl.Float64,
        "exposure_bright_share": pl.Float64,
        "num_cuts": pl.Int32,
        "status": pl.String,
        "reason": pl.String,
        "duplicate_of": pl.String,
        "similarity": pl.Float64,
        "release": pl.String,
    }
)
WIDE_KINDS = ("lineage", "scores", "duplicates", "superseded", "release_clips")
WIDE = CatalogTable(
    name=CLIPS,
    columns=_WIDE,
    key=("recipe_id",),
    kinds=(*WIDE_KINDS, "releases", "shared/retractions"),
)
KIND_TABLES: tuple[CatalogTable, ...] = tuple(
    _table_of(kind) for kind, of in KINDS.items() if of.log == "shared" or kind in _PRIVATE
)
TABLES: Mapping[str, CatalogTable] = MappingProxyType({t.name: t for t in (*KIND_TABLES, WIDE)})
_SCORES = tuple(name for name in _WIDE if name in SCORES.columns and name not in LINEAGE.columns)


def shared_rows(kind: str, by_origin: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Rows of a shared kind from several logs as one frame, with their `origin`.

    Args:
        kind: One of `WIDE_KINDS`.
        by_origin: Site to its log rows, as `SiteLog.read` gives them.
    """
    table = TABLES[kind]
    return pl.concat([table.empty(), *(table.rows(o, rows) for o, rows in by_origin.items())])


def clip_rows(
    *,
    lineage: pl.DataFrame,
    scores: pl.DataFrame,
    duplicates: pl.DataFrame,
    superseded: pl.DataFrame,
    release_clips: pl.DataFrame,
) -> pl.DataFrame:
    """The wide table: one row for each clip of each site, as the shared logs stand.

    All arguments are as `shared_rows` gives them. Where two sites say something of one recipe, the
    clip's own site is heard first and then the one whose name sorts first, so that every site of the
    federation comes to the same rows.

    Args:
        lineage: Clips to make rows of.
        scores: What was measured of them; a clip without is `pending`.
        duplicates: Decisions on them, and on every clip that those decisions or `superseded` name.
        superseded: Decisions that a late clip has changed.
        release_clips: In which release they are.

    Returns:
        Columns of `WIDE`, in the order of wave, index, recipe and site.
    """
    decided = _decided(duplicates, superseded)
    released = _first(release_clips, "recipe_id", by=[pl.col("release").str.len_chars(), "release"])
    own = _own_first(lineage, scores, [*_SCORES, "accepted"])
    joined = (
        lineage.join(own, on=["recipe_id", "origin"], how="left")
        .join(decided, on="recipe_id", how="left")
        .join(released.select("recipe_id", "release"), on="recipe_id", how="left")
    )
    status = _status()
    reason = (
        pl.when(status == "rejected")
        .then(pl.col("reason"))
        .when(status == "duplicate")
        .then(pl.col("kind"))
    )
    rows = joined.with_columns(
        status=status,
        reason=reason.fill_null(""),
        duplicate_of=pl.when(status == "duplicate").then(pl.col("duplicate_of")),
        similarity=pl.when(status == "duplicate").then(pl.col("similarity")),
        tier=pl.col("tier").fill_null(SKETCH),
    )
    wide = rows.select(pl.col(name).cast(kind) for name, kind in WIDE.columns.items())
    return wide.sort(WIDE.order, nulls_last=True)


def touched_waves(
    news: Mapping[str, pl.DataFrame], *, duplicates: pl.DataFrame, superseded: pl.DataFrame
) -> set[str]:
    """Waves of which `clips` must be written anew, because of rows that came into the logs.

    Args:
        news: New rows of each of `WIDE_KINDS`, as `shared_rows` gives them.
        duplicates: All decisions.
        superseded: All changes of decisions.
    """
    with_wave = [name for name in WIDE_KINDS if "wave" in TABLES[name].columns and name in news]
    waves = {str(wave) for name in with_wave for wave in news[name]["wave"].unique()}
    changed = news["superseded"]["recipe_id"] if "superseded" in news else _no_ids()
    decided = news["duplicates"]["recipe_id"] if "duplicates" in news else _no_ids()
    return waves | waves_of_decisions(
        changed, decided, duplicates=duplicates, superseded=superseded
    )


def waves_of_decisions(
    changed: pl.Series, decided: pl.Series, *, duplicates: pl.DataFrame, superseded: pl.DataFrame
) -> set[str]:
    """Waves whose decisions may read otherwise now.

    Args:
        changed: Recipes whose own decision has changed.
        decided: Recipes on which others' decisions may rest.
        duplicates: All decisions.
        superseded: All changes of decisions.
    """
    if changed.is_empty() and decided.is_empty():
        return set()
    by_others = superseded.filter(pl.col("superseded_by").is_in(decided.implode()))["recipe_id"]
    recipes = pl.concat([changed, by_others])
    is_touched = pl.col("recipe_id").is_in(recipes.implode()) | pl.col("duplicate_of").is_in(
        decided.implode()
    )
    return set(duplicates.filter(is_touched)["wave"].unique())


def decisions_about(
    waves: Iterable[str], *, duplicates: pl.DataFrame, superseded: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The decisions and changes that `clip_rows` needs for some waves, without all the others."""
    mine = duplicates.filter(pl.col("wave").is_in(sorted(waves)))
    changes = superseded.filter(pl.col("recipe_id").is_in(mine["recipe_id"].implode()))
    named = pl.concat([mine["recipe_id"], mine["duplicate_of"], changes["superseded_by"]])
    return duplicates.filter(pl.col("recipe_id").is_in(named.unique().implode())), changes


def rows_hash(table: CatalogTable, rows: pl.DataFrame) -> str:
    """SHA-256 of rows whatever their order; equal at two sites if and only if the rows are."""
    ordered = rows.select(list(table.columns)).sort(
        table.order, nulls_last=True, maintain_order=True
    )
    digest = hashlib.sha256(",".join(table.columns).encode())
    for part in ordered.iter_slices(100_000):
        digest.update(part.write_csv(include_header=False, null_value="\\N").encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Place:
    """How far a table has come in one kind of one log.

    Attributes:
        seq: Number of the newest batch that it holds.
        sha256: Of that batch.
    """

    seq: int
    sha256: str


Position = Mapping[str, Mapping[str, Place]]


def encode_position(position: Position) -> str:
    """How far a table has come in each log, as canonical JSON for a snapshot's properties.

    Example:
        >>> encode_position({"aws": {"lineage": Place(2, "ab")}})
        '{"aws":{"lineage":[2,"ab"]}}'
    """
    plain = {
        origin: {kind: [place.seq, place.sha256] for kind, place in kinds.items()}
        for origin, kinds in position.items()
    }
    return canonical_json(plain).decode()


def decode_position(text: str) -> dict[str, dict[str, Place]]:
    """The reverse.

    Raises:
        MalformedRecordError: If the text is not a position.
    """
    try:
        return {
            origin: {kind: Place(int(seq), str(sha)) for kind, (seq, sha) in kinds.items()}
            for origin, kinds in json.loads(text).items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise MalformedRecordError(
            "position of an Iceberg table", text[:80], "site, kind, [number, hash]", "Rebuild it."
        ) from error


def release_tag(wave: str) -> str:
    """Name of the snapshot that is kept for a release.

    Example:
        >>> release_tag("w0001")
        'release-w0001'
    """
    return f"{_TAG}{wave}"


def is_release_tag(tag: str) -> bool:
    """Whether a tag is that of a release."""
    return tag.startswith(_TAG)


def retracted_recipes(of_kind: str, ids: pl.Series) -> pl.Series:
    """Recipes that retractions of a wide kind speak of; `releases` speak of none."""
    if of_kind == "releases" or of_kind not in WIDE.kinds:
        return _no_ids()
    part = 1 if of_kind == "release_clips" else 0
    return ids.str.split("/").list.get(part, null_on_oob=True).drop_nulls().rename("recipe_id")


def _status() -> pl.Expr:
    """As `worldloop.index_rows` says it."""
    return (
        pl.when(pl.col("accepted").is_null())
        .then(pl.lit("pending"))
        .when(~pl.col("accepted"))
        .then(pl.lit("rejected"))
        .when(pl.col("verdict").is_null())
        .then(pl.lit("pending"))
        .when(pl.col("verdict") == "duplicate")
        .then(pl.lit("duplicate"))
        .otherwise(pl.lit("accepted"))
    )


def _decided(duplicates: pl.DataFrame, superseded: pl.DataFrame) -> pl.DataFrame:
    """Decisions as they stand after all late arrivals, one a recipe."""
    decisions = _first(duplicates, "recipe_id", by=["origin"]).select(list(DEDUP.columns))
    changes = _first(superseded, *SUPERSEDED.key, by=["origin"]).select(list(SUPERSEDED.columns))
    if changes.height:
        decisions = with_superseded(decisions, changes)
    return decisions.select("recipe_id", "duplicate_of", "kind", "similarity", verdict="status")


def _own_first(lineage: pl.DataFrame, rows: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
    """For each clip the row of its own site, else that of the site whose name sorts first."""
    said = rows.select("recipe_id", *columns, said_by="origin")
    pairs = lineage.select("recipe_id", "origin").join(said, on="recipe_id")
    is_other = pl.col("said_by") != pl.col("origin")
    return _first(pairs, "recipe_id", "origin", by=[is_other, "said_by"]).drop("said_by")


def _first(rows: pl.DataFrame, *key: str, by: list[str | pl.Expr]) -> pl.DataFrame:
    if not rows.select(key).is_duplicated().any():
        return rows
    return rows.sort(by, maintain_order=True).unique(list(key), keep="first", maintain_order=True)


def _no_ids() -> pl.Series:
    return pl.Series("recipe_id", [], pl.String)
