import multiprocessing

import polars as pl
import pytest

from resources.site_log import SiteLog
from resources.site_store import SiteStore
from tests import rows
from worldloop.errors import MalformedRecordError, UnknownKeyError
from worldloop.layout import claim_key

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def log(tmp_path):
    return SiteLog(store=SiteStore(url=str(tmp_path / "site")))


def recipes(log, kind="clips", **how):
    return log.read(kind, **how)["id"].to_list()


def test_rows_come_back_with_kind_id_and_version(log):
    log.append("clips", rows.clips(range(2)))

    read = log.read("clips")
    assert read["id"].to_list() == rows.clips(range(2))["recipe_id"].to_list()
    assert read["kind"].unique().to_list() == ["clips"]
    assert read["schema_version"].unique().to_list() == [1]
    assert read["members"][0][1]["offset"] == 1536


def test_appending_twice_is_appending_once(log):
    assert log.append("clips", rows.clips(range(3))) == 3
    assert log.append("clips", rows.clips(range(3))) == 0
    assert log.append("clips", rows.clips(range(1, 5))) == 2
    assert log.num_batches("clips") == 2
    assert len(recipes(log)) == 5


def test_an_append_without_rows_writes_nothing(log):
    assert log.append("failures", rows.failures(range(0))) == 0
    assert log.store.list() == []


def test_the_first_row_of_an_id_wins(log):
    first = rows.clips(range(1))
    log.append("clips", first)
    log.append("clips", first.with_columns(content_sha256=pl.lit("f" * 64)))

    assert log.read("clips")["content_sha256"].to_list() == first["content_sha256"].to_list()


def test_a_reader_at_a_position_does_not_see_what_came_later(log):
    log.append("clips", rows.clips(range(2)))
    position = log.position()
    log.append("clips", rows.clips(range(2, 4)))
    log.retract("clips", [rows.ids(0)["recipe_id"]], reason="test")

    assert len(recipes(log, at=position)) == 2
    assert len(recipes(log)) == 3
    assert recipes(log, kind="signals", at=position) == []


def test_a_retracted_row_is_gone_for_good_and_others_stay(log):
    log.append("clips", rows.clips(range(2)))
    log.append("signals", rows.signals(range(2)))
    gone = rows.ids(0)["recipe_id"]

    assert log.retract("clips", [gone, gone], reason="a person asked for it") == 1
    assert log.retract("clips", [gone], reason="again") == 0
    assert log.append("clips", rows.clips(range(1))) == 0
    assert recipes(log) == [rows.ids(1)["recipe_id"]]
    assert len(recipes(log, kind="signals")) == 2


def test_reading_some_waves_leaves_out_the_others(log):
    for wave in ("w0001", "w0002", "w0003"):
        log.append("clips", rows.clips(range(2), wave=wave))

    read = log.read("clips", waves=["w0001", "w0003"])
    assert read["wave"].unique(maintain_order=True).to_list() == ["w0001", "w0003"]
    assert log.read("clips", waves=[]).is_empty()


def test_a_kind_without_waves_cannot_be_read_by_wave(log):
    log.append("superseded", rows.superseded(1, 2))

    with pytest.raises(ValueError, match="belong to no wave"):
        log.read("superseded", waves=["w0001"])


def test_checkpoints_change_nothing_but_the_number_of_files_read(tmp_path, monkeypatch):
    log = SiteLog(store=SiteStore(url=str(tmp_path / "site")), checkpoint_every=3)
    plain = SiteLog(store=SiteStore(url=str(tmp_path / "plain")))
    for each in (log, plain):
        for i in range(8):
            each.append("clips", rows.clips(range(i, i + 1)))
    read_keys = []
    get = SiteStore.get
    monkeypatch.setattr(SiteStore, "get", lambda s, key: (read_keys.append(key), get(s, key))[1])

    assert log.read("clips").equals(plain.read("clips"))
    files = [key for key in read_keys if key.endswith(".parquet")]
    assert len([key for key in files if log.store.exists(key)]) == 8 + (1 + 2)
    early = '{"private":{"clips":2},"shared":{}}'
    assert log.read("clips", at=early).equals(plain.read("clips", at=early))


def test_a_checkpoint_that_a_kill_left_out_is_made_by_a_later_append(tmp_path, monkeypatch):
    log = SiteLog(store=SiteStore(url=str(tmp_path / "site")), checkpoint_every=2)
    with monkeypatch.context() as patch:
        patch.setattr(SiteLog, "_checkpoint", lambda *_: None)
        for i in range(3):
            log.append("clips", rows.clips(range(i, i + 1)))
    log.append("clips", rows.clips(range(3, 4)))

    assert [key for key, _ in log.store.list("logs/private/clips/checkpoints")]
    assert len(recipes(log)) == 4


def test_a_writer_killed_before_its_claim_leaves_nothing_that_counts(log, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SiteStore, "create", die)
        with pytest.raises(KeyboardInterrupt):
            log.append("clips", rows.clips(range(3)))

    assert recipes(log) == []
    assert len(log.unclaimed()) == 1
    assert (
        log.append("clips", rows.clips(range(5))) == 5
    )  # not the same batch: two files, one claim
    assert len(recipes(log)) == 5
    assert len(log.unclaimed()) == 1


def test_a_batch_whose_claim_was_lost_is_no_leftover(log):
    for number in range(3):
        log.append("clips", rows.clips(range(number, number + 1)))
    log.store.delete(claim_key("private", "clips", 2))
    assert log.unclaimed() == []


def append_some(url, barrier, own):
    log = SiteLog(store=SiteStore(url=url), checkpoint_every=4)
    barrier.wait(60)
    for i in range(6):
        log.append("clips", rows.clips(range(i, i + 4)))  # everybody writes these
        log.append("clips", rows.clips(range(i, i + 1), city=own))  # only I write these


def test_processes_that_append_at_once_lose_and_double_nothing(log):
    barrier, cities = SPAWN.Barrier(3), ["lima", "oslo", "cairo"]
    processes = [
        SPAWN.Process(target=append_some, args=(log.store.url, barrier, city)) for city in cities
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)

    assert [process.exitcode for process in processes] == [0, 0, 0]
    clips = log.read("clips")
    assert clips.group_by("city").len().sort("city").rows() == [
        ("cairo", 6),
        ("lima", 6),
        ("oslo", 6),
        ("tokyo", 9),
    ]
    batches = [log.store.get(batch.key("clips")) for batch in log.batch_hashes("clips")]
    assert sum(pl.read_parquet(batch).height for batch in batches) == 27  # not even in the files
    assert log.unclaimed() == []


def test_unknown_kinds_and_wrong_columns_are_refused(log):
    with pytest.raises(UnknownKeyError, match="Did you mean 'clips'"):
        log.append("clip", rows.clips(range(1)))
    with pytest.raises(MalformedRecordError, match="table signals"):
        log.append("signals", rows.clips(range(1)))
    with pytest.raises(MalformedRecordError, match="log position"):
        log.read("clips", at="yesterday")
