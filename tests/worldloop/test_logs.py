import polars as pl
import pytest

from tests import rows
from worldloop import records
from worldloop.errors import MalformedRecordError, UnknownKeyError
from worldloop.logs import (
    KINDS,
    RETRACTIONS,
    SHARED_COLUMNS,
    Kind,
    batch_bytes,
    decode_position,
    encode_position,
    log_kind,
    log_rows,
    payload,
    read_batch,
    read_batches,
    winners,
)

PRIVATE = {"caption", "prose", "cosmos3", "scene", "recipe", "vector", "phash", "members"}


def batch(kind, table):
    return batch_bytes(log_kind(kind), log_rows(log_kind(kind), table))


@pytest.mark.parametrize("kind", [k for k in KINDS if KINDS[k].log == "shared"])
def test_the_shared_log_carries_no_caption_picture_or_vector(kind):
    assert not PRIVATE & set(KINDS[kind].table.columns)
    assert set(KINDS[kind].table.columns) <= SHARED_COLUMNS


def test_the_allow_list_itself_names_nothing_private():
    assert not PRIVATE & SHARED_COLUMNS


@pytest.mark.parametrize(
    "table", [records.CAPTIONS, records.VECTORS, records.SCENES, records.CLIPS]
)
def test_a_private_table_cannot_be_made_a_shared_kind(table):
    assert Kind("x", "private", table)
    with pytest.raises(ValueError, match="stay at their site"):
        Kind("x", "shared", table)


def test_a_list_cannot_hide_behind_an_allowed_name():
    table = records.Table(
        "x", 1, {"recipe_id": pl.String, "similarity": pl.List(pl.Float32)}, ("recipe_id",)
    )

    with pytest.raises(ValueError, match="similarity"):
        Kind("x", "shared", table)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_survives_a_batch_even_without_rows(kind):
    empty = KINDS[kind].table.empty()

    assert payload(KINDS[kind], read_batch(KINDS[kind], batch(kind, empty))).equals(empty)


@pytest.mark.parametrize(
    ("kind", "table"),
    [
        ("clips", rows.clips(range(3))),
        ("vectors", rows.vectors(range(3))),
        ("duplicates", rows.dedup(range(3), duplicates=(2,))),  # has a column `kind` of its own
        ("receipts", rows.receipts(range(3))),
    ],
)
def test_rows_survive_a_batch(kind, table):
    read = read_batch(KINDS[kind], batch(kind, table))

    assert payload(KINDS[kind], read).equals(table)
    assert read["kind"].unique().to_list() == [kind]


def test_equal_rows_give_equal_bytes():
    assert batch("clips", rows.clips(range(3))) == batch("clips", rows.clips(range(3)))


def test_the_id_of_a_row_is_its_key():
    vectors = log_rows(KINDS["vectors"], rows.vectors(range(1)))

    assert vectors["id"].to_list() == [rows.ids(0)["recipe_id"] + "/starter"]


def test_a_batch_of_another_kind_or_of_the_future_is_refused():
    content = batch("clips", rows.clips(range(1)))
    with pytest.raises(MalformedRecordError, match="log_clips/1"):
        read_batch(KINDS["signals"], content)
    old = Kind("clips", "private", records.CLIPS)
    future = records.Table("clips", 2, records.CLIPS.columns, records.CLIPS.key)
    content = batch_bytes(Kind("clips", "private", future), log_rows(old, rows.clips(range(1))))
    with pytest.raises(MalformedRecordError, match="Read it with the release"):
        read_batch(old, content)


def test_batches_of_two_versions_are_read_as_if_one_by_one(monkeypatch):
    old, columns = KINDS["superseded"], {**records.SUPERSEDED.columns, "site": pl.String}
    today = Kind("superseded", "private", records.Table("superseded", 2, columns, ("recipe_id",)))
    lift = {("superseded", 1): lambda table: table.with_columns(site=pl.lit("local"))}
    monkeypatch.setattr(records, "_UPGRADES", lift)
    tables = [rows.superseded(i, i + 1) for i in range(4)]
    newer = [table.with_columns(site=pl.lit("gcp")) for table in tables[2:]]
    contents = [batch_bytes(old, log_rows(old, table)) for table in tables[:2]]
    contents += [batch_bytes(today, log_rows(today, table)) for table in newer]

    together = read_batches(today, contents)
    assert together.equals(pl.concat([read_batch(today, content) for content in contents]))
    assert together["site"].to_list() == ["local"] * 2 + ["gcp"] * 2


def test_one_broken_batch_among_many_is_told_of():
    whole = batch("clips", rows.clips(range(3)))
    for broken in (b"PAR1", whole[:-9], whole[:4] + b"x" * 900 + whole[904:]):
        with pytest.raises(MalformedRecordError):
            read_batches(KINDS["clips"], [whole, broken, whole])
    assert read_batches(KINDS["clips"], [whole], waves=["w9999"]).is_empty()


def test_an_older_batch_is_lifted_to_todays_columns(monkeypatch):
    content = batch("superseded", rows.superseded(1, 2))
    columns = {**records.SUPERSEDED.columns, "site": pl.String}
    today = Kind("superseded", "private", records.Table("superseded", 2, columns, ("recipe_id",)))
    lift = {("superseded", 1): lambda table: table.with_columns(site=pl.lit("local"))}
    monkeypatch.setattr(records, "_UPGRADES", lift)

    read = read_batch(today, content)
    assert payload(today, read)["site"].to_list() == ["local"]
    assert payload(today, read)["kind"].to_list() == ["semantic"]
    assert read["schema_version"].to_list() == [1]  # as it was written


def test_the_first_row_of_an_id_wins_unless_it_was_taken_back():
    log = pl.DataFrame({"id": ["a", "b", "a", "c"], "n": [1, 2, 3, 4]})

    assert winners(log, pl.Series(["b"]))["n"].to_list() == [1, 4]
    assert winners(log, pl.Series([], dtype=pl.String))["n"].to_list() == [1, 2, 4]


def test_a_position_survives_being_written_down():
    heads = {"private": {"clips": 3}, "shared": {"lineage": 2}}

    assert decode_position(encode_position(heads)) == heads


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"private": 1, "shared": {}}'])
def test_what_is_no_position_is_refused(text):
    with pytest.raises(MalformedRecordError, match=r"SiteLog.position\(\)"):
        decode_position(text)


def test_both_logs_can_take_rows_back_and_unknown_kinds_are_named():
    assert {kind.log for kind in RETRACTIONS.values()} == {"private", "shared"}
    with pytest.raises(UnknownKeyError, match="vectors"):
        log_kind("vector")
