"""Step policies: which passes of the transformer run in a step, and what stands in for the others.

A prediction of the transformer changes slowly between neighbouring steps, so that a skipped pass
is replaced by the last prediction of its branch (order 0) or by the line through the last two
(order 1), in step numbers. Guidance may end early: its pass then is not run at all.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from worldloop.cosmos.profiles import SpeedProfile

KEPT = 2  # predictions of a branch that an extrapolation of order 1 needs


@dataclass
class Density:
    """What self-attention reads before each pass: whether the current step is dense.

    Attributes:
        dense: True until a policy says otherwise.
    """

    dense: bool = True


@dataclass
class ProfilePolicy:
    """The `StepPolicy` of a speed profile, for one batch.

    Attributes:
        profile: What may be left out.
        density: Read by sparse attention; shared by all policies of a transformer.
        num_forwards: Passes that were computed.
    """

    profile: SpeedProfile
    density: Density = field(default_factory=Density)
    num_forwards: int = 0
    _step: int = 0
    _num_steps: int = 1
    _kept: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)

    def start_step(self, step: int, num_steps: int) -> None:
        """Called before the passes of a step; a policy that starts over forgets its predictions."""
        if step == 0:
            self._kept.clear()
        self._step, self._num_steps = step, num_steps
        self.density.dense = self.profile.dense(step, num_steps)

    def guided(self) -> bool:
        """Whether the unconditional pass of the current step is wanted."""
        return self.profile.guided(self._step, self._num_steps)

    def run(self, branch: str, forward: Callable[[], Any]) -> Any:
        """The transformer's output of a branch: computed, or extrapolated.

        A branch without any prediction is always computed.
        """
        kept = self._kept.setdefault(branch, [])
        if kept and not self.profile.computed(self._step, self._num_steps):
            return self._extrapolate(kept)
        self.num_forwards += 1
        output = forward()
        if self.profile.cache_every > 1:
            kept.append((self._step, output))
            del kept[:-KEPT]
        return output

    def _extrapolate(self, kept: list[tuple[int, Any]]) -> Any:
        if self.profile.cache_order == 0 or len(kept) < KEPT:
            return kept[-1][1]
        (before_step, before), (last_step, last) = kept
        share = (self._step - last_step) / (last_step - before_step)
        return _along(before, last, share)


def _along(before: Any, last: Any, share: float) -> Any:
    """`last` moved on by a share of its distance from `before`; containers keep their type."""
    if isinstance(last, torch.Tensor):
        return torch.lerp(before.float(), last.float(), 1.0 + share).to(last.dtype)
    if isinstance(last, tuple | list):
        return type(last)(_along(old, new, share) for old, new in zip(before, last, strict=True))
    return last
