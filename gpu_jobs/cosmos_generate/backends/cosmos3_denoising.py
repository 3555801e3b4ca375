"""The loops of Cosmos 3: worlds with sound and actions, transfer, and four fixed steps.

A clip is denoised by itself, as diffusers does it; the clips of a batch take turns in every step.
Numbers that a step needs from the schedule are on the CPU, and masks are decided before the first
step, so that no step waits for the device.
"""

# C channels, T frames, H height, W width, L tokens

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from gpu_jobs.cosmos_generate.backends.cosmos3_packing import Pack
from gpu_jobs.cosmos_generate.backends.cosmos3_schedule import Schedule
from gpu_jobs.cosmos_generate.backends.cosmos3_text import ReadText, TextReader
from gpu_jobs.cosmos_generate.protocol import DenoiseOptions, Module

Said = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
"""What the transformer says of video, sound and actions."""


@dataclass
class Latents:
    """Latents of one clip.

    Attributes:
        video: float32 (1, C, T, H, W).
        sound: float32 (C, L), or None.
        actions: float32 (L, C) in the model's width, or None.
    """

    video: torch.Tensor
    sound: torch.Tensor | None = None
    actions: torch.Tensor | None = None


@dataclass
class Passes:
    """Runs the transformer for the branches of one clip.

    Attributes:
        transformer: The network.
        reader: What its layers recall the text with.
        packs: By branch.
        options: With the step policy.
        prefix: Sets the clips of a batch apart for the policy.
        text_of: Branches that read the text of another one.
    """

    transformer: Module
    reader: TextReader
    packs: dict[str, Pack]
    options: DenoiseOptions
    prefix: str = ""
    text_of: dict[str, str] = field(default_factory=dict)
    _texts: dict[str, ReadText] = field(default_factory=dict, repr=False)

    def run(
        self, branch: str, latents: Latents, timestep: float, controls: Sequence[torch.Tensor] = ()
    ) -> Said:
        """What a branch says of the clip: computed, or what the policy puts in its place."""
        said: Said = self.options.policy.run(
            self.prefix + branch, lambda: self._computed(branch, latents, timestep, controls)
        )
        return said

    def _computed(
        self, branch: str, latents: Latents, timestep: float, controls: Sequence[torch.Tensor]
    ) -> Said:
        text = self._texts.setdefault(
            self.text_of.get(branch, branch), ReadText(len(self.transformer.layers))
        )
        pack = self.packs[branch]
        dtype, device = self.transformer.dtype, latents.video.device
        seen: dict[str, Any] = {
            "vision_tokens": [*controls, latents.video.to(dtype)],
            "vision_timesteps": torch.full((pack.num_noisy_video,), timestep, device=device),
        }
        if latents.sound is not None:
            seen["sound_tokens"] = [latents.sound.to(dtype)]
            seen["sound_timesteps"] = torch.full(latents.sound.shape[1:], timestep, device=device)
        if latents.actions is not None:
            seen["action_tokens"] = [latents.actions.to(dtype)]
            seen["action_timesteps"] = torch.full(
                (pack.num_noisy_actions,), timestep, device=device
            )
        static = pack.recalled if text.complete else pack.full
        with self.reader.reading(text):
            video, sound, actions = self.transformer(**static, **seen, return_dict=False)
        return video[-1], sound and sound[0], actions and actions[0]


@dataclass
class WorldClip:
    """A clip of text, frames or actions on its way from noise.

    Attributes:
        passes: Runs the transformer.
        schedule: Of the video.
        state: Latents as they stand.
        noisy: 1 where a latent frame of the video has noise, 0 where it is given; (T, 1, 1).
        actions_are_noisy: Whether actions are answered.
        action_width: Numbers of an action of the embodiment; the rest of the model's width is zero.
        sound_schedule: Of the sound.
        action_schedule: Of the actions.
    """

    passes: Passes
    schedule: Schedule
    state: Latents
    noisy: torch.Tensor
    actions_are_noisy: bool = False
    action_width: int = 0
    sound_schedule: Schedule | None = None
    action_schedule: Schedule | None = None

    def __post_init__(self) -> None:
        if self.state.sound is not None:
            self.sound_schedule = self.schedule.again()
        if self.actions_are_noisy:
            self.action_schedule = self.schedule.again()

    def step(self, index: int) -> None:
        """Take one step."""
        options, timestep = self.passes.options, self.schedule.timestep(index)
        velocities = self._masked(self.passes.run("cond", self.state, timestep))
        if options.guidance != 1.0 and options.policy.guided():
            away = self._masked(self.passes.run("uncond", self.state, timestep))
            velocities = _guided(away, velocities, options.guidance)
        self.advance(index, velocities)

    def advance(self, index: int, velocities: Said) -> None:
        """Move every kind of latent along its velocity."""
        video, sound, actions = velocities
        state = self.state
        state.video = self.schedule.advance(index, video, state.video)
        if self.sound_schedule is not None and sound is not None and state.sound is not None:
            state.sound = self.sound_schedule.advance(index, sound, state.sound)
        if self.action_schedule is not None and actions is not None:
            assert state.actions is not None
            state.actions = self.action_schedule.advance(index, actions, state.actions)
            state.actions[:, self.action_width :] = 0

    def _masked(self, said: Said) -> Said:
        """Velocities in float32, zero where something is given."""
        video, sound, actions = said
        masked = video * self.noisy.to(video.dtype)
        if actions is not None and self.actions_are_noisy:
            actions = actions.float()
            actions[:, self.action_width :] = 0
        return masked.float(), sound if sound is None else sound.float(), actions


