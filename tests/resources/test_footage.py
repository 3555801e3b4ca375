"""What is accepted follows the logs, late arrivals too; values of scenes come from the prompts of a wave."""

import pytest

from resources.footage import read_footage, read_scene_values, read_valid_pairs
from resources.site_catalog import project_wave
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from tests import rows
from worldloop import layout
from worldloop.atlas.atlas import load_atlas
from worldloop.coverage_counts import PAIR_COLUMNS


@pytest.fixture
def log(tmp_path):
    return SiteLog(store=SiteStore(url=str(tmp_path)))


def test_a_clip_counts_as_accepted_if_it_is_good_and_repeats_no_other(log):
    tables = rows.wave_tables(range(6), rejected=(1,), duplicates=(2,))
    project_wave(site_log=log, **tables)
    clips = read_footage(log.store, log).clips
    assert (clips.height, int(clips["accepted"].sum())) == (6, 4)

    late = rows.wave_tables(range(1), wave="w0002")
    project_wave(site_log=log, **{**late, "superseded": rows.superseded(5, 0)})
    clips = read_footage(log.store, log).clips
    assert (clips.height, int(clips["accepted"].sum())) == (7, 4)


def test_a_store_without_anything_has_no_footage(log):
    footage = read_footage(log.store, log)
    assert footage.planned.is_empty()
    assert footage.clips.is_empty()
    assert read_scene_values(log.store).is_empty()


def test_valid_pairs_are_worked_out_once_for_each_atlas(log, monkeypatch):
    atlas = load_atlas()
    monkeypatch.setattr("resources.footage.valid_pair_table", lambda atlas: _one_pair())
    first = read_valid_pairs(log.store, atlas)
    monkeypatch.undo()
    assert read_valid_pairs(log.store, atlas).equals(first)
    assert log.store.exists(layout.valid_pairs_key(atlas.hash))


def _one_pair():
    import polars as pl

    return pl.DataFrame([("season", "winter", "weather", "snow")], PAIR_COLUMNS, orient="row")
