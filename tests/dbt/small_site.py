"""Three waves and two rounds of made-up rows in the logs of a site, with what the catalogs say about themselves."""

from datetime import UTC, datetime, timedelta

import polars as pl

from resources.site_catalog import log_release, project_wave, read_wave
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from tests import rows
from worldloop.catalog_tables import KIND_TABLES
from worldloop.records import (
    AUDITS,
    PROJECTIONS,
    QUERIES,
    RECONCILIATIONS,
    ROUND_DELTAS,
    ROUND_WAVES,
    ROUNDS,
)
from worldloop.releases import compose_release

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
COSTS_S = (0.1, 0.2, 0.3, 0.7, 1.1)  # sums of which depend on the order in floating numbers


def fill(folder) -> SiteLog:
    """Every outcome of a clip, two releases, one clip taken back, lags, repairs and searches."""
    log = SiteLog(store=SiteStore(url=str(folder)))
    _append_waves(log)
    log.append("projections", projections())
    log.append("reconciliations", reconciliations())
    log.append("queries", queries())
    log.append("audits", audits())
    log.append("rounds", rounds())
    log.append("round_waves", round_waves())
    log.append("round_deltas", round_deltas())
    log.retract("lineage", [rows.ids(0)["recipe_id"]], reason="asked for")
    log.retract("releases", ["w0003"], reason="withdrawn")
    return log


def table_frames(log: SiteLog, origin: str = "local") -> dict[str, pl.DataFrame]:
    """Rows of the Iceberg tables that a site projects from its own log."""
    return {t.name: t.rows(origin, log.read(t.kind)) for t in KIND_TABLES}


def projections(site: str = "local") -> pl.DataFrame:
    """Rows of `records.PROJECTIONS`: two of Lance on one day, one of it on the next, one without a lag."""
    measured = [
        ("lance", 0, 30.0, 100, 0.97),
        ("lance", 5, 0.5, 160, 0.98),
        ("lance", 24, 12.0, 400, None),
        ("glue", 1, None, 400, None),
    ]
    return _frame(
        PROJECTIONS,
        [
            {
                "site": site,
                "projection": name,
                "measured_at": NOON + timedelta(hours=hours),
                "num_rows": num_rows,
                "size_bytes": num_rows * 100,
                "num_behind": 2,
                "lag_s": lag_s,
                "recall": recall,
                "took_s": 1.5,
                "num_requests": 12,
                "repaired_at": None,
            }
            for name, hours, lag_s, num_rows, recall in measured
        ],
    )


def reconciliations() -> pl.DataFrame:
    """Rows of `records.RECONCILIATIONS`: a hole that was repaired, and one that was not."""
    found = [("local", 0, 2, 2), ("local", 24, 0, 0), ("gcp", 24, 3, 1)]
    return _frame(
        RECONCILIATIONS,
        [
            {
                "site": "local",
                "origin": origin,
                "of_kind": "lineage",
                "measured_at": NOON + timedelta(hours=hours),
                "num_expected": 9,
                "num_missing": missing,
                "num_repaired": repaired,
            }
            for origin, hours, missing, repaired in found
        ],
    )


def queries() -> pl.DataFrame:
    """Rows of `records.QUERIES`: one with a condition, one without."""
    return _frame(
        QUERIES,
        [
            {
                "query_id": f"q{k}",
                "asked_at": NOON,
                "model_id": "starter",
                "vector": [0.0, 1.0],
                "condition": condition,
                "num_wanted": 5,
                "num_found": 5,
                "took_ms": 4.0 + k,
            }
            for k, condition in enumerate(("city = 'tokyo'", ""))
        ],
    )


def audits() -> pl.DataFrame:
    """One row of `records.AUDITS`."""
    deed = {"site": "local", "actor": "ada", "action": "retract", "of_kind": "lineage"}
    row = {"audit_id": "a1", "done_at": NOON, **deed, "of_id": "x", "reason": "asked for"}
    return _frame(AUDITS, [row])