@dataclass
class TransferClip:
    """A clip that follows control videos.

    Attributes:
        passes: Runs the transformer; branch `no_control` leaves the controls out.
        schedule: Of the video.
        state: Latents as they stand.
        noisy: 1 where a latent frame has noise, 0 where it is given; (T, 1, 1).
        given: Given latents (1, C, T, H, W), zeros elsewhere.
        controls: Latents of the control videos, in the precision of the transformer.
        control_guidance: How far to lead away from the clip without controls; 1 not at all.
    """

    passes: Passes
    schedule: Schedule
    state: Latents
    noisy: torch.Tensor
    given: torch.Tensor
    controls: list[torch.Tensor]
    control_guidance: float = 1.0

    def step(self, index: int) -> None:
        """Take one step."""
        timestep = self.schedule.timestep(index)
        velocity = self._velocity(timestep) * self.noisy
        latent = self.schedule.advance(index, velocity, self.state.video)
        self.state.video = self.noisy * latent + (1.0 - self.noisy) * self.given

    def _velocity(self, timestep: float) -> torch.Tensor:
        options = self.passes.options
        velocity = self._said("cond", timestep)
        if self.control_guidance != 1.0:
            without = self._said("no_control", timestep)
            velocity = without + self.control_guidance * (velocity - without)
        if options.guidance > 1.0 and options.policy.guided():
            away = self._said("uncond", timestep)
            velocity = away + options.guidance * (velocity - away)
        return velocity

    def _said(self, branch: str, timestep: float) -> torch.Tensor:
        controls = () if branch == "no_control" else self.controls
        return self.passes.run(branch, self.state, timestep, controls)[0].float()


@dataclass
class DistilledClip(WorldClip):
    """A clip in a few fixed steps without guidance, each of which draws new noise.

    Attributes:
        given: Given latents (1, C, T, H, W), put back after every step; None without.
        generator: Of the noise.
    """

    given: torch.Tensor | None = None
    generator: torch.Generator | None = None

    def advance(self, index: int, velocities: Said) -> None:
        """Take a stochastic step, then put back what is given."""
        state = self.state
        latent = self.schedule.advance(index, velocities[0], state.video, self.generator)
        if self.given is not None:
            noisy = self.noisy
            latent = (1.0 - noisy) * self.given + noisy * latent
        state.video = latent


@dataclass
class Turns:
    """A batch whose clips take turns in every step; see `protocol.Denoising`.

    Attributes:
        clips: One for each request.
        options: With the step policy that they share.
    """

    clips: Sequence[WorldClip | TransferClip]
    options: DenoiseOptions

    @property
    def num_steps(self) -> int:
        """Steps of every clip."""
        return self.clips[0].schedule.num_steps

    def step(self, index: int) -> None:
        """Take one step with every clip; steps are taken in order."""
        self.options.policy.start_step(index, self.num_steps)
        with torch.no_grad():
            for clip in self.clips:
                clip.step(index)

    def latents(self) -> list[Latents]:
        """The batch as `decode` takes it, one entry for each clip."""
        return [clip.state for clip in self.clips]


def _guided(away: Said, toward: Said, guidance: float) -> Said:
    video, sound, actions = (
        None if one is None or other is None else one + guidance * (other - one)
        for one, other in zip(away, toward, strict=True)
    )
    assert video is not None
    return video, sound, actions
