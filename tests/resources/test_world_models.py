import json

import pytest

from resources.world_models import WorldModels
from worldloop.cosmos.models import model
from worldloop.errors import UnknownKeyError

SEVEN = "Cosmos-1.0-Diffusion-7B-Text2World"


def test_a_plan_pins_the_commit_that_is_on_disk(tmp_path):
    machine = WorldModels(checkpoint_dir=str(tmp_path))
    before = machine.revision(SEVEN)
    (tmp_path / "models.lock.json").write_text(json.dumps({SEVEN: {"commit": "c0ffee"}}))

    assert before == model(SEVEN).revision
    assert machine.revision(SEVEN) == "c0ffee"
    assert machine.revision("Tiny-Cosmos3") == "tiny"


def test_an_unknown_model_has_no_revision(tmp_path):
    with pytest.raises(UnknownKeyError, match="Cosmos-9"):
        WorldModels(checkpoint_dir=str(tmp_path)).revision("Cosmos-9")
