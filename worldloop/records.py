"""Every table worldloop writes: name, version, columns, key; and the one way to write and read them.

A table file is parquet whose metadata names the table and its version. Readers take every
released version (`_UPGRADES` lifts old ones); what each column means is in docs/formats.md.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from worldloop.errors import MalformedRecordError

_FORMAT_KEY = b"worldloop.table"
GPU_COLUMNS = (
    "ms_per_step",
    "tflops",
    "peak_gpu_gb",
    "busy_share",
)  # of a receipt; null without a GPU
_ROW_GROUP_ROWS = 50_000  # so that a reader of one wave skips most of a long file


@dataclass(frozen=True)
class Table:
    """The format of one table.

    Attributes:
        name: Plural noun, the same in files, logs, marts and docs.
        version: Counts up whenever a column changes; old files stay readable.
        columns: Name to polars type, in file order.
        key: Columns that name a row.
    """

    name: str
    version: int
    columns: Mapping[str, pl.DataType | type[pl.DataType]]
    key: tuple[str, ...]

    def empty(self) -> pl.DataFrame:
        """A table with no rows."""
        return pl.DataFrame(schema=dict(self.columns))

    def conform(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows in column order and type.

        Raises:
            MalformedRecordError: If a column is missing, unknown or not castable, or a key repeats.
        """
        if set(rows.columns) != set(self.columns):
            odd = sorted(set(rows.columns) ^ set(self.columns))
            raise MalformedRecordError(
                f"table {self.name}",
                odd,
                "exactly the columns of docs/formats.md",
                "Fix the writer.",
            )
        try:
            table = rows.select(pl.col(c).cast(t) for c, t in self.columns.items())
        except pl.exceptions.PolarsError as error:
            raise MalformedRecordError(
                f"table {self.name}", str(error), "castable columns", "Fix the writer."
            ) from error
        if table.select(self.key).is_duplicated().any():
            raise MalformedRecordError(
                f"table {self.name}", "repeated keys", f"one row per {self.key}", "Fix the writer."
            )
        return table


def _table(
    name: str,
    key: tuple[str, ...],
    columns: dict[str, pl.DataType | type[pl.DataType]],
    *,
    version: int = 1,
) -> Table:
    return Table(name, version, MappingProxyType(columns), key)


_MEMBER = pl.Struct(
    {"name": pl.String, "offset": pl.Int64, "size_bytes": pl.Int64, "sha256": pl.String}
)
_SHARD: dict[str, pl.DataType | type[pl.DataType]] = {
    "wave": pl.String,
    "index": pl.Int32,
    "city": pl.String,
    "institution": pl.String,
}

