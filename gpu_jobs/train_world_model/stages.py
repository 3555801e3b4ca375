"""Running the stages of a training, saving where it stands, and going on from there after a kill."""

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gpu_jobs.train_world_model.spec import Stage
from worldloop.errors import JobFailedError

log = logging.getLogger(__name__)

_STEPS_A_POINT = 10  # losses are fetched from the device this often
_LAST_RATE = 0.02  # share of the learning rate at the very end


class Learner(Protocol):
    """A network in training. What a step does depends on its number alone, never on steps before."""

    part: str
    """`autoencoder` or `transformer`."""

    def step(self, stage: Stage, number: int, *, rate: float) -> Any:
        """One optimizer step; returns the loss, a tensor on the device.

        Args:
            stage: What to train on.
            number: Counted over all stages.
            rate: Share of the learning rate.
        """

    def state_dict(self) -> dict[str, Any]:
        """All that changes in training."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""


@dataclass
class Progress:
    """Where a part of the training stands.

    Attributes:
        stage: Index of the stage.
        step: Steps done in it.
        total: Steps done in all.
        elapsed_s: Seconds spent in the stage.
        rows: Finished stages, as in the report.
        losses: Curve, as in the report.
    """

    stage: int = 0
    step: int = 0
    total: int = 0
    elapsed_s: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    losses: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class StateFile:
    """The saved state of one part.

    Attributes:
        path: Of the file, replaced atomically.
        fingerprint: Of all that decides the weights; a state of another training is refused.
        every_s: Seconds between two saves.
    """

    path: Path
    fingerprint: str
    every_s: float

    def save(self, learner: Learner, progress: Progress) -> None:
        """Write the state beside its place, then rename."""
        import torch

        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        state = {
            "fingerprint": self.fingerprint,
            "progress": vars(progress),
            "learner": learner.state_dict(),
        }
        torch.save(state, part)
        part.replace(self.path)

    def load(self, learner: Learner) -> Progress | None:
        """Put the saved state into the learner; None if there is none.

        Raises:
            JobFailedError: If it is of another training.
        """
        import torch

        if not self.path.exists():
            return None
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        if state["fingerprint"] != self.fingerprint:
            raise JobFailedError(
                f"{self.path.name} in {str(self.path.parent)!r} is the state of a training with another "
                "spec or other footage. Remove the folder, or choose another state_dir."
            )
        learner.load_state_dict(state["learner"])
        return Progress(**state["progress"])


def run_stages(
    learner: Learner, stages: Sequence[Stage], file: StateFile, *, warmup: int
) -> Progress:
    """Train until all stages are done, from the saved state if there is one.

    Args:
        learner: What is trained.
        stages: In order.
        file: Where the state is kept.
        warmup: Steps of linear warm-up; the rate falls again over the last stage.

    Raises:
        JobFailedError: If the loss stops being a number, or the state is of another training.
    """
    progress = file.load(learner) or Progress()
    saved_s, begun = time.monotonic(), progress.total
    for index in range(progress.stage, len(stages)):
        stage, waiting = stages[index], []
        started_s = time.monotonic() - progress.elapsed_s
        while (share := _share(stage, progress.step, time.monotonic() - started_s)) < 1:
            rate = min(1.0, (progress.total + 1) / max(1, warmup))
            if index == len(stages) - 1:
                rate *= 1 - (1 - _LAST_RATE) * share
            waiting.append(learner.step(stage, progress.total, rate=rate).detach())
            progress.step, progress.total = progress.step + 1, progress.total + 1
            if len(waiting) == _STEPS_A_POINT:
                _note(learner.part, progress, waiting)
            if time.monotonic() - saved_s > file.every_s:
                progress.elapsed_s = time.monotonic() - started_s
                _note(learner.part, progress, waiting)
                file.save(learner, progress)
                saved_s = time.monotonic()
        _note(learner.part, progress, waiting)
        _finish(learner.part, stage, progress, time.monotonic() - started_s)
    if progress.total > begun:
        file.save(learner, progress)
    return progress


def _share(stage: Stage, step: int, elapsed_s: float) -> float:
    """How much of a stage is done, by steps or by the clock."""
    by_clock = elapsed_s / stage.max_s if stage.max_s else 0.0
    return max(step / stage.num_steps, by_clock)


def _note(part: str, progress: Progress, waiting: list[Any]) -> None:
    """Add a point to the curve and empty the list of losses."""
    import torch

    if not waiting:
        return
    loss = float(torch.stack(waiting).float().mean())
    waiting.clear()
    if not math.isfinite(loss):
        raise JobFailedError(
            f"The loss of the {part} is not a number at step {progress.total}. Lower its learning rate."
        )
    point = {"part": part, "stage": progress.stage, "step": progress.total, "loss": round(loss, 5)}
    progress.losses.append(point)


def _finish(part: str, stage: Stage, progress: Progress, wall_s: float) -> None:
    """Close a stage."""
    curve = [point["loss"] for point in progress.losses if point["stage"] == progress.stage]
    tail = curve[-max(1, len(curve) // 10) :]
    row = {
        "part": part,
        "num_frames": stage.num_frames,
        "batch_size": stage.batch_size,
        "steps": progress.step,
        "wall_s": round(wall_s, 1),
        "loss": round(sum(tail) / max(1, len(tail)), 5),
    }
    log.info(json.dumps({"event": "stage_done", **row}))
    progress.rows.append(row)
    progress.stage, progress.step, progress.elapsed_s = progress.stage + 1, 0, 0.0
