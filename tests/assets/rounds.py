"""A federation of three folders whose rounds run through the real definitions, with a tiny model on the CPU."""

from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from assets.partitions import site_round_key
from resources.federation import Federation
from resources.round_files import read_outcome, read_round_plan
from tests.conftest import House

MODEL = "Tiny-Cosmos-1.0-Text2World"
HOMES = {"aws": ("tokyo", "rome"), "azure": ("paris", "cairo"), "gcp": ("lima",)}
HELD_OUT = ("cairo", "rome")
SITES = "\n".join(
    ["[sites.local]\ncities = []\nstore = 'site'"]
    + [
        f"[sites.{name}]\ncities = {[*cities]}\nstore = 'sites/{name}'"
        for name, cities in HOMES.items()
    ]
)
# What a random model and a handful of clips cannot show: a better loss or better samples, and enough of either.
LOOSE = {
    "must_improve": 0.0,
    "held_out_loss_max": 10.0,
    "held_out_cell_max": 10.0,
    "min_held_out_clips": 1.0,
    "min_cell_clips": 1.0,
    "min_samples": 2.0,
    "distance_rise_max": 10.0,
    "text_cosine_loss_max": 2.0,
    "caption_gain_loss_max": 10.0,
    "temporal_consistency_loss_max": 10.0,
    "kept_share_min": 0.0,
    "memorisation_chance": 0.0,
    "copy_similarity": 1.0,
}
TRAINING = {"num_steps": 4, "rank": 2, "alpha": 2.0, "warmup_steps": 1, "precision": "fp32"}


@dataclass
class Rounds(House):
    """A coordinator without cities and three sites in folders."""

    def __post_init__(self) -> None:
        path = self.root / "sites.toml"
        path.write_text(SITES)
        super().__post_init__()
        self.federation = Federation(sites_path=str(path), home=str(self.root))
        self.resources["store"] = self.federation.federated_store()
        self.resources["site_log"] = self.federation.federated_log()

    def film(self, wave: str = "w0001") -> None:
        """A released wave with clips of every city."""
        cities = [city for mine in HOMES.values() for city in mine]
        self.plan(wave, [f"{city}/museum" for city in cities])
        self.carry(wave, cities)

    def make_model(self) -> None:
        """The tiny model among the checkpoints."""
        from orchestration.models import write_tiny

        write_tiny(MODEL, self.root / "checkpoints")

    def plan_round(self, key: str = "r0001", *, raises: bool = True, **config) -> dg.ExecuteInProcessResult:
        """Plan a round; what is not said is small and loose."""
        self.instance.add_dynamic_partitions("round", [key])
        trial = {
            "held_out_cities": [*HELD_OUT],
            "num_prompts": 2,
            "noise_levels": 1,
            "limits": LOOSE,
            **config.pop("trial", {}),
        }
        asked = {"model": MODEL, "training": TRAINING, "trial": trial, **config}
        return self.execute(
            "round_job", key, {"ops": {"round_plan": {"config": asked}}}, raises=raises
        )

    def train(self, site: str, key: str = "r0001", *, raises: bool = True):
        return self.execute("delta_job", site_round_key(site, key), raises=raises)

    def score(self, site: str, key: str = "r0001", *, raises: bool = True):
        return self.execute("scores_job", site_round_key(site, key), raises=raises)

    def round_plan(self, key: str = "r0001"):
        return read_round_plan(self.store, key)

    def outcome(self, key: str = "r0001"):
        return read_outcome(self.store, key)

    def metadata(self, asset: str) -> dict:
        event = self.instance.get_latest_materialization_event(dg.AssetKey(asset))
        found = event.asset_materialization.metadata
        return {name: value.value for name, value in found.items()}

    def stop_trainers(self) -> None:
        for site in ("local", *HOMES):
            self.resources["trainers"].stop(site)


def files_of(root: Path) -> dict[str, bytes]:
    """Every file beneath a folder."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