PROMPTS = _table(
    "prompts",
    ("recipe_id",),
    {
        **_SHARD,
        "scene_id": pl.String,
        "recipe_id": pl.String,
        "recipe": pl.String,
        "prose": pl.String,
        "cosmos3": pl.String,
        "caption": pl.String,
    },
)
CLIPS = _table(
    "clips",
    ("recipe_id",),
    {
        **_SHARD,
        "scene_id": pl.String,
        "recipe_id": pl.String,
        "generator": pl.String,
        "generator_version": pl.String,
        "content_sha256": pl.String,
        "pack_key": pl.String,
        "members": pl.List(_MEMBER),
        "num_frames": pl.Int32,
        "width_px": pl.Int32,
        "height_px": pl.Int32,
        "rate_fps": pl.Int32,
        "duration_s": pl.Float64,
        "size_bytes": pl.Int64,
    },
)
FAILURES = _table(
    "failures",
    ("recipe_id",),
    {
        **_SHARD,
        "scene_id": pl.String,
        "recipe_id": pl.String,
        "stage": pl.String,
        "reason": pl.String,
    },
)
RECEIPTS = _table(
    "receipts",
    ("receipt_id",),
    {
        "receipt_id": pl.String,
        **_SHARD,
        "recipe_id": pl.String,
        "step": pl.String,
        "run_id": pl.String,
        "host": pl.String,
        "finished_at": pl.Datetime("us", "UTC"),
        "cpu_s": pl.Float64,
        "gpu_s": pl.Float64,
        "peak_rss_mb": pl.Float64,
        "resumed": pl.Boolean,
        "guardrail": pl.String,
        **dict.fromkeys(GPU_COLUMNS, pl.Float64),
    },
    version=2,
)
GENERATIONS = _table(
    "generations",
    ("recipe_id",),
    {
        **_SHARD,
        "scene_id": pl.String,
        "recipe_id": pl.String,
        "model": pl.String,
        "revision": pl.String,
        "checkpoint": pl.String,
        "tier": pl.String,
        "profile": pl.String,
        "num_steps": pl.Int32,
        "guidance": pl.Float64,
        "sampler": pl.String,
        "seed": pl.Int64,
        "batch_size": pl.Int32,
        "prompt_form": pl.String,
        "prompt": pl.String,
        "upsampled_prompt": pl.String,
        "negative_prompt": pl.String,
        "control": pl.String,
        "sketch_recipe_id": pl.String,
        "draft_recipe_id": pl.String,
        "guardrail": pl.String,
        "tiny": pl.Boolean,
        "recipe": pl.String,
    },
)
BLOCKED = _table(
    "blocked",
    ("recipe_id",),
    {
        **_SHARD,
        "scene_id": pl.String,
        "recipe_id": pl.String,
        "guard": pl.String,
        "category": pl.String,
        "reason": pl.String,
    },
)
SIGNALS = _table(
    "signals",
    ("recipe_id",),
    {
        **_SHARD,
        "recipe_id": pl.String,
        "content_sha256": pl.String,
        "num_decoded_frames": pl.Int32,
        "motion_mean_px": pl.Float64,
        "motion_still_share": pl.Float64,
        "sharpness": pl.Float64,
        "exposure_mean": pl.Float64,
        "exposure_dark_share": pl.Float64,
        "exposure_bright_share": pl.Float64,
        "num_cuts": pl.Int32,
        "phash": pl.List(pl.UInt64),
        "accepted": pl.Boolean,
        "reason": pl.String,
    },
)
VECTORS = _table(
    "vectors",
    ("recipe_id", "model_id"),
    {
        **_SHARD,
        "recipe_id": pl.String,
        "content_sha256": pl.String,
        "model_id": pl.String,
        "vector": pl.List(pl.Float32),
    },
)
DEDUP = _table(
    "dedup",
    ("recipe_id",),
    {
        **_SHARD,
        "recipe_id": pl.String,
        "content_sha256": pl.String,
        "status": pl.String,
        "duplicate_of": pl.String,
        "kind": pl.String,
        "similarity": pl.Float64,
        "epsilon": pl.Float64,
        "model_id": pl.String,
    },
)
SUPERSEDED = _table(
    "superseded",
    ("recipe_id", "superseded_by"),
    {
        "recipe_id": pl.String,
        "superseded_by": pl.String,
        "kind": pl.String,
        "similarity": pl.Float64,
    },
)
MANIFEST = _table(
    "manifest",
    ("recipe_id",),
    {
        **_SHARD,
        "site": pl.String,
        "scene_id": pl.String,
        "recipe_id": pl.String,
        "content_sha256": pl.String,
        "pack_key": pl.String,
        "offset": pl.Int64,
        "size_bytes": pl.Int64,
        "num_frames": pl.Int32,
        "duration_s": pl.Float64,
        "generator": pl.String,
        "caption": pl.String,
    },
)
SCENES = _table(
    "scenes",
    ("scene_id",),
    {
        "wave": pl.String,
        "scene_id": pl.String,
        "city": pl.String,
        "institution": pl.String,
        "scene": pl.String,
    },
)
CAPTIONS = _table(
    "captions",
    ("recipe_id",),
    {**_SHARD, "recipe_id": pl.String, "caption": pl.String, "prose": pl.String},
)
LINEAGE = _table(
    "lineage",
    ("recipe_id",),
    {
        **_SHARD,
        "scene_id": pl.String,
        "recipe_id": pl.String,
        "generator": pl.String,
        "generator_version": pl.String,
        "content_sha256": pl.String,
        "pack_key": pl.String,
        "num_frames": pl.Int32,
        "duration_s": pl.Float64,
        "size_bytes": pl.Int64,
        "tier": pl.String,
        "sketch_recipe_id": pl.String,
    },
    version=2,
)
SCORES = _table(
    "scores",
    ("recipe_id",),
    {
        **_SHARD,
        "recipe_id": pl.String,
        "motion_mean_px": pl.Float64,
        "motion_still_share": pl.Float64,
        "sharpness": pl.Float64,
        "exposure_mean": pl.Float64,
        "exposure_dark_share": pl.Float64,
        "exposure_bright_share": pl.Float64,
        "num_cuts": pl.Int32,
        "accepted": pl.Boolean,
        "reason": pl.String,
    },
)
RELEASES = _table(
    "releases",
    ("wave",),
    {
        "wave": pl.String,
        "site": pl.String,
        "root_hash": pl.String,
        "num_clips": pl.Int64,
        "num_rejected": pl.Int64,
        "duration_s": pl.Float64,
        "atlas_hash": pl.String,
        "log_position": pl.String,
    },
)
RELEASE_CLIPS = _table(
    "release_clips",
    ("release", "recipe_id"),
    {
        "release": pl.String,
        "wave": pl.String,
        "recipe_id": pl.String,
        "content_sha256": pl.String,
        "pack_key": pl.String,
    },
)
RETRACTIONS = _table(
    "retractions",
    ("of_kind", "of_id"),
    {"of_kind": pl.String, "of_id": pl.String, "reason": pl.String},
)
_MOMENT = pl.Datetime("us", "UTC")
PROJECTIONS = _table(
    "projections",
    ("site", "projection", "measured_at"),
    {
        "site": pl.String,
        "projection": pl.String,
        "measured_at": _MOMENT,
        "num_rows": pl.Int64,
        "size_bytes": pl.Int64,
        "num_behind": pl.Int64,
        "lag_s": pl.Float64,
        "recall": pl.Float64,
        "took_s": pl.Float64,
        "num_requests": pl.Int64,
        "repaired_at": _MOMENT,
    },
)
RECONCILIATIONS = _table(
    "reconciliations",
    ("site", "origin", "of_kind", "measured_at"),
    {
        "site": pl.String,
        "origin": pl.String,
        "of_kind": pl.String,
        "measured_at": _MOMENT,
        "num_expected": pl.Int64,
        "num_missing": pl.Int64,
        "num_repaired": pl.Int64,
    },
)
QUERIES = _table(
    "queries",
    ("query_id",),
    {
        "query_id": pl.String,
        "asked_at": _MOMENT,
        "model_id": pl.String,
        "vector": pl.List(pl.Float32),
        "condition": pl.String,
        "num_wanted": pl.Int32,
        "num_found": pl.Int32,
        "took_ms": pl.Float64,
    },
)
AUDITS = _table(
    "audits",
    ("audit_id",),
    {
        "audit_id": pl.String,
        "done_at": _MOMENT,
        "site": pl.String,
        "actor": pl.String,
        "action": pl.String,
        "of_kind": pl.String,
        "of_id": pl.String,
        "reason": pl.String,
    },
)
ROUNDS = _table(
    "rounds",
    ("round",),
    {
        "round": pl.String,
        "opened_at": _MOMENT,
        "ended_at": _MOMENT,
        "model": pl.String,
        "strategy": pl.String,
        "codec": pl.String,
        "outcome": pl.String,
        "num_sites": pl.Int64,
        "num_deltas": pl.Int64,
        "size_bytes": pl.Int64,
        "took_s": pl.Float64,
        "loss_before": pl.Float64,
        "loss_after": pl.Float64,
        "adapter_sha256": pl.String,
        "base_round": pl.String,
        "lineage_depth": pl.Int64,
    },
)
ROUND_WAVES = _table(
    "round_waves",
    ("round", "wave"),
    {"round": pl.String, "wave": pl.String, "root_hash": pl.String},
)
ROUND_DELTAS = _table(
    "round_deltas",
    ("round", "site"),
    {
        "round": pl.String,
        "site": pl.String,
        "status": pl.String,
        "num_clips": pl.Int64,
        "num_steps": pl.Int64,
        "size_bytes": pl.Int64,
        "took_s": pl.Float64,
        "gpu_s": pl.Float64,
        "loss_before": pl.Float64,
        "loss_after": pl.Float64,
        "norm": pl.Float64,
        "staleness": pl.Int64,
        "content_sha256": pl.String,
    },
)
TABLES: Mapping[str, Table] = MappingProxyType(
    {
        t.name: t
        for t in (
            PROMPTS,
            CLIPS,
            FAILURES,
            RECEIPTS,
            GENERATIONS,
            BLOCKED,
            SIGNALS,
            VECTORS,
            DEDUP,
            SUPERSEDED,
            MANIFEST,
            SCENES,
            CAPTIONS,
            LINEAGE,
            SCORES,
            RELEASES,
            RELEASE_CLIPS,
            RETRACTIONS,
            PROJECTIONS,
            RECONCILIATIONS,
            QUERIES,
            AUDITS,
            ROUNDS,
            ROUND_WAVES,
            ROUND_DELTAS,
        )
    }
)


