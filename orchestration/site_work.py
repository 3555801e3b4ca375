"""What a site agent has done in a process of its own: one site's part of one round, by the assets themselves.

    python -m orchestration.site_work address
    python -m orchestration.site_work delta --site aws --round r0001

Dagster is used as a library: the instance is in memory, so no daemon, database or UI is needed. What
stands afterwards are the files that a run of the asset leaves, and whoever does it again finds them.
Answers, and the one line of an error, are JSON on stdout; everything else that is said goes to stderr.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from assets.partitions import site_round_key
from assets.site_delta import build_site_delta
from assets.site_scores import build_site_scores
from orchestration.deployments import federation, home, resources
from orchestration.flower.parcels import hand_out, lay_in
from orchestration.site_agent import DELTA_STEP, SCORES_STEP
from resources.federation import Federation
from resources.round_files import read_round_plan
from worldloop.errors import WorldloopError

ASSETS: Mapping[str, Callable[[Iterable[str]], dg.AssetsDefinition]] = {
    DELTA_STEP: build_site_delta,
    SCORES_STEP: build_site_scores,
}
_QUIET = {"loggers": {"console": {"config": {"log_level": "WARNING"}}}}


def main() -> int:
    """Do one thing and say how it ended."""
    for number in (signal.SIGINT, signal.SIGTERM):  # an agent in the background ignores SIGINT
        signal.signal(number, signal.default_int_handler)
    parser = argparse.ArgumentParser(prog="orchestration.site_work", description=__doc__)
    parser.add_argument("what", choices=["address", *ASSETS])
    parser.add_argument("--site", default="")
    parser.add_argument("--round", default="", dest="round_key")
    parser.add_argument("--parcel", type=Path, help="Folder of files that came, and of the answer.")
    asked = parser.parse_args()
    told_before = dict(os.environ)
    try:
        if asked.what == "address":
            answer = address(federation(), told_before)
        else:
            answer = do_step(asked.what, asked.site, asked.round_key, asked.parcel)
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        return _ended({"error": "Interrupted; it goes on where it stopped."}, 130)
    except (WorldloopError, dg.Failure) as error:
        return _ended({"error": " ".join(str(error).split())}, 1)
    except Exception as error:  # noqa: BLE001 - the agent goes on, whatever a library raised
        sys.excepthook(*sys.exc_info())
        return _ended({"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}, 1)
    return _ended(answer, 0)


def address(sites: Federation, told_before: Mapping[str, str]) -> dict[str, Any]:
    """Where the coordinator's store is, for who does not import this.

    Args:
        sites: All sites.
        told_before: Variables of the environment before it was opened; what the deployment `emulated`
            added has to be told too.

    Returns:
        `url`, `options`, `secrets` (each with where it is kept, no values), `sites` (names), `log_folder` and
        `environment`.
    """
    store = sites.store(sites.coordinator)
    added = {name: value for name, value in os.environ.items() if name not in told_before}
    return {
        "url": store.url,
        "options": dict(store.options),
        "secrets": dict(store.secrets),
        "sites": sites.names,
        "log_folder": str(home() / "agents"),
        "environment": added,
    }


def do_step(
    step: str, site: str, round_key: str, parcel: Path | None = None, kit: Any = None
) -> dict[str, Any]:
    """Materialise a site's delta or scores of a round.

    Args:
        step: `delta` or `scores`.
        site: Whose.
        round_key: Of which round.
        parcel: Folder whose `in/` holds files of the coordinator; what was sent is copied to its `out/`.
            None where the coordinator's store can be reached.
        kit: Resources by name; None: those of the deployment.

    Returns:
        `step`, `site` and `round`.

    Raises:
        UnknownKeyError: If there is no such site or round.
        WorldloopError: What the asset raised.
    """
    kit = kit or resources()
    sites: Federation = kit["federation"]
    sites.site(site)
    store = kit["store"]
    if parcel is not None:
        lay_in(store, parcel / "in")
    read_round_plan(store, round_key)
    asset = ASSETS[step](sites.names)
    needed = asset.required_resource_keys & set(kit)  # Dagster adds an io_manager
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("round", [round_key])
        dg.materialize(
            [asset],
            partition_key=site_round_key(site, round_key),
            instance=instance,
            resources={name: kit[name] for name in needed},
            run_config=_QUIET,
        )
    if parcel is not None:
        hand_out(store, round_key, site, step, parcel / "out")
    return {"step": step, "site": site, "round": round_key}


def _ended(answer: Mapping[str, Any], code: int) -> int:
    sys.stdout.write(json.dumps(answer) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
