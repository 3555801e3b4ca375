"""Writes the files whose format is at version 2, or came with it: `python -m tests.golden.formats.v2.make_golden`.

The files are what the released writer wrote. What is not here is still at version 1, in the folder
beside. When a format's version changes again, this folder stays as it is, this script refuses to
run, and version 3 gets a folder and a script of its own.
"""

from pathlib import Path

import polars as pl

from tests import rows
from worldloop import records
from worldloop.cosmos.plans import Lora, plan_world_model
from worldloop.logs import KINDS, batch_bytes, log_rows
from worldloop.recipes import Shape
from worldloop.seeds import canonical_json
from worldloop.waves import PLAN_VERSION, PlannedClip, WavePlan

FOLDER = Path(__file__).parent
VERSIONS = {"receipts": 2, "lineage": 2, "generations": 1, "blocked": 1}
PLAN = 2


def make_tables() -> dict[str, pl.DataFrame]:
    """Rows of every table, few and made up."""
    measured = {"ms_per_step": 515.0, "tflops": 600.0, "peak_gpu_gb": 5.0, "busy_share": 0.97}
    columns = {name: pl.lit(value) for name, value in measured.items()}
    generated = rows.lineage(range(2)).with_columns(
        tier=pl.lit("draft"), sketch_recipe_id=pl.lit(rows.ids(0)["recipe_id"])
    )
    return {
        "receipts": rows.receipts(range(2)).with_columns(**columns),
        "lineage": generated,
        "generations": rows.generations(range(2)),
        "blocked": rows.blocked(range(1)),
    }


def make_plan() -> WavePlan:
    """A plan of two clips that a world model makes too."""
    clips = (PlannedClip(0, "tokyo", "zoo", 7), PlannedClip(1, "lima", "street", 8))
    model = plan_world_model(
        "Tiny-Cosmos-Predict2-Video2World",
        tier="tiny",
        control=["first_frames"],
        loras=[Lora("adapters/rain", 0.5)],
    )
    return WavePlan("w0001", "0" * 64, 1, "procedural", Shape(num_frames=61), clips, model)


def write_all(folder: Path) -> None:
    """Write every file."""
    for name, table in make_tables().items():
        (folder / f"{name}.parquet").write_bytes(records.table_bytes(records.TABLES[name], table))
        content = batch_bytes(KINDS[name], log_rows(KINDS[name], table))
        (folder / f"log_{name}.parquet").write_bytes(content)
    (folder / "plan.json").write_bytes(canonical_json(make_plan().to_record()))


def main() -> None:
    """Write the files, if the code still writes these versions."""
    written = {name: records.TABLES[name].version for name in VERSIONS} | {"plan": PLAN_VERSION}
    newer = {k: v for k, v in written.items() if v != {**VERSIONS, "plan": PLAN}[k]}
    assert not newer, f"{newer} changed; write them into a folder of their own"
    write_all(FOLDER)


if __name__ == "__main__":
    main()
