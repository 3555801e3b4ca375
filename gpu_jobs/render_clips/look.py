"""Draw one frame of a recipe to a picture: `python -m gpu_jobs.render_clips.look recipe.json`.

For people who write worlds. A recipe is a JSON file with `Recipe.to_record()`; `--hour`, `--seed` and
`--weather` change its scene, and several frames are laid out as one sheet.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldloop.recipes import Recipe, Shape
from worldloop.worlds.world import World


def draw_sheet(
    world: World, shape: Shape, frames: list[int], *, labels: bool = False
) -> NDArray[np.uint8]:
    """Some frames of a world side by side, four a row.

    Args:
        world: What is drawn.
        shape: Size and samples of a frame.
        frames: Which ones.
        labels: Show depth and instances under the colours.

    Returns:
        uint8 (H, W, 3).
    """
    from gpu_jobs.render_clips.engine import Engine

    engine = Engine(world, shape)
    tiles = []
    for index in frames:
        frame = engine.render(index)
        tile = frame.rgb
        if labels:
            near = np.where(frame.depth > 0, 255 / (1 + frame.depth * 0.15), 0).astype(np.uint8)
            hue = (frame.instance[..., None] * np.array([73, 151, 199]) % 256).astype(np.uint8)
            tile = np.concatenate([tile, np.repeat(near[..., None], 3, 2), hue])
        tiles.append(tile)
    columns = min(len(tiles), 4)
    blank = np.zeros_like(tiles[0])
    tiles += [blank] * (-len(tiles) % columns)
    rows = [
        np.concatenate(tiles[first : first + columns], 1) for first in range(0, len(tiles), columns)
    ]
    return np.concatenate(rows)


def read_recipe(path: Path, changes: dict[str, Any], shape: dict[str, Any]) -> Recipe:
    """A recipe from a JSON file, with some fields of its scene and shape changed."""
    recipe = Recipe.from_record(json.loads(path.read_text(encoding="utf-8")))
    return Recipe(
        replace(recipe.scene, **changes),
        replace(recipe.shape, **shape),
        recipe.generator,
        recipe.version,
    )


def main(arguments: list[str]) -> None:
    """Read the arguments, build the world, draw it."""
    parser = argparse.ArgumentParser(prog="look", description="Draw frames of a recipe.")
    parser.add_argument("recipe", type=Path, help="JSON file with Recipe.to_record()")
    parser.add_argument("-o", "--output", type=Path, default=Path("look.png"))
    parser.add_argument("--frame", type=int, nargs="+", default=[0], help="which frames")
    parser.add_argument("--num-frames", type=int, help="length of the player's way")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--height", type=int, default=288)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--labels", action="store_true", help="show depth and instances too")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--hour", type=float)
    parser.add_argument("--sun-elevation-deg", type=float)
    parser.add_argument("--weather")
    parser.add_argument("--season")
    parser.add_argument("--camera")
    options = parser.parse_args(arguments)

    from PIL import Image

    from worldloop.worlds.grammar import build_world

    names = ("seed", "hour", "sun_elevation_deg", "weather", "season", "camera")
    changes = {n: getattr(options, n) for n in names if getattr(options, n) is not None}
    length = options.num_frames or max(*options.frame, 1) + 1
    recipe = read_recipe(
        options.recipe,
        changes,
        {
            "num_frames": length,
            "width_px": options.width,
            "height_px": options.height,
            "num_samples": options.samples,
        },
    )
    world = build_world(recipe)
    sheet = draw_sheet(world, recipe.shape, options.frame, labels=options.labels)
    Image.fromarray(sheet).save(options.output)


if __name__ == "__main__":
    main(sys.argv[1:])
