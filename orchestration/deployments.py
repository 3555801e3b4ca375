"""Which resource serves in which environment; the only place that reads the environment.

| variable | meaning | default |
| --- | --- | --- |
| `WORLDLOOP_HOME` | folder of all data and of the Dagster instance | `.worldloop` beside `pyproject.toml`, else in the current folder |
| `WORLDLOOP_DEPLOYMENT` | `local`; `emulated` and `cloud` come with the cloud catalogs | `local` |
| `WORLDLOOP_SITES` | the sites file | `sites.toml` in the home if there is one, else the one in the package |
| `DAGSTER_HOME` | folder of the Dagster instance | `dagster` in the home |
| `WORLDLOOP_EMBED_MODEL` | an open_clip model instead of the starter, `name` or `name@revision` | the starter |
| `WORLDLOOP_CHECKPOINTS` | folder of the world models' checkpoints | `checkpoints` in the home |
| `WORLDLOOP_GPUS` | how many GPUs there are, the limit of the pool `gpu` | what `nvidia-smi` lists |
| `WORLDLOOP_CP_SIZE` | GPUs that work on one clip together | `1`: one job a GPU |
| `WORLDLOOP_ALERT_WEBHOOK` | URL that gets a JSON post when a run fails | none: failures are logged only |
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from resources.alerts import Alerts
from resources.clip_index import ClipIndex
from resources.embedder import Embedder
from resources.job_launcher import JobLauncher
from resources.ledger import Ledger
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.staging import Staging
from resources.world_models import WorldModels
from worldloop.errors import UnknownKeyError
from worldloop.sites import Site, Sites, load_sites

_PACKAGE_SITES = Path(__file__).with_name("sites.toml")
_DEPLOYMENTS = ("local",)


def home() -> Path:
    """The folder of all data, absolute."""
    if "WORLDLOOP_HOME" in os.environ:
        return Path(os.environ["WORLDLOOP_HOME"]).expanduser().absolute()
    checkout = Path(__file__).resolve().parent.parent
    base = checkout if (checkout / "pyproject.toml").exists() else Path.cwd()
    return base / ".worldloop"


def sites() -> Sites:
    """The federation's sites; this deployment's own is `local`."""
    named = os.environ.get("WORLDLOOP_SITES")
    at_home = home() / "sites.toml"
    if named:
        return load_sites(Path(named))
    return load_sites(at_home if at_home.exists() else _PACKAGE_SITES)


def local_site() -> Site:
    """The site on this machine."""
    return sites().site("local")


def site_root() -> Path:
    """The folder of the local site's store."""
    return home() / local_site().store


def instance_folder() -> Path:
    """Where the Dagster instance keeps runs, events and settings."""
    return Path(os.environ.get("DAGSTER_HOME", home() / "dagster")).absolute()


def checkpoints() -> Path:
    """The folder of the world models' checkpoints, absolute."""
    return Path(os.environ.get("WORLDLOOP_CHECKPOINTS", home() / "checkpoints")).absolute()


def cp_size() -> int:
    """GPUs that work on one clip together."""
    return int(os.environ.get("WORLDLOOP_CP_SIZE", "1"))


def num_gpus() -> int:
    """GPUs of this machine; 0 where the driver lists none."""
    if "WORLDLOOP_GPUS" in os.environ:
        return int(os.environ["WORLDLOOP_GPUS"])
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def resources() -> dict[str, Any]:
    """Every resource of the code location, by the name that assets ask for.

    Raises:
        UnknownKeyError: If `WORLDLOOP_DEPLOYMENT` names a deployment that does not exist.
    """
    deployment = os.environ.get("WORLDLOOP_DEPLOYMENT", "local")
    if deployment not in _DEPLOYMENTS:
        raise UnknownKeyError("deployment", deployment, _DEPLOYMENTS)
    store = SiteStore(url=str(site_root()))
    name, _, revision = os.environ.get("WORLDLOOP_EMBED_MODEL", "").partition("@")
    return {
        "store": store,
        "site_log": SiteLog(store=store),
        "clip_index": ClipIndex(uri=str(site_root() / "lance")),
        "staging": Staging(root=str(home() / "scratch")),
        "ledger": Ledger(path=str(home() / "ledger.sqlite"), limits=local_site().budgets.limits()),
        "launcher": JobLauncher(),
        "embedder": Embedder(name=name, revision=revision),
        "world_models": WorldModels(
            checkpoint_dir=str(checkpoints()),
            cp_size=cp_size(),
            usd_per_gpu_hour=local_site().usd_per_gpu_hour,
        ),
        "alerts": Alerts(webhook_url=os.environ.get("WORLDLOOP_ALERT_WEBHOOK", "")),
    }
