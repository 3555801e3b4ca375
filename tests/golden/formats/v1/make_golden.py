"""Writes the files of format version 1 beside it, one of each kind: `python -m tests.golden.formats.v1.make_golden`.

The files are what the released writer wrote. When a format's version changes, this folder stays as
it is, this script refuses to run, and version 2 gets a folder and a script of its own.
"""

import json
import tempfile
from pathlib import Path

import polars as pl

from tests import rows
from worldloop import records
from worldloop.logs import KINDS, RETRACTIONS, batch_bytes, log_rows
from worldloop.packs import PACK_VERSION, write_pack
from worldloop.recipes import Shape
from worldloop.releases import RELEASE_VERSION, Release, compose_release
from worldloop.seeds import canonical_json
from worldloop.waves import PLAN_VERSION, PlannedClip, WavePlan

VERSION = 1
FOLDER = Path(__file__).parent


def make_tables() -> dict[str, pl.DataFrame]:
    """Rows of every table, few and made up."""
    wave, release = rows.wave_tables(range(3), rejected=(1,), duplicates=(2,)), make_release()
    clips, prompts = wave["clips"], wave["prompts"]
    scenes = prompts.with_columns(scene=prompts["recipe"].str.json_path_match("$.scene"))
    lost = {"of_kind": ["clips"], "of_id": ["x"], "reason": ["made up"]}
    return {
        **{name: wave[name] for name in ("prompts", "clips", "signals", "vectors", "dedup")},
        "failures": rows.failures(range(7, 8)),
        "receipts": wave["receipts"],
        "superseded": rows.superseded(2, 0),
        "manifest": release.manifest,
        "scenes": scenes.select(list(records.SCENES.columns)),
        "captions": prompts.select(list(records.CAPTIONS.columns)),
        "lineage": clips.select(list(records.LINEAGE.columns)),
        "scores": wave["signals"].select(list(records.SCORES.columns)),
        "releases": release.log_row(),
        "release_clips": release.log_clips(),
        "retractions": pl.DataFrame(lost),
    }


def make_release() -> Release:
    """The release of the made-up wave."""
    wave = rows.wave_tables(range(3), rejected=(1,), duplicates=(2,))
    return compose_release(
        clips=wave["clips"],
        signals=wave["signals"],
        dedup=wave["dedup"],
        captions=wave["prompts"],
        wave="w0001",
        site="local",
        position='{"private":{"clips":1},"shared":{}}',
        atlas_hash="0" * 64,
    )


def make_plan() -> WavePlan:
    """A plan of two clips."""
    clips = (PlannedClip(0, "tokyo", "zoo", 7), PlannedClip(1, "lima", "street", 8))
    return WavePlan("w0001", "0" * 64, 1, "procedural", Shape(num_frames=61), clips)


def write_all(folder: Path) -> None:
    """Write every file."""
    tables = make_tables()
    for name, table in tables.items():
        (folder / f"{name}.parquet").write_bytes(records.table_bytes(records.TABLES[name], table))
    for name, kind in {**KINDS, "retractions": RETRACTIONS["private"]}.items():
        content = batch_bytes(kind, log_rows(kind, tables[kind.table.name]))
        (folder / f"log_{name}.parquet").write_bytes(content)
    (folder / "plan.json").write_bytes(canonical_json(make_plan().to_record()))
    (folder / "release.json").write_bytes(canonical_json(make_release().record))
    with tempfile.TemporaryDirectory() as scratch:
        clip = Path(scratch) / "clip"
        clip.mkdir()
        (clip / "rgb.mp4").write_bytes(b"not really a video")
        (clip / "recipe.json").write_text(json.dumps({"made": "up"}))
        write_pack(folder / "pack.tar", [("0" * 32, clip)])


def main() -> None:
    """Write the files, if the code still writes version 1."""
    written = {name: table.version for name, table in records.TABLES.items()}
    written |= {"plan": PLAN_VERSION, "release": RELEASE_VERSION, "pack": PACK_VERSION}
    newer = {name: version for name, version in written.items() if version != VERSION}
    assert not newer, f"{newer} are not version {VERSION}; write them into a folder of their own"
    write_all(FOLDER)


if __name__ == "__main__":
    main()
