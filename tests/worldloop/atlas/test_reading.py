import shutil
from pathlib import Path

import pytest

from worldloop.atlas.atlas import Atlas, load_atlas, read_atlas
from worldloop.atlas.csv_tables import DATA
from worldloop.errors import MalformedRecordError


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """A copy of every table, without the pictures."""
    ignored = shutil.ignore_patterns("bitmaps*", "*.xz", "*.bin")
    return Path(shutil.copytree(DATA, tmp_path / "data", ignore=ignored))


def changed(folder: Path, name: str, old: str, new: str) -> Path:
    path = folder / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return folder


def test_a_copy_of_the_tables_is_the_same_atlas(tables):
    assert read_atlas(tables).hash == load_atlas().hash


def test_a_changed_cell_is_another_atlas(tables):
    assert read_atlas(changed(tables, "decorum.csv", "plaster", "glass")).hash != load_atlas().hash


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("cities.csv", "\nlima,", "\ntokyo,", r"cities\.csv, row 3: found 'tokyo', .* once"),
        ("cities.csv", ",35.6895,", ",north,", r"cities\.csv, row 2: found .*'north'"),
        ("cities.csv", "key,name,", "key,label,", r"cities\.csv, row 2: .*label"),
        ("hours.toml", "[day]", "[office]", r"hours\.toml: found .*line"),
        ("institutions.toml", 'osm_tag = "tourism/zoo"', "", r"\[zoo\]: found .*osm_tag"),
        ("aliases.csv", "kind,alias,key", "kind,alias,key\nplanet,x,y", r"aliases\.csv, row 2"),
        ("decorum.csv", "world,,zoo", "world,,,zoo", r"decorum\.csv, row \d+"),
    ],
)
def test_a_table_that_does_not_parse_names_file_and_row(tables, name, old, new, message):
    with pytest.raises(MalformedRecordError, match=message):
        read_atlas(changed(tables, name, old, new))


@pytest.mark.parametrize(
    ("name", "old", "new", "look"),
    [
        ("holidays.csv", "country,date", "country,day", lambda atlas: atlas.holidays[0]),
        ("activities.toml", "says =", "said =", lambda atlas: atlas.activities("zoo")),
    ],
)
def test_a_large_table_is_refused_on_its_first_use(tables, name, old, new, look):
    atlas: Atlas = read_atlas(changed(tables, name, old, new))
    with pytest.raises(MalformedRecordError, match=name):
        look(atlas)


def test_large_tables_behave_as_sequences():
    signs = load_atlas().signs
    assert signs[:2] == (signs[0], signs[1])
    assert len(list(signs)) == len(signs)
