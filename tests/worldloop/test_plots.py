import base64
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from worldloop.plots import line_chart, small_curves, svg_as_markdown

SVG = "{http://www.w3.org/2000/svg}"


def parsed(*values, labels=None):
    names = labels or [f"w{i:04d}" for i in range(len(values))]
    return ElementTree.fromstring(line_chart("ms per step", names, values))


def test_the_highest_value_is_at_the_top_and_zero_at_the_bottom():
    heights = [float(dot.get("cy")) for dot in parsed(0.0, 5.0, 10.0).iter(f"{SVG}circle")]

    assert heights == sorted(heights, reverse=True)
    assert heights[1] == pytest.approx((heights[0] + heights[2]) / 2)


def test_a_wave_without_a_value_leaves_a_gap():
    picture = parsed(1.0, 2.0, None, 3.0, 4.0)

    assert len(list(picture.iter(f"{SVG}polyline"))) == 2
    assert len(list(picture.iter(f"{SVG}circle"))) == 4


@pytest.mark.parametrize("values", [(), (None,), (0.0,), (7.0,)])
def test_few_or_no_values_give_a_picture_too(values):
    assert parsed(*values).tag == f"{SVG}svg"


def test_labels_are_escaped_and_must_be_as_many_as_values():
    assert "a<b" in [text.text for text in parsed(1.0, labels=["a<b"]).iter(f"{SVG}text")]
    with pytest.raises(ValueError, match="1 labels and 2 values"):
        line_chart("x", ["a"], [1.0, 2.0])


def test_a_picture_as_markdown_holds_the_picture():
    text = svg_as_markdown("<svg/>", alt="speed")

    assert base64.b64decode(text.split("base64,")[1].removesuffix(")")) == b"<svg/>"


def drawn(text):
    return ElementTree.fromstring(base64.b64decode(text.split("base64,")[1].removesuffix(")")))


@pytest.mark.parametrize("num_sites", [1, 3])
def test_loss_curves_of_a_few_sites_are_short_enough_to_be_shown_at_once(num_sites):
    losses = np.random.default_rng(1).gamma(2.0, 0.3, (num_sites, 200))
    curves = {f"site-{number}": values.tolist() for number, values in enumerate(losses)}

    text = small_curves(curves, under="step 1 to 200", alt="loss")

    assert len(text) < 1000
    picture = drawn(text)
    assert len(list(picture.iter(f"{SVG}path"))) == num_sites
    named = [each.text for each in picture.iter(f"{SVG}text")]
    assert {"step 1 to 200", *curves} <= set(named)


def test_a_small_curve_falls_from_its_highest_value_to_its_lowest():
    (path,) = drawn(small_curves({"loss": [4.0, 3.0, 1.0]}, under="x", alt="y")).iter(f"{SVG}path")

    falls = [int(step.split(",")[1]) for step in path.get("d").split("l")[1].split()]

    assert falls[1] == pytest.approx(2 * falls[0], abs=1)
    assert falls[0] > 0


@pytest.mark.parametrize("values", [[2.0], [2.0, 2.0]])
def test_a_level_or_single_value_is_drawn_and_none_gives_nothing(values):
    assert drawn(small_curves({"loss": values}, under="x", alt="y")).tag == f"{SVG}svg"
    assert small_curves({"loss": []}, under="x", alt="y") == ""
