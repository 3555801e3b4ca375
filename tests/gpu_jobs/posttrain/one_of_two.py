"""One of several processes as torchrun starts them, that trains specs one after the other.

Run as a program: `one_of_two.py CASES.json`, a list of `{"spec": ..., "stop_at": step or 0, "port": int}`.
A training that is stopped is run again and goes on.
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from gpu_jobs.posttrain.spec import PosttrainSpec
from gpu_jobs.posttrain.training import train


def stopping_at(step):
    """Raises when a step is told; on every process at the same step."""

    def on_event(event):
        if step and event.get("step") == step:
            raise KeyboardInterrupt

    return on_event


def run(case):
    os.environ["MASTER_PORT"] = str(case["port"])
    spec = PosttrainSpec(**case["spec"])
    try:
        return train(spec, stopping_at(case["stop_at"]))
    except KeyboardInterrupt:
        os.environ["MASTER_PORT"] = str(case["port_again"])
        return train(spec, stopping_at(0))


if __name__ == "__main__":
    reports = [asdict(run(case)) for case in json.loads(Path(sys.argv[1]).read_text())]
    if os.environ["RANK"] == "0":
        Path(sys.argv[1]).with_suffix(".reports").write_text(json.dumps(reports))
