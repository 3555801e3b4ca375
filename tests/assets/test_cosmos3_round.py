"""A whole round with Cosmos 3, for real: footage, plan, deltas, adapter, scores, verdict, promotion."""

import dagster as dg
import numpy as np
import pytest

from gpu_jobs.posttrain.cosmos3 import is_generators
from orchestration.models import write_tiny
from resources.round_files import read_round_adapter
from tests.assets.rounds import Rounds
from tests.assets.test_rounds_chain import carry

COSMOS3 = "Tiny-Cosmos3"


@pytest.mark.campaign
def test_a_tiny_cosmos3_is_trained_measured_and_promoted(tmp_path):
    with dg.DagsterInstance.ephemeral() as instance:
        house = Rounds(tmp_path, instance)
        house.film()
        write_tiny(COSMOS3, house.root / "checkpoints")
        try:
            result = carry(house, model=COSMOS3, terms={"quorum": 1})
        finally:
            house.stop_trainers()
        adapter = read_round_adapter(house.store, "r0001")
        shown = house.metadata("promoted_checkpoint")

    assert result.success
    assert house.outcome().outcome == "promoted"
    assert [one.status for one in house.outcome().participation] == ["accepted"] * 3
    assert all(is_generators(name) for name in adapter)
    assert all(np.any(one) for one in adapter.values())
    assert "![r0001: before | after](data:image/jpeg" in shown["before_and_after"]
