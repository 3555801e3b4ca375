from dataclasses import replace

import pytest

from gpu_jobs.train_world_model.data import read_footage
from gpu_jobs.train_world_model.footage import FootageSpec, write_footage
from worldloop.errors import MalformedRecordError

SHAPE = {"num_frames": 2, "width_px": 64, "height_px": 36, "num_samples": 1}


def test_footage_shows_institutions_in_turn_and_finished_shards_are_kept(tmp_path):
    spec = FootageSpec(str(tmp_path), num_clips=2, clips_per_shard=1, **SHAPE)
    assert write_footage(spec).num_clips == 2
    (tmp_path / "clips-0001.npz").unlink()
    report = write_footage(spec)
    assert (report.num_shards, report.num_clips) == (2, 1)
    footage = read_footage(tmp_path)
    assert [clip["place"].split("/")[1] for clip in footage.clips] == ["street", "hospital"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips-0000.npz", "clips-0001.npz"]


def test_footage_that_fills_no_shard_is_one_clear_error(tmp_path):
    spec = FootageSpec(str(tmp_path), num_clips=20)
    with pytest.raises(MalformedRecordError, match="multiple of clips_per_shard, 20"):
        replace(spec, num_clips=30)
