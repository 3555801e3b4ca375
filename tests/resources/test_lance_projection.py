import shutil
from dataclasses import replace

import polars as pl
import pytest

from resources import failpoints, lance_projection
from resources.lance_projection import LanceProjection
from resources.lease import Lease
from resources.site_store import SiteStore
from tests import rows
from tests.lance_sites import lance_site
from worldloop.errors import LeaseHeldError

LANCE = LanceProjection()


@pytest.fixture
def site(tmp_path):
    return lance_site(SiteStore(url=str(tmp_path / "site")), tmp_path / "scratch", replicas=["far"])


class KilledError(Exception):
    """Stands for a kill: nothing after the moment is done."""


@pytest.fixture
def kill_at(monkeypatch):
    """Ends what runs when it comes to a moment for the nth time, once."""

    def install(moment, nth=1):
        passed = []

        def watcher(name):
            passed.append(name)
            if passed.count(moment) == nth:
                monkeypatch.setattr(failpoints, "_watchers", [])
                raise KilledError(name)

        monkeypatch.setattr(failpoints, "_watchers", [watcher])

    return install


def test_what_the_log_has_is_searchable_after_catching_up(site):
    site.log_wave(rejected=(1,), duplicates=(2,))
    first = LANCE.catch_up(site.view)

    assert first.num_rows == 4
    assert site.stored() == site.expected()
    found = site.index.find_words("caption 3", limit=1, model_id="starter")
    assert found["caption"].to_list() == ["Caption 3"]
    nearest = site.index.search([0.1] * 8, limit=9, model_id="starter", where="status = 'accepted'")
    assert nearest.height == 2


def test_catching_up_again_changes_nothing(site):
    site.log_wave()
    LANCE.catch_up(site.view)
    before = (site.index.version("starter"), site.view.store.list("projections"))
    again = LANCE.catch_up(site.view)

    assert (again.num_batches, again.num_rows, again.rebuilt) == (0, 0, False)
    assert (site.index.version("starter"), site.view.store.list("projections")) == before


def test_with_nothing_new_no_lease_is_needed(site):
    site.log_wave()
    LANCE.catch_up(site.view)
    with Lease(site.view.store, "projection-lance", "run 7"):
        assert LANCE.catch_up(site.view).num_batches == 0


def test_only_touched_clips_are_written(site):
    site.log_wave("w0001")
    LANCE.catch_up(site.view)
    site.log_wave("w0002", num=3)
    done = LANCE.catch_up(site.view)

    assert (done.num_rows, done.rebuilt) == (3, False)
    assert site.stored() == site.expected()


def test_a_clip_that_is_taken_back_leaves_the_index(site):
    site.log_wave()
    LANCE.catch_up(site.view)
    gone = rows.ids(2)["recipe_id"]
    site.view.log.retract("clips", [gone], reason="a person is in it")
    LANCE.catch_up(site.view)

    assert gone not in [recipe for recipe, _ in site.stored()]
    assert site.stored() == site.expected()


def test_a_caption_that_is_taken_back_leaves_its_clip_where_it_is(site):
    site.log_wave()
    LANCE.catch_up(site.view)
    site.view.log.retract("captions", [rows.ids(1)["recipe_id"]], reason="a name is in it")
    LANCE.catch_up(site.view)

    captions = site.index.rows("starter", columns=["recipe_id", "caption"]).sort("caption")
    assert captions["caption"].to_list() == [None, "Caption 0", "Caption 2", "Caption 3"]


def test_a_clip_becomes_a_duplicate_by_what_another_site_decided(site):
    site.log_wave("w0002")
    LANCE.catch_up(site.view)
    far = site.view.replicas["far"]
    far.append("duplicates", rows.dedup(range(1), wave="w0001", city="lima"))
    old = rows.ids(1, wave="w0002")["recipe_id"]
    by = rows.ids(0, wave="w0001", city="lima")["recipe_id"]
    far.append(
        "superseded",
        rows.superseded(0, 1).with_columns(recipe_id=pl.lit(old), superseded_by=pl.lit(by)),
    )
    done = LANCE.catch_up(site.view)

    assert done.num_rows == 1
    assert (old, "duplicate") in site.stored()
    assert site.stored() == site.expected()


