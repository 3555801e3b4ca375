"""The Dagster instance of this home: laid out once, opened by the command line and by `make dev`."""

import os
import shutil
from pathlib import Path

import dagster as dg

from orchestration.deployments import home, instance_folder


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
    """The instance that the UI and the daemon use too."""
    lay_out_instance()
    return dg.DagsterInstance.get()
