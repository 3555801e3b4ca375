"""CSV as the atlas keeps it: UTF-8, a header, Unix line ends, text cells; it reads and diffs well."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from worldloop.errors import MalformedRecordError

DATA = Path(__file__).with_name("data")


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table as text.

    Raises:
        MalformedRecordError: If a row has more or fewer cells than the header.
    """
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file)  # DictReader takes three times as long
        columns = next(lines, [])
        cells = [line for line in lines if line]
    for number, line in enumerate(cells, start=2):
        if len(line) != len(columns):
            raise MalformedRecordError(
                f"{path.name}, row {number}",
                line,
                f"the columns {', '.join(columns)}",
                "Give the row one cell per column.",
            )
    return [dict(zip(columns, line, strict=True)) for line in cells]


def write_rows(path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Write a table; the same rows give the same bytes."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
