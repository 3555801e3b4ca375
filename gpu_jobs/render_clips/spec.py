"""What `render_clips` is asked and what it answers."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RenderClipsSpec:
    """Render these recipes and leave one pack.

    Attributes:
        recipes: `Recipe.to_record()` of each clip, in the order in which the pack holds them.
        staging_dir: Local folder for finished clips (`<recipe_id>/`), kept until the pack stands,
            so that a killed job resumes; shared by jobs of one partition, which take its lock.
        pack_path: Local path of the pack to write (`worldloop.packs`), replaced atomically.
        max_failed_share: More failed clips than this share end the job with `JobFailedError`.
        device: Warp's name of what draws, `cpu` or `cuda:<n>`. Bytes are the same on every CPU, not across
            devices: a staged clip that another device drew is drawn anew.
    """

    recipes: tuple[dict[str, Any], ...]
    staging_dir: str
    pack_path: str
    max_failed_share: float = 0.25
    device: str = "cpu"


@dataclass(frozen=True)
class RenderClipsReport:
    """What was rendered.

    Attributes:
        clips: One row per finished clip, columns of `records.CLIPS` less those of the partition.
        failures: One row per failed clip: recipe_id, scene_id, stage, reason.
        receipts: One row per finished clip: recipe_id, cpu_s, peak_rss_mb, resumed, device (that drew it,
            as in `versions`) and gpu_s (that drawing and encoding it held a GPU; 0 on a CPU).
        versions: What the bytes depend on: `device` (`cpu`, or a GPU's name and architecture), and the
            versions of warp, av, numpy, ...
    """

    clips: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    receipts: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
