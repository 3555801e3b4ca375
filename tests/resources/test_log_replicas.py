import os
import signal
import subprocess
import sys
import textwrap

import pytest

from resources.log_replicas import replicate
from resources.site_log import SiteLog
from tests import rows
from tests.resources.federated_sites import files, member
from worldloop.errors import StoreError
from worldloop.layout import replica_prefix


@pytest.fixture
def home(tmp_path):
    home = member("home", tmp_path)
    for wave in ("w0001", "w0002"):
        home.film(wave, "tokyo")
    return home


@pytest.fixture
def east(tmp_path):
    return member("east", tmp_path)


def replica(place):
    return SiteLog(store=place.store.within(replica_prefix("home")))


def test_the_shared_log_is_copied_and_the_private_one_stays(home, east):
    copied = replicate(home.store, east.store, "home")

    assert (copied.num_batches, copied.num_standing) == (4, 0)
    assert replica(east).read("lineage").equals(home.log.read("lineage"))
    assert not [key for key in files(east.store) if "private" in key or "packs" in key]


def test_a_second_run_copies_only_what_is_new(home, east):
    replicate(home.store, east.store, "home")
    assert replicate(home.store, east.store, "home").num_batches == 0

    home.film("w0003", "lima")
    again = replicate(home.store, east.store, "home")
    assert (again.num_batches, again.num_standing) == (2, 4)
    assert replica(east).read("duplicates").equals(home.log.read("duplicates"))


def test_retractions_are_copied_too(home, east):
    taken = home.log.read("lineage")["id"][0]
    home.log.retract("lineage", [taken], reason="asked for")
    replicate(home.store, east.store, "home")

    assert taken not in replica(east).read("lineage")["id"]


def test_a_batch_that_nobody_claimed_is_not_copied(home, east):
    home.store.put(f"logs/shared/lineage/{3:012d}-{'ab' * 32}.parquet", b"by a killed writer")
    replicate(home.store, east.store, "home")

    assert not [key for key in files(east.store) if "abab" in key]


def test_a_copy_that_was_killed_before_the_claim_goes_on(home, east):
    program = f"""
        import os, signal
        from resources import failpoints
        from resources.log_replicas import replicate
        from resources.site_store import SiteStore
        seen = []
        def kill(name):
            seen.append(name)
            if name == "replica.batch_copied" and len(seen) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
        failpoints.watch(kill)
        replicate(SiteStore(url={home.store.url!r}), SiteStore(url={east.store.url!r}), "home")
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], env=dict(os.environ))
    assert killed.returncode == -signal.SIGKILL
    assert (
        0 < replica(east).read("duplicates").height < 4 or not replica(east).read("lineage").height
    )

    assert replicate(home.store, east.store, "home").num_batches == 2
    for kind in ("lineage", "duplicates"):
        assert replica(east).read(kind).equals(home.log.read(kind))


def test_a_copy_that_differs_is_an_error_and_is_not_overwritten(home, east):
    other = SiteLog(store=east.store.within(replica_prefix("home")))
    other.append("lineage", rows.lineage(range(3), wave="w0009"))
    before = other.read("lineage")

    with pytest.raises(StoreError, match=r"is no copy of .*lineage/000000000001"):
        replicate(home.store, east.store, "home")
    assert other.read("lineage").equals(before)
    assert other.read("duplicates").equals(home.log.read("duplicates"))  # the rest was copied


def test_a_copy_that_is_ahead_is_an_error(home, east):
    replicate(home.store, east.store, "home")
    home.store.delete(f"logs/shared/lineage/claims/{2:012d}")

    with pytest.raises(
        StoreError, match="has 'logs/shared/lineage/claims/000000000002', which the"
    ):
        replicate(home.store, east.store, "home")


def test_a_damaged_batch_is_not_copied(home, east):
    key = next(k for k in files(home.store, "logs/shared/lineage") if "000000000001-" in k)
    home.store.put(key, b"damaged")

    with pytest.raises(StoreError, match="of the source is damaged"):
        replicate(home.store, east.store, "home")
    assert replica(east).read("lineage").is_empty()  # the second batch waits for the first
