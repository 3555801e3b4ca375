import dagster as dg

from orchestration.instance import GPU_POOL, limit_pool


def limit(instance):
    limits = {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}
    return limits.get(GPU_POOL)


def test_the_gpu_pool_is_as_large_as_there_are_gpus_unless_somebody_set_it(tmp_path):
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        limit_pool(instance, GPU_POOL, 0)
        assert limit(instance) is None
        limit_pool(instance, GPU_POOL, 4)
        assert limit(instance) == 4
        instance.event_log_storage.set_concurrency_slots(GPU_POOL, 2)
        limit_pool(instance, GPU_POOL, 4)
        assert limit(instance) == 2


def test_the_number_of_gpus_can_be_said(monkeypatch):
    from orchestration.deployments import num_gpus

    monkeypatch.setenv("WORLDLOOP_GPUS", "3")

    assert num_gpus() == 3
