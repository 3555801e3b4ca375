"""The append-only log: which kinds of rows there are, how a batch is written, which rows win.

A site has two logs. `private` stays at home: clips, scenes, captions, vectors and what was measured.
`shared` goes to every site of the federation, so its columns are an allow-list of ids, hashes,
place keys, scores and counts: no caption, no picture, no vector. How batches get their numbers is
in resources/site_log.py.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import polars as pl

from worldloop import records
from worldloop.errors import MalformedRecordError, UnknownKeyError
from worldloop.layout import LogName
from worldloop.records import Table
from worldloop.seeds import canonical_json

_HEAD: dict[str, pl.DataType | type[pl.DataType]] = {
    "kind": pl.String,
    "id": pl.String,
    "schema_version": pl.Int32,
}
_BYTES_AT_ONCE = 64 * 2**20  # of batches that are decoded together
LOG_COLUMNS = tuple(_HEAD)  # of every row, before its payload
_IDS_AND_HASHES = """recipe_id scene_id content_sha256 pack_key duplicate_of superseded_by model_id
    root_hash atlas_hash release of_kind of_id sketch_recipe_id"""
_PLACES = "wave index city institution site log_position"
_SCORES = """motion_mean_px motion_still_share sharpness exposure_mean exposure_dark_share
    exposure_bright_share num_cuts accepted reason status kind similarity epsilon"""
_COUNTS = "num_frames duration_s size_bytes num_clips num_rejected generator generator_version tier"
_UPKEEP = """projection origin measured_at repaired_at num_rows num_behind lag_s recall took_s num_requests
    num_expected num_missing num_repaired"""
_TRAINING = """round opened_at ended_at model strategy codec outcome num_sites num_deltas num_steps gpu_s loss_before
    loss_after norm staleness adapter_sha256 base_round lineage_depth"""
SHARED_COLUMNS = frozenset(
    f"{_IDS_AND_HASHES} {_PLACES} {_SCORES} {_COUNTS} {_UPKEEP} {_TRAINING}".split()
)
_SCALARS = frozenset(
    {pl.String, pl.Int32, pl.Int64, pl.Float64, pl.Boolean, pl.Datetime("us", "UTC")}
)
# Rows about the catalogs themselves: no projection is behind because of them, or it would never end.
UPKEEP_KINDS = frozenset({"projections", "reconciliations", "queries", "audits"})


@dataclass(frozen=True)
class Kind:
    """One kind of log rows.

    Attributes:
        name: Plural noun, the folder of its batches.
        log: `private` or `shared`.
        table: Its payload; a row's id is made of the table's key.

    Raises:
        ValueError: If the log is shared and a column is not on the allow-list.
    """

    name: str
    log: LogName
    table: Table

    def __post_init__(self) -> None:
        if self.log == "private":
            return
        for column, kind_of_value in self.table.columns.items():
            if column not in SHARED_COLUMNS or kind_of_value not in _SCALARS:
                raise ValueError(
                    f"The shared log's {self.name!r} has the column {column!r} ({kind_of_value}); "
                    "expected scalars named in SHARED_COLUMNS. Captions, pictures and vectors stay "
                    "at their site: put the column into a private kind."
                )

    @property
    def format(self) -> Table:
        """The format of a batch: kind, id and schema version, then the payload."""
        payload = {_log_column(name): value for name, value in self.table.columns.items()}
        return Table(
            f"log_{self.name}",
            self.table.version,
            MappingProxyType({**_HEAD, **payload}),
            ("id",),
        )


def _log_column(column: str) -> str:
    """Payload columns keep their names, but for one that the log itself uses."""
    return f"payload_{column}" if column in _HEAD else column


def _kinds(log: LogName, **tables: Table) -> dict[str, Kind]:
    return {name: Kind(name, log, table) for name, table in tables.items()}


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        **_kinds(
            "private",
            scenes=records.SCENES,
            captions=records.CAPTIONS,
            clips=records.CLIPS,
            failures=records.FAILURES,
            receipts=records.RECEIPTS,
            generations=records.GENERATIONS,
            blocked=records.BLOCKED,
            signals=records.SIGNALS,
            vectors=records.VECTORS,
            queries=records.QUERIES,
            audits=records.AUDITS,
        ),
        **_kinds(
            "shared",
            lineage=records.LINEAGE,
            scores=records.SCORES,
            duplicates=records.DEDUP,
            superseded=records.SUPERSEDED,
            releases=records.RELEASES,
            release_clips=records.RELEASE_CLIPS,
            projections=records.PROJECTIONS,
            reconciliations=records.RECONCILIATIONS,
            rounds=records.ROUNDS,
            round_waves=records.ROUND_WAVES,
            round_deltas=records.ROUND_DELTAS,
        ),
    }
)
RETRACTIONS: Mapping[LogName, Kind] = MappingProxyType(
    {
        "private": Kind("retractions", "private", records.RETRACTIONS),
        "shared": Kind("retractions", "shared", records.RETRACTIONS),
    }
)
# Every kind that has batches; the retractions of both logs go by names of their own.
BATCHED_KINDS: Mapping[str, Kind] = MappingProxyType(
    {**KINDS, **{f"{log}/retractions": kind for log, kind in RETRACTIONS.items()}}
)


def log_kind(name: str) -> Kind:
    """A kind by its name.

    Raises:
        UnknownKeyError: If there is none.
    """
    if name not in KINDS:
        raise UnknownKeyError("kind of log rows", name, KINDS)
    return KINDS[name]


def batched_kind(name: str) -> Kind:
    """A kind by its name, or the retractions of a log: `private/retractions`, `shared/retractions`.

    Raises:
        UnknownKeyError: If there is none.
    """
    if name not in BATCHED_KINDS:
        raise UnknownKeyError("kind of log rows", name, BATCHED_KINDS)
    return BATCHED_KINDS[name]


def log_rows(kind: Kind, payload: pl.DataFrame) -> pl.DataFrame:
    """Rows of the kind's table as log rows: with kind, id and schema version.

    Raises:
        MalformedRecordError: If the payload does not have the table's columns, or a key repeats.
    """
    rows = kind.table.conform(payload)
    key = [pl.col(column).cast(pl.String) for column in kind.table.key]
    head = [
        pl.lit(kind.name).alias("kind"),
        pl.concat_str(key, separator="/").alias("id"),
        pl.lit(kind.table.version, pl.Int32).alias("schema_version"),
    ]
    body = [pl.col(column).alias(_log_column(column)) for column in kind.table.columns]
    return rows.select(*head, *body)


def payload(kind: Kind, rows: pl.DataFrame) -> pl.DataFrame:
    """Log rows as rows of the kind's table."""
    return rows.select(pl.col(_log_column(column)).alias(column) for column in kind.table.columns)


