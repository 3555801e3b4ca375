"""The code location `marts`: the dbt models over the logs of all sites, apart because dbt is slow to import."""

import contextlib
import fcntl
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from orchestration.deployments import federation, home, sites
from orchestration.mart_inputs import (
    DBT,
    DBT_FOLDER,
    fetch_remote_logs,
    log_folders,
    places_file,
    variables,
)

with warnings.catch_warnings():
    # Goes when dagster-dbt's sqlglot takes sqlglotc: sqlglotrs warns when it is imported.
    warnings.filterwarnings("ignore", "sqlglotrs is deprecated", DeprecationWarning)
    from dagster_dbt import (
        DagsterDbtTranslator,
        DagsterDbtTranslatorSettings,
        DbtCliResource,
        DbtProject,
        dbt_assets,
    )

_WRITERS = {
    **dict.fromkeys(("releases", "release_clips"), "release"),
    **dict.fromkeys(("projections", "reconciliations", "queries", "audits"), "local_catalog"),
    # behind the catalog that follows them: before the first round nothing else would make them
    "places": "place_atlas",
    **dict.fromkeys(("rounds", "round_waves", "round_deltas"), "local_catalog"),
}  # of logs and tables; all others are written by `catalog`
# A run of some marts tests nothing that others are needed for which are not built yet.
_TESTS = ["--indirect-selection", "buildable"]


class MartsTranslator(DagsterDbtTranslator):  # type: ignore[misc] # dagster_dbt is not followed
    """Names dbt's nodes so that lineage runs from the graph's assets into the marts."""

    def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> dg.AssetKey:
        """Models keep their names; a log is the asset that appends to it."""
        name = dbt_resource_props["name"]
        if dbt_resource_props["resource_type"] != "source":
            return dg.AssetKey(name)
        return dg.AssetKey(_WRITERS.get(name, "catalog"))

    def get_group_name(self, dbt_resource_props: Mapping[str, Any]) -> str:
        """`staging` and `marts`, after the folders."""
        return str(dbt_resource_props["fqn"][1])

    def get_automation_condition(
        self, dbt_resource_props: Mapping[str, Any]
    ) -> "dg.AutomationCondition[Any]":
        """Follow the logs; an open wave, which has no catalog yet, holds nothing up."""
        eager = dg.AutomationCondition.eager()
        if dbt_resource_props["fqn"][1] == "staging":
            return eager.without(~dg.AutomationCondition.any_deps_missing())
        return eager


def manifest_is_fresh(folder: Path) -> bool:
    """Whether dbt's manifest is there and newer than everything it was parsed from."""
    manifest = folder / "target" / "manifest.json"
    if not manifest.exists():
        return False
    sources = [path for part in ("models", "macros") for path in (folder / part).rglob("*")]
    sources += folder.glob("*.yml")
    written_at = manifest.stat().st_mtime
    return all(path.stat().st_mtime <= written_at for path in sources if path.is_file())


def _variables() -> list[str]:
    """Where logs and places are, absolutely, as dbt runs in its own folder."""
    logs, places = log_folders(sites(), home()), places_file(sites(), home())
    return ["--vars", json.dumps(variables(home=home(), logs=logs, places=places))]


@contextlib.contextmanager
def _one_at_a_time(lock: Path) -> Iterator[None]:
    """Wait for other processes that hold the lock file; a killed one lets go at once."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _prepared(folder: Path) -> tuple[DbtProject, DbtCliResource]:
    """The dbt project, parsed only if that is due: a parse is dearer than the whole import."""
    project = DbtProject(project_dir=folder, profiles_dir=folder)
    dbt = DbtCliResource(project_dir=project, dbt_executable=str(DBT))
    with _one_at_a_time(folder / "target" / "parse.lock"):
        if not manifest_is_fresh(folder):
            dbt.cli(["parse", "--quiet", *_variables()], target_path=project.target_path).wait()
            project.manifest_path.touch()
    return project, dbt


_PROJECT, _CLI = _prepared(DBT_FOLDER)


@dbt_assets(  # type: ignore[untyped-decorator] # dagster_dbt is not followed
    manifest=_PROJECT.manifest_path,
    project=_PROJECT,
    dagster_dbt_translator=MartsTranslator(
        DagsterDbtTranslatorSettings(enable_duplicate_source_asset_keys=True)
    ),
    pool="marts",
    retry_policy=dg.RetryPolicy(max_retries=1, delay=5),
)
def marts(context: dg.AssetExecutionContext, dbt: DbtCliResource) -> Iterator[Any]:
    """Build and test the marts in `marts.duckdb`; DuckDB takes one writer, so one run at a time.

    Logs of remote sites are fetched first; of a site that does not answer the marts have what was
    fetched earlier.
    """
    for site, error in fetch_remote_logs(federation()).items():
        context.log.warning("%s counts as it was when it last answered: %s", site, error)
    with _one_at_a_time(home() / "marts.lock"):
        yield from dbt.cli(["build", *_TESTS, *_variables()], context=context).stream()


marts_job = dg.define_asset_job(
    "marts_job",
    dg.AssetSelection.assets(marts),
    description="Build and test all marts.",
    tags={"dagster/max_runtime": "1800"},
)

defs = dg.Definitions(
    assets=[marts],
    jobs=[marts_job],
    sensors=[
        dg.AutomationConditionSensorDefinition(
            "marts_follow_the_logs",
            target=dg.AssetSelection.assets(marts),
            default_status=dg.DefaultSensorStatus.RUNNING,
            minimum_interval_seconds=30,
        )
    ],
    resources={"dbt": _CLI},
    executor=dg.in_process_executor,
)
