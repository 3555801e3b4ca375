"""Samplers: how a latent goes from noise to picture once the model says what it sees in it.

All of them work on the model's estimate of the clean latent ("x0") at a noise level sigma, where a
noisy latent is x0 + sigma * noise. A sampler is asked once per step and holds only what it needs
of earlier steps, so that a batch may be stopped between any two.

- `EulerSampler`: first order, exactly the arithmetic of diffusers' `EDMEulerScheduler` and
  `FlowMatchEulerDiscreteScheduler` (both are this one formula on different noise levels).
- `ResSampler`: the second-order multistep exponential integrator "RES" (arXiv 2308.02157) as the
  makers of Cosmos run it, with one last pass that answers x0 itself.
"""

# B batch, C channels, T frames, H height, W width

import itertools
import math
from dataclasses import dataclass, field
from typing import Protocol

import torch

# cosmos_predict1/diffusion/modules/res_sampler.py:118-124, commit 4ed35fa, and
# cosmos_predict2/schedulers/rectified_flow_scheduler.py:29-32, commit 661da47.
SIGMA_MIN = 0.002
SIGMA_MAX = 80.0
RHO = 7.0


class Sampler(Protocol):
    """Takes a batch from one noise level to the next.

    Attributes:
        sigmas: Noise level of every step, float32, one per pass of the model.
    """

    sigmas: torch.Tensor

    def advance(
        self, index: int, latent_BCTHW: torch.Tensor, x0_BCTHW: torch.Tensor
    ) -> torch.Tensor:
        """The latent after step `index`, in the sampler's own precision; steps come in order."""


@dataclass
class EulerSampler:
    """First-order steps along the noise levels of a diffusers scheduler.

    Attributes:
        levels: Noise levels of the steps and the one after the last, float32, as the scheduler
            holds them (also its device, which decides how CUDA divides by them).
        sigmas: Noise level of every step.
    """

    levels: torch.Tensor
    sigmas: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.sigmas = self.levels[:-1]

    def advance(
        self, index: int, latent_BCTHW: torch.Tensor, x0_BCTHW: torch.Tensor
    ) -> torch.Tensor:
        """One Euler step in float32."""
        sigma, following = self.levels[index], self.levels[index + 1]
        derivative_BCTHW = (latent_BCTHW - x0_BCTHW) / sigma
        return latent_BCTHW + derivative_BCTHW * (following - sigma)


@dataclass(frozen=True)
class ResWeights:
    """One step of `ResSampler`: latent * `latent` + x0 * `x0` + x0 of the step before * `previous`."""

    latent: float
    x0: float
    previous: float


@dataclass
class ResSampler:
    """Second-order multistep steps of the "refined exponential solver", in float64.

    With l = -log(sigma) the ODE is dx/dl = x0 - x, whose linear part is solved exactly; x0 is
    extrapolated along the last two estimates. The first step has only one and is Euler's. After
    the steps one more pass at the smallest sigma answers x0 itself, as the original code does
    (`sample_clean`), so there is one pass more than steps.

    Attributes:
        num_steps: Steps of the solver, at least 1; there are `num_steps + 1` passes.
        sigma_min: Last noise level.
        sigma_max: First noise level.
        rho: Exponent of the spacing of noise levels (Karras et al., arXiv 2206.00364).
    """

    num_steps: int
    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX
    rho: float = RHO
    sigmas: torch.Tensor = field(init=False, repr=False)
    _weights: list[ResWeights] = field(init=False, repr=False)
    _previous_x0: torch.Tensor | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        levels = karras_sigmas(
            self.num_steps, sigma_min=self.sigma_min, sigma_max=self.sigma_max, rho=self.rho
        )
        self.sigmas = torch.tensor(levels, dtype=torch.float32)
        self._weights = res_weights(levels)

    def advance(
        self, index: int, latent_BCTHW: torch.Tensor, x0_BCTHW: torch.Tensor
    ) -> torch.Tensor:
        """One step; the last pass answers `x0_BCTHW`."""
        x0_BCTHW = x0_BCTHW.double()
        if index == self.num_steps:
            return x0_BCTHW
        weights = self._weights[index]
        following_BCTHW = weights.latent * latent_BCTHW.double() + weights.x0 * x0_BCTHW
        if self._previous_x0 is not None:
            following_BCTHW = following_BCTHW + weights.previous * self._previous_x0
        self._previous_x0 = x0_BCTHW
        return following_BCTHW


def karras_sigmas(
    num_steps: int,
    *,
    sigma_min: float = SIGMA_MIN,
    sigma_max: float = SIGMA_MAX,
    rho: float = RHO,
) -> list[float]:
    """Noise levels from `sigma_max` down to `sigma_min`, evenly spaced in sigma ** (1 / rho).

    Returns:
        num_steps + 1 levels.

    Example:
        >>> [round(sigma, 3) for sigma in karras_sigmas(3)]
        [80.0, 9.723, 0.47, 0.002]
    """
    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    inner = [(first + i / num_steps * (last - first)) ** rho for i in range(1, num_steps)]
    return [sigma_max, *inner, sigma_min]


def res_weights(sigmas: list[float]) -> list[ResWeights]:
    """Weights of every step between falling noise levels, the first one of first order.

    Args:
        sigmas: Strictly falling positive noise levels.

    Returns:
        One fewer than noise levels. The weights of a step add up with `latent` to 1, because a
        latent that equals x0 stays where it is.
    """
    times = [-math.log(sigma) for sigma in sigmas]
    first = ResWeights(sigmas[1] / sigmas[0], 1.0 - sigmas[1] / sigmas[0], 0.0)
    steps = zip(
        times, itertools.islice(times, 1, None), itertools.islice(times, 2, None), strict=False
    )
    return [first, *(_second_order(*step) for step in steps)]


def _second_order(before: float, now: float, following: float) -> ResWeights:
    """A step from `now` to `following` (both -log sigma) that knows x0 at `before`, too."""
    step = following - now
    place = (before - now) / step  # c2 of the Runge-Kutta table; negative looks back
    bend = _phi2(-step) / place
    return ResWeights(math.exp(-step), step * (_phi1(-step) - bend), step * bend)


def _phi1(z: float) -> float:
    return math.expm1(z) / z


def _phi2(z: float) -> float:
    return (_phi1(z) - 1.0) / z
