"""What every test may ask for: a site in a temporary folder, and a small wave carried through it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

pytest_plugins = ["tests.emulators.fixtures"]

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
SITES = """
[sites.local]
cities = ["*"]
store = "site"
[sites.aws]
cities = []
store = "aws"
[sites.gcp]
cities = []
store = "gcp"
[sites.azure]
cities = []
store = "azure"
"""
TINY = {"clips_per_place": 2, "num_frames": 13, "width_px": 96, "height_px": 54, "num_samples": 1}


@dataclass
class House:
    """A site with a Dagster instance of its own, driven through the real definitions."""

    root: Path
    instance: dg.DagsterInstance
    resources: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from resources.alerts import Alerts
        from resources.catalog_upkeep import Catalogs
        from resources.checkpoint_registry import CheckpointRegistry
        from resources.clip_index import ClipIndex
        from resources.embedder import Embedder
        from resources.federation import Federation
        from resources.job_launcher import JobLauncher
        from resources.ledger import Ledger
        from resources.prompt_upsampler import PromptUpsampler
        from resources.renderer import Renderer
        from resources.site_log import SiteLog
        from resources.site_store import SiteStore
        from resources.staging import Staging
        from resources.trainers import Trainers
        from resources.world_models import WorldModels

        store = SiteStore(url=str(self.root / "site"))
        sites = self.root / "sites.toml"
        if not sites.exists():
            sites.write_text(SITES)
        federation = Federation(sites_path=str(sites), home=str(self.root))
        self.resources = {
            "catalogs": Catalogs(federation=federation, ledger_folder=str(self.root)),
            "store": store,
            "site_log": SiteLog(store=store),
            "clip_index": ClipIndex(uri=str(self.root / "site" / "lance")),
            "staging": Staging(root=str(self.root / "scratch")),
            "ledger": Ledger(path=str(self.root / "ledger.sqlite")),
            "launcher": JobLauncher(),
            "embedder": Embedder(),
            "renderer": Renderer(),
            "world_models": WorldModels(checkpoint_dir=str(self.root / "checkpoints")),
            "federation": federation,
            "prompt_upsampler": PromptUpsampler(),
            "trainers": Trainers(folder=str(self.root / "trainers"), idle_s=20),
            "registry": CheckpointRegistry(store=store, home=str(self.root)),
            "alerts": Alerts(),
        }

    @property
    def store(self):
        return self.resources["store"]

    def definitions(self) -> dg.Definitions:
        """The code location with this site's resources in place of the deployment's."""
        from orchestration.definitions import build_definitions

        return build_definitions(self.resources)

    def execute(self, job: str, partition_key=None, config=None, *, raises: bool = True):
        return (
            self.definitions()
            .resolve_job_def(job)
            .execute_in_process(
                instance=self.instance,
                partition_key=partition_key,
                run_config={**QUIET, **(config or {})},
                raise_on_error=raises,
            )
        )

    def plan(self, wave: str, places: list[str], **shape: int) -> None:
        self.instance.add_dynamic_partitions("wave", [wave])
        config = {"places": places, **TINY, **shape}
        self.execute("plan_job", wave, {"ops": {"wave_plan": {"config": config}}})

    def carry(self, wave: str, cities: list[str]) -> None:
        from assets.partitions import shard_key

        for city in cities:
            self.execute("city_job", shard_key(city, wave))
        self.execute("close_job", wave)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield House(tmp_path, instance)


@pytest.fixture(scope="session")
def carried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Wave w0001 of two cities, carried from its plan to its release; tests only read it."""
    with dg.DagsterInstance.ephemeral() as instance:
        house = House(tmp_path_factory.mktemp("carried"), instance)
        house.plan("w0001", ["tokyo/museum", "lima/hospital"])
        house.carry("w0001", ["tokyo", "lima"])
        yield house
