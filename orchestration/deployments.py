"""Which resource serves in which environment; the only place that reads the environment.

| variable | meaning | default |
| --- | --- | --- |
| `WORLDLOOP_HOME` | folder of all data and of the Dagster instance | `.worldloop` beside `pyproject.toml`, else in the current folder |
| `WORLDLOOP_DEPLOYMENT` | `local`, `emulated` or `cloud`, see below | `local` |
| `WORLDLOOP_SITES` | the sites file | `sites.toml` in the home if there is one, else the one in the package |
| `DAGSTER_HOME` | folder of the Dagster instance | `dagster` in the home |
| `WORLDLOOP_EMBED_MODEL` | an open_clip model instead of the starter, `name` or `name@revision` | the starter |
| `WORLDLOOP_RENDER_DEVICE` | what draws procedural clips, `cpu` or `cuda:<n>`; bytes are the same on every CPU, not across devices | `cpu` |
| `WORLDLOOP_PROMPT_MODEL` | a language model that writes prompts anew: a name at the address below, else a transformers model, `name` or `name@revision` | none |
| `WORLDLOOP_PROMPT_URL` | base address of an OpenAI-compatible endpoint that serves it | none: the model runs in the run itself |
| `WORLDLOOP_PROMPT_KEY` | where the key of that address is kept, as in the sites file, e.g. `env:NAME` | none |
| `WORLDLOOP_CHECKPOINTS` | folder of the world models' checkpoints | `checkpoints` in the home |
| `WORLDLOOP_GPUS` | how many GPUs there are, the limit of the pool `gpu` | what `nvidia-smi` lists |
| `WORLDLOOP_CP_SIZE` | GPUs that work on one clip together | `1`: one job a GPU |
| `WORLDLOOP_ALERT_WEBHOOK` | URL that gets a JSON post when a run fails | none: failures are logged only |
| `WORLDLOOP_READ_ONLY` | `1`: everything that writes refuses; status and search work | unset |
| `WORLDLOOP_PIPES_URL` | bucket over which jobs report that run in a cloud, `s3://`, `gs://` (with the extra `pipes-gcp`) or `az://` | a local file |
| `WORLDLOOP_METRICS_TOKEN` | what `worldloop metrics --serve --host` asks of who scrapes | none: loopback only |
| `WORLDLOOP_EMULATED_S3` | address of an S3 and Glue emulator (moto's server) | none: `aws` stays a folder |
| `WORLDLOOP_EMULATED_GCS` | address of a GCS emulator with JSON and XML interface | none: `gcp` stays a folder |
| `WORLDLOOP_EMULATED_BLOB` | address of Azurite, account included | none: `azure` stays a folder |
| `WORLDLOOP_EMULATED_BUCKET` | bucket or container in each of them; it has to be there | `worldloop` |
| `WORLDLOOP_EMULATED_AZURE_STORAGE_ACCOUNT_KEY` | key of Azurite's account | none |

`local` takes the sites file as it stands; with folders it needs no account and no network. `emulated` is
the same, but the sites `aws`, `gcp` and `azure` are reached at the emulators whose addresses are given;
it starts none. `cloud` adds Dagster's own resources of each cloud that a site lies in.
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from resources.alerts import Alerts
from resources.catalog_upkeep import Catalogs
from resources.checkpoint_registry import CheckpointRegistry
from resources.clip_index import ClipIndex
from resources.embedder import Embedder
from resources.emulated_federation import EmulatedFederation, emulator_credentials
from resources.federation import Federation
from resources.job_launcher import JobLauncher
from resources.ledger import Ledger
from resources.prompt_upsampler import PromptUpsampler
from resources.query_log import QueryLog
from resources.renderer import Renderer
from resources.staging import Staging
from resources.trainers import Trainers
from resources.world_models import WorldModels
from worldloop.errors import UnknownKeyError
from worldloop.sites import Site, Sites

_PACKAGE_SITES = Path(__file__).with_name("sites.toml")
_DEPLOYMENTS = ("local", "emulated", "cloud")
_EMULATORS = ("s3", "gcs", "blob")


def home() -> Path:
    """The folder of all data, absolute."""
    if "WORLDLOOP_HOME" in os.environ:
        return Path(os.environ["WORLDLOOP_HOME"]).expanduser().absolute()
    checkout = Path(__file__).resolve().parent.parent
    base = checkout if (checkout / "pyproject.toml").exists() else Path.cwd()
    return base / ".worldloop"


def sites() -> Sites:
    """The federation's sites; this deployment's own is `local`."""
    return federation().sites


def sites_path() -> Path:
    """The sites file."""
    named = os.environ.get("WORLDLOOP_SITES")
    at_home = home() / "sites.toml"
    if named:
        return Path(named).absolute()
    return at_home if at_home.exists() else _PACKAGE_SITES


def deployment() -> str:
    """Which environment this is.

    Raises:
        UnknownKeyError: If `WORLDLOOP_DEPLOYMENT` names one that does not exist.
    """
    name = os.environ.get("WORLDLOOP_DEPLOYMENT", "local")
    if name not in _DEPLOYMENTS:
        raise UnknownKeyError("deployment", name, _DEPLOYMENTS)
    return name


def read_only() -> bool:
    """Whether this process may only read."""
    return os.environ.get("WORLDLOOP_READ_ONLY", "") not in ("", "0", "false")


def metrics_token() -> str:
    """What scrapers beyond the loopback address have to send; empty for none."""
    return os.environ.get("WORLDLOOP_METRICS_TOKEN", "")


def federation() -> Federation:
    """All sites, with the emulators' addresses in the deployment `emulated`."""
    where: dict[str, Any] = {"sites_path": str(sites_path()), "home": str(home())}
    if deployment() != "emulated":
        return Federation(**where, read_only=read_only())
    addresses = {
        name: os.environ[f"WORLDLOOP_EMULATED_{name.upper()}"]
        for name in _EMULATORS
        if f"WORLDLOOP_EMULATED_{name.upper()}" in os.environ
    }
    for variable, value in emulator_credentials(addresses).items():
        os.environ.setdefault(variable, value)
    bucket = os.environ.get("WORLDLOOP_EMULATED_BUCKET", "worldloop")
    return EmulatedFederation(**where, read_only=read_only(), addresses=addresses, bucket=bucket)


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
    everything, own = federation(), local_site()
    name, _, revision = os.environ.get("WORLDLOOP_EMBED_MODEL", "").partition("@")
    return {
        "store": everything.federated_store(),
        "site_log": everything.federated_log(),
        "clip_index": ClipIndex(uri=str(site_root() / "lance")),
        "federation": everything,
        "catalogs": Catalogs(
            federation=everything, ledger_folder=str(home()), read_only=read_only()
        ),
        "query_log": QueryLog(folder=everything.queries_folder),
        "staging": Staging(root=str(home() / "scratch")),
        "ledger": Ledger(path=str(home() / "ledger.sqlite"), limits=own.budgets.limits()),
        "launcher": JobLauncher(messages_url=os.environ.get("WORLDLOOP_PIPES_URL", "")),
        "embedder": Embedder(name=name, revision=revision),
        "renderer": Renderer(device=os.environ.get("WORLDLOOP_RENDER_DEVICE") or "cpu"),
        "world_models": WorldModels(
            checkpoint_dir=str(checkpoints()),
            cp_size=cp_size(),
            usd_per_gpu_hour=own.usd_per_gpu_hour,
        ),
        "prompt_upsampler": _prompt_upsampler(),
        "trainers": Trainers(folder=str(home() / "trainers")),
        "registry": CheckpointRegistry(
            store=everything.store(everything.coordinator), home=str(home())
        ),
        "alerts": Alerts(webhook_url=os.environ.get("WORLDLOOP_ALERT_WEBHOOK", "")),
        **(cloud_clients(everything.sites) if deployment() == "cloud" else {}),
    }


