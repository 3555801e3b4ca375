import hashlib
import io
import subprocess
import sys

import polars as pl
import pytest

from tests import rows
from worldloop import records
from worldloop.errors import MalformedRecordError
from worldloop.records import CLIPS, SIGNALS, TABLES, Table, read_table, table_bytes, table_label


@pytest.mark.parametrize("name", TABLES)
def test_every_table_can_be_empty(name):
    table = TABLES[name]

    assert read_table(table, table_bytes(table, table.empty())).equals(table.empty())
    assert table_label(table_bytes(table, table.empty())) == (name, table.version)
    assert set(table.key) <= set(table.columns)


def test_rows_survive_and_their_order_too():
    clips = rows.clips(range(5)).reverse()

    assert read_table(CLIPS, table_bytes(CLIPS, clips)).equals(clips)


def test_column_order_and_width_of_numbers_do_not_matter_to_a_writer():
    shuffled = rows.clips(range(2)).select(reversed(CLIPS.columns)).cast({"index": pl.Int64})

    assert table_bytes(CLIPS, shuffled) == table_bytes(CLIPS, rows.clips(range(2)))


def test_equal_rows_give_equal_bytes_in_another_process():
    program = (
        "import hashlib; from tests import rows; from worldloop.records import *;"
        "print(hashlib.sha256(table_bytes(CLIPS, rows.clips(range(3)))).hexdigest())"
    )
    there = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONHASHSEED": "7"},
    )
    here = hashlib.sha256(table_bytes(CLIPS, rows.clips(range(3)))).hexdigest()
    assert there.stdout.strip() == here


def test_missing_unknown_and_uncastable_columns_are_refused():
    clips = rows.clips(range(1))
    for odd in (
        clips.drop("wave"),
        clips.with_columns(extra=1),
        clips.with_columns(index=pl.lit("x")),
    ):
        with pytest.raises(MalformedRecordError, match="table clips"):
            table_bytes(CLIPS, odd)


def test_a_repeated_key_is_refused():
    with pytest.raises(MalformedRecordError, match="repeated keys"):
        table_bytes(CLIPS, pl.concat([rows.clips(range(1)), rows.clips(range(1))]))


def test_other_tables_other_files_and_future_versions_are_refused():
    future = Table("clips", 2, CLIPS.columns, CLIPS.key)
    plain = io.BytesIO()
    rows.clips(range(1)).write_parquet(plain)
    for content, found in (
        (table_bytes(SIGNALS, rows.signals(range(1))), "signals/1"),
        (table_bytes(future, rows.clips(range(1))), "clips/2"),
        (plain.getvalue(), "no format label"),
        (b"PAR1 cut short", "parquet"),
        (b"", "parquet"),
    ):
        with pytest.raises(MalformedRecordError, match=found):
            read_table(CLIPS, content)


def test_old_versions_are_lifted_one_step_at_a_time(monkeypatch):
    content = table_bytes(CLIPS, rows.clips(range(2)))
    columns = {**CLIPS.columns, "second": pl.Int64, "third": pl.Int64}
    today = Table("clips", 3, columns, CLIPS.key)
    steps = {
        ("clips", 1): lambda table: table.with_columns(second=2),
        ("clips", 2): lambda table: table.with_columns(third=pl.col("second") + 1),
    }
    monkeypatch.setattr(records, "_UPGRADES", steps)

    assert read_table(today, content)["third"].to_list() == [3, 3]
