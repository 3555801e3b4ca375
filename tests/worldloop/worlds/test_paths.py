"""Paths: where many of them lead at a time."""

import numpy as np
import pytest

from worldloop.worlds.paths import Path, Paths


def test_an_open_path_is_walked_to_and_fro() -> None:
    paths = Paths([Path(((0, 0), (10, 0)), speed_mps=2.0, start_m=7.0)])
    assert paths.at(0.0)[0][0] == pytest.approx([7, 0])
    assert paths.at(3.0)[0][0] == pytest.approx(
        [7, 0]
    )  # six metres on: three to the end, three back
    assert np.cos(paths.at(0.0)[1][0]) == pytest.approx(1)
    assert np.cos(paths.at(3.0)[1][0]) == pytest.approx(-1)


def test_a_closed_path_comes_round() -> None:
    square = Path(((0, 0), (4, 0), (4, 4), (0, 4)), speed_mps=1.0, closed=True)
    assert square.length_m == pytest.approx(16)
    paths = Paths([square])
    assert paths.at(14.0)[0][0] == pytest.approx([0, 2])
    assert paths.at(18.0)[0][0] == pytest.approx([2, 0])


def test_paths_with_different_numbers_of_corners_stay_apart() -> None:
    short = Path(((0, 0), (1, 0)), speed_mps=0.0, start_m=0.5)
    long = Path(((0, 5), (2, 5), (2, 9), (8, 9)), speed_mps=1.0, start_m=1.0)
    at, heading, gone = Paths([short, long]).at(4.0)
    assert at == pytest.approx(np.array([(0.5, 0), (2, 8)]))
    assert heading[1] == pytest.approx(np.pi / 2)
    assert gone == pytest.approx([0, 4])


def test_nobody_is_no_problem() -> None:
    at, heading, gone = Paths([]).at(1.0)
    assert len(at) == len(heading) == len(gone) == 0