def rounds() -> pl.DataFrame:
    """Rows of `records.ROUNDS`: one that was promoted, one that failed without a quorum."""
    return _frame(
        ROUNDS,
        [
            {
                "round": f"r000{k}",
                "opened_at": NOON + timedelta(days=k),
                "ended_at": NOON + timedelta(days=k, hours=1),
                "model": "Tiny-Cosmos3",
                "strategy": "diloco",
                "codec": "int8",
                "outcome": outcome,
                "num_sites": 3,
                "num_deltas": num_deltas,
                "size_bytes": 1000 * num_deltas,
                "took_s": 3600.0,
                "loss_before": before,
                "loss_after": after,
                "adapter_sha256": "ab" if num_deltas else "",
                "base_round": "" if k == 1 else "r0001",
                "lineage_depth": k - 1,
            }
            for k, outcome, num_deltas, before, after in (
                (1, "promoted", 2, 0.7, 0.6),
                (2, "failed", 0, None, None),
            )
        ],
    )


def round_waves() -> pl.DataFrame:
    """Rows of `records.ROUND_WAVES`: both rounds were planned on the first wave."""
    return _frame(
        ROUND_WAVES,
        [{"round": f"r000{k}", "wave": "w0001", "root_hash": "ff"} for k in (1, 2)],
    )


def round_deltas() -> pl.DataFrame:
    """Rows of `records.ROUND_DELTAS`: of three sites one was refused, and then all were missing."""
    found = [
        ("r0001", "aws", "accepted", 3, 0.1),
        ("r0001", "gcp", "accepted", 7, 0.2),
        ("r0001", "azure", "refused", 9, 0.7),
        *(("r0002", site, "missing", 0, 0.0) for site in ("aws", "gcp", "azure")),
    ]
    return _frame(
        ROUND_DELTAS,
        [
            {
                "round": round_key,
                "site": site,
                "status": status,
                "num_clips": num_clips,
                "num_steps": 100,
                "size_bytes": 1000,
                "took_s": 12.5,
                "gpu_s": gpu_s,
                "loss_before": 0.9,
                "loss_after": 0.8,
                "norm": 0.5,
                "staleness": 0,
                "content_sha256": "cd" if num_clips else "",
            }
            for round_key, site, status, num_clips, gpu_s in found
        ],
    )


def _append_waves(log: SiteLog) -> None:
    second = rows.wave_tables(range(3), wave="w0002") | {
        "failures": rows.failures(range(7, 8), wave="w0002"),
        "superseded": rows.superseded(5, 0),
    }
    waves = {
        "w0001": rows.wave_tables(range(6), rejected=(1,), duplicates=(2,)),
        "w0002": second,
        "w0003": _with_world_model("w0003"),
    }
    for wave, tables in waves.items():
        project_wave(site_log=log, **_with_costs(tables))
        if wave != "w0002":
            inputs = read_wave(log, wave)
            release = compose_release(
                **inputs, wave=wave, site="local", position=log.position(), atlas_hash="a"
            )
            log_release(log, release)


def _with_world_model(wave: str) -> dict[str, pl.DataFrame]:
    """A wave of four sketches, two of which a world model went on from, and one that a guard stopped."""
    tables = rows.wave_tables(range(4), wave=wave)
    made = pl.Series([rows.generated_id(i, wave=wave) for i in range(2)])
    for name in ("signals", "dedup", "receipts"):
        twins = tables[name].head(2).with_columns(recipe_id=made)
        if name == "receipts":
            twins = twins.with_columns(
                receipt_id=made, step=pl.lit("generate"), gpu_s=4.1, ms_per_step=20.3
            )
        tables[name] = pl.concat([tables[name], twins])
    tables["clips"] = pl.concat([tables["clips"], rows.generated_clips(range(2), wave=wave)])
    return tables | {
        "generations": rows.generations(range(2), wave=wave).with_columns(
            checkpoint=pl.Series(["", " + registry/tiny/snapshots/r0001 x 1"])
        ),
        "blocked": rows.blocked(range(5, 6), wave=wave),
    }


def _with_costs(tables: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """The same with costs that are no round numbers."""
    costs = tables["receipts"]
    cpu_s = [COSTS_S[k % len(COSTS_S)] for k in range(costs.height)]
    return tables | {"receipts": costs.with_columns(cpu_s=pl.Series(cpu_s, dtype=pl.Float64))}


def _frame(table, found) -> pl.DataFrame:
    return pl.DataFrame(found, schema=dict(table.columns))
