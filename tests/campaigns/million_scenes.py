"""A million scenes, and not one that breaks a local or physical rule.

    nice -n 10 python -m tests.campaigns.million_scenes --num 1000000

Half come from the stream and half from places in turn with their own seeds; each is cast, written as a
record and checked. Prints scenes a CPU second and every violation.
"""

import argparse
import gc
import resource
import sys
import time
from collections import Counter

import numpy as np

from worldloop.atlas.atlas import Atlas, load_atlas
from worldloop.scenes.casting import cast_scenes
from worldloop.scenes.checks import scene_problems
from worldloop.scenes.dimensions import space_of
from worldloop.scenes.scene import Scene
from worldloop.scenes.stream import scenes_at

PART = 2000
_SHOWN = 20


def main() -> None:
    """Run the campaign; the exit status is 1 if there was a violation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=1_000_000)
    asked = parser.parse_args()
    atlas = load_atlas()
    places = _places(atlas)
    for first in range(0, len(places), PART):  # fills the tables
        some = places[first : first + PART]
        scene_problems(atlas, cast_scenes(atlas, some, range(first, first + len(some))))
    gc.collect()
    gc.freeze()  # tables stay; the collector need not look at them again
    began, seconds = time.process_time(), Counter[str]()
    problems: list[str] = []
    seen = Counter[str]()
    for first in range(0, asked.num, PART):
        num = min(PART, asked.num - first)
        scenes = _timed(seconds, "cast", _cast, atlas, places, first, num)
        _timed(seconds, "record", _records, scenes)
        problems += _timed(seconds, "check", scene_problems, atlas, scenes)
        seen.update(scene.institution for scene in scenes)
    total = time.process_time() - began
    for name, spent in seconds.items():
        sys.stdout.write(f"{name:8} {asked.num / spent:10.0f} scenes a CPU-s\n")
    sys.stdout.write(f"{'all':8} {asked.num / total:10.0f} scenes a CPU-s, {total:.0f} CPU-s\n")
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(
        f"{len(seen)} institutions, {len(atlas.cities)} cities, peak {peak_mb:.0f} MB\n"
    )
    sys.stdout.write(f"{asked.num} scenes, {len(problems)} violations\n")
    sys.stdout.writelines(f"{problem}\n" for problem in problems[:_SHOWN])
    sys.exit(bool(problems))


def _places(atlas: Atlas) -> list[str]:
    """Every place that there is."""
    space = space_of(atlas)
    pairs = np.argwhere(space.has).tolist()
    return [f"{space.cities[city]}/{space.institutions[kind]}" for city, kind in pairs]


def _cast(atlas: Atlas, places: list[str], first: int, num: int) -> list[Scene]:
    if (first // PART) % 2:
        return scenes_at(atlas, range(first, first + num))
    turn = [places[index % len(places)] for index in range(first, first + num)]
    return cast_scenes(atlas, turn, range(first, first + num))


def _records(scenes: list[Scene]) -> int:
    return len([scene.to_record() for scene in scenes])


def _timed(seconds, name, work, *values):
    began = time.process_time()
    result = work(*values)
    seconds[name] += time.process_time() - began
    return result


if __name__ == "__main__":
    main()
