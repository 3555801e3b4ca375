"""Several processes train what one does: the same losses and nearly the same weights."""

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from gpu_jobs.cosmos_generate.tiny import write_tiny_checkpoint
from gpu_jobs.posttrain.base import Bases
from gpu_jobs.posttrain.parallel import Fleet
from gpu_jobs.posttrain.training import train
from tests.gpu_jobs.posttrain.tiny_footage import VIDEO2WORLD, spec
from worldloop.errors import MalformedRecordError
from worldloop.federation.adapters import read_adapter

SAME_LOSS, SAME_WEIGHTS = 1e-5, 2e-3
"""Relative distances that summing in another order may make over six steps."""
CASES = {
    "lora": ("lora", 4, 0),
    "full": ("full", 4, 0),
    "again": ("full", 4, 3),
    "lora, shared tokens": ("lora", 1, 0),
    "full, shared tokens": ("full", 1, 0),
    "lora, Cosmos 3": ("lora", 2, 0),
    "full, Cosmos 3": ("full", 2, 0),
    "lora, Cosmos 3, shared tokens": ("lora", 1, 0),
    "full, Cosmos 3, shared tokens": ("full", 1, 0),
}
"""Mode, windows of a step (one window has its tokens shared by both), step at which it is stopped."""
COSMOS3 = "Tiny-Cosmos3"
FIELDS = {"num_steps": 6, "ema_decay": 0.5, "prox_mu": 0.05, "learning_rate": 1e-3}
FILES = {"lora": "adapter.safetensors", "full": "delta.safetensors"}


def asked(site, checkpoint_dir, output_dir, case, **changes):
    mode, batch_size, _ = CASES[case]
    model = COSMOS3 if "Cosmos 3" in case else VIDEO2WORLD
    write_tiny_checkpoint(model, checkpoint_dir)
    training = {**FIELDS, "mode": mode, "batch_size": batch_size, "checkpoint_blocks": True}
    kept = {"output_dir": str(output_dir), "checkpoint_every_s": 0.0, "model": model}
    training["conditioning_frames"] = [0, 1]
    return spec(site, checkpoint_dir, training=training, **kept, **changes)


def free_ports(count):
    with ExitStack() as held:
        ends = [held.enter_context(socket.socket()) for _ in range(count)]
        for end in ends:
            end.bind(("127.0.0.1", 0))
        return [end.getsockname()[1] for end in ends]


def started(rank, program, *arguments, **variables):
    here = Path(__file__).with_name(program)
    environment = {
        **os.environ,
        "PYTHONPATH": ".",
        "OMP_NUM_THREADS": "1",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        **variables,
    }
    return subprocess.Popen([sys.executable, str(here), *map(str, arguments)], env=environment)


@pytest.fixture(scope="module")
def by_two(site, checkpoint_dir, tmp_path_factory):
    """Reports of two processes: an adapter, all weights, and all weights after being stopped at step 3."""
    folder = tmp_path_factory.mktemp("two")
    export = {"project": "p", "group": "g", "name": "n", "root": str(folder / "exports")}
    cases = []
    for name, (_, _, stop_at) in CASES.items():
        port, port_again = free_ports(2)
        one = asked(site, checkpoint_dir, folder / name, name, export=export)
        ports = {"port": port, "port_again": port_again}
        cases.append({"spec": asdict(one), "stop_at": stop_at, **ports})
    path = folder / "cases.json"
    path.write_text(json.dumps(cases))
    jobs = [started(rank, "one_of_two.py", path) for rank in range(2)]
    assert [job.wait(timeout=300) for job in jobs] == [0, 0]
    reports = json.loads(path.with_suffix(".reports").read_text())
    return folder, dict(zip(CASES, reports, strict=True))


@pytest.mark.parametrize("case", [name for name in CASES if name != "again"])
def test_two_processes_train_what_one_does(by_two, site, checkpoint_dir, tmp_path, case):
    folder, reports = by_two
    mode = CASES[case][0]
    asked_one = asked(site, checkpoint_dir, tmp_path / "one", case)
    one = train(asked_one, lambda event: None, Bases())
    losses = [[point["loss"] for point in each] for each in (one.losses, reports[case]["losses"])]
    assert losses[1] == pytest.approx(losses[0], rel=SAME_LOSS)
    alone, both = (read_adapter(place / FILES[mode]) for place in (tmp_path / "one", folder / case))
    far = [np.linalg.norm(alone[name] - both[name]) for name in alone]
    whole = [np.linalg.norm(alone[name]) for name in alone]
    assert np.linalg.norm(far) / np.linalg.norm(whole) < SAME_WEIGHTS
    assert all(Path(path).exists() for path in reports[case]["exports"])


def test_sharded_training_that_is_stopped_goes_on_to_the_same_bytes(by_two):
    folder, reports = by_two
    assert reports["again"]["resumed_at"] > 0 == reports["full"]["resumed_at"]
    whole, again = ((folder / name / FILES["full"]).read_bytes() for name in ("full", "again"))
    assert whole == again


def test_gradients_of_shared_tokens_are_those_of_one_process(checkpoint_dir, tmp_path):
    names, (port,) = (COSMOS3, "Tiny-Cosmos3-Edge"), free_ports(1)
    for name in names:
        write_tiny_checkpoint(name, checkpoint_dir)
    asked_of_both = ("gradients_of_two.py", checkpoint_dir, tmp_path / "out.json", *names)
    jobs = [started(rank, *asked_of_both, MASTER_PORT=str(port)) for rank in range(2)]
    assert [job.wait(timeout=300) for job in jobs] == [0, 0]
    found = json.loads((tmp_path / "out.json").read_text())
    assert found.keys() == set(names)
    assert max(found.values()) < 1e-5


def test_a_batch_that_processes_cannot_share_is_refused():
    with pytest.raises(
        MalformedRecordError, match=r"divisor of the number of processes, 2.*with 4"
    ):
        Fleet.started(2, 0, batch_size=3)


def test_processes_share_a_batch_window_by_window():
    shares = [Fleet(2, rank).own_share([1, 2, 3, 4]) for rank in range(2)]
    assert shares == [[1, 3], [2, 4]]
