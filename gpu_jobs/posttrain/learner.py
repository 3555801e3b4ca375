"""The learner: one model in training, step by step.

What a step does depends on the seed, the site and its number alone: which windows it draws, their
captions and given frames, noise levels and noise. So a killed training goes on as if nothing had been.
"""

# B batch, C channels, T latent frames, H height, W width, L tokens, D width of a token

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_jobs.posttrain.base import Base
from gpu_jobs.posttrain.lora import attach, detach, to_arrays
from gpu_jobs.posttrain.objectives import Batch, noise_of
from gpu_jobs.posttrain.parallel import Fleet
from gpu_jobs.posttrain.windows import Windows
from gpu_jobs.train_world_model.data import batch_indices
from gpu_jobs.train_world_model.spec import Stage
from worldloop.errors import MalformedRecordError
from worldloop.federation.adapters import Arrays
from worldloop.federation.rounds import Training
from worldloop.seeds import derive_seed, stream

Tensor = Any

# cosmos_predict1/diffusion/training/config/video2world/experiment.py:80-84, commit 4ed35fa
BETAS, EPS = (0.9, 0.99), 1e-10
GRADIENT_NORM = 1.0
WORDLESS, NEGATIVE = -1, -2
"""In the place of a caption: zeros, which published trainings drop captions to, and the family's
negative prompt, which inference guides away from. Dropped captions are the one or the other, evenly."""


@dataclass(frozen=True)
class Draw:
    """What one window of a step is trained with.

    Attributes:
        window: Its number.
        caption: Window whose caption goes with it, or `WORDLESS` or `NEGATIVE`.
        target: Window whose clean latents are wanted: itself, but for the shuffled control.
        given: Conditioning frames.
        place: Quantile of its noise level.
        seed: Of its noise.
    """

    window: int
    caption: int
    target: int
    given: int
    place: float
    seed: int


@dataclass(frozen=True)
class Draws:
    """Draws the windows of every step.

    Attributes:
        windows: The footage.
        training: Batch size, caption dropout and conditioning frames.
        seed: Of the round.
        site: Tells the data order of sites apart.
        shuffled: For controls: captions and targets are those of another clip.
    """

    windows: Windows
    training: Training
    seed: int
    site: str
    shuffled: bool = False

    def __post_init__(self) -> None:
        """Refuse a control that needs more clips.

        Raises:
            MalformedRecordError: If there is one clip alone to shuffle.
        """
        if self.shuffled and len({self.windows.clip(i) for i in range(len(self.windows))}) < 2:
            raise MalformedRecordError(
                "shuffle_targets",
                "windows of one clip",
                "windows of at least 2 clips",
                "Give more footage, or turn shuffle_targets off.",
            )

    def of(self, number: int) -> list[Draw]:
        """Windows of a step, all of its batch."""
        size = self.training.batch_size
        chosen = batch_indices(len(self.windows), size, number, self.seed, self.site, "order")
        return [self._draw(number, place, window) for place, window in enumerate(chosen)]

    def _draw(self, number: int, place: int, window: int) -> Draw:
        rng = stream(self.seed, self.site, "step", number, place)
        given = self.training.conditioning_frames
        other = self._of_another_clip(window) if self.shuffled else window
        caption = other
        if rng.random() < self.training.caption_dropout:
            caption = WORDLESS if rng.random() < 0.5 else NEGATIVE
        return Draw(
            window,
            caption,
            target=other,
            given=int(given[int(rng.integers(len(given)))]),
            place=float(rng.random()),
            seed=derive_seed(self.seed, self.site, "noise", number, place),
        )

    def _of_another_clip(self, window: int) -> int:
        """Always the same other window: the first one, in a drawn order, that is of another clip."""
        order = stream(self.seed, "shuffled").permutation(len(self.windows)).tolist()
        start = order.index(window)
        turned = order[start + 1 :] + order[:start]
        clip = self.windows.clip(window)
        return int(next(each for each in turned if self.windows.clip(each) != clip))


