"""Outlook: which world models run on a card, how, and how fast; what `worldloop doctor` prints."""

from collections.abc import Iterable
from dataclasses import dataclass

from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.memory import OffloadPlan, plan_offload, smallest_gpu_gb
from worldloop.cosmos.models import MODELS, Model
from worldloop.cosmos.profiles import PROFILES
from worldloop.cosmos.tiers import TIERS, legal_tiers, tier_shape
from worldloop.cosmos.timing import ClipTime, Gpu, seconds_per_clip

SHOWN_PROFILES = ("exact", "fast", "thrifty", "lean_fp8_attention")


@dataclass(frozen=True)
class Outlook:
    """What one model does on one card.

    Attributes:
        model: The model.
        tier: Name of the tier; empty for the model's own shape.
        shape: Of a clip.
        plan: Which parts leave the card, and the expected peak.
        seconds: Of a clip, by profile; empty if it does not fit.
        needs_gb: The smallest usual card that would do; None if there is none.
    """

    model: Model
    tier: str
    shape: ClipShape
    plan: OffloadPlan
    seconds: dict[str, ClipTime]
    needs_gb: int | None

    @property
    def runs(self) -> bool:
        """Whether it fits."""
        return self.plan.fits


def outlook(gpu: Gpu, *, models: Iterable[Model] = ()) -> tuple[Outlook, ...]:
    """What each published model does on a card: in its own shape, and in every tier that it makes.

    Args:
        gpu: The card.
        models: Which models; empty takes all but variants and tiny ones.

    Example:
        >>> from worldloop.cosmos.models import model
        >>> from worldloop.cosmos.timing import gpu
        >>> own, draft, *_ = outlook(gpu("H200"), models=[model("Cosmos-Predict2-2B-Video2World")])
        >>> own.runs, draft.tier, draft.shape.width_px
        (True, 'draft', 320)
    """
    chosen = tuple(models) or tuple(one for one in MODELS.values() if not (one.tiny or one.variant))
    rows: list[Outlook] = []
    for one in chosen:
        rows.append(_look(one, "", one.default_shape, gpu))
        tiers = [name for name in legal_tiers(one) if name != "tiny"]
        rows += [_look(one, tier, tier_shape(tier, one), gpu) for tier in tiers]
    return tuple(rows)


def _look(model: Model, tier: str, shape: ClipShape, gpu: Gpu) -> Outlook:
    plan = plan_offload(model, shape, gpu.memory_gb)
    if not plan.fits:
        return Outlook(model, tier, shape, plan, {}, smallest_gpu_gb(model, shape))
    steps = (TIERS[tier].num_steps if tier else 0) or model.default_steps
    distilled = "distilled" in model.features
    names = ("exact", "fast") if distilled else SHOWN_PROFILES
    seconds = {
        name: seconds_per_clip(model, shape, PROFILES[name], num_steps=steps, on=gpu)
        for name in names
    }
    return Outlook(model, tier, shape, plan, seconds, None)
