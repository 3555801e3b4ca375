"""The log and its lease on the three emulators: real servers, real processes."""

import multiprocessing
import os
import signal
import time
from collections import Counter

import polars as pl
import pytest

from resources import failpoints
from resources.lease import Lease
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from tests import rows
from worldloop.errors import LeaseHeldError, LogDamageError

SPAWN = multiprocessing.get_context("spawn")
WRITERS = {"lima": 3, "oslo": 3, "cairo": 3}


@pytest.fixture
def address(emulator):
    """Of an empty store, for any process."""
    site = emulator.fresh_site()
    return {"url": site.url, "options": site.options, "secrets": site.secrets}


@pytest.fixture
def store(address):
    return SiteStore(**address)


def mirrored(store, folder):
    return SiteLog(store=store, mirror=str(folder), checkpoint_every=4)


def append_some(address, folder, barrier, own, count):
    log = mirrored(SiteStore(**address), folder)
    barrier.wait(120)
    for i in range(count):
        log.append("clips", rows.clips(range(i, i + 3)))  # everybody writes these
        log.append("clips", rows.clips(range(i, i + 1), city=own))  # only I write these


def run(*processes):
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    return [process.exitcode for process in processes]


def test_three_processes_that_append_at_once_lose_and_double_nothing(address, store, tmp_path):
    barrier = SPAWN.Barrier(3)
    writers = [
        SPAWN.Process(target=append_some, args=(address, tmp_path / city, barrier, city, count))
        for city, count in WRITERS.items()
    ]

    assert run(*writers) == [0, 0, 0]

    log = SiteLog(store=store)
    clips = log.read("clips")
    assert dict(clips.group_by("city").len().iter_rows()) == {**WRITERS, "tokyo": 5}
    assert (
        sum(pl.read_parquet(store.get(b.key("clips"))).height for b in log.batch_hashes("clips"))
        == 14
    )
    assert mirrored(store, tmp_path / "lima").read("clips").equals(clips)
    assert log.unclaimed() == []


def die_between_data_and_claim(address):
    failpoints.watch(
        lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == "log.batch_written" else None
    )
    SiteLog(store=SiteStore(**address)).append("clips", rows.clips(range(2)))


def test_a_writer_killed_before_its_claim_leaves_nothing_that_counts(address, store, tmp_path):
    assert run(SPAWN.Process(target=die_between_data_and_claim, args=(address,))) == [
        -signal.SIGKILL
    ]

    log = mirrored(store, tmp_path / "mirror")
    assert log.read("clips").is_empty()
    assert len(log.unclaimed()) == 1
    assert log.append("clips", rows.clips(range(3))) == 3
    assert log.direct.read("clips").height == 3


def test_requests_are_few_with_a_warm_mirror(store, tmp_path, monkeypatch):
    log = mirrored(store, tmp_path / "mirror")
    log.append("clips", rows.clips(range(1)))
    log.append("signals", rows.signals(range(1)))
    counted = Counter()
    for verb in ("get", "put", "create", "exists", "size", "scan", "delete"):
        call = getattr(SiteStore, verb)
        monkeypatch.setattr(
            SiteStore, verb, lambda *a, v=verb, c=call, **k: (counted.update([v]), c(*a, **k))[1]
        )

    log.append("clips", rows.clips(range(1, 2)))
    assert counted == {"scan": 1, "put": 1, "create": 1}
    counted.clear()
    assert log.position() == '{"private":{"clips":2,"signals":1},"shared":{}}'
    assert counted == {"scan": 1}


def test_a_hole_is_told_from_a_store_that_does_not_answer(store, tmp_path):
    log = mirrored(store, tmp_path / "mirror")
    log.append("clips", rows.clips(range(2)))
    store.delete(log.batch_hashes("clips")[0].key("clips"))

    with pytest.raises(LogDamageError, match="catalog repair"):
        log.direct.read("clips")
    assert log.read("clips").height == 2


def hold(address, held):
    Lease(SiteStore(**address), "lance", "first", ttl_s=1.0).acquire()
    held.set()
    time.sleep(120)


def test_the_lease_of_a_killed_holder_ends_by_the_clock_of_the_store(address, store):
    held = SPAWN.Event()
    process = SPAWN.Process(target=hold, args=(address, held))
    process.start()
    assert held.wait(120)
    with pytest.raises(LeaseHeldError, match="first holds"):
        Lease(store, "lance", "second").acquire()
    process.kill()
    process.join()

    deadline, lease = time.monotonic() + 30, Lease(store, "lance", "second", ttl_s=30)
    while not lease.term and time.monotonic() < deadline:
        try:
            lease.acquire()
        except LeaseHeldError as error:
            time.sleep(max(error.left_s, 0.1))
    assert lease.still_held()
    lease.release()
    with Lease(store, "lance", "third") as third:
        assert third.term > lease.term
