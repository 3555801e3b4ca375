"""A render job that is killed in the middle leaves no trace in the release."""

import contextlib
import threading
import time

import dagster as dg
import psutil

from resources.tables import read, read_record
from tests.conftest import House
from worldloop import layout
from worldloop.records import RECEIPTS

PLACE, CITY, WAVE = "tokyo/hospital", "tokyo", "w0001"
SHAPE = {"clips_per_place": 3, "num_frames": 25, "width_px": 128, "height_px": 72}


def release_of(house: House) -> str:
    house.plan(WAVE, [PLACE], **SHAPE)
    house.carry(WAVE, [CITY])
    return read_record(house.store, layout.release_key(WAVE))["root_hash"]


def kill_after_first_clip(house: House, killed: list[int]) -> None:
    """Kill the render job as soon as one of its clips is finished."""
    staging = house.resources["staging"].folder(WAVE, CITY)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not killed:
        finished = [p for p in staging.glob("*/.sums.json") if ".partial" not in p.parent.name]
        if finished:
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):  # gone, or ended and not waited for
                    if "gpu_jobs.render_clips.job" in child.cmdline():
                        child.kill()
                        killed.append(child.pid)
        time.sleep(0.01)


def test_a_killed_and_resumed_job_gives_the_same_release(tmp_path):
    with dg.DagsterInstance.ephemeral() as instance:
        (tmp_path / "calm").mkdir()
        undisturbed = release_of(House(tmp_path / "calm", instance))

    with dg.DagsterInstance.ephemeral() as instance:
        (tmp_path / "rough").mkdir()
        house, killed = House(tmp_path / "rough", instance), []
        watcher = threading.Thread(target=kill_after_first_clip, args=(house, killed))
        watcher.start()
        disturbed = release_of(house)
        watcher.join()
        receipts = read(house.store, RECEIPTS, layout.receipts_key(WAVE, CITY))

    assert killed
    assert receipts["resumed"].sum() >= 1
    assert disturbed == undisturbed