def batch_bytes(kind: Kind, rows: pl.DataFrame) -> bytes:
    """Log rows as a batch file; equal rows give equal bytes."""
    return records.table_bytes(kind.format, rows)


def read_batch(kind: Kind, content: bytes, *, waves: Iterable[str] | None = None) -> pl.DataFrame:
    """The log rows of a batch of any released version.

    Args:
        kind: What the batch holds.
        content: The file.
        waves: Only rows of these waves; row groups without them are not decoded.

    Raises:
        MalformedRecordError: If the bytes are not a batch of this kind.
        ValueError: If `waves` is given for a kind whose rows have no wave.
    """
    return _read_same(kind, [content], _version_of(kind, content), waves)


def read_batches(
    kind: Kind, contents: Iterable[bytes], *, waves: Iterable[str] | None = None
) -> pl.DataFrame:
    """The log rows of many batches, one after the other; many small ones are read together.

    Args:
        kind: What the batches hold.
        contents: The files, which may be of different released versions.
        waves: Only rows of these waves.

    Raises:
        MalformedRecordError: If the bytes of one are not a batch of this kind.
        ValueError: If `waves` is given for a kind whose rows have no wave.
    """
    wanted = None if waves is None else frozenset(waves)
    parts = [_read_same(kind, alike, version, wanted) for version, alike in _alike(kind, contents)]
    return pl.concat([kind.format.empty(), *parts])


