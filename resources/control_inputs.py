"""Control inputs: the clip that another one is generated from, taken out of its pack for the job to read.

A sketch is laid out as a whole, because its annotations are what most controls are made of; of a draft
only its footage is there.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resources.site_store import SiteStore
from worldloop.cosmos.first_frames import first_frames_file
from worldloop.cosmos.models import model
from worldloop.cosmos.plans import FIRST_FRAMES, VIDEO_CONTROLS, WorldModelPlan
from worldloop.cosmos.recipes import AskedClip
from worldloop.cosmos.requests import ClipRequest, Conditioning, Control, ControlKind
from worldloop.errors import MalformedRecordError
from worldloop.whole_files import write_whole

_FOOTAGE = "rgb.mp4"
_KINDS: Mapping[str, ControlKind] = {
    "depth": "depth",
    "seg": "seg",
    "edge": "edge",
    "blur": "blur",
}
assert set(_KINDS) == set(VIDEO_CONTROLS)


def lay_out_source(
    store: SiteStore, clip: Mapping[str, Any], plan: WorldModelPlan, folder: Path
) -> None:
    """Put what a plan takes from a clip into a folder, each file whole or not at all.

    Args:
        store: Where the pack is.
        clip: Row of `records.CLIPS` of the clip that gives the control.
        plan: Says what is taken.
        folder: Made if it is not there.

    Raises:
        StoreError: If the pack is not there.
        MalformedRecordError: If the clip has no footage, its bytes are not those of the table, or it
            has too few frames.
    """
    members = {member["name"].partition(".")[2]: member for member in clip["members"]}
    if _FOOTAGE not in members:
        raise MalformedRecordError(
            f"clip {clip['recipe_id']}", sorted(members), f"a file {_FOOTAGE!r}", "Make it again."
        )
    folder.mkdir(parents=True, exist_ok=True)
    wanted = members if plan.video_controls else [_FOOTAGE]
    for name in wanted:
        content = _member(store, clip["pack_key"], members[name])
        write_whole(folder / name, content)
        if name == _FOOTAGE and FIRST_FRAMES in plan.control:
            cut, frames = first_frames_file(content, plan.conditioning_frames)
            write_whole(folder / cut, frames)


def clip_request(asked: AskedClip, plan: WorldModelPlan, inputs: Path) -> ClipRequest:
    """What the job is asked for one clip.

    Args:
        asked: The clip.
        plan: The plan that it belongs to.
        inputs: Folder that holds one folder a source clip, as `lay_out_source` leaves it.
    """
    recipe, from_draft = asked.recipe, plan.source == "draft"
    source = inputs / recipe.source_recipe_id
    conditioning = None
    if FIRST_FRAMES in plan.control:
        names = ("first_1.png", f"first_{plan.conditioning_frames}.mkv")
        cut = source / names[plan.conditioning_frames > 1]
        conditioning = Conditioning(str(cut), plan.conditioning_frames)
    elif from_draft and plan.video_controls:  # computed from its footage, which has no annotations
        fewest = min(model(plan.model).record.conditioning_frames)
        conditioning = Conditioning(str(source / _FOOTAGE), fewest)
    return ClipRequest(
        clip_id=recipe.recipe_id,
        prompt=recipe.prompt,
        negative_prompt=recipe.negative_prompt,
        seed=recipe.seed,
        conditioning=conditioning,
        controls=tuple(
            Control(_KINDS[kind], path="" if from_draft else str(source))
            for kind in plan.video_controls
        ),
        scene_id=recipe.scene.scene_id,
        sketch_recipe_id=recipe.source_recipe_id,
    )


def _member(store: SiteStore, pack_key: str, member: Mapping[str, Any]) -> bytes:
    content = store.get_range(pack_key, member["offset"], member["size_bytes"])
    if hashlib.sha256(content).hexdigest() != member["sha256"]:
        raise MalformedRecordError(
            f"{member['name']} in {pack_key}",
            "other bytes",
            f"sha256 {member['sha256']}",
            "Delete the pack and materialise its partition again.",
        )
    return content
