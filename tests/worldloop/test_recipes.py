import json

import pytest

from tests.factories import make_recipe, make_scene
from worldloop.errors import MalformedRecordError
from worldloop.recipes import Recipe, Shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_frames": 0}, "num_frames of a clip: found 0"),
        ({"width_px": 65}, "width_px of a clip: found 65, expected an even number"),
        ({"height_px": -2}, "height_px of a clip: found -2"),
        ({"rate_fps": 23.976}, "a whole number"),
    ],
)
def test_a_shape_that_cannot_be_a_clip_is_refused(change, message):
    with pytest.raises(MalformedRecordError, match=message):
        Shape(**change)


def test_a_recipe_survives_json():
    recipe = make_recipe("zoo")

    assert Recipe.from_record(json.loads(json.dumps(recipe.to_record()))) == recipe


def test_the_id_follows_the_scene_the_shape_and_the_version():
    recipe = make_recipe("zoo")
    others = (
        Recipe(make_scene("zoo", seed=8), recipe.shape),
        Recipe(recipe.scene, Shape(num_frames=6)),
        Recipe(recipe.scene, recipe.shape, version="next"),
    )

    assert len({recipe.recipe_id, *(other.recipe_id for other in others)}) == 4


@pytest.mark.parametrize("missing", ["scene", "shape", "generator"])
def test_a_recipe_with_a_field_missing_is_refused(missing):
    record = make_recipe("zoo").to_record()
    del record[missing]

    with pytest.raises(MalformedRecordError, match=missing):
        Recipe.from_record(record)
