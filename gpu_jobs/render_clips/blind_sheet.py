"""Sheets of random frames for blind labelling: `python -m gpu_jobs.render_clips.blind_sheet FOLDER`.

Every grammar at the same number of random seeds, places and moments, shuffled and numbered, as pages
that carry nothing but pictures and numbers; the key lies in a file of its own. Whoever labels the
pages without the key measures whether a place is recognisable at a glance.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldloop.atlas.atlas import load_atlas
from worldloop.errors import ClipRejectedError
from worldloop.recipes import Recipe, Shape
from worldloop.scenes.casting import CASTABLE, cast_scene
from worldloop.seeds import derive_seed, stream

_COLUMNS, _ROWS = 4, 5
_SHAPE = Shape(num_frames=61)


def draw_frames(num_seeds: int, seed: int) -> list[tuple[dict[str, Any], NDArray[np.uint8]]]:
    """Frames with what they show, in shuffled order.

    Args:
        num_seeds: Frames of each grammar.
        seed: Of places, moments and order.
    """
    cities = list(load_atlas().cities)
    drawn = []
    for kind in CASTABLE:
        for number in range(num_seeds):
            rng = stream(seed, "blind sheet", kind, number)
            place = f"{cities[int(rng.integers(len(cities)))]}/{kind}"
            index = int(rng.integers(_SHAPE.num_frames))
            scene_seed = derive_seed(seed, "blind sheet", kind, number)
            drawn.append(_draw(place, scene_seed, index))
    order = stream(seed, "blind sheet order").permutation(len(drawn))
    return [drawn[int(position)] for position in order]


def _draw(place: str, seed: int, index: int) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    from gpu_jobs.render_clips.engine import Engine
    from worldloop.worlds.grammar import build_world

    scene = cast_scene(load_atlas(), place=place, seed=seed, sketch=True)
    answer = {"place": place, "seed": seed, "frame": index, "institution": scene.institution}
    try:
        engine = Engine(build_world(Recipe(scene, _SHAPE)), _SHAPE)
    except ClipRejectedError as error:
        raise ClipRejectedError(error.stage, f"{place}, seed {seed}: {error.reason}") from error
    for step in range(max(0, index - 4), index):  # exposure settles over the frames before
        engine.render(step)
    return answer, engine.render(index).rgb.copy()


def write_pages(frames: list[tuple[dict[str, Any], NDArray[np.uint8]]], folder: Path) -> list[Path]:
    """Write numbered pages `page-1.png`, ... and `key.json`."""
    from PIL import Image, ImageDraw

    folder.mkdir(parents=True, exist_ok=True)
    per_page, paths = _COLUMNS * _ROWS, []
    for page in range(-(-len(frames) // per_page)):
        height, width = frames[0][1].shape[:2]
        sheet = Image.new("RGB", (_COLUMNS * width, _ROWS * height))
        pen = ImageDraw.Draw(sheet)
        for offset, (_, rgb) in enumerate(frames[page * per_page : (page + 1) * per_page]):
            row, column = divmod(offset, _COLUMNS)
            corner = (column * width, row * height)
            sheet.paste(Image.fromarray(rgb), corner)
            pen.rectangle((*corner, corner[0] + 30, corner[1] + 15), fill=(0, 0, 0))
            pen.text(
                (corner[0] + 4, corner[1] + 2), str(page * per_page + offset + 1), fill="white"
            )
        paths.append(folder / f"page-{page + 1}.png")
        sheet.save(paths[-1])
    key = {str(number): answer for number, (answer, _) in enumerate(frames, start=1)}
    (folder / "key.json").write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")
    return paths


def main(arguments: list[str]) -> None:
    """Read the arguments, draw, write."""
    parser = argparse.ArgumentParser(prog="blind_sheet", description="Frames for blind labelling.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num-seeds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    for path in write_pages(draw_frames(options.num_seeds, options.seed), options.folder):
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
