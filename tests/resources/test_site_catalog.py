import polars as pl
import pytest

from resources.site_catalog import log_release, project_wave, read_wave, wave_index_rows
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from tests import rows
from worldloop.logs import KINDS
from worldloop.releases import compose_release


@pytest.fixture
def log(tmp_path):
    return SiteLog(store=SiteStore(url=str(tmp_path / "site")))


def release_of(log, wave, at):
    return compose_release(
        **read_wave(log, wave, at=at),
        wave=wave,
        site="local",
        position=at,
        atlas_hash="a",
    )


def indexed(log, *waves):
    """Index rows by recipe, as the logs have them."""
    found = wave_index_rows(log, waves or ["w0001"])
    return {row["recipe_id"]: row for row in found.iter_rows(named=True)}


def test_a_wave_goes_into_the_logs_once(log):
    tables = rows.wave_tables(range(4), rejected=(1,), duplicates=(2,))
    first = project_wave(site_log=log, **tables)
    position = log.position()
    second = project_wave(site_log=log, **tables)

    assert first["clips"] == first["lineage"] == first["scenes"] == len(indexed(log)) == 4
    assert set(second) <= set(KINDS)
    assert set(second.values()) == {0}
    assert log.position() == position


def test_the_index_knows_status_facts_and_where_the_video_lies(log):
    tables = rows.wave_tables(range(3), rejected=(1,), duplicates=(2,))
    project_wave(site_log=log, **tables)

    found = sorted(indexed(log).values(), key=lambda row: row["index"])
    assert [row["status"] for row in found] == ["accepted", "rejected", "duplicate"]
    first = found[0]
    assert (first["weather"], first["daypart"], first["season"]) == ("clear", "afternoon", "spring")
    assert (first["rgb_offset"], first["rgb_size_bytes"]) == (1536, rows.RGB_BYTES)
    assert (first["poster_offset"], first["poster_size_bytes"]) == (512, rows.POSTER_BYTES)
    assert first["caption"] == "Caption 0"


def test_a_kill_between_two_logs_is_healed_by_the_next_run(log, monkeypatch):
    tables = rows.wave_tables(range(4))
    append = SiteLog.append

    def die_at_signals(self, kind, table):
        if kind == "signals":
            raise KeyboardInterrupt
        return append(self, kind, table)

    with monkeypatch.context() as patch:
        patch.setattr(SiteLog, "append", die_at_signals)
        with pytest.raises(KeyboardInterrupt):
            project_wave(site_log=log, **tables)
    project_wave(site_log=log, **tables)

    assert log.read("clips").height == log.read("superseded").height + 4
    assert len(indexed(log)) == 4


def test_a_late_arrival_changes_the_status_of_an_older_clip(log):
    project_wave(site_log=log, **rows.wave_tables(range(3), wave="w0002"))
    late = rows.wave_tables(range(3), wave="w0001")
    old, new = rows.ids(1, wave="w0002")["recipe_id"], rows.ids(1, wave="w0001")["recipe_id"]
    late["superseded"] = rows.superseded(0, 1).with_columns(
        recipe_id=pl.lit(old), superseded_by=pl.lit(new)
    )
    project_wave(site_log=log, **late)

    found = indexed(log, "w0001", "w0002")
    assert len(found) == 6
    assert found[old]["status"] == "duplicate"


def test_a_retracted_clip_has_no_index_row(log):
    project_wave(site_log=log, **rows.wave_tables(range(3)))
    log.retract("clips", [rows.ids(0)["recipe_id"]], reason="a person is in it")

    assert len(indexed(log)) == 2
    assert rows.ids(0)["recipe_id"] not in indexed(log)


def test_a_scene_that_an_earlier_wave_showed_first_is_found(log):
    project_wave(site_log=log, **rows.wave_tables(range(2), wave="w0001"))
    tables = rows.wave_tables(range(2), wave="w0002")
    shared = rows.prompts(range(2), wave="w0001")["scene_id"]
    tables["prompts"] = tables["prompts"].with_columns(scene_id=shared)
    tables["clips"] = tables["clips"].with_columns(scene_id=shared)
    project_wave(site_log=log, **tables)

    assert wave_index_rows(log, ["w0002"])["weather"].to_list() == ["clear", "clear"]


def test_a_release_read_at_its_position_stays_the_same(log):
    project_wave(site_log=log, **rows.wave_tables(range(4), duplicates=(2,)))
    at = log.position()
    release = release_of(log, "w0001", at)
    assert log_release(log, release) == {"releases": 1, "release_clips": 3}
    project_wave(site_log=log, **rows.wave_tables(range(4), wave="w0002"))
    log.retract("clips", [rows.ids(0)["recipe_id"]], reason="test")

    again = release_of(log, "w0001", at)
    assert (again.record, again.root_hash) == (release.record, release.root_hash)
    assert again.manifest.equals(release.manifest)
    assert log_release(log, again) == {"releases": 0, "release_clips": 0}
    assert release_of(log, "w0001", log.position()).root_hash != release.root_hash
