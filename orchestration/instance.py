"""The Dagster instance of this home: laid out once, opened by the command line and by `make dev`."""

import os
import shutil
from pathlib import Path

import dagster as dg

from assets.site_catalogs import pool_of
from orchestration.deployments import cp_size, home, instance_folder, num_gpus, sites

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
    limit_pool(instance, GPU_POOL, num_gpus() // cp_size())
    for site in sites().all:
        limit_pool(instance, pool_of(site.name), 1)  # one committer; a second would only wait
    return instance


def limit_pool(instance: dg.DagsterInstance, pool: str, num_jobs: int) -> None:
    """Let so many steps of a pool run at once; a limit that somebody has set stays.

    dagster.yaml knows one default for all pools, so this one is written into the instance. With 0,
    as without a GPU, the default holds.
    """
    storage = instance.event_log_storage
    if num_jobs < 1 or not storage.supports_global_concurrency_limits:
        return
    standing = {limit.name for limit in storage.get_pool_limits() if not limit.from_default}
    if pool not in standing:
        storage.set_concurrency_slots(pool, num_jobs)
