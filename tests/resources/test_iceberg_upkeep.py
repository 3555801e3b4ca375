import os
import time
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from resources import failpoints, iceberg_tables, iceberg_upkeep
from resources.iceberg_tables import LakeTable
from tests.lake_sites import ICEBERG, lake_site, thrifty
from worldloop.errors import StoreError

EAGER = thrifty(many_files=3)
DAY_S = 86_400


@pytest.fixture
def site(tmp_path):
    return lake_site(tmp_path)


@pytest.fixture
def grown(site):
    """A site that was caught up with after each of three waves."""
    for wave in ("w0001", "w0002", "w0003"):
        site.film(wave)
        ICEBERG.catch_up(site.view)
    return site


def age(site, days):
    """Make every file of the tables look older."""
    then = time.time() - days * DAY_S
    for path in site.store.local_path("iceberg").rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


def test_small_files_become_one_sorted_file_with_the_same_rows(grown):
    before = grown.scanned("lineage")
    counts = EAGER.maintain(grown.view)
    files = grown.opened("lineage").files()

    assert counts["compacted"] == 3 * 5
    assert [file.record_count for file in files] == [12]
    assert grown.scanned("lineage").equals(before)
    assert ICEBERG.disagreements(grown.view) == {}


def test_merging_again_and_catching_up_after_it_change_nothing(grown):
    EAGER.maintain(grown.view)
    assert EAGER.maintain(grown.view)["compacted"] == 0
    assert ICEBERG.catch_up(grown.view).num_batches == 0
    grown.film("w0004")
    assert ICEBERG.catch_up(grown.view).num_batches == 5
    assert ICEBERG.disagreements(grown.view) == {}


def test_a_kill_while_files_are_merged_is_healed_by_the_next_upkeep(grown, monkeypatch):
    class KilledError(Exception):
        """Stands for a kill."""

    def kill(name):
        if name == "iceberg.compacting":
            raise KilledError

    monkeypatch.setattr(failpoints, "_watchers", [kill])
    with pytest.raises(KilledError):
        EAGER.maintain(grown.view)
    monkeypatch.undo()
    assert ICEBERG.disagreements(grown.view) == {}
    assert EAGER.maintain(grown.view)["compacted"] == 3 * 5
    assert ICEBERG.disagreements(grown.view) == {}


def test_merged_files_that_read_otherwise_are_not_committed(grown, monkeypatch):
    real = LakeTable.write
    monkeypatch.setattr(LakeTable, "write", lambda self, rows: real(self, rows.head(-1)))
    with pytest.raises(StoreError, match="gave other rows"):
        EAGER.maintain(grown.view)
    monkeypatch.undo()
    assert ICEBERG.disagreements(grown.view) == {}


def test_old_snapshots_go_but_those_of_releases_stay(site):
    site.film("w0001")
    site.release("w0001")
    ICEBERG.catch_up(site.view)
    for wave in ("w0002", "w0003"):
        site.film(wave)
        ICEBERG.catch_up(site.view)
    counts = thrifty(keep=timedelta(0)).maintain(site.view)
    table = site.opened()

    assert counts["expired"] == 11  # of six tables: but the newest of each and the release's
    assert len(table.iceberg.snapshots()) == 2
    assert table.iceberg.scan().use_ref("release-w0001").to_arrow().num_rows == 4


def test_snapshots_that_are_young_stay(grown):
    assert ICEBERG.maintain(grown.view)["expired"] == 0
    assert len(grown.opened().iceberg.snapshots()) == 3


def test_only_old_files_that_nothing_names_are_swept(grown):
    folder = grown.store.local_path("iceberg/worldloop/lineage/data")
    old, young = folder / "left-by-a-kill.parquet", folder / "being-written.parquet"
    old.write_bytes(b"x" * 7)
    age(grown, days=2)
    young.write_bytes(b"y")
    counts = ICEBERG.maintain(grown.view)

    assert (counts["swept"], counts["swept_bytes"]) == (1, 7)
    assert (old.exists(), young.exists()) == (False, True)
    assert ICEBERG.disagreements(grown.view) == {}


def test_files_of_expired_snapshots_are_swept_and_the_release_still_reads(site):
    site.film("w0001")
    site.release("w0001")
    ICEBERG.catch_up(site.view)
    site.log.retract("scores", site.log.read("scores")["id"][:1], reason="asked for")
    ICEBERG.catch_up(site.view)
    age(site, days=2)
    counts = thrifty(keep=timedelta(0)).maintain(site.view)

    assert counts["swept"] > 0
    assert site.opened().iceberg.scan().use_ref("release-w0001").to_arrow().num_rows == 4
    assert ICEBERG.disagreements(site.view) == {}


def test_a_sweep_leaves_what_lies_beside_the_tables(grown):
    beside = grown.store.local_path("iceberg/worldloop/notes.txt")
    beside.write_text("mine")
    age(grown, days=2)
    ICEBERG.maintain(grown.view)
    assert beside.exists()


def test_old_metadata_files_are_few_however_many_commits_there_were(site, monkeypatch):
    few = {**iceberg_tables._SETTINGS, "write.metadata.previous-versions-max": "2"}
    monkeypatch.setattr(iceberg_tables, "_SETTINGS", few)
    for number in range(5):
        site.release(f"w{number:04d}", 1)
        ICEBERG.catch_up(site.view)
    assert len(site.local_files("releases", "metadata/*.metadata.json")) == 3


def test_manifests_of_files_that_were_taken_out_do_not_pile_up(site, monkeypatch):
    monkeypatch.setattr(iceberg_upkeep, "_MANY_IDLE", 2)
    site.film()
    for _ in range(3):
        ICEBERG.rebuild(site.view)
    table = site.opened()
    before = len(table.iceberg.current_snapshot().manifests(table.iceberg.io))
    ICEBERG.maintain(site.view)
    table = site.opened()

    assert before > 2
    assert len(table.iceberg.current_snapshot().manifests(table.iceberg.io)) == 1
    assert ICEBERG.disagreements(site.view) == {}


def test_a_data_file_that_went_missing_is_found_by_the_upkeep_and_by_the_check(grown):
    grown.local_files("receipts", "data/**/*.parquet")[0].unlink()
    found = ICEBERG.disagreements(grown.view)
    counts = ICEBERG.maintain(grown.view)

    assert found == {"receipts": 12}
    assert counts["rebuilt"] == 1
    assert ICEBERG.disagreements(grown.view) == {}


def test_rows_that_were_changed_in_place_are_found_by_the_check(grown):
    path = grown.local_files("scores", "data/**/*.parquet")[0]
    held = pq.read_table(path)
    place = held.schema.get_field_index("num_cuts")
    sevens = pa.array([7] * held.num_rows, pa.int32())
    pq.write_table(held.set_column(place, held.schema.field(place), sevens), path)

    assert ICEBERG.disagreements(grown.view) == {"scores": 8}  # four that are wrong, four missing
