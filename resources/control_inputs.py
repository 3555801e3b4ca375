"""Control inputs: files of a clip that another clip is generated from, taken out of its pack.

The name of a file says what it is (`depth.mkv`, `ids.mkv`, `rgb.mp4`: docs/formats.md#files-of-a-clip);
the job turns it into what its model reads.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resources.site_store import SiteStore
from worldloop.cosmos.plans import FIRST_FRAMES, WorldModelPlan
from worldloop.cosmos.recipes import AskedClip
from worldloop.cosmos.requests import ClipRequest, Conditioning, Control, ControlKind
from worldloop.errors import MalformedRecordError

_FILES: Mapping[str, tuple[str, ...]] = {
    "depth": ("depth.mkv",),
    "seg": ("ids.mkv", "instances.parquet"),  # the job reads the second beside the first
    "edge": ("rgb.mp4",),
    "blur": ("rgb.mp4",),
    FIRST_FRAMES: ("rgb.mp4",),
}
_KINDS: Mapping[str, ControlKind] = {
    "depth": "depth",
    "seg": "seg",
    "edge": "edge",
    "blur": "blur",
}


def extract_inputs(
    store: SiteStore, clip: Mapping[str, Any], control: Sequence[str], folder: Path
) -> None:
    """Put the files that a control needs into a folder, each whole or not at all.

    Args:
        store: Where the pack is.
        clip: Row of `records.CLIPS` of the clip that gives the control.
        control: Of `worldloop.cosmos.plans.CONTROLS`.
        folder: Made if it is not there.

    Raises:
        StoreError: If the pack is not there.
        MalformedRecordError: If the clip has no such file, or its bytes are not those of the table.
    """
    members = {member["name"].partition(".")[2]: member for member in clip["members"]}
    folder.mkdir(parents=True, exist_ok=True)
    for name in sorted({file for kind in control for file in _FILES[kind]}):
        if name not in members:
            raise MalformedRecordError(
                f"clip {clip['recipe_id']}",
                sorted(members),
                f"a file {name!r} for the control {'+'.join(control)}",
                "Choose another control, or take the sketch as its source.",
            )
        member = members[name]
        content = store.get_range(clip["pack_key"], member["offset"], member["size_bytes"])
        if hashlib.sha256(content).hexdigest() != member["sha256"]:
            raise MalformedRecordError(
                f"{member['name']} in {clip['pack_key']}",
                "other bytes",
                f"sha256 {member['sha256']}",
                "Delete the pack and materialise its partition again.",
            )
        partial = folder / f".{name}.partial"
        partial.write_bytes(content)
        partial.replace(folder / name)


def clip_request(asked: AskedClip, plan: WorldModelPlan, inputs: Path) -> ClipRequest:
    """What the job is asked for one clip.

    Args:
        asked: The clip.
        plan: The plan that it belongs to.
        inputs: Folder that holds one folder a source clip, as `extract_inputs` leaves it.
    """
    recipe = asked.recipe
    source = inputs / recipe.source_recipe_id
    conditioning = None
    if FIRST_FRAMES in recipe.control:
        conditioning = Conditioning(str(source / "rgb.mp4"), recipe.conditioning_frames)
    return ClipRequest(
        clip_id=recipe.recipe_id,
        prompt=recipe.prompt,
        negative_prompt=recipe.negative_prompt,
        seed=recipe.seed,
        conditioning=conditioning,
        controls=tuple(
            Control(_KINDS[kind], path=str(source / _FILES[kind][0]))
            for kind in plan.video_controls
        ),
        scene_id=recipe.scene.scene_id,
        sketch_recipe_id=recipe.source_recipe_id,
    )
