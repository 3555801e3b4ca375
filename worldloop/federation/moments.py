"""Where a site's optimizer stands, as named arrays: AdamW's two averages and its count of steps for every tensor.

A site that keeps it begins the next round as if it had never stopped. It tells of the site's gradients, so it stays
at the site; where it lies is the matter of `resources.moments`.
"""

import numpy as np
from numpy.typing import NDArray

from worldloop.federation.adapters import Arrays
from worldloop.federation.rounds import RoundPlan
from worldloop.seeds import content_id

STEP = "step"
PARTS = ("exp_avg", "exp_avg_sq", STEP)
"""As torch.optim.AdamW names them: averages of the gradient and of its square, and steps so far."""


def untouched(adapter: Arrays) -> dict[str, NDArray[np.float32]]:
    """What AdamW knows before its first step: zeros, which share their memory.

    Args:
        adapter: What is trained.

    Returns:
        `<tensor>.exp_avg` and `<tensor>.exp_avg_sq` of the tensor's shape, and `<tensor>.step` of shape ().

    Example:
        >>> {name: each.shape for name, each in untouched({"a": np.ones((2, 3), np.float32)}).items()}
        {'a.exp_avg': (2, 3), 'a.exp_avg_sq': (2, 3), 'a.step': ()}
    """
    return {
        f"{name}.{part}": np.broadcast_to(np.float32(0), () if part == STEP else each.shape)
        for name, each in adapter.items()
        for part in PARTS
    }


def kind_of(plan: RoundPlan) -> str:
    """Hash of all that an optimizer's state depends on but for the numbers: base, rank, scale and targets."""
    base, training = plan.base, plan.training
    return content_id(
        {
            "base": [base.model, base.revision, base.checkpoint],
            "adapter": [
                training.rank,
                training.alpha,
                list(training.targets),
                training.first_blocks,
            ],
        }
    )
