"""Tiers: named shapes of generated clips with a speed profile, from a cheap draft to a hero shot."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from worldloop.cosmos.asking import nearest_shape
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.models import Model
from worldloop.errors import MalformedRecordError, UnknownKeyError

SKETCH = "sketch"  # the tier of procedural clips, which a recipe's own shape describes
LADDER = ("draft", "standard", "hero")


@dataclass(frozen=True)
class Tier:
    """A shape and what it may cost.

    Attributes:
        name: Key in `TIERS`.
        num_frames: Length of a clip.
        width_px: Width.
        height_px: Height.
        profile: Name of its speed profile.
        num_steps: Denoising steps; 0 takes what the profile or the model says.
    """

    name: str
    num_frames: int
    width_px: int
    height_px: int
    profile: str
    num_steps: int = 0


TIERS: Mapping[str, Tier] = MappingProxyType(
    {
        tier.name: tier
        for tier in (
            Tier("draft", 61, 320, 192, "fast"),
            Tier("standard", 93, 768, 432, "fast"),
            Tier("hero", 121, 1280, 704, "fast"),
            Tier("tiny", 9, 64, 64, "exact"),
        )
    }
)


def tier_shape(name: str, model: Model) -> ClipShape:
    """The shape of a tier's clips, at the model's own frame rate.

    Args:
        name: One of `TIERS`.
        model: What makes them. One with random weights takes any shape of its family's strides.

    Raises:
        UnknownKeyError: If there is no such tier.
        MalformedRecordError: If the model cannot make it; says which tiers it can.

    Example:
        >>> from worldloop.cosmos.models import MODELS
        >>> tier_shape("draft", MODELS["Cosmos-Predict2-2B-Video2World"])
        ClipShape(num_frames=61, width_px=320, height_px=192, rate_fps=16)
    """
    if name not in TIERS:
        raise UnknownKeyError("tier of a world model", name, TIERS)
    fault = _fault(TIERS[name], model)
    if fault:
        can = ", ".join(legal_tiers(model))
        raise MalformedRecordError(
            f"tier of {model.name}",
            name,
            f"one of: {can}" if can else "a model that makes clips",
            f"{fault}. Choose another tier, or another model.",
        )
    return _shape(TIERS[name], model)


def legal_tiers(model: Model) -> tuple[str, ...]:
    """Tiers that a model can make, the cheapest first."""
    return tuple(name for name, tier in TIERS.items() if not _fault(tier, model))


def next_tier(name: str, model: Model) -> str | None:
    """The next tier up that a model can make; None if there is none.

    Example:
        >>> from worldloop.cosmos.models import MODELS
        >>> next_tier("draft", MODELS["Cosmos-Predict2-2B-Video2World"])
        'standard'
        >>> print(next_tier("hero", MODELS["Cosmos-Predict2-2B-Video2World"]))
        None
    """
    if name not in LADDER:
        return None
    above = LADDER[LADDER.index(name) + 1 :]
    return next((tier for tier in above if not _fault(TIERS[tier], model)), None)


def _fault(tier: Tier, model: Model) -> str:
    """Why a model cannot make a tier; empty if it can."""
    if model.default_shape.num_frames == 1:
        return f"{model.name} makes pictures, not clips"
    if tier.name == "tiny" and not model.tiny:
        return "The tier 'tiny' is for models with random weights"
    asked = _shape(tier, model)
    near = nearest_shape(asked, model=model)
    if near == asked:
        return ""
    return f"It is {_words(asked)}; the nearest that {model.record.title} makes is {_words(near)}"


def _shape(tier: Tier, model: Model) -> ClipShape:
    rate_fps = model.record.shape.rate_fps if model.tiny else model.default_shape.rate_fps
    return ClipShape(tier.num_frames, tier.width_px, tier.height_px, rate_fps)


def _words(shape: ClipShape) -> str:
    return f"{shape.num_frames} frames of {shape.width_px}x{shape.height_px} px"