@pytest.mark.parametrize(
    "moment", ["lance.data_written", "lance.before_commit", "lance.after_commit"]
)
def test_a_kill_in_the_middle_is_healed_by_the_next_run(site, kill_at, moment):
    site.log_wave("w0001")
    LANCE.catch_up(site.view)
    site.log_wave("w0002", rejected=(0,))
    kill_at(moment)
    with pytest.raises(KilledError):
        LANCE.catch_up(site.view)

    done = LANCE.catch_up(site.view)
    assert (done.rebuilt, done.num_rows) == (False, 4)
    assert site.stored() == site.expected()


def test_our_own_unrecorded_commit_is_not_taken_for_somebody_elses(site, kill_at, monkeypatch):
    site.log_wave("w0001")
    LANCE.catch_up(site.view)
    site.log_wave("w0002")
    kill_at("lance.after_commit")
    with pytest.raises(KilledError):
        LANCE.catch_up(site.view)

    monkeypatch.setattr(lance_projection, "_with_differences", None)  # would read every row
    LANCE.catch_up(site.view)
    assert site.stored() == site.expected()


def drop(site):
    shutil.rmtree(site.view.store.local_path(site.index.folder("starter")))


def lose_a_file(site):
    folder = site.view.store.local_path(site.index.folder("starter"))
    next((folder / "data").iterdir()).unlink()


def lose_an_index(site):
    folder = site.view.store.local_path(site.index.folder("starter"))
    shutil.rmtree(next((folder / "_indices").iterdir()))


def spoil(site):
    folder = site.view.store.local_path(site.index.folder("starter"))
    for manifest in (folder / "_versions").glob("*.manifest"):
        manifest.write_bytes(b"junk")


def put_a_foreign_table(site):
    import lancedb

    drop(site)
    lancedb.connect(site.index.uri).create_table("clips-starter", [{"a": 1}])


def forget_the_record(site):
    site.view.store.put("projections/lance.json", b"{}")


@pytest.mark.parametrize(
    "harm",
    [drop, lose_a_file, lose_an_index, spoil, put_a_foreign_table, forget_the_record],
    ids=lambda harm: harm.__name__,
)
def test_a_table_that_is_gone_or_not_ours_is_made_again(site, harm):
    site.log_wave(rejected=(3,))
    LANCE.catch_up(site.view)
    harm(site)
    done = LANCE.catch_up(site.view)

    assert (done.rebuilt, done.num_rows) == (True, 4)
    assert site.stored() == site.expected()
    assert site.index.search([0.1] * 8, limit=9, model_id="starter").height == 4
    assert LANCE.catch_up(site.view).rebuilt is False


def test_rows_that_somebody_else_changed_are_put_right(site):
    site.log_wave()
    LANCE.catch_up(site.view)
    table = site.index.lance_table("starter")
    table.delete(f"recipe_id = '{rows.ids(0)['recipe_id']}'")
    table.update(where=f"recipe_id = '{rows.ids(1)['recipe_id']}'", values={"status": "rejected"})
    done = LANCE.catch_up(site.view)

    assert (done.rebuilt, done.num_rows) == (False, 2)
    assert site.stored() == site.expected()


def test_a_table_that_was_rolled_back_is_put_right(site):
    site.log_wave("w0001")
    LANCE.catch_up(site.view)
    version = site.index.version("starter")
    site.log_wave("w0002")
    LANCE.catch_up(site.view)
    table = site.index.lance_table("starter")
    table.checkout(version)
    table.restore()
    LANCE.catch_up(site.view)

    assert site.stored() == site.expected()


def test_a_second_committer_is_refused(site):
    site.log_wave()
    with Lease(site.view.store, "projection-lance", "another"), pytest.raises(LeaseHeldError):
        LANCE.catch_up(site.view)


def test_a_rebuilt_index_has_the_same_rows(site):
    site.log_wave("w0001", rejected=(1,))
    LANCE.catch_up(site.view)
    site.log_wave("w0002", duplicates=(2,))
    LANCE.catch_up(site.view)
    columns = [*site.index.lance_table("starter").schema.names]
    before = site.index.rows("starter", columns=columns).sort("recipe_id")
    done = LANCE.rebuild(site.view)

    assert (done.rebuilt, done.num_rows) == (True, 8)
    assert site.index.rows("starter", columns=columns).sort("recipe_id").equals(before)


