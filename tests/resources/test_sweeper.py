import fcntl
import os
from datetime import UTC, datetime, timedelta

import pytest

from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.sweeper import disk_usage, sweep
from resources.tables import publish
from tests import rows
from worldloop.records import CLIPS

TOMORROW = datetime.now(UTC) + timedelta(hours=25)


@pytest.fixture
def store(tmp_path):
    """A site with two released waves of one pack each, all in order."""
    store = SiteStore(url=str(tmp_path / "site"))
    for wave in ("w0001", "w0002"):
        clips = rows.clips(range(2), wave=wave)
        store.put(clips["pack_key"][0], b"x" * 1000)
        publish(store, CLIPS, f"clips/{wave}/tokyo.parquet", clips)
        store.put(f"releases/{wave}/release.json", b"{}")
    return store


def keys(removals):
    return [removal.key for removal in removals]


def test_a_site_in_order_loses_nothing(store):
    assert sweep(store, now=TOMORROW, apply=True) == []


def test_a_pack_that_no_table_names_goes_when_it_is_old(store):
    store.put("packs/w0001/tokyo/orphan.tar", b"x" * 50)

    assert sweep(store) == []
    going = sweep(store, now=TOMORROW)
    assert keys(going) == ["packs/w0001/tokyo/orphan.tar"]
    assert (going[0].size_bytes, going[0].reason) == (50, "no clip is in this pack")
    assert store.exists("packs/w0001/tokyo/orphan.tar")  # that was a dry run
    sweep(store, now=TOMORROW, apply=True)
    assert not store.exists("packs/w0001/tokyo/orphan.tar")


def test_a_pack_that_only_the_log_names_stays(store):
    clips = rows.clips(range(1), wave="w0003")
    store.put(clips["pack_key"][0], b"x")
    SiteLog(store=store).append("lineage", rows.lineage(range(1), wave="w0003"))

    assert sweep(store, now=TOMORROW) == []


def test_a_batch_that_no_claim_names_goes_and_the_log_stays(store):
    log = SiteLog(store=store)
    log.append("clips", rows.clips(range(2)))
    (batch,) = (key for key, _ in store.list("logs") if key.endswith(".parquet"))
    store.put("logs/private/clips/000000000002-" + "0" * 64 + ".parquet", store.get(batch))

    assert len(sweep(store, now=TOMORROW, apply=True)) == 1
    assert log.read("clips").height == 2


def test_what_a_killed_writer_left_half_written_goes(store):
    half = store.local_path("packs/w0001/tokyo/pack.tar#1")
    half.write_bytes(b"half")

    assert keys(sweep(store, now=TOMORROW, apply=True)) == [str(half)]
    assert not half.exists()


def test_scratch_goes_unless_a_job_holds_its_lock(store, tmp_path):
    scratch = tmp_path / "scratch"
    for city in ("tokyo", "lima"):
        (scratch / "staging" / "w0001" / city / "clip").mkdir(parents=True)
        (scratch / "staging" / "w0001" / city / "clip" / "rgb.mp4").write_bytes(b"12345")
    (scratch / "locks").mkdir()
    with (scratch / "locks" / "w0001.lima.rendered_clips").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        going = sweep(store, scratch=scratch, now=TOMORROW, apply=True)

    assert keys(going) == [str(scratch / "staging" / "w0001" / "tokyo")]
    assert going[0].size_bytes == 5
    assert [path.name for path in (scratch / "staging" / "w0001").iterdir()] == ["lima"]
    assert len(sweep(store, scratch=scratch, now=TOMORROW)) == 1


def test_scratch_that_was_touched_lately_stays(store, tmp_path):
    folder = tmp_path / "staging" / "w0001" / "tokyo"
    folder.mkdir(parents=True)
    (folder / "frame").write_bytes(b"")
    os.utime(folder, (0, 0))

    assert sweep(store, scratch=tmp_path) == []


def test_a_full_site_retires_its_oldest_released_waves_and_keeps_the_newest(store):
    oldest = rows.clips(range(1), wave="w0001")["pack_key"][0]

    assert sweep(store, max_disk_gb=1.0, keep_waves=1) == []
    assert keys(sweep(store, max_disk_gb=1e-9, keep_waves=1, apply=True)) == [oldest]
    assert not store.exists(oldest)
    assert store.exists("clips/w0001/tokyo.parquet")
    assert sweep(store, max_disk_gb=1e-9, keep_waves=1) == []


def test_disk_usage_is_counted_by_folder(store):
    usage = disk_usage(store)

    assert usage["packs"] == 2000
    assert sum(usage.values()) == store.used_bytes()


def test_packs_of_world_models_stay_when_disk_is_short_as_they_cannot_be_made_again(store):
    made = rows.generated_clips(range(1), wave="w0001", city="lima")
    store.put(made["pack_key"][0], b"x" * 1000)
    publish(store, CLIPS, "cosmos_clips/w0001/lima.parquet", made)

    going = sweep(store, now=TOMORROW, max_disk_gb=0.0, keep_waves=0)

    packs = [key for key in keys(going) if key.startswith("packs/w0001/")]
    assert packs == [rows.clips(range(1), wave="w0001")["pack_key"][0]]


def federated(folder):
    """A coordinator without cities, and a site with one."""
    from resources.federation import Federation

    (folder / "sites.toml").write_text(
        '[sites.local]\ncities = []\nstore = "a"\n[sites.aws]\ncities = ["tokyo"]\nstore = "b"\n'
    )
    return Federation(sites_path=str(folder / "sites.toml"), home=str(folder))


def test_batches_that_nobody_claims_go_at_every_site(tmp_path):
    federation = federated(tmp_path)
    stray = f"logs/private/clips/000000000001-{'ab' * 32}.parquet"
    for name in federation.members:
        federation.store(name).put(stray, b"PAR1")

    going = sweep(federation.federated_store(), now=TOMORROW, apply=True)

    assert [(removal.site, removal.key) for removal in going] == [("local", stray), ("aws", stray)]
    assert not any(federation.store(name).exists(stray) for name in federation.members)


def test_a_retired_wave_is_marked_where_its_packs_lay(tmp_path):
    federation = federated(tmp_path)
    store = federation.federated_store()
    clips = rows.clips(range(1), wave="w0001")
    store.put(clips["pack_key"][0], b"x" * 1000)
    publish(store, CLIPS, "clips/w0001/tokyo.parquet", clips)
    store.put("releases/w0001/release.json", b"{}")

    sweep(store, max_disk_gb=0.0, keep_waves=0, apply=True)

    assert not store.exists(clips["pack_key"][0])
    assert [key for key, _ in federation.store("aws").list("retired")] == ["retired/w0001.json"]
    assert federation.store("local").list("retired") == []
