import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.golden.formats.v5.make_golden import make_scene
from worldloop.errors import MalformedRecordError
from worldloop.scenes.scene import Scene

GOLDEN = Path(__file__).parents[2] / "golden" / "formats" / "v5" / "scene.json"


def test_version_2_is_read_with_its_id():
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    scene_id = golden.pop("scene_id")
    scene = Scene.from_record(golden)
    assert scene == make_scene()
    assert scene.scene_id == scene_id


def test_a_record_has_every_field_in_plain_values():
    assert make_scene().to_record() == asdict(make_scene())


def test_a_record_shares_nothing_with_its_scene():
    scene = make_scene()
    record = scene.to_record()
    record["style"]["era"] = "old"
    record["roles"][0]["dress"]["top"] = "robe"
    assert scene == make_scene()


@pytest.mark.parametrize("version", [None, 3, "2"])
def test_another_version_is_refused(version):
    with pytest.raises(MalformedRecordError, match="scene_version 1 to 2"):
        Scene.from_record({**make_scene().to_record(), "scene_version": version})
