"""The Dagster instance of this home: laid out once, opened by the command line and by `make dev`."""

import os
import shutil
from pathlib import Path

import dagster as dg

from orchestration.deployments import cp_size, home, instance_folder, num_gpus

GPU_POOL = "gpu"


def lay_out_instance() -> Path:
    """Make `$WORLDLOOP_HOME/dagster` with our settings; an existing file there is left alone.

    Returns:
        The folder, which is also put into the environment as `DAGSTER_HOME`.
    """
    folder = instance_folder()
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "dagster.yaml"
    if not settings.exists():
        shutil.copyfile(Path(__file__).with_name("dagster.yaml"), settings)
    os.environ["DAGSTER_HOME"] = str(folder)
    os.environ.setdefault("WORLDLOOP_HOME", str(home()))
    return folder


def open_instance() -> dg.DagsterInstance:
    """The instance that the UI and the daemon use too, with a pool as large as there are GPUs."""
    lay_out_instance()
    instance = dg.DagsterInstance.get()
    limit_gpu_pool(instance, num_gpus() // cp_size())
    return instance


def limit_gpu_pool(instance: dg.DagsterInstance, num_jobs: int) -> None:
    """Let so many generation jobs run at once; a limit that somebody has set stays.

    dagster.yaml knows one default for all pools, so this one is written into the instance. Without a
    GPU the default holds.
    """
    storage = instance.event_log_storage
    if num_jobs < 1 or not storage.supports_global_concurrency_limits:
        return
    standing = {pool.name for pool in storage.get_pool_limits() if not pool.from_default}
    if GPU_POOL not in standing:
        storage.set_concurrency_slots(GPU_POOL, num_jobs)
