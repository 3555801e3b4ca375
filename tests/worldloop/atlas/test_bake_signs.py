import numpy as np
import pytest

from worldloop.atlas.bake_signs import FONTS, LONGEST_EDGE, TOLERANCE, PolygonPen
from worldloop.atlas.csv_tables import DATA, read_rows
from worldloop.atlas.sign_checks import SCRIPT_WORDS

CIRCLE = 0.5522847498  # of the radius: where the handles of a quarter circle stand


def circle(radius):
    pen, handle = PolygonPen(1.0), CIRCLE * radius
    pen.moveTo((radius, 0))
    pen.curveTo((radius, handle), (handle, radius), (0, radius))
    pen.curveTo((-handle, radius), (-radius, handle), (-radius, 0))
    pen.curveTo((-radius, -handle), (-handle, -radius), (0, -radius))
    pen.curveTo((handle, -radius), (radius, -handle), (radius, 0))
    pen.closePath()
    return pen.polygons()


def test_chords_keep_close_to_their_curve():
    (polygon,) = circle(100)
    middles = (polygon + np.roll(polygon, -1, 0)) / 2
    assert np.abs(np.hypot(*polygon.T) - 100).max() <= 0.75  # whole units
    assert np.abs(np.hypot(*middles.T) - 100).max() <= 0.75 + TOLERANCE
    assert len(polygon) < 60


def test_straight_edges_stay_few_and_fit_into_a_byte():
    pen = PolygonPen(0.5)
    pen.moveTo((0, 0))
    for point in ((200, 0), (600, 0), (600, 600), (0, 600), (0, 0)):
        pen.lineTo(point)
    (polygon,) = pen.polygons()
    assert np.abs(np.diff(polygon, axis=0)).max() <= LONGEST_EDGE
    corners = {(0, 0), (300, 0), (300, 300), (0, 300)}
    assert corners <= set(map(tuple, polygon.tolist()))
    assert len(polygon) == 1 + 3 * 3  # three sides in three pieces each; the last one closes


def test_a_contour_without_area_is_dropped():
    pen = PolygonPen(1.0)
    pen.moveTo((0, 0))
    pen.lineTo((5, 5))
    pen.lineTo((0, 0))
    assert pen.polygons() == []


@pytest.mark.parametrize("row", read_rows(DATA / "languages.csv"), ids=lambda row: row["tag"])
def test_every_script_with_words_has_a_font_and_a_check(row):
    words = [sign for sign in read_rows(DATA / "signs.csv") if sign["language"] == row["tag"]]
    assert row["script"] in SCRIPT_WORDS
    assert row["script"] in FONTS or not words