def _prompt_upsampler() -> PromptUpsampler:
    """The language model that writes prompts anew; off unless one is named."""
    model, url = (
        os.environ.get("WORLDLOOP_PROMPT_MODEL", ""),
        os.environ.get("WORLDLOOP_PROMPT_URL", ""),
    )
    if not model:
        return PromptUpsampler()
    name, _, revision = (model, "", "") if url else model.partition("@")
    return PromptUpsampler(
        backend="endpoint" if url else "transformers",
        model=name,
        revision=revision,
        url=url,
        api_key=os.environ.get("WORLDLOOP_PROMPT_KEY", ""),
        cache_folder=str(home() / "upsampled_prompts"),
    )


def cloud_clients(known: Sites) -> dict[str, Any]:
    """Dagster's own resources of the clouds that sites lie in, for assets of your own.

    Each is imported only if a site asks for it: their SDKs take longer to import than all the rest.
    They authenticate as the machine does; secrets of sites.toml are not given to them.
    """
    clients: dict[str, Any] = {}
    for site in known.all:
        if site.cloud == "aws" and "s3" not in clients:
            from dagster_aws.s3 import S3Resource
            from dagster_aws.secretsmanager import SecretsManagerResource

            region = site.options.get("aws_region")
            clients["s3"] = S3Resource(region_name=region)
            clients["secretsmanager"] = SecretsManagerResource(region_name=region)
        if site.cloud == "gcp" and "gcs" not in clients:
            from dagster_gcp import BigQueryResource
            from dagster_gcp.gcs import GCSResource

            project = site.registration.project or None
            clients["gcs"] = GCSResource(project=project)
            clients["bigquery"] = BigQueryResource(project=project)
        if site.cloud == "azure" and "azure_blob" not in clients:
            from dagster_azure.blob import (
                AzureBlobStorageDefaultCredential,
                AzureBlobStorageResource,
            )

            account = site.options.get("azure_storage_account_name", "")
            clients["azure_blob"] = AzureBlobStorageResource(
                account_url=f"https://{account}.blob.core.windows.net",
                credential=AzureBlobStorageDefaultCredential(),
            )
    return clients
