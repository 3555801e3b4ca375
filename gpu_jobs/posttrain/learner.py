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

from gpu_jobs.posttrain import fp8
from gpu_jobs.posttrain.base import Base
from gpu_jobs.posttrain.lora import attach, blocks_of, detach, to_arrays
from gpu_jobs.posttrain.objectives import Batch, noise_of
from gpu_jobs.posttrain.parallel import Fleet
from gpu_jobs.posttrain.windows import Windows
from gpu_jobs.train_world_model.data import batch_indices
from gpu_jobs.train_world_model.denoiser import attention_kernels
from gpu_jobs.train_world_model.spec import Stage
from worldloop.errors import MalformedRecordError
from worldloop.federation.adapters import Arrays
from worldloop.federation.moments import PARTS, untouched
from worldloop.federation.rounds import Training
from worldloop.seeds import derive_seed, stream

Tensor = Any

WORDLESS, NEGATIVE = -1, -2
"""In the place of a caption: nothing, which published trainings drop captions to, and the family's
negative prompt, which inference guides away from. Dropped captions are the one or the other, evenly,
but for Cosmos 3, where they are an empty text."""


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
        moments: Where the optimizer of an adapter goes on from; None: it begins anew.
        fleet: The processes that train together.
        compiled: Whether blocks are compiled, also if the training does not ask for it.
        attention: On CUDA `cudnn` prefers cuDNN's kernel where it can be used, `auto` is torch's choice; elsewhere
            the choice is torch's.
    """

    part = "adapter"

    def __init__(
        self,
        base: Base,
        training: Training,
        draws: Draws,
        *,
        start: Arrays | None,
        moments: Arrays | None = None,
        fleet: Fleet,
        compiled: bool = False,
        attention: str = "cudnn",
    ) -> None:
        import torch

        self.attention = attention if base.device.type == "cuda" else "auto"
        self.base, self.training, self.draws, self.fleet = base, training, draws, fleet
        self.transformer = base.transformer
        self.parameters = self._trainable(start)
        # of all weights the start waits in host memory, unless steps are pulled towards it
        home = "cpu" if start is None and not training.prox_mu else base.device
        self.start = {name: one.detach().to(home, copy=True) for name, one in self.own.items()}
        self.averages = (
            {name: one.detach().clone() for name, one in self.own.items()}
            if training.averages
            else {}
        )
        self.num_updates = 0
        self.optimizer = torch.optim.AdamW(
            list(self.parameters.values()),
            lr=training.learning_rate,
            betas=base.objective.descent.betas,
            eps=base.objective.descent.eps,
            weight_decay=training.weight_decay,
            fused=base.device.type == "cuda",
        )
        if moments is not None:
            self._take_over(moments)
        self._shared = fleet.share_tokens(self.transformer)
        if training.checkpoint_blocks:
            self.transformer.enable_gradient_checkpointing()
        self._eights = fp8.swap(self.transformer) if training.precision == fp8.FP8 else []
        self._is_compiled = compiled or training.compile_blocks
        if self._is_compiled:
            compile_blocks(self.transformer)

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
        # around the backward pass too: blocks that are computed again must choose as they did
        with attention_kernels(self.attention):
            with self._arithmetic():
                loss = self._loss(drawn)
            # the sharers of a window have the gradient of their tokens each, which averaging divides
            (loss * self.fleet.sharers).backward()
        self.fleet.average_gradients(self.parameters.values())
        self._pull_to_start()
        longest = self.base.objective.descent.gradient_norm
        torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), longest)
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

    def moments(self) -> dict[str, NDArray[np.float32]]:
        """Where the optimizer of an adapter stands, which every process has whole; float32."""
        found = untouched(to_arrays(self.own))  # zeros are what a tensor without a gradient has
        for name, parameter in self.parameters.items():
            state = self.optimizer.state.get(parameter, {})
            found |= to_arrays({f"{name}.{part}": state[part] for part in PARTS if part in state})
        return found

    def close(self) -> None:
        """Leave the base as it was; sharded weights stay sharded."""
        import torch

        from gpu_jobs.posttrain.model import unshare_tokens

        if self._is_compiled:
            forget_compiled(self.transformer)
        fp8.restore(self._eights)
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

    def _take_over(self, moments: Arrays) -> None:
        import torch

        state = {
            number: {part: torch.from_numpy(np.array(moments[f"{name}.{part}"])) for part in PARTS}
            for number, name in enumerate(self.parameters)
        }
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})

    def _trainable(self, start: Arrays | None) -> dict[str, Tensor]:
        self.is_lora = start is not None
        if start is not None:
            parameters = attach(self.transformer, start, alpha=self.training.alpha)
        else:
            trains = self.base.objective.trains
            for name, parameter in self.transformer.named_parameters():
                parameter.requires_grad_(trains(name))
            self.fleet.shard(self.transformer)
            parameters = {
                name: one for name, one in self.transformer.named_parameters() if trains(name)
            }
        self.transformer.train()
        return {name: parameters[name] for name in sorted(parameters)}

    def _arithmetic(self) -> Any:
        """Full training in bf16 keeps its weights in float32 and computes in bf16."""
        import torch

        if self.is_lora or self.training.precision == "fp32":
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
        if caption in (NEGATIVE, WORDLESS):
            negative = caption == NEGATIVE
            return self.base.dropped_caption(self.training.shape, negative=negative)
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
        decay = decay_of(self.training, self.num_updates)
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


def compile_blocks(transformer: Any) -> None:
    """Compile each block of a transformer at its first step; shapes are fixed, blocks that are alike share code."""
    import torch

    from gpu_jobs.cosmos_generate.speed.compiled import RECOMPILES

    torch._dynamo.config.recompile_limit = RECOMPILES
    torch._dynamo.config.accumulated_recompile_limit = 4 * RECOMPILES
    for block in blocks_of(transformer):
        block.compile(dynamic=False)


def forget_compiled(transformer: Any) -> None:
    """Have blocks computed as they are again: measuring has other shapes, and no adapter."""
    for block in blocks_of(transformer):
        block._compiled_call_impl = None  # what `Module.compile` sets; torch has no inverse of it


def decay_of(training: Training, num_updates: int) -> float:
    """How much of an average is kept when weights are taken into account for this many times.

    A power average (arXiv 2312.02696) as cosmos_framework/model/generator/omni_mot_model.py has it
    (`ema_beta`, NVIDIA/cosmos-framework, commit 5eee9ed): its length is a share of the training so far.

    Example:
        >>> from worldloop.cosmos.families import ClipShape
        >>> shape = ClipShape(9, 64, 48, 24)
        >>> decay_of(Training(shape, ema_decay=0.999), 1)
        0.18181818181818182
        >>> round(decay_of(Training(shape, ema_rate=0.1), 99), 4)
        0.9233
    """
    if not training.ema_rate:
        return min(training.ema_decay, (1 + num_updates) / (10 + num_updates))
    square = training.ema_rate**-2
    power = float(np.roots([1, 7, 16 - square, 12 - square]).real.max())
    return float((1 - 1 / (num_updates + 1)) ** (power + 1))


def rate_of(training: Training, number: int) -> float:
    """Share of the learning rate of a step: it grows while warming up, then stays or falls along a cosine.

    Example:
        >>> from worldloop.cosmos.families import ClipShape
        >>> training = Training(ClipShape(9, 64, 48, 24), warmup_steps=4)
        >>> rate_of(training, 0), rate_of(training, 9)
        (0.25, 1.0)
        >>> falling = Training(ClipShape(9, 64, 48, 24), warmup_steps=4, cosine_steps=12)
        >>> [round(rate_of(falling, number), 3) for number in (3, 4, 8, 12, 20)]
        [1.0, 1.0, 0.5, 0.0, 0.0]
    """
    warm = training.warmup_steps
    if number < warm or not training.cosine_steps:
        return min(1.0, (number + 1) / max(1, warm))
    done = min(1.0, (number - warm) / max(1, training.cosine_steps - warm))
    return 0.5 * (1 + math.cos(math.pi * done))


def norm_of(end: Arrays, start: Arrays) -> float:
    """Euclidean length of what training changed; NaN and infinities stay what they are."""
    squares = [
        float(np.square(end[name] - start[name], dtype=np.float64).sum()) for name in sorted(end)
    ]
    total = math.fsum(squares) if all(map(math.isfinite, squares)) else math.nan
    return math.sqrt(total) if math.isfinite(total) else math.nan
