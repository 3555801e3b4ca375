"""A round of three sites whose clips are made up and whose trainers draw a delta instead of learning one."""

import hashlib
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gpu_jobs.posttrain.spec import PosttrainReport, PosttrainSpec
from gpu_jobs.posttrain.trainer import Command, Trainer
from resources.federation import Federation
from resources.round_files import publish_round_plan
from resources.trainers import Trainers
from tests import rows
from worldloop.cosmos.families import ClipShape
from worldloop.federation.adapters import (
    adapter_bytes,
    adapter_sha256,
    initial_adapter,
)
from worldloop.federation.rounds import Aggregation, Base, RoundPlan, Terms, Training, Trial
from worldloop.layout import manifest_key
from worldloop.records import CAPTIONS, MANIFEST, table_bytes
from worldloop.seeds import stream

HOMES = {"aws": "tokyo", "azure": "paris", "gcp": "lima"}
SITES = "[sites.local]\ncities = []\nstore = 'site'\n" + "".join(
    f"[sites.{site}]\ncities = ['{city}']\nstore = 'sites/{site}'\n" for site, city in HOMES.items()
)
WAVE, ROUND = "w0001", "r0001"
LAYERS = {"blocks.0.to_q": (6, 5), "blocks.1.to_q": (6, 5)}


def lay_out(home: Path, sites: Mapping[str, str] = HOMES) -> Federation:
    """A home with released clips of some sites: packs and private logs at each, the manifest at the coordinator."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "sites.toml").write_text(SITES)
    federation = Federation(sites_path=str(home / "sites.toml"), home=str(home))
    released = [_film(federation, site, city) for site, city in sites.items()]
    manifest = pl.concat([MANIFEST.empty(), *released])
    federation.store("local").put(manifest_key(WAVE), table_bytes(MANIFEST, manifest))
    return federation


def _film(federation: Federation, site: str, city: str) -> pl.DataFrame:
    clips = rows.clips(range(2), wave=WAVE, city=city)
    content = bytearray(clips.height * 8192)
    members = clips["members"].to_list()
    for each in (member for row in members for member in row):
        data = (each["name"].encode() * each["size_bytes"])[: each["size_bytes"]]
        content[each["offset"] : each["offset"] + each["size_bytes"]] = data
        each["sha256"] = hashlib.sha256(data).hexdigest()
    packed = clips.with_columns(members=pl.Series(members, dtype=clips["members"].dtype))
    federation.store(site).put(packed["pack_key"][0], bytes(content))
    log = federation.log(site)
    log.append("clips", packed)
    told = packed.with_columns(caption=pl.lit(f"{city} by day"), prose=pl.lit("long"))
    log.append("captions", CAPTIONS.conform(told.select(list(CAPTIONS.columns))))
    released = told.with_columns(site=pl.lit(site), offset=pl.lit(0))
    return MANIFEST.conform(released.select(list(MANIFEST.columns)))


def plan_round(federation: Federation, **changes: Any) -> RoundPlan:
    """Publish a plan of all three sites with a quorum of two."""
    terms = Terms(quorum=2, **changes.pop("terms", {}))
    plan = RoundPlan(
        **{
            "round": ROUND,
            "sites": tuple(HOMES),
            "waves": (WAVE,),
            "releases": ("0" * 64,),
            "base": Base("Tiny-Cosmos-1.0-Text2World", "tiny"),
            "training": Training(ClipShape(9, 64, 48, 24), rank=2, num_steps=2),
            "aggregation": Aggregation(),
            "terms": terms,
            "trial": Trial(held_out_cities=("cairo",)),
            "seed": 7,
            "opened_at": datetime.now(UTC).isoformat(),
            **changes,
        }
    )
    publish_round_plan(federation.store("local"), plan)
    return plan


def draw(spec: PosttrainSpec, on_event: Any, bases: Any) -> PosttrainReport:
    """What a training leaves, with noise in the place of what it would learn."""
    start = initial_adapter(spec.seed, LAYERS, 2)
    random = stream("delta", spec.site)
    moved = {
        name: each + random.standard_normal(each.shape, np.float32) for name, each in start.items()
    }
    folder = Path(spec.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "start.safetensors").write_bytes(adapter_bytes(start))
    (folder / "adapter.safetensors").write_bytes(adapter_bytes(moved))
    num_clips = len(list((Path(spec.footage_dir) / "videos").glob("*.mp4")))
    return PosttrainReport(
        output_dir=str(folder),
        num_clips=num_clips,
        num_windows=2,
        num_steps=2,
        num_parameters=44,
        loss_before=2.0,
        loss_after=1.0,
        losses=[{"step": 1, "loss": 1.5}],
        **dict.fromkeys(("norm", "tokens_per_s", "tflops", "load_s", "encode_s"), 1.0),
        **dict.fromkeys(("train_s", "wall_s", "gpu_s", "peak_gpu_gb"), 0.0),
        resumed_at=0,
        start_sha256=adapter_sha256(start),
    )


def hang(spec: PosttrainSpec, on_event: Any, bases: Any) -> PosttrainReport:
    """A training that never ends, but can be stopped."""
    Path(spec.output_dir).parent.joinpath("hangs").touch()
    while True:
        on_event({"event": "step", "step": 1, "of": 9, "loss": 1.0})
        time.sleep(0.05)


@contextmanager
def trainer(home: Path, site: str, how: str = "draw") -> Iterator[Trainer]:
    """The warm trainer of a site, in a thread of this process; it does as the function of this module."""
    path = Trainers(folder=str(home / "trainers")).socket_path(site)
    command = Command(PosttrainSpec, f"{__name__}:{how}")
    served = Trainer(
        path, idle_s=600.0, commands={"train": command}, bases=object(), heartbeat_s=0.2
    )
    thread = threading.Thread(target=served.serve)
    thread.start()
    try:
        yield served
    finally:
        served.stop()
        thread.join(30.0)
