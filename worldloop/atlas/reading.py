"""Reading the tables of the atlas from their files; one function per table, rows in file order.

Cells that do not parse and keys that stand twice are refused here, with file and row; what the
tables say is judged in `checks.py`.
"""

import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from worldloop.atlas.csv_tables import read_rows
from worldloop.atlas.records import (
    Activity,
    City,
    Country,
    CrowdProfile,
    Decorum,
    Holiday,
    Institution,
    Language,
    OpeningClass,
    Page,
    RoadType,
    SignWord,
    Species,
    WeatherRule,
)
from worldloop.errors import MalformedRecordError

Row = TypeVar("Row")
Cells = dict[str, str]
Fields = Mapping[str, Any]


class LazyRows(Sequence[Row], Generic[Row]):
    """Rows of a large table, read when somebody first looks at them."""

    def __init__(self, read: Callable[[], tuple[Row, ...]]):
        self._read = read

    @cached_property
    def _rows(self) -> tuple[Row, ...]:
        return self._read()

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Row, ...]: ...
    def __getitem__(self, index: int | slice) -> Row | tuple[Row, ...]:
        return self._rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file.

    Raises:
        MalformedRecordError: If it is none; the message names the line.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise MalformedRecordError(
            path.name, str(error), "TOML with every key once", "Correct that line."
        ) from error


def read_cities(folder: Path) -> dict[str, City]:
    """`cities.csv` by key."""
    return _keyed(folder / "cities.csv", _city)


def read_countries(folder: Path) -> dict[str, Country]:
    """`countries.csv` by ISO code."""
    return _keyed(folder / "countries.csv", _country)


def read_languages(folder: Path) -> dict[str, Language]:
    """`languages.csv` by tag."""
    return _keyed(folder / "languages.csv", _language, key="tag")


def read_pages(folder: Path) -> dict[str, Page]:
    """`pages.csv` by id."""
    return _keyed(folder / "pages.csv", lambda row: Page(**row), key="id")


def read_holidays(folder: Path) -> tuple[Holiday, ...]:
    """`holidays.csv`."""
    return _rows(folder / "holidays.csv", lambda row: Holiday(**row))


def read_decorum(folder: Path) -> tuple[Decorum, ...]:
    """`decorum.csv`; alternatives are split at `|`."""
    return _rows(folder / "decorum.csv", _decorum)


def read_species(folder: Path) -> tuple[Species, ...]:
    """`species.csv`; lists are split at `;`."""
    return _rows(folder / "species.csv", _species)


def read_signs(folder: Path) -> tuple[SignWord, ...]:
    """`signs.csv`."""
    return _rows(folder / "signs.csv", lambda row: SignWord(**row))


def read_words(folder: Path) -> dict[str, str]:
    """English text of every sign word, from `inputs/sign_words.csv`."""
    return _keyed(folder / "inputs/sign_words.csv", lambda row: row["english"], key="word")


def read_aliases(folder: Path) -> dict[str, dict[str, str]]:
    """`aliases.csv`: for `city` and `institution` the key that each alias stands for."""
    path, found = folder / "aliases.csv", {"city": dict[str, str](), "institution": {}}
    for number, row in enumerate(read_rows(path), start=2):
        if row["kind"] not in found or row["alias"] in found[row["kind"]]:
            raise MalformedRecordError(
                f"{path.name}, row {number}",
                f"{row['kind']} {row['alias']}",
                "a kind of 'city' or 'institution' and every alias once",
                "Correct or remove the row.",
            )
        found[row["kind"]][row["alias"]] = row["key"]
    return found


def read_institutions(folder: Path) -> dict[str, Institution]:
    """`institutions.toml` by key."""
    return _tables(folder / "institutions.toml", Institution)


def read_opening_classes(folder: Path) -> dict[str, OpeningClass]:
    """`hours.toml` by key."""
    return _tables(folder / "hours.toml", OpeningClass)


def read_crowd_profiles(folder: Path) -> dict[str, CrowdProfile]:
    """`crowds.toml` by key."""
    path = folder / "crowds.toml"
    return {key: CrowdProfile(key, levels) for key, levels in read_toml(path).items()}


def read_roads(folder: Path) -> dict[str, RoadType]:
    """`roads.toml` by key."""
    return _tables(folder / "roads.toml", RoadType)


