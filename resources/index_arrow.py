"""Rows of the clip index in the form that Lance keeps them: checked, and as Arrow tables."""

from collections.abc import Iterator, Mapping

import numpy as np
import polars as pl
import pyarrow as pa

from worldloop.errors import MalformedRecordError
from worldloop.index_rows import INDEX_COLUMNS

_INTS = {"index": pa.int32()} | {
    f"{member}_{what}": pa.int64()
    for member in ("rgb", "poster")
    for what in ("offset", "size_bytes")
}
_TYPES = {**_INTS, "duration_s": pa.float64()}  # everything else is text


def check_rows(rows: pl.DataFrame) -> None:
    """Refuse rows that no table can take.

    Raises:
        MalformedRecordError: If columns are missing, or a clip has two rows of one model.
    """
    missing = sorted(set(INDEX_COLUMNS) - set(rows.columns))
    if missing:
        raise MalformedRecordError("index rows", f"no {missing}", "all columns", "Fix the writer.")
    repeated = rows.filter(rows.select("recipe_id", "model_id").is_duplicated())
    if repeated.height:
        raise MalformedRecordError(
            "index rows", repeated["recipe_id"][0], "one row per clip and model", "Fix the writer."
        )


def arrow_batches(
    first: pl.DataFrame, others: Iterator[pl.DataFrame], width: int
) -> Iterator[pa.RecordBatch]:
    """Rows piece by piece, each checked when its turn comes.

    Args:
        first: The first piece.
        others: Those behind it.
        width: Numbers of a vector.

    Raises:
        MalformedRecordError: As `check_rows` and `arrow_rows` do.
    """
    for rows in (part for parts in ([first], others) for part in parts):
        check_rows(rows)
        yield from arrow_rows(rows, width).to_batches()


def arrow_rows(rows: pl.DataFrame, width: int) -> pa.Table:
    """Rows as Lance keeps them; vectors of equal length lie side by side.

    Args:
        rows: `index_rows.INDEX_COLUMNS`.
        width: Numbers of a vector.

    Raises:
        MalformedRecordError: If vectors have other lengths.
    """
    schema = arrow_schema(width)
    numbers = rows["vector"].explode(empty_as_null=False).to_numpy().astype(np.float32)
    if numbers.size != rows.height * width:
        lengths = sorted(set(rows["vector"].list.len()))
        raise MalformedRecordError(
            "index rows", f"vectors of {lengths} numbers", f"{width}", "Embed the clips again."
        )
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(numbers, pa.float32()), width)
    table = rows.select(name for name in INDEX_COLUMNS if name != "vector").to_arrow()
    table = table.append_column(schema.field("vector"), vectors).select(schema.names)
    return table.cast(schema)


def arrow_schema(width: int, marks: Mapping[str, str] | None = None) -> pa.Schema:
    """The columns of a table.

    Args:
        width: Numbers of a vector.
        marks: What the table says of itself.
    """
    types = {name: _TYPES.get(name, pa.string()) for name in INDEX_COLUMNS}
    fields = {**types, "vector": pa.list_(pa.float32(), width)}
    return pa.schema([*fields.items()], metadata=dict(marks) if marks else None)
