import multiprocessing
from collections import Counter

from resources.site_store import SiteStore
from resources.wave_plans import claim_wave

SPAWN = multiprocessing.get_context("spawn")


def claim_many(url, barrier, own, won):
    store = SiteStore(url=url)
    barrier.wait(60)
    for number in range(8):
        won.put(claim_wave(store, ["w0003"], cause=f"{own} {number}"))


def test_processes_that_open_waves_together_never_get_one_key(tmp_path):
    barrier, won = SPAWN.Barrier(3), SPAWN.Queue()
    processes = [
        SPAWN.Process(target=claim_many, args=(str(tmp_path), barrier, own, won)) for own in "abc"
    ]
    for process in processes:
        process.start()
    keys = [won.get(timeout=120) for _ in range(24)]
    for process in processes:
        process.join(60)

    assert max(Counter(keys).values()) == 1
    assert sorted(keys) == [f"w{number:04d}" for number in range(4, 28)]


def test_a_cause_that_asks_again_gets_its_key_again_until_the_wave_is_known(tmp_path):
    store = SiteStore(url=str(tmp_path))

    assert [claim_wave(store, [], cause="a") for _ in range(2)] == ["w0001", "w0001"]
    assert claim_wave(store, [], cause="b") == "w0002"
    assert claim_wave(store, ["w0001"], cause="a") == "w0003"


def test_a_key_that_only_a_plan_has_is_taken(tmp_path):
    store = SiteStore(url=str(tmp_path))
    store.put("plans/w0004.json", b"{}")

    assert claim_wave(store, ["w0001"], cause="a") == "w0005"
