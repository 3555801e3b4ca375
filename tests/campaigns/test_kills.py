"""Kills in CI: a few on a folder, thirty on each emulator; docs/log.md has the thousand."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.campaigns import kills
from tests.campaigns.kill_worker import FAILPOINTS, Task, append_clips
from tests.emulators.clouds import Emulator


@pytest.fixture(scope="module", autouse=True)
def _prepared() -> None:
    kills.prepare()


@pytest.fixture
def ground(tmp_path: Path) -> kills.Ground:
    return kills.local_ground(tmp_path / "home")


@pytest.fixture
def settled(ground: kills.Ground) -> Iterator[Task]:
    """A site at which a worker appended and everything was projected."""
    task = kills.task_of(ground, seed=0)
    append_clips(task.view(), task, step=0)
    kills.catch_up(task)
    assert kills.damage(task) == ([], [])
    return task


def test_nothing_is_lost_or_doubled_on_a_folder(ground):
    verdict = kills.run_group(ground, seed=11, num_kills=4)
    assert verdict.num_kills == 4
    assert verdict.num_acked > 0
    assert (verdict.lost, verdict.doubled) == ((), ())


@pytest.mark.cloud
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 106))
def test_nothing_is_lost_or_doubled_on_an_emulator(seed, emulator: Emulator, tmp_path):
    name = type(emulator).__name__.lower()
    ground = kills.emulated_ground(emulator.fresh_site(), name, tmp_path / "home")
    verdict = kills.run_group(ground, seed)
    assert (verdict.lost, verdict.doubled) == ((), ())
    assert verdict.num_kills + verdict.num_ended == kills.KILLS_A_GROUP


def test_a_lost_row_of_each_kind_is_seen(settled):
    view = settled.view()
    (claim,) = [f.key for f in view.store.scan("logs/private/captions/claims")]
    view.store.delete(claim)
    _table(settled).delete("index = 0")
    lost, _ = kills.damage(settled)
    assert {line.split()[0] for line in lost} == {"log", "lance"}


def test_a_doubled_row_is_seen(settled):
    table = _table(settled)
    table.add(table.to_arrow().slice(0, 1))
    _, doubled = kills.damage(settled)
    assert [line.split()[:2] for line in doubled] == [["lance", "vectors"]]


@pytest.mark.parametrize("name", FAILPOINTS)
def test_every_moment_is_reached(name, ground):
    """A moment at which nobody ever dies would make the campaign say nothing about it."""
    task = replace(kills.task_of(ground, seed=0), failpoint=name)
    assert kills.live_and_die(task) == name


def _table(task: Task):
    import lancedb

    database = lancedb.connect(f"{task.view().store.url}/lance")
    (name,) = database.list_tables().tables
    return database.open_table(name)
