from dataclasses import replace

import pytest

from gpu_jobs.cosmos_generate import bench, bench_models


def rows(section, *arguments):
    found = []
    section(lambda name, **values: found.append({"name": name, **values}), *arguments)
    return found


def test_without_a_gpu_fused_operators_are_their_own_reference():
    assert [row["far"] for row in rows(bench.fused)[:1]] == [[0.0, 0.0]]
    assert all(not any(row["far"]) for row in rows(bench.fused))


def test_a_profile_may_have_another_density():
    assert bench._profile("sparse@0.25").density == 0.25
    assert bench._profile("sparse").name == "sparse"


@pytest.mark.parametrize("key", ["cosmos1-7b", "predict2-2b", "cosmos3-nano"])
def test_a_pass_is_measured_with_its_rate(monkeypatch, key):
    case = bench_models.CASES[key]
    small = replace(case, shape=replace(case.shape, num_frames=9, width_px=64, height_px=64))
    monkeypatch.setitem(bench_models.CASES, key, small)
    made = bench_models.transformer_of

    def tiny(record, device):
        record = replace(
            record,
            num_heads=2,
            num_kv_heads=min(record.num_kv_heads, 1),
            head_dim=48,
            width=64,
            mlp_width=64 if record.mlp_width else 0,
        )
        return made(record, device, layers=2)

    monkeypatch.setattr(bench, "transformer_of", tiny)
    dense, sparse = rows(bench.passes, key, "sparse")
    assert dense["finite"]
    assert sparse["finite"]
    assert dense["tflops"] > 0.0
