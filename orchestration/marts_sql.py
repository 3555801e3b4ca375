"""`make marts-sql`: the SQL of every staging view and mart for the clouds' own query engines.

The files in `dbt/compiled/<dialect>/` come from the models that DuckDB runs; the macros choose what
each engine says differently. Each is one statement that creates a view over the site's Iceberg
tables; `order.txt` says in which order they can be run. Committed, so that a change of a model shows
what it does to every engine, and so that a cloud needs no dbt.
"""

import argparse
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestration.mart_inputs import DBT_FOLDER, run_dbt
from worldloop.catalog_tables import KIND_TABLES

DIALECTS: Mapping[str, str] = {
    "bigquery": "create or replace view",
    "athena": "create or replace view",
    "fabric": "create or alter view",
}
COMPILED = DBT_FOLDER / "compiled"
TABLES, VIEWS = "worldloop", "worldloop_marts"
_ORDER = "order.txt"


def main() -> None:
    """Write the files anew, or say which would change."""
    parser = argparse.ArgumentParser(prog="orchestration.marts_sql", description=__doc__)
    parser.add_argument("--into", type=Path, default=COMPILED, help="folder of the dialects")
    parser.add_argument("--tables", default=TABLES, help="data set of the Iceberg tables")
    parser.add_argument("--views", default=VIEWS, help="data set of the views")
    options = parser.parse_args()
    for dialect in DIALECTS:
        statements = mart_sql(dialect, tables=options.tables, views=options.views)
        write_sql(statements, options.into / dialect)
        Console().print(f"{options.into / dialect}: {len(statements)} views")


def mart_sql(dialect: str, *, tables: str = TABLES, views: str = VIEWS) -> dict[str, str]:
    """One statement a model that creates its view, in an order in which they can be run.

    A model over a kind of rows that has no Iceberg table is left out, with what is made from it.

    Args:
        dialect: One of `DIALECTS`.
        tables: Data set (BigQuery), database (Athena) or schema (Fabric) of the Iceberg tables.
        views: The same, of the views.

    Raises:
        JobFailedError: If dbt cannot compile the models.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        run_dbt("compile", {"home": folder, "dialect": dialect, "tables": tables}, target=target)
        manifest = json.loads((target / "manifest.json").read_text(encoding="utf-8"))
        models = {n["unique_id"]: n for n in manifest["nodes"].values() if _is_model(n)}
        ordered = _in_order(models)
        compiled = {
            key: (DBT_FOLDER / models[key]["compiled_path"]).read_text(encoding="utf-8")
            for key in ordered
        }
    names = {node["relation_name"]: f"{views}.{node['name']}" for node in models.values()}
    return {
        models[key]["name"]: _statement(dialect, models[key], compiled[key], names)
        for key in ordered
    }


def write_sql(statements: Mapping[str, str], folder: Path) -> None:
    """Write a file a statement and their order; files of models that are gone are deleted."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.sql"):
        if stale.stem not in statements:
            stale.unlink()
    for name, statement in statements.items():
        (folder / f"{name}.sql").write_text(statement, encoding="utf-8")
    (folder / _ORDER).write_text("\n".join(statements) + "\n", encoding="utf-8")


def read_sql(folder: Path) -> dict[str, str]:
    """What `write_sql` wrote, in its order."""
    names = (folder / _ORDER).read_text(encoding="utf-8").split()
    return {name: (folder / f"{name}.sql").read_text(encoding="utf-8") for name in names}


def _is_model(node: Mapping[str, Any]) -> bool:
    return bool(node["resource_type"] == "model")


def _in_order(models: Mapping[str, Any]) -> list[str]:
    """Models after everything that they are made from, alphabetically where that leaves a choice."""
    kinds = {table.kind for table in KIND_TABLES}
    ordered: list[str] = []
    while True:
        ready = [
            key
            for key in sorted(models, key=lambda key: (models[key]["path"], key))
            if key not in ordered
            and all(_is_there(need, kinds, ordered) for need in models[key]["depends_on"]["nodes"])
        ]
        if not ready:
            return ordered
        ordered += ready


def _is_there(need: str, kinds: set[str], ordered: list[str]) -> bool:
    """Whether a source has a table, or a model has been placed."""
    if need.startswith("source."):
        return need.rsplit(".", 1)[1] in kinds
    return need in ordered


def _statement(
    dialect: str, model: Mapping[str, Any], compiled: str, names: Mapping[str, str]
) -> str:
    for relation, name in names.items():
        compiled = compiled.replace(relation, name)
    lines = [line.rstrip() for line in compiled.strip().splitlines()]
    body = re.sub(r"\n{3,}", "\n\n", "\n".join(lines))
    origin = f"dbt/models/{model['path']}"
    view = names[model["relation_name"]]
    return (
        f"-- Made by `make marts-sql` from {origin}; change that.\n"
        f"{DIALECTS[dialect]} {view} as\n{body}\n"
    )


if __name__ == "__main__":
    main()
