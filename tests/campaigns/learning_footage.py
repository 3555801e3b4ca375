"""Footage of the learning campaign: clips of known places, in the layout of the post-training guides.

Cities are split once by a hash of their key: some teach the base, some belong to each site, some are
seen by nobody. There are two partitions of what sites film. `CITIES`, as sites of this project are: a site is
the home of its cities, with every institution in each. `INSTITUTIONS`, the hard one: sites also have no
institution in common.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from gpu_jobs.posttrain.spec import FootageClip
from gpu_jobs.render_clips.job import render_clips
from gpu_jobs.render_clips.spec import RenderClipsSpec
from gpu_jobs.train_world_model.data import WriteShardsSpec, write_shards
from worldloop.atlas.atlas import Atlas, load_atlas
from worldloop.cosmos.families import ClipShape
from worldloop.packs import read_member, read_pack_index
from worldloop.prompts.captions import short_caption
from worldloop.recipes import Recipe, Shape
from worldloop.scenes.casting import cast_scene
from worldloop.scenes.scene import Scene
from worldloop.seeds import derive_seed, stream

SHAPE = ClipShape(9, 64, 64, 24)
BASE, HELD_OUT = "base", "held_out"
SITES = ("aws", "gcp", "azure")
GROUPS = (BASE, *SITES, HELD_OUT)
KNOWN = ("street", "museum")  # what the base has seen
OF_SITE = {"aws": ("zoo",), "gcp": ("hospital",), "azure": ("amusement_park",)}
NEW = tuple(place for places in OF_SITE.values() for place in places)
CITIES, INSTITUTIONS = "cities", "institutions"
PARTITIONS = (CITIES, INSTITUTIONS)
_CLIP_FRAMES, _SAMPLES = 25, 5


def cities_of(group: str, atlas: Atlas) -> list[str]:
    """The cities of one group; no city is in two."""
    return [
        city
        for city in sorted(atlas.cities)
        if GROUPS[derive_seed("learning city", city) % len(GROUPS)] == group
    ]


def institutions_of(group: str, partition: str) -> tuple[str, ...]:
    """What a group films."""
    of_site = OF_SITE if partition == INSTITUTIONS else dict.fromkeys(SITES, NEW)
    return {BASE: KNOWN, HELD_OUT: (*NEW, *KNOWN), **of_site}[group]


def film(group: str, folder: Path, *, num_clips: int, partition: str = CITIES) -> Path:
    """Render the clips of a group; a folder that stands is kept.

    Args:
        group: One of `GROUPS`.
        folder: Where its folder goes.
        num_clips: How many; institutions take turns.
        partition: One of `PARTITIONS`; the base and the held-out clips are the same in both.

    Returns:
        Folder with `videos/`, `metas/`, `clips.jsonl`; beside it `<group>.shards` for training from nothing.
    """
    target = folder / group
    if (target / "clips.jsonl").exists():
        return target
    atlas = load_atlas()
    institutions = institutions_of(group, partition)
    recipes = [_recipe(group, institutions, atlas, number) for number in range(num_clips)]
    pack = folder / f"{group}.tar"
    render_clips(
        RenderClipsSpec(
            tuple(r.to_record() for r in recipes), str(folder / f"{group}.work"), str(pack)
        )
    )
    _lay_out(pack, recipes, target, atlas)
    write_shards(WriteShardsSpec((str(pack),), str(folder / f"{group}.shards")))
    return target


def _recipe(group: str, institutions: Sequence[str], atlas: Atlas, number: int) -> Recipe:
    cities = cities_of(group, atlas)
    city = cities[int(stream("learning", group, number).integers(len(cities)))]
    place = f"{city}/{institutions[number % len(institutions)]}"
    scene = cast_scene(atlas, place=place, seed=derive_seed("learning", group, number), sketch=True)
    shape = Shape(
        _CLIP_FRAMES, SHAPE.width_px, SHAPE.height_px, SHAPE.rate_fps, num_samples=_SAMPLES
    )
    return Recipe(scene, shape)


def _lay_out(pack: Path, recipes: Sequence[Recipe], target: Path, atlas: Atlas) -> None:
    scenes: dict[str, Scene] = {recipe.recipe_id: recipe.scene for recipe in recipes}
    for kind in ("videos", "metas"):
        (target / kind).mkdir(parents=True, exist_ok=True)
    lines = []
    with pack.open("rb") as source:
        for member in read_pack_index(pack):
            if member.file_name != "rgb.mp4":
                continue
            name, scene = member.clip_id[:16], scenes[member.clip_id]
            (target / "videos" / f"{name}.mp4").write_bytes(read_member(source, member))
            (target / "metas" / f"{name}.txt").write_text(short_caption(scene, atlas))
            city, _, institution = scene.place.partition("/")
            lines.append(json.dumps(asdict(FootageClip(name, member.clip_id, city, institution))))
    (target / "clips.jsonl").write_text("\n".join(lines) + "\n")