class Learner:
    """A base in training: its adapter, or all of its weights.

    Args:
        base: Its weights are as before after `close`, unless they are sharded.
        training: How.
        draws: What every step is trained with.
        start: The adapter that is started from; None trains all weights.
        fleet: The processes that train together.
        compiled: Whether blocks are compiled.
    """

    part = "adapter"

    def __init__(
        self,
        base: Base,
        training: Training,
        draws: Draws,
        *,
        start: Arrays | None,
        fleet: Fleet,
        compiled: bool = False,
    ) -> None:
        import torch

        self.base, self.training, self.draws, self.fleet = base, training, draws, fleet
        self.transformer = base.transformer
        self.parameters = self._trainable(start)
        # of all weights the start waits in host memory, unless steps are pulled towards it
        home = "cpu" if start is None and not training.prox_mu else base.device
        self.start = {name: one.detach().to(home, copy=True) for name, one in self.own.items()}
        self.averages = (
            {name: one.detach().clone() for name, one in self.own.items()}
            if training.ema_decay
            else {}
        )
        self.num_updates = 0
        self.optimizer = torch.optim.AdamW(
            list(self.parameters.values()),
            lr=training.learning_rate,
            betas=BETAS,
            eps=EPS,
            weight_decay=training.weight_decay,
            fused=base.device.type == "cuda",
        )
        self._shared = fleet.share_tokens(self.transformer)
        if training.checkpoint_blocks:
            self.transformer.enable_gradient_checkpointing()
        if compiled:
            for block in self.transformer.transformer_blocks:
                block.compile(dynamic=False)

    @property
    def own(self) -> dict[str, Tensor]:
        """This process's share of every trained tensor; all of it where nothing is sharded."""
        return {name: self.fleet.own_part(one) for name, one in self.parameters.items()}

    def step(self, stage: Stage | None, number: int, *, rate: float) -> Tensor:
        """One optimizer step; the mean loss of the batch, a tensor on the device.

        Args:
            stage: Not used; steps are all alike.
            number: Of the step.
            rate: Share of the learning rate.
        """
        import torch

        drawn = self.fleet.own_share(self.draws.of(number))
        self.optimizer.zero_grad(set_to_none=True)
        with self._arithmetic():
            loss = self._loss(drawn)
        # the sharers of a window have the gradient of their tokens each, which averaging divides
        (loss * self.fleet.sharers).backward()
        self.fleet.average_gradients(self.parameters.values())
        self._pull_to_start()
        torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), GRADIENT_NORM)
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.learning_rate * rate
        self.optimizer.step()
        self._average()
        return self.fleet.mean(loss.detach())

    def state_dict(self) -> dict[str, Any]:
        """All that changes in training; this process's share."""
        return {
            "weights": {name: one.detach().cpu() for name, one in self.own.items()},
            "averages": {name: one.cpu() for name, one in self.averages.items()},
            "num_updates": self.num_updates,
            "optimizer": self.fleet.own_state(self.optimizer.state_dict()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        import torch

        with torch.no_grad():
            for name, own in self.own.items():
                own.copy_(state["weights"][name])
            for name, average in self.averages.items():
                average.copy_(state["averages"][name])
        self.num_updates = state["num_updates"]
        self.optimizer.load_state_dict(
            self.fleet.whole_state(state["optimizer"], list(self.parameters.values()))
        )

    def finished(self) -> dict[str, NDArray[np.float32]]:
        """The trained tensors, averaged where an average is kept; float32, in the first process alone."""
        return self._whole(self.averages or self.own)

    def last(self) -> dict[str, NDArray[np.float32]]:
        """The trained tensors as the last step left them."""
        return self._whole(self.own)

    def started(self) -> dict[str, NDArray[np.float32]]:
        """The tensors at the start."""
        return self._whole(self.start)

    def close(self) -> None:
        """Leave the base as it was; sharded weights stay sharded."""
        import torch

        from gpu_jobs.posttrain.model import unshare_tokens

        unshare_tokens(self._shared)
        self.transformer.disable_gradient_checkpointing()
        self.transformer.eval()
        if self.is_lora:
            detach(self.transformer)
        else:
            with torch.no_grad():
                for name, own in self.own.items():
                    own.copy_(self.start[name])
        self.transformer.requires_grad_(False)

    def _trainable(self, start: Arrays | None) -> dict[str, Tensor]:
        self.is_lora = start is not None
        if start is not None:
            parameters = attach(self.transformer, start, alpha=self.training.alpha)
        else:
            self.transformer.requires_grad_(True)
            self.fleet.shard(self.transformer)
            parameters = dict(self.transformer.named_parameters())
        self.transformer.train()
        return {name: parameters[name] for name in sorted(parameters)}

    def _arithmetic(self) -> Any:
        """Full training in bf16 keeps its weights in float32 and computes in bf16."""
        import torch

        if self.is_lora or self.training.precision != "bf16":
            return contextlib.nullcontext()
        return torch.autocast(self.base.device.type, torch.bfloat16)

    def _loss(self, drawn: Sequence[Draw]) -> Tensor:
        import torch

        windows, device = self.draws.windows, self.base.device
        latents = [windows.latent(draw.window) for draw in drawn]
        latent_BCTHW = torch.stack(latents).to(device, torch.float32)
        target_BCTHW = None
        if self.draws.shuffled:
            targets = [windows.latent(draw.target) for draw in drawn]
            target_BCTHW = torch.stack(targets).to(device, torch.float32)
        context_BLD = torch.stack([self._context(draw.caption) for draw in drawn]).to(device)
        given = self.base.latent_frames([draw.given for draw in drawn])
        batch = Batch(latent_BCTHW, context_BLD, self.training.shape, given, target_BCTHW)
        places_B = torch.tensor([draw.place for draw in drawn], dtype=torch.float64)
        noise = noise_of(batch, [draw.seed for draw in drawn])
        return self.base.objective.losses(self.transformer, batch, places_B, noise).mean()

    def _context(self, caption: int) -> Tensor:
        import torch

        if caption == NEGATIVE:
            return self.base.blank
        if caption == WORDLESS:
            return torch.zeros_like(self.base.blank)
        return self.draws.windows.context(caption)

    def _pull_to_start(self) -> None:
        """The gradient of prox_mu / 2 * |weights - start|^2 (FedProx, arXiv 1812.06127)."""
        import torch

        if not self.training.prox_mu:
            return
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                if parameter.grad is not None:
                    away = self.fleet.own_part(parameter) - self.start[name]
                    self.fleet.own_part(parameter.grad).add_(away, alpha=self.training.prox_mu)

    def _average(self) -> None:
        """Take the weights after a step into account; early on an average forgets faster."""
        self.num_updates += 1
        decay = min(self.training.ema_decay, (1 + self.num_updates) / (10 + self.num_updates))
        for name, own in self.own.items() if self.averages else ():
            self.averages[name].lerp_(own.detach(), 1 - decay)

    def _whole(self, own: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
        arrays: dict[str, NDArray[np.float32]] = {}
        for name, one in own.items():
            like = self.parameters[name]
            whole = self.fleet.whole_of(one.to(like.device), like)
            if self.fleet.leads:
                arrays.update(to_arrays({name: whole}))
        return arrays


def rate_of(training: Training, number: int) -> float:
    """Share of the learning rate of a step: it grows while warming up, then stays.

    Example:
        >>> from worldloop.cosmos.families import ClipShape
        >>> training = Training(ClipShape(9, 64, 48, 24), warmup_steps=4)
        >>> rate_of(training, 0), rate_of(training, 9)
        (0.25, 1.0)
    """
    return min(1.0, (number + 1) / max(1, training.warmup_steps))


def norm_of(end: Arrays, start: Arrays) -> float:
    """Euclidean length of what training changed; NaN and infinities stay what they are."""
    squares = [
        float(np.square(end[name] - start[name], dtype=np.float64).sum()) for name in sorted(end)
    ]
    total = math.fsum(squares) if all(map(math.isfinite, squares)) else math.nan
    return math.sqrt(total) if math.isfinite(total) else math.nan
