"""The atlas as polars frames, one per table, for people and for the graph."""

import polars as pl

from worldloop.atlas.atlas import Atlas


def atlas_tables(atlas: Atlas) -> dict[str, pl.DataFrame]:
    """Cities, institutions, languages, signs, decorum and sources, one frame each.

    Lists stay lists; rows keep the order of the atlas files.

    Example:
        >>> from worldloop.atlas.atlas import load_atlas
        >>> sorted(atlas_tables(load_atlas()))
        ['cities', 'decorum', 'institutions', 'languages', 'signs', 'sources', 'weather']
    """
    record = atlas.to_record()
    sources = [{"source": key, **facts} for key, facts in record.pop("sources").items()]
    record.pop("words")
    tables = {**record, "sources": sources}
    return {name: pl.DataFrame(rows, infer_schema_length=None) for name, rows in tables.items()}