def test_large_logs_are_rebuilt_in_portions_of_one_commit(site, monkeypatch):
    monkeypatch.setattr(lance_projection, "_ROWS_AT_ONCE", 5)
    for wave in ("w0001", "w0002", "w0003"):
        site.log_wave(wave)
    LANCE.rebuild(site.view)

    assert site.stored() == site.expected()
    assert len(site.stored()) == 12
    assert site.index.dataset("starter").versions()[0]["metadata"]["total_rows"] == "12"


def test_maintenance_loses_no_row_and_catches_up_without_comparing(site, monkeypatch):
    for wave in ("w0001", "w0002", "w0003"):
        site.log_wave(wave)
        LANCE.catch_up(site.view)
    before = site.stored()
    counts = replace(LANCE, keep_s=0.0).maintain(site.view)
    monkeypatch.setattr(lance_projection, "_with_differences", None)

    assert counts["files_merged"] >= 2
    assert counts["versions_removed"] > 3
    assert site.stored() == before
    assert LANCE.catch_up(site.view).num_rows == 0


@pytest.mark.parametrize("times", [1, 2])
def test_a_kill_during_compaction_loses_nothing(site, kill_at, times):
    for wave in ("w0001", "w0002"):
        site.log_wave(wave)
        LANCE.catch_up(site.view)
    for _ in range(times):
        kill_at("lance.compacting")
        with pytest.raises(KilledError):
            LANCE.maintain(site.view)
    LANCE.catch_up(site.view)
    LANCE.maintain(site.view)

    assert site.stored() == site.expected()


def test_a_kill_after_a_compaction_that_rewrote_an_index_is_healed(site, kill_at):
    from lancedb.index import FTS

    for wave in ("w0001", "w0002"):
        site.log_wave(wave)
        LANCE.catch_up(site.view)
    site.index.lance_table("starter").create_index("caption", config=FTS())
    LANCE.catch_up(site.view)
    before = site.index.version("starter")
    kill_at("lance.compacting", nth=2)
    with pytest.raises(KilledError):
        LANCE.maintain(site.view)
    assert site.index.version("starter") > before

    LANCE.catch_up(site.view)
    assert site.stored() == site.expected()


def test_files_of_a_killed_writer_go_once_they_are_old(site, kill_at):
    site.log_wave("w0001")
    LANCE.catch_up(site.view)
    site.log_wave("w0002")
    kill_at("lance.before_commit")
    with pytest.raises(KilledError):
        LANCE.catch_up(site.view)

    assert LANCE.maintain(site.view)["orphans_removed"] == 0
    assert replace(LANCE, orphan_s=-1.0).maintain(site.view)["orphans_removed"] >= 1
    LANCE.catch_up(site.view)
    assert site.stored() == site.expected()


def release(site, wave):
    from resources.site_catalog import log_release, read_wave
    from worldloop.releases import compose_release

    at = site.view.log.position()
    found = read_wave(site.view.log, wave, at=at)
    made = compose_release(**found, wave=wave, site="here", position=at, atlas_hash="a")
    log_release(site.view.log, made)


def test_the_version_of_a_release_is_kept_until_something_of_it_is_taken_back(site):
    tidy = replace(LANCE, keep_s=0.0)
    site.log_wave("w0001")
    release(site, "w0001")
    tidy.catch_up(site.view)
    tidy.maintain(site.view)
    site.log_wave("w0002")
    tidy.catch_up(site.view)
    tidy.maintain(site.view)
    table = site.index.lance_table("starter")
    table.checkout("w0001")
    assert table.count_rows() == 4

    site.view.log.retract("clips", [rows.ids(0)["recipe_id"]], reason="a person is in it")
    tidy.catch_up(site.view)
    assert tidy.maintain(site.view)["tags_removed"] == 1
    assert site.index.dataset("starter").count_rows() == 7


def test_standing_tells_how_far_behind_it_is(site):
    site.log_wave()
    LANCE.catch_up(site.view)
    LANCE.maintain(site.view)
    current = LANCE.standing(site.view)
    site.log_wave("w0002")
    late = LANCE.standing(site.view)

    assert (current.num_rows, current.num_behind, current.oldest_behind_at) == (4, 0, None)
    assert (current.recall, current.index) == (1.0, "none")
    assert current.size_bytes > 0
    assert late.num_behind == 6
    assert late.oldest_behind_at is not None
