import os
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest
from polars.testing import assert_frame_equal

from resources.backup import back_up, backups, restore
from resources.log_replicas import copy_log
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.tables import read_record
from tests.campaigns.holes import plant
from tests.resources.federated_sites import files, look_over, member
from worldloop.errors import MalformedRecordError, StoreError
from worldloop.layout import release_key


@pytest.fixture
def home(tmp_path):
    home = member("home", tmp_path)
    for wave in ("w0001", "w0002"):
        home.film(wave, "tokyo")
        home.store.put(f"plans/{wave}.json", b"{}")
        home.store.put(f"releases/{wave}/release.json", b'{"version": 1}')
    return home


@pytest.fixture
def empty(tmp_path):
    return SiteStore(url=str(tmp_path / "restored"))


def saved(store):
    return {key: content for key, content in files(store).items() if "/checkpoints/" not in key}


def test_a_restored_site_has_the_same_files(home, empty):
    made = back_up(home.view, home.backup)
    done = restore(home.backup, empty)

    assert done.backup == made
    assert done.num_written == made.num_objects == len(saved(home.store))
    assert files(empty) == saved(home.store)


def test_a_second_run_adds_only_what_is_new(home):
    first = back_up(home.view, home.backup)
    assert back_up(home.view, home.backup).num_added == 0

    home.film("w0003", "lima")
    third = back_up(home.view, home.backup)
    assert third.num_added == 9  # a pack, and batch and claim of four kinds
    assert third.root_hash != first.root_hash
    assert [made.number for made in backups(home.backup)] == [1, 2, 3]


def test_every_state_can_be_restored(home, empty):
    before = saved(home.store)
    back_up(home.view, home.backup)
    home.film("w0003", "lima")
    home.store.put("releases/w0001/release.json", b'{"version": 1, "again": true}')
    back_up(home.view, home.backup)

    restore(home.backup, empty, number=1)
    assert files(empty) == before


def test_what_was_replaced_is_restored_as_it_was_last(home, empty):
    back_up(home.view, home.backup)
    home.store.put("releases/w0001/release.json", b'{"version": 1, "again": true}')
    back_up(home.view, home.backup)

    restore(home.backup, empty)
    assert files(empty) == saved(home.store)


def test_what_is_deleted_at_the_site_stays_in_its_backup(home, empty):
    before = saved(home.store)
    back_up(home.view, home.backup)
    for key in files(home.store, "packs", "plans"):
        home.store.delete(key)
    back_up(home.view, home.backup)

    restore(home.backup, empty)
    assert files(empty) == before


@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_site_does_not_spoil_its_backup(home, empty, seed):
    before = saved(home.store)
    back_up(home.view, home.backup)
    plant(home.store, seed, classes=("batch", "claim", "pack"))
    home.store.put("plans/w0001.json", b"damaged")
    made = back_up(home.view, home.backup)

    assert any("plans/w0001.json" in problem for problem in made.problems)
    restore(home.backup, empty)
    assert files(empty) == before


def test_damage_that_was_never_saved_is_left_out_and_told(home):
    pack = next(iter(files(home.store, "packs")))
    home.store.put(pack, b"damaged")

    made = back_up(home.view, home.backup)
    assert made.problems == (f"{pack!r} has other bytes than its name says; it was left out",)
    assert not home.backup.exists(pack)


def test_rows_that_were_purged_are_not_in_the_backup_either(home, empty):
    back_up(home.view, home.backup)
    gone = home.log.read("clips", waves=["w0001"])["id"]
    home.log.retract("clips", gone, reason="asked for")
    copy_log(home.store, home.backup, logs=("private", "shared"))
    for log in (SiteLog(store=home.backup), home.log):
        log.purge("clips", gone)
    assert back_up(home.view, home.backup).problems == ()

    assert look_over(home).findings == []
    restore(home.backup, empty)
    purged = {key: content for key, content in saved(home.store).items() if "/purged-" not in key}
    assert files(empty) == purged


def test_a_run_that_was_killed_goes_on(home, empty):
    program = f"""
        import os, signal
        from pathlib import Path
        from resources import failpoints
        from tests.resources.federated_sites import member
        def kill(name):
            if name == "backup.object_copied":
                os.kill(os.getpid(), signal.SIGKILL)
        failpoints.watch(kill)
        home = member("home", Path({str(home.scratch.parent)!r}))
        from resources.backup import back_up
        back_up(home.view, home.backup)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], env=dict(os.environ))
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(StoreError, match="does not hold any backup"):
        restore(home.backup, empty)

    assert back_up(home.view, home.backup).problems == ()
    restore(home.backup, empty)
    assert files(empty) == saved(home.store)


def test_a_restore_that_was_interrupted_goes_on(home, empty):
    back_up(home.view, home.backup)
    copy_log(home.backup, empty, logs=("private",))
    num_standing = len(files(empty))

    done = restore(home.backup, empty)
    assert done.num_written == done.backup.num_objects - num_standing
    assert files(empty) == saved(home.store)


def test_a_site_that_has_something_of_its_own_is_not_written_over(home, tmp_path):
    back_up(home.view, home.backup)
    other = member("other", tmp_path)
    other.film("w0009", "lima")

    with pytest.raises(StoreError, match="which is not in the backup; expected an empty store"):
        restore(home.backup, other.store)


def test_a_damaged_backup_is_not_restored_silently(home, empty):
    back_up(home.view, home.backup)
    pack = next(iter(files(home.backup, "packs")))
    home.backup.put(pack, b"damaged")

    with pytest.raises(StoreError, match="is damaged in"):
        restore(home.backup, empty)


def test_a_damaged_manifest_is_refused(home, empty):
    back_up(home.view, home.backup)
    home.backup.put("backups/000000000001.json", b"{}")
    with pytest.raises(MalformedRecordError, match="a manifest of a backup"):
        restore(home.backup, empty)


def test_a_backup_belongs_to_one_site(home, tmp_path):
    back_up(home.view, home.backup)
    with pytest.raises(StoreError, match="is the backup of 'home'; expected one of 'other'"):
        back_up(member("other", tmp_path).view, home.backup)


def test_a_restored_site_reconciles_without_findings(home, empty):
    back_up(home.view, home.backup)
    restore(home.backup, empty)
    home.store = empty
    findings = look_over(home).findings

    assert {f.part for f in findings} <= {"checkpoint"}  # made again from the batches
    assert look_over(home).findings == []


def test_a_carried_wave_survives_the_loss_of_its_site(carried, tmp_path):
    site = tmp_path / "site"
    shutil.copytree(carried.root / "site", site)
    store, backup = SiteStore(url=str(site)), SiteStore(url=str(tmp_path / "backup"))
    view = member("local", tmp_path, store).view
    rows = {kind: view.log.read(kind) for kind in ("clips", "vectors", "lineage", "release_clips")}
    release = read_record(store, release_key("w0001"))
    made = back_up(view, backup)
    shutil.rmtree(site)

    assert restore(backup, store).backup.root_hash == made.root_hash
    assert read_record(store, release_key("w0001"))["root_hash"] == release["root_hash"]
    for kind, before in rows.items():
        assert_frame_equal(SiteLog(store=store).read(kind), before)
    assert look_over(member("local", tmp_path, store)).unrepaired == []
