"""Shapes: closed skins face outwards, open ones face the side that they say."""

import itertools

import numpy as np
import pytest

from worldloop.worlds import vehicles
from worldloop.worlds.geometry import rotation_z
from worldloop.worlds.shapes import (
    Primitive,
    boxes,
    dome,
    flipped,
    joined,
    loft,
    ribbon,
    shifted,
    tube,
    turned,
)


def volume(primitive: Primitive) -> float:
    """Signed volume; positive when the faces of a closed skin are counter-clockwise outside."""
    a, b, c = (primitive[0][primitive[1][:, k]].astype(np.float64) for k in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


def test_a_loft_is_closed_and_faces_outwards() -> None:
    rings = [(0, 1, 1), (1, 1.2, 1.2), (2, 0.5, 0.5)]
    assert volume(loft(rings, num_sides=24)) == pytest.approx(6.3, rel=0.1)
    assert volume(flipped(loft(rings))) < 0


def test_boxes_with_all_sides_hold_their_volume() -> None:
    two = boxes([(0, 0, 0), (5, 5, 5)], [(1, 2, 3), (6, 6, 6)], sides=range(6))
    assert volume(two) == pytest.approx(7.0)


def test_a_tube_faces_outwards_whichever_way_it_leads() -> None:
    for path in (
        [(0, 0, 0), (0, 0, 2)],
        [(0, 0, 0), (2, 0, 0)],
        [(2, 1, 0), (0, 0, 1), (0, -3, 1)],
    ):
        vertices, faces, _ = tube(path, 0.1)
        a, b, c = (vertices[faces[:, k]] for k in range(3))
        centre = (a + b + c) / 3
        spine = np.array(path, float)
        nearest = _nearest(centre, spine)
        assert (((centre - nearest) * np.cross(b - a, c - a)).sum(1) > 0).all()


def _nearest(points: np.ndarray, spine: np.ndarray) -> np.ndarray:
    """The nearest point of a polyline to each point."""
    found, least = points.copy(), np.full(len(points), np.inf)
    for a, b in itertools.pairwise(spine):
        share = np.clip(((points - a) @ (b - a)) / ((b - a) @ (b - a)), 0, 1)[:, None]
        spot = a + share * (b - a)
        away = np.linalg.norm(points - spot, axis=1)
        found[away < least], least = spot[away < least], np.minimum(least, away)
    return found


def test_a_dome_faces_up_and_has_no_floor() -> None:
    vertices, faces, _ = dome((1, 1, 1), from_deg=0)
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    assert (np.cross(b - a, c - a)[:, 2] >= -1e-6).all()


def test_a_ribbon_faces_up_when_left_is_left() -> None:
    x = np.linspace(0, 4, 5)
    left, right = np.stack([x, 0 * x + 1, 0 * x], 1), np.stack([x, 0 * x - 1, 0 * x], 1)
    vertices, faces, uv = ribbon(left, right)
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    assert (np.cross(b - a, c - a)[:, 2] > 0).all()
    assert uv.max(0) == pytest.approx([4, 2])


def test_joining_and_turning_keep_faces() -> None:
    block = boxes([(0, 0, 0)], [(1, 1, 1)], sides=range(6))
    both = joined([block, shifted(turned(block, rotation_z(0.7)), (5, 0, 0))])
    assert volume(both) == pytest.approx(2.0, rel=1e-5)


@pytest.mark.parametrize("sections", [[(-1, 0.5, 0, 1), (1, 0.5, 0, 1)]])
def test_a_hull_holds_air(sections: list[tuple[float, float, float, float]]) -> None:
    assert volume(vehicles.hull(sections)) == pytest.approx(1.9, abs=0.1)
