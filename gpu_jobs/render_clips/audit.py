"""What makes a frame unusable, checked on every frame while it is drawn."""

import numpy as np

from gpu_jobs.render_clips.engine import Frame
from worldloop.errors import ClipRejectedError
from worldloop.worlds.geometry import SemanticClass
from worldloop.worlds.world import Instance

TOUCHING_M = 0.35
MAX_TOUCHING_SHARE = 0.60
MAX_CLOSE_SHARE = 0.75  # of the frame, by one thing nearer than a metre
MIN_CONTRAST = 2.5  # standard deviation of luma, in levels of 255
GROUND = frozenset(
    {
        SemanticClass.ROAD,
        SemanticClass.SIDEWALK,
        SemanticClass.TERRAIN,
        SemanticClass.FLOOR,
        SemanticClass.WATER,
    }
)


def check_frame(index: int, frame: Frame, instances: tuple[Instance, ...]) -> None:
    """Refuse a frame from inside something, behind something, or of nothing.

    Raises:
        ClipRejectedError: Stage `audit`, with the frame and what is wrong with it.
    """
    touching = float(((frame.depth > 0) & (frame.depth < TOUCHING_M)).mean())
    if touching > MAX_TOUCHING_SHARE:
        raise ClipRejectedError(
            "audit",
            f"frame {index}: {touching:.0%} of it is nearer than {TOUCHING_M} m, at most "
            f"{MAX_TOUCHING_SHARE:.0%} may be; plan a path with more clearance",
        )
    share = frame.boxes[:, 5] / frame.depth.size
    worst = int(share.argmax())
    if share[worst] > MAX_CLOSE_SHARE and instances[worst].semantic not in GROUND:
        raise ClipRejectedError(
            "audit",
            f"frame {index}: {instances[worst].phrase!r} nearer than 1 m covers "
            f"{share[worst]:.0%} of it, at most {MAX_CLOSE_SHARE:.0%} may be; "
            "plan a path with more clearance",
        )
    contrast = float(frame.rgb.mean(2, dtype=np.float64).std())
    if contrast < MIN_CONTRAST:
        raise ClipRejectedError(
            "audit",
            f"frame {index}: contrast {contrast:.1f}, at least {MIN_CONTRAST} is needed to see "
            "anything; look at the air and the camera of the scene",
        )
