import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from worldloop.atlas.atlas import load_atlas
from worldloop.scenes.stream import ORDER, scene_at, scenes_at, sobol_points
from worldloop.worlds.grammar import is_sketchable

ATLAS = load_atlas()
FIRST = scenes_at(ATLAS, range(1024))
IN_ANOTHER_PROCESS = """
from worldloop.atlas.atlas import load_atlas
from worldloop.scenes.stream import scene_at
print(scene_at(load_atlas(), 123_456).scene_id)
"""


def test_any_index_gives_its_scene_in_any_order_and_batch():
    assert scenes_at(ATLAS, [77, 5])[1] == scene_at(ATLAS, 5) == FIRST[5]


def test_another_process_has_the_same_scene_at_an_index():
    told = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS],
        env={**os.environ, "PYTHONHASHSEED": "5"},
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    assert told.strip() == scene_at(ATLAS, 123_456).scene_id


@pytest.mark.parametrize("bits", [3, 6, 10])
def test_every_dimension_of_the_sequence_fills_its_intervals_evenly(bits):
    points = sobol_points(np.arange(1 << bits, dtype=np.uint64), len(ORDER))
    for column in (points >> np.uint64(64 - bits)).T:
        assert sorted(column.tolist()) == list(range(1 << bits))


def test_two_dimensions_of_the_sequence_fill_a_square():
    points = sobol_points(np.arange(1024, dtype=np.uint64), 2) >> np.uint64(59)
    assert len({tuple(point) for point in points.tolist()}) == 1024


def test_the_first_points_are_those_of_joe_and_kuo():
    # Worked out by hand from new-joe-kuo-6 for dimensions 1 to 3, without the digital shift.
    points = sobol_points(np.arange(8, dtype=np.uint64), 3)
    plain = ((points ^ points[0]) / 2.0**64).tolist()
    assert plain[1] == [0.5, 0.5, 0.5]
    assert plain[3] == [0.75, 0.25, 0.25]
    assert plain[2] == [0.25, 0.75, 0.75]
    assert plain[6] == [0.375, 0.375, 0.625]


def test_a_prefix_is_balanced():
    cities = Counter(scene.city for scene in FIRST)
    kinds = Counter(scene.institution for scene in FIRST)
    mean = len(FIRST) / len(ATLAS.cities)
    assert set(cities) == set(ATLAS.cities)
    assert min(cities.values()) >= 0.7 * mean
    assert max(cities.values()) <= 1.3 * mean + 1
    assert len(kinds) == len(ATLAS.institutions)
    assert len({scene.place for scene in FIRST}) > 0.97 * len(FIRST)


def test_a_stream_for_sketches_holds_only_what_can_be_sketched():
    scenes = scenes_at(ATLAS, range(64), sketch=True)
    assert all(is_sketchable(scene) for scene in scenes)
    assert len({scene.institution for scene in scenes}) == 5


@pytest.mark.parametrize("index", [-1, 2**32])
def test_an_index_outside_the_stream_is_refused(index):
    with pytest.raises(ValueError, match="Indices"):
        scene_at(ATLAS, index)
