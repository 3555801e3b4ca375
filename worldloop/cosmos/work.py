"""How much of the transformer's work a speed profile leaves, at the size of a published model."""

from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.flops import pass_flops, token_grid
from worldloop.cosmos.models import Model
from worldloop.cosmos.profiles import SpeedProfile
from worldloop.cosmos.tiles import tiling, window


def work_share(
    profile: SpeedProfile, model: Model, shape: ClipShape, *, num_steps: int = 35
) -> float:
    """Floating-point operations of a clip with guidance, over those of all passes with dense attention.

    Precision and kernels change how fast an operation is, not whether it is done: `fast` has 1.

    Args:
        profile: What is left out.
        model: Whose dimensions count.
        shape: Of the clip.
        num_steps: Denoising steps; a student's own number goes before.

    Example:
        >>> from worldloop.cosmos.models import model
        >>> from worldloop.cosmos.profiles import PROFILES
        >>> large = model("Cosmos-1.0-Diffusion-7B-Text2World")
        >>> shape = ClipShape(121, 1280, 704, 24)
        >>> [round(work_share(PROFILES[name], large, shape), 2) for name in ("fast", "cached")]
        [1.0, 0.23]
    """
    tiles = tiling(token_grid(model, shape))
    dense = pass_flops(model, shape).total
    sparse = pass_flops(model, shape, density=window(tiles, profile.density).density).total
    steps = profile.num_steps or num_steps
    done = 0.0
    for step in range(steps):
        if profile.computed(step, steps):
            passes = 2 if profile.guided(step, steps) else 1
            done += passes * (dense if profile.dense(step, steps) else sparse)
    return done / (2 * num_steps * dense)
