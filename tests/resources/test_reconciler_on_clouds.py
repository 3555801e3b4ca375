import threading
import time

import pytest

from resources.log_replicas import replicate
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from tests.campaigns.holes import plant
from tests.emulators.clouds import running
from tests.emulators.servers import EmulatorMissingError, azurite_program
from tests.resources.federated_sites import files, look_over, member, share
from worldloop.errors import UnreachableError
from worldloop.layout import replica_prefix

CLOUDS = ["aws", "gcp", pytest.param("azure", marks=pytest.mark.cloud)]
HASTY = {"client_max_retries": "1", "client_retry_timeout": "1"}


def store_of(site, **options):
    return SiteStore(url=site.url, options={**site.options, **options}, secrets=site.secrets)


@pytest.fixture
def own_emulator(request, tmp_path):
    """An emulator that the test may stop."""
    if request.param == "azure":
        try:
            azurite_program()
        except EmulatorMissingError as missing:
            pytest.skip(str(missing))
    with running(request.param, tmp_path / request.param) as emulator:
        yield emulator


@pytest.mark.parametrize("seed", range(3))
def test_holes_in_buckets_are_found_and_repaired(emulator, tmp_path, seed):
    home = member("home", tmp_path, store_of(emulator.fresh_site()))
    east = member("east", tmp_path, store_of(emulator.fresh_site()))
    for wave in ("w0001", "w0002", "w0003"):
        home.film(wave, "tokyo")
    share(home, east)
    before = {place.name: files(place.store) for place in (home, east)}

    holes = {place.name: plant(place.store, seed, place.name) for place in (home, east)}
    done = look_over(home, east)

    found = {(finding.site, finding.key) for finding in done.findings}
    planted = {(name, h.key.removeprefix("replicas/home/")) for name in holes for h in holes[name]}
    assert planted <= found
    assert done.unrepaired == []
    assert {place.name: files(place.store) for place in (home, east)} == before


@pytest.mark.parametrize("own_emulator", CLOUDS, indirect=True)
def test_a_site_that_was_stopped_during_writes_catches_up_by_itself(own_emulator, tmp_path):
    away, home = store_of(own_emulator.fresh_site(), **HASTY), member("home", tmp_path)
    targets = {"away": away, "near": SiteStore(url=str(tmp_path / "near"))}
    errors = []

    def write(wave):
        home.film(wave, "tokyo")
        for target in targets.values():
            try:
                replicate(home.store, target, "home")
            except UnreachableError as error:
                errors.append(str(error))

    def write_on(stopped):
        for number in range(1, 100):
            gone = stopped.is_set()
            write(f"w{number:04d}")
            if gone:
                return  # a whole wave was written while the server was away

    stopped = threading.Event()
    writer = threading.Thread(target=write_on, args=(stopped,))
    writer.start()
    while home.log.num_batches("lineage") < 3:
        time.sleep(0.01)
    own_emulator.stop()
    stopped.set()
    writer.join()
    assert errors
    assert all(away.url in error for error in errors)
    near = SiteLog(store=targets["near"].within(replica_prefix("home")))
    assert near.read("lineage").equals(home.log.read("lineage"))  # the other one missed nothing

    own_emulator.start()
    write("w0100")
    far = SiteLog(store=away.within(replica_prefix("home")))
    for kind in ("lineage", "duplicates"):
        assert far.read(kind).equals(home.log.read(kind))
