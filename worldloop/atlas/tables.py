"""The atlas as polars frames, one per table, for people and for the graph."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from worldloop.atlas.atlas import Atlas

_WORDLESS = ("words", "aliases", "categories")  # mappings, which become two or three columns


def atlas_tables(atlas: Atlas) -> dict[str, pl.DataFrame]:
    """One frame for each table of `Atlas.to_record`.

    Lists stay lists; rows keep the order of the atlas files.

    Example:
        >>> from worldloop.atlas.atlas import load_atlas
        >>> tables = atlas_tables(load_atlas())
        >>> tables["aliases"].columns, tables["roads"]["key"][0]
        (['kind', 'alias', 'key'], 'lane')
    """
    record = atlas.to_record()
    mappings = {name: record.pop(name) for name in _WORDLESS}
    rows = {
        **record,
        "words": [{"word": word, "english": text} for word, text in mappings["words"].items()],
        "aliases": [
            {"kind": kind, "alias": alias, "key": key}
            for kind, aliases in mappings["aliases"].items()
            for alias, key in aliases.items()
        ],
        "categories": [
            {"key": key, "meaning": text} for key, text in mappings["categories"].items()
        ],
        "crowd_profiles": [
            {"key": one["key"], **one["levels"]} for one in record["crowd_profiles"]
        ],
        "roads": [
            {**one, "manoeuvre_densities": _told(one["manoeuvre_densities"])}
            for one in record["roads"]
        ],
        "sources": [{"source": key, **facts} for key, facts in record["sources"].items()],
    }
    return {name: _frame(table) for name, table in rows.items()}


def _told(densities: Mapping[str, Sequence[str]]) -> list[str]:
    """Each manoeuvre with its densities, `following a bus: light, dense`."""
    return [f"{manoeuvre}: {', '.join(names)}" for manoeuvre, names in densities.items()]


def _frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """A frame; lists that are empty in every row are lists of text."""
    frame = pl.DataFrame(rows, infer_schema_length=None)
    bare = [name for name, kind in frame.schema.items() if kind == pl.List(pl.Null)]
    return frame.with_columns(pl.col(bare).cast(pl.List(pl.String)))
