"""Speed profiles: what may be traded for speed, in numbers that decide a clip's bytes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, Self

from worldloop.errors import MalformedRecordError, UnknownKeyError

Attention = Literal["native", "cudnn", "fp8"]
Linears = Literal["native", "fp8", "fp8_te"]


@dataclass(frozen=True)
class SpeedProfile:
    """How the denoising of a clip is computed.

    Attributes:
        name: Key in `PROFILES`.
        compile: Whether transformer blocks are compiled, once per shape.
        attention: Dense self-attention: torch's choice, cuDNN in bf16, or cuDNN in FP8 (Transformer Engine).
        linears: Large linear layers as they are, FP8 row-wise by `torch._scaled_mm`, or FP8 by Transformer Engine.
        density: Share of key tiles that a query tile attends to in self-attention; 1 is dense.
        dense_first_steps: Leading steps that stay dense.
        dense_last_steps: Trailing steps that stay dense.
        cache_every: The transformer runs on every so many steps and is extrapolated between; 1 is always.
        cache_first_steps: Leading steps that are never extrapolated.
        cache_last_steps: Trailing steps that are never extrapolated.
        cache_order: 0 repeats the last prediction, 1 extrapolates along the last two.
        guidance_from: First share of the schedule (0 to 1) in which guidance applies.
        guidance_until: Last share of the schedule in which guidance applies; outside, only the conditional pass runs.
        num_steps: Steps that a distilled student needs; 0 takes what the request says.
    """

    name: str
    compile: bool = False
    attention: Attention = "native"
    linears: Linears = "native"
    density: float = 1.0
    dense_first_steps: int = 0
    dense_last_steps: int = 0
    cache_every: int = 1
    cache_first_steps: int = 0
    cache_last_steps: int = 0
    cache_order: int = 0
    guidance_from: float = 0.0
    guidance_until: float = 1.0
    num_steps: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be computed.

        Raises:
            MalformedRecordError: If a share lies outside 0 to 1 or a count is negative.
        """
        if not 0.0 < self.density <= 1.0:
            raise MalformedRecordError(
                "density of a speed profile", self.density, "a share in (0, 1]", "Use 1 for dense."
            )
        if not 0.0 <= self.guidance_from <= self.guidance_until <= 1.0:
            raise MalformedRecordError(
                "guidance interval of a speed profile",
                (self.guidance_from, self.guidance_until),
                "0 <= from <= until <= 1",
                "Use 0 and 1 for guidance on all steps.",
            )
        if self.cache_every < 1 or self.cache_order not in (0, 1):
            raise MalformedRecordError(
                "step cache of a speed profile",
                (self.cache_every, self.cache_order),
                "cache_every >= 1 and cache_order 0 or 1",
                "Use 1 and 0 for no cache.",
            )

    def guided(self, step: int, num_steps: int) -> bool:
        """Whether the unconditional pass runs in a step, 0 to num_steps - 1."""
        return self.guidance_from * num_steps <= step < self.guidance_until * num_steps

    def dense(self, step: int, num_steps: int) -> bool:
        """Whether attention is dense in a step."""
        return (
            self.density == 1.0
            or step < self.dense_first_steps
            or step >= num_steps - self.dense_last_steps
        )

    def computed(self, step: int, num_steps: int) -> bool:
        """Whether the transformer runs in a step, rather than being extrapolated."""
        first, last = self.cache_first_steps, num_steps - self.cache_last_steps
        return step < max(first, 1) or step >= last or (step - first) % self.cache_every == 0

    def to_record(self) -> dict[str, Any]:
        """The JSON record; all of it is part of a clip's recipe."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a record back.

        Raises:
            MalformedRecordError: If a field is unknown or cannot be.
        """
        try:
            return cls(**record)
        except TypeError as error:
            raise MalformedRecordError(
                "speed profile",
                str(error),
                "the fields of docs/formats.md",
                "Name a known profile.",
            ) from error


_EXACT = SpeedProfile("exact")
_FAST = SpeedProfile("fast", compile=True, attention="cudnn", linears="fp8")
_SPARSE = replace(_FAST, name="sparse", density=0.15, dense_first_steps=26, dense_last_steps=1)
_THRIFTY = replace(  # hardly to be told from `fast`
    _FAST,
    name="thrifty",
    cache_every=3,
    cache_first_steps=4,
    cache_last_steps=2,
    cache_order=1,
    guidance_until=0.65,
)
# Of what passes its gate, each leaves out as much as it can (docs/speed.md). Sparse attention does
# not bear the steps that lay a scene out, and steps bear being extrapolated better than both.
PROFILES: Mapping[str, SpeedProfile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            _EXACT,
            _FAST,
            replace(_FAST, name="fast_fp8_attention", attention="fp8"),
            _SPARSE,
            _THRIFTY,
            # Every fourth step, in FP8 attention; guidance as long as the text needs it.
            replace(
                _THRIFTY,
                name="lean_fp8_attention",
                attention="fp8",
                cache_every=4,
                cache_first_steps=2,
                guidance_until=0.75,
            ),
            # The scene stays, details move.
            replace(_THRIFTY, name="cached", cache_every=6, cache_first_steps=2),
            replace(_FAST, name="distilled", num_steps=4, guidance_from=0.0, guidance_until=0.0),
        )
    }
)


def profile(name: str) -> SpeedProfile:
    """The profile with a name.

    Raises:
        UnknownKeyError: If there is none.
    """
    if name not in PROFILES:
        raise UnknownKeyError("speed profile", name, PROFILES)
    return PROFILES[name]