def read_categories(folder: Path) -> dict[str, str]:
    """What each content category of `categories.toml` means."""
    return {key: str(meaning) for key, meaning in read_toml(folder / "categories.toml").items()}


def read_weather_rules(folder: Path) -> tuple[WeatherRule, ...]:
    """The rules of `climates.toml`, in order."""
    path = folder / "climates.toml"
    rules = read_toml(path).get("rule", [])
    return tuple(
        _record(WeatherRule, rule, f"{path.name}, rule {number}")
        for number, rule in enumerate(rules, start=1)
    )


def read_activities(folder: Path) -> tuple[Activity, ...]:
    """`activities.toml`: a table for each institution, in it one for each activity."""
    path = folder / "activities.toml"
    return tuple(
        _record(
            Activity,
            {"key": key, "institution": institution, **fields},
            f"{path.name}, [{institution}.{key}]",
        )
        for institution, activities in read_toml(path).items()
        for key, fields in activities.items()
    )


def _rows(path: Path, parse: Callable[[Cells], Row]) -> tuple[Row, ...]:
    """The records of a CSV file."""
    return tuple(row for _, row in _parsed(path, read_rows(path), parse))


def _keyed(path: Path, parse: Callable[[Cells], Row], *, key: str = "key") -> dict[str, Row]:
    """The records of a CSV file by a column that must be unique."""
    rows = read_rows(path)
    found: dict[str, Row] = {}
    for (number, record), row in zip(_parsed(path, rows, parse), rows, strict=True):
        if row[key] in found:
            raise MalformedRecordError(
                f"{path.name}, row {number}",
                row[key],
                f"every {key} once",
                "Remove or rename one of the two rows.",
            )
        found[row[key]] = record
    return found


def _parsed(
    path: Path, rows: Iterable[Cells], parse: Callable[[Cells], Row]
) -> Iterator[tuple[int, Row]]:
    """Row numbers and records; the header is row 1."""
    for number, row in enumerate(rows, start=2):
        try:
            record = parse(row)
        except (KeyError, TypeError, ValueError) as error:
            raise MalformedRecordError(
                f"{path.name}, row {number}",
                str(error),
                "the columns and types of worldloop/atlas/records.py",
                "Correct the cell.",
            ) from error
        yield number, record


def _tables(path: Path, kind: Callable[..., Row]) -> dict[str, Row]:
    """The tables of a TOML file as records with their key."""
    return {
        key: _record(kind, {"key": key, **fields}, f"{path.name}, [{key}]")
        for key, fields in read_toml(path).items()
    }


def _record(kind: Callable[..., Row], fields: Fields, where: str) -> Row:
    """A record from a TOML table; its lists become tuples."""
    cells = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
    try:
        return kind(**cells)
    except TypeError as error:
        raise MalformedRecordError(
            where, str(error), "the fields of worldloop/atlas/records.py", "Correct the table."
        ) from error


def _city(row: Cells) -> City:
    """A city from its cells."""
    facts: dict[str, Any] = {
        **row,
        "latitude_deg": float(row["latitude_deg"]),
        "longitude_deg": float(row["longitude_deg"]),
        "population": int(row["population"]),
        "languages": tuple(row["languages"].split(";")),
    }
    return City(**facts)


def _country(row: Cells) -> Country:
    """A country from its cells."""
    facts: dict[str, Any] = dict(row)
    return Country(**{**facts, "weekend": tuple(int(day) for day in _split(row["weekend"]))})


def _language(row: Cells) -> Language:
    """A language from its cells."""
    facts: dict[str, Any] = dict(row)
    return Language(**facts)


def _decorum(row: Cells) -> Decorum:
    """A decorum rule from its cells."""
    facts = {name: cell for name, cell in row.items() if name != "value"}
    return Decorum(values=tuple(row["value"].split("|")), **facts)


def _species(row: Cells) -> Species:
    """A species from its cells."""
    lists = {name: _split(row[name]) for name in ("continents", "institutions", "needs")}
    facts: dict[str, Any] = {**row, **lists}
    return Species(**facts)


def _split(cell: str) -> tuple[str, ...]:
    """The parts of a `;`-joined cell; none of an empty one."""
    return tuple(cell.split(";")) if cell else ()