def _alike(kind: Kind, contents: Iterable[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Neighbours of one version, as many at once as fit into memory."""
    alike: list[bytes] = []
    version = size_bytes = 0
    for content in contents:
        its_version = _version_of(kind, content)
        if alike and (its_version != version or size_bytes + len(content) > _BYTES_AT_ONCE):
            yield version, alike
            alike, size_bytes = [], 0
        version = its_version
        alike.append(content)
        size_bytes += len(content)
    if alike:
        yield version, alike


def _version_of(kind: Kind, content: bytes) -> int:
    """The version of a batch; an error if it is of something else, or of a later release."""
    name, version = records.table_label(content)
    if name != kind.format.name or version > kind.table.version:
        raise MalformedRecordError(
            f"log batch of {kind.name}",
            f"{name}/{version}",
            f"{kind.format.name}/1 to {kind.format.name}/{kind.table.version}",
            "Read it with the release of worldloop that wrote it.",
        )
    return version


def _read_same(
    kind: Kind, contents: list[bytes], version: int, waves: Iterable[str] | None
) -> pl.DataFrame:
    """The log rows of batches of one version, in today's columns."""
    if waves is not None and "wave" not in kind.table.columns:
        raise ValueError(f"Rows of {kind.name!r} belong to no wave; read them all.")
    rows = _scan(contents)
    if waves is not None:
        rows = rows.filter(pl.col("wave").is_in(sorted(waves)))
    frame = _collect(rows, kind.name)
    if version == kind.table.version:
        return frame
    head, body = frame.select(list(_HEAD)), frame.drop(list(_HEAD))
    body = body.rename({_log_column(c): c for c in _HEAD}, strict=False)
    lifted = records.upgrade(kind.table, body, version=version)
    lifted = lifted.rename({c: _log_column(c) for c in _HEAD}, strict=False)
    return kind.format.conform(pl.concat([head, lifted], how="horizontal"))


def read_batch_ids(content: bytes) -> pl.Series:
    """The ids of a batch, without its payload."""
    return _collect(_scan([content]).select("id"), "any kind")["id"]


def _scan(contents: list[bytes]) -> pl.LazyFrame:
    return pl.scan_parquet(contents)


def _collect(rows: pl.LazyFrame, name: str) -> pl.DataFrame:
    try:
        return rows.collect()
    except pl.exceptions.PolarsError as error:
        raise MalformedRecordError(
            f"log batch of {name}", str(error)[:80], "readable parquet", "Restore it from a backup."
        ) from error


def winners(rows: pl.DataFrame, retracted: pl.Series) -> pl.DataFrame:
    """The rows that count, in log order: the first of each id, unless it was taken back.

    Args:
        rows: Log rows of one kind, oldest first.
        retracted: Ids that `retractions` rows take back.
    """
    first = rows.unique("id", keep="first", maintain_order=True)
    return first.filter(~pl.col("id").is_in(retracted.implode()))


def encode_position(heads: Mapping[LogName, Mapping[str, int]]) -> str:
    """A place in both logs as canonical JSON: the newest batch number of each kind.

    Example:
        >>> encode_position({"private": {"clips": 2}, "shared": {}})
        '{"private":{"clips":2},"shared":{}}'
    """
    return canonical_json({log: dict(kinds) for log, kinds in heads.items()}).decode()


def decode_position(position: str) -> dict[LogName, dict[str, int]]:
    """The newest batch number of each kind at a position of one site.

    Raises:
        MalformedRecordError: If the text is not a position of one site.
    """
    try:
        heads = json.loads(position)
        return {"private": dict(heads["private"]), "shared": dict(heads["shared"])}
    except (ValueError, KeyError, TypeError) as error:
        raise MalformedRecordError(
            "log position", position[:80], "what SiteLog.position() gave", "Take it from a release."
        ) from error


def encode_positions(positions: Mapping[str, str]) -> str:
    """A place in the logs of several sites, as canonical JSON.

    Args:
        positions: Name of a site to what its `SiteLog.position()` gave.

    Example:
        >>> encode_positions({"local": '{"private":{"clips":2},"shared":{}}'})
        '{"sites":{"local":{"private":{"clips":2},"shared":{}}}}'
    """
    return canonical_json(
        {"sites": {site: decode_position(text) for site, text in positions.items()}}
    ).decode()


def decode_positions(position: str, *, coordinator: str) -> dict[str, str]:
    """The position of each site; a position of one site alone is the coordinator's.

    Raises:
        MalformedRecordError: If the text is not a position.
    """
    try:
        sites = dict(json.loads(position).get("sites", {}))
    except (ValueError, TypeError, AttributeError):
        sites = {}
    if not sites:
        return {coordinator: encode_position(decode_position(position))}
    return {
        site: encode_position(decode_position(json.dumps(heads))) for site, heads in sites.items()
    }
