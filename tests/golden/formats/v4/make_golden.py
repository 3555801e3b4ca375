"""Writes the files whose format came with federated rounds: `python -m tests.golden.formats.v4.make_golden`.

What is not here is in the folders beside. When one of these formats changes, this folder stays as it
is, this script refuses to run, and the next version gets a folder and a script of its own.
"""

from pathlib import Path

import polars as pl

from tests.dbt import small_site
from worldloop import records
from worldloop.logs import KINDS, batch_bytes, log_rows

FOLDER = Path(__file__).parent
VERSIONS = {"round_deltas": 1, "round_waves": 1, "rounds": 1}


def make_tables() -> dict[str, pl.DataFrame]:
    """Rows of every table, few and made up."""
    return {name: getattr(small_site, name)() for name in VERSIONS}


def write_all(folder: Path) -> None:
    """Write every file."""
    for name, table in make_tables().items():
        (folder / f"{name}.parquet").write_bytes(records.table_bytes(records.TABLES[name], table))
        content = batch_bytes(KINDS[name], log_rows(KINDS[name], table))
        (folder / f"log_{name}.parquet").write_bytes(content)


def main() -> None:
    """Write the files, if the code still writes these versions."""
    written = {name: records.TABLES[name].version for name in VERSIONS}
    assert written == VERSIONS, f"{written} changed; write them into a folder of their own"
    write_all(FOLDER)


if __name__ == "__main__":
    main()