def _receipts_2(rows: pl.DataFrame) -> pl.DataFrame:
    """What GPU work cost; the steps of version 1 did none."""
    return rows.with_columns(pl.lit(None, pl.Float64).alias(name) for name in GPU_COLUMNS)


def _lineage_2(rows: pl.DataFrame) -> pl.DataFrame:
    """Tier and sketch of a clip; every clip of version 1 is itself a sketch."""
    return rows.with_columns(tier=pl.lit("sketch"), sketch_recipe_id=pl.lit(None, pl.String))


# (table, version) -> one step up; a released version keeps its entry for ever.
_UPGRADES: Mapping[tuple[str, int], Callable[[pl.DataFrame], pl.DataFrame]] = MappingProxyType(
    {("receipts", 1): _receipts_2, ("lineage", 1): _lineage_2}
)


def table_bytes(table: Table, rows: pl.DataFrame) -> bytes:
    """Rows as a parquet file of this table's version; equal rows give equal bytes.

    Raises:
        MalformedRecordError: If the rows do not have the table's columns.
    """
    arrow = table.conform(rows).to_arrow(compat_level=pl.CompatLevel.oldest())
    arrow = arrow.replace_schema_metadata({_FORMAT_KEY: f"{table.name}/{table.version}".encode()})
    sink = io.BytesIO()
    pq.write_table(arrow, sink, compression="zstd", row_group_size=_ROW_GROUP_ROWS)
    return sink.getvalue()


