import multiprocessing
import time

import pytest

from resources.staging import Staging

SPAWN = multiprocessing.get_context("spawn")
WAIT_S = 60.0
SHARD = ("w0001", "tokyo", "rendered_clips")


@pytest.fixture
def root(tmp_path):
    return str(tmp_path / "scratch")


def hold(root, held, let_go):
    with Staging(root=root).lock(*SHARD):
        held.set()
        let_go.wait(WAIT_S)
        time.sleep(0.1)
        (Staging(root=root).folder("w0001", "tokyo") / "made").touch()


def start_holder(root):
    held, let_go = SPAWN.Event(), SPAWN.Event()
    holder = SPAWN.Process(target=hold, args=(root, held, let_go))
    holder.start()
    assert held.wait(WAIT_S)
    return holder, let_go


def test_whoever_asks_second_waits_and_finds_the_shard_made(root):
    holder, let_go = start_holder(root)
    made = Staging(root=root).folder("w0001", "tokyo") / "made"
    assert not made.exists()

    let_go.set()
    with Staging(root=root).lock(*SHARD):
        assert made.exists()
    holder.join(WAIT_S)


def test_a_killed_holder_gives_the_lock_back(root):
    holder, _ = start_holder(root)

    holder.kill()
    with Staging(root=root).lock(*SHARD):
        assert not (Staging(root=root).folder("w0001", "tokyo") / "made").exists()
    holder.join(WAIT_S)


def test_steps_and_shards_do_not_wait_for_each_other(root):
    staging = Staging(root=root)

    with (
        staging.lock("w0001", "tokyo", "rendered_clips"),
        staging.lock("w0001", "tokyo", "embeddings"),
        staging.lock("w0001", "lima", "rendered_clips"),
    ):
        pass


def test_clearing_a_shard_leaves_the_others_alone(root):
    staging = Staging(root=root)
    (staging.folder("w0001", "tokyo") / "half").touch()
    kept = staging.folder("w0001", "lima") / "half"
    kept.touch()

    staging.clear("w0001", "tokyo")
    staging.clear("w0001", "tokyo")

    assert list(staging.folder("w0001", "tokyo").iterdir()) == []
    assert kept.exists()
