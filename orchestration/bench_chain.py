"""One city through the chain in this fresh process, CPU seconds by part; `orchestration.bench` reads it.

Orchestration is what this process, the run worker, uses itself; jobs are its children. The decode
of `signals` is real work that happens in the worker, so it is measured apart and taken off.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg

from assets.partitions import shard_key
from orchestration.definitions import defs
from orchestration.deployments import instance_folder, resources
from orchestration.instance import open_instance
from resources.site_store import SiteStore
from resources.tables import read
from worldloop import layout
from worldloop.curation.signals import measure_clip
from worldloop.records import CLIPS

_WAVE, _CITY = "w0001", "tokyo"
_QUIET = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}


def main(num_clips: int, num_frames: int) -> None:
    """Run the chain and print one JSON line."""
    instance, store = open_instance(), resources()["store"]
    instance.add_dynamic_partitions("wave", [_WAVE])
    plan = {"places": [f"{_CITY}/street"], "clips_per_place": num_clips, "num_frames": num_frames}
    _execute(instance, "atlas_job")
    _execute(instance, "plan_job", _WAVE, config={"ops": {"wave_plan": {"config": plan}}})
    key = shard_key(_CITY, _WAVE)
    _execute(instance, "city_job", key, assets=["prompts"])
    _execute(instance, "city_job", key, assets=["rendered_clips"])
    rendered = _cpu()
    _execute(instance, "city_job", key, assets=["signals", "embeddings"])
    _execute(instance, "close_job", _WAVE)
    done = _cpu()
    stored = _event_bytes()
    run_id = _execute(instance, "city_job", key)  # as the conductor asks for it: one run a city
    grown = _event_bytes() - stored
    decode_s = _decode_cpu_s(store)
    events = len(instance.all_logs(run_id))
    worker = rendered["self"]
    print(  # noqa: T201 - one JSON line for the bench that started this process
        json.dumps(
            {
                "rows": [
                    _row("rendered_clips: orchestration", worker, worker + rendered["children"]),
                    _row(
                        "rendered_clips: job", rendered["children"], worker + rendered["children"]
                    ),
                    _row(
                        "whole chain: orchestration",
                        done["self"] - decode_s,
                        done["self"] + done["children"],
                    ),
                    _row("whole chain: decode", decode_s, done["self"] + done["children"]),
                    _row("whole chain: jobs", done["children"], done["self"] + done["children"]),
                ],
                "events_kb_per_1000": grown,  # bytes of one partition are kB of a thousand
                "events_per_city": events,
            }
        )
    )


def _execute(
    instance: dg.DagsterInstance,
    job: str,
    partition_key: str | None = None,
    *,
    config: dict[str, Any] | None = None,
    assets: list[str] | None = None,
) -> str:
    result = defs.resolve_job_def(job).execute_in_process(
        instance=instance,
        partition_key=partition_key,
        run_config={**_QUIET, **(config or {})},
        asset_selection=[dg.AssetKey(name) for name in assets] if assets else None,
    )
    return result.run_id


def _row(part: str, cpu_s: float, total_s: float) -> dict[str, Any]:
    return {"part": part, "cpu_s": cpu_s, "share": cpu_s / total_s}


def _cpu() -> dict[str, float]:
    used = {
        "self": resource.getrusage(resource.RUSAGE_SELF),
        "children": resource.getrusage(resource.RUSAGE_CHILDREN),
    }
    return {name: usage.ru_utime + usage.ru_stime for name, usage in used.items()}


def _event_bytes() -> int:
    return sum(path.stat().st_size for path in Path(instance_folder()).rglob("*.db*"))


def _decode_cpu_s(store: SiteStore) -> float:
    clips = read(store, CLIPS, layout.clips_key(_WAVE, _CITY))
    start_s = time.process_time()
    for clip in clips.iter_rows(named=True):
        video = next(m for m in clip["members"] if m["name"].endswith(".rgb.mp4"))
        measure_clip(store.get_range(clip["pack_key"], video["offset"], video["size_bytes"]))
    return time.process_time() - start_s


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