def read_table(table: Table, content: bytes) -> pl.DataFrame:
    """Rows of a table file of any released version, in today's columns.

    Raises:
        MalformedRecordError: If the bytes are not a file of this table.
    """
    parquet = _open(table.name, content)
    name, version = _named(_label(parquet))
    if name != table.name or not 1 <= version <= table.version:
        raise MalformedRecordError(
            f"table {table.name}",
            f"{name}/{version}" if version else "no format label",
            f"{table.name}/1 to {table.name}/{table.version}",
            "Read it with the release of worldloop that wrote it.",
        )
    frame = pl.from_arrow(parquet.read())
    if not isinstance(frame, pl.DataFrame):
        raise MalformedRecordError(
            f"table {table.name}", "one column", "a table", "Delete it and run its asset again."
        )
    return table.conform(upgrade(table, frame, version=version))


def upgrade(table: Table, rows: pl.DataFrame, *, version: int) -> pl.DataFrame:
    """Rows of an older version of a table, lifted to today's columns one version at a time."""
    for step in range(version, table.version):
        rows = _UPGRADES[table.name, step](rows)
    return rows


def table_label(content: bytes) -> tuple[str, int]:
    """Name and version of the table that a file holds, e.g. `("clips", 1)`.

    Raises:
        MalformedRecordError: If the bytes are not parquet, or name no table.
    """
    try:  # a small part of the time that it takes to open the file
        label = pl.read_parquet_metadata(io.BytesIO(content)).get(_FORMAT_KEY.decode(), "")
    except pl.exceptions.PolarsError:
        label = _label(_open("file", content))
    name, version = _named(label)
    if not version:
        raise MalformedRecordError(
            "table file", "no format label", "a file that worldloop wrote", "Delete it."
        )
    return name, version


def _open(name: str, content: bytes) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(io.BytesIO(content))
    except pa.ArrowInvalid as error:
        raise MalformedRecordError(
            f"table {name}",
            str(error)[:80],
            "a parquet file",
            "Delete it and run its asset again.",
        ) from error


def _label(parquet: pq.ParquetFile) -> str:
    label: bytes = (parquet.schema_arrow.metadata or {}).get(_FORMAT_KEY, b"")
    return label.decode()


def _named(label: str) -> tuple[str, int]:
    """What a file says it is; version 0 if it says nothing."""
    name, _, version = label.partition("/")
    return name, int(version) if version.isdigit() else 0
