"""Noise levels of Cosmos 3: UniPC with the checkpoint's settings, Euler, or four fixed steps.

A schedule keeps its numbers on the CPU, where reading one costs nothing, and each kind of latent
(video, sound, actions) steps with a schedule of its own, because UniPC remembers its last steps.
"""

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gpu_jobs.common.torch_ops import import_diffusers
from worldloop.errors import MalformedRecordError, UnknownKeyError

UNIPC, EULER = "unipc", "flow_euler"
SAMPLERS = (UNIPC, EULER)


@dataclass
class Schedule:
    """The way from noise to one latent.

    Attributes:
        scheduler: Of diffusers, at its beginning.
        timesteps: As the scheduler counts them.
    """

    scheduler: Any
    timesteps: list[Any]

    @property
    def num_steps(self) -> int:
        """How many steps there are."""
        return len(self.timesteps)

    def timestep(self, index: int) -> float:
        """What the transformer is told of a step."""
        return self.timesteps[index].item()  # type: ignore[no-any-return]  # on the CPU

    def advance(
        self,
        index: int,
        velocity: torch.Tensor,
        latent: torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """The latent after a step; the schedulers want a batch axis.

        Args:
            index: Of the step.
            velocity: What the model says, in the shape of the latent.
            latent: Before the step.
            generator: Of the noise that a stochastic schedule adds.
        """
        noise = {} if generator is None else {"generator": generator}
        stepped: torch.Tensor = self.scheduler.step(
            velocity[None], self.timesteps[index], latent[None], return_dict=False, **noise
        )[0][0]
        return stepped

    def again(self) -> "Schedule":
        """The same schedule for another latent."""
        return Schedule(copy.deepcopy(self.scheduler), self.timesteps)


def start_schedule(
    config: dict[str, Any], *, num_steps: int, sampler: str, native: bool, flow_shift: float
) -> Schedule:
    """A schedule at its beginning.

    Args:
        config: Of the checkpoint's scheduler.
        num_steps: Denoising steps.
        sampler: `unipc`, or `flow_euler` without the memory of earlier steps.
        native: Whether noise levels are spaced evenly before they are shifted.
        flow_shift: Shift of the noise levels in place of the checkpoint's own spacing; 0 keeps that.
            NVIDIA's recipes use 10 for video of Nano and Super, 3 for pictures and for Edge.

    Raises:
        UnknownKeyError: If there is no such sampler.
    """
    if sampler not in SAMPLERS:
        raise UnknownKeyError("sampler of Cosmos 3", sampler, SAMPLERS)
    if flow_shift:
        config = {**config, "flow_shift": flow_shift, "use_karras_sigmas": False}
    diffusers = import_diffusers()
    scheduler = diffusers.UniPCMultistepScheduler.from_config(config)
    wanted = scheduler.config.num_train_timesteps
    sigmas = np.linspace(1.0 - 1.0 / wanted, 0.0, num_steps + 1)[:-1] if native else None
    with warnings.catch_warnings():
        # diffusers hands a tensor to numpy.array, which torch answers with a warning of numpy 2
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        scheduler.set_timesteps(num_steps, device="cpu", sigmas=sigmas)
    if sampler == EULER:
        scheduler = _euler(scheduler.sigmas[:-1].tolist(), wanted)
    scheduler.set_begin_index(scheduler.index_for_timestep(scheduler.timesteps[0]))
    return Schedule(scheduler, list(scheduler.timesteps))


def start_fixed(config: dict[str, Any], *, sigmas: tuple[float, ...]) -> Schedule:
    """The schedule of a distilled model, whose steps each draw new noise.

    Args:
        config: Of its scheduler.
        sigmas: Its noise levels.
    """
    diffusers = import_diffusers()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(config)
    scheduler.set_timesteps(sigmas=list(sigmas), device="cpu")
    scheduler.set_begin_index(0)
    return Schedule(scheduler, list(scheduler.timesteps))


def check_fixed(
    sigmas: tuple[float, ...], *, num_steps: int, guidance: float, sampler: str, name: str
) -> None:
    """Refuse steps, guidance or a sampler that a distilled model was not made for.

    Raises:
        MalformedRecordError: If one of them is another.
    """
    found = (num_steps, guidance, sampler)
    expected = (len(sigmas), 1.0, EULER)
    if found != expected:
        raise MalformedRecordError(
            f"steps, guidance and sampler of {name}",
            found,
            f"{expected}: it is distilled, guidance is in its weights",
            "Leave them out.",
        )


def _euler(sigmas: list[float], num_train_timesteps: int) -> Any:
    """Plain Euler steps over given noise levels."""
    diffusers = import_diffusers()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=num_train_timesteps)
    scheduler.set_timesteps(sigmas=sigmas, device="cpu")
    return scheduler
