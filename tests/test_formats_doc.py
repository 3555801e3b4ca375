"""docs/formats.md says what the code writes: columns, types, kinds, fields, and examples that run."""

import re
import sqlite3
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests import rows
from tests.factories import make_recipe, make_scene
from worldloop import logs, records
from worldloop.atlas.atlas import load_atlas
from worldloop.atlas.tables import atlas_tables
from worldloop.cosmos.plans import plan_world_model
from worldloop.cosmos.recipes import GeneratedRecipe
from worldloop.index_rows import INDEX_COLUMNS
from worldloop.packs import read_pack_index
from worldloop.prompts.cosmos3 import cosmos3_prompt
from worldloop.recipes import Recipe, Shape
from worldloop.releases import compose_release
from worldloop.sites import Budgets, Generation, Promotion, Regeneration, Retraining, Site
from worldloop.waves import plan_wave
from worldloop.worlds.geometry import SemanticClass

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs/formats.md").read_text(encoding="utf-8")
FENCED = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHARD = "**shard columns**"


def _anchor(heading: str) -> str:
    """The anchor that a Markdown page gives a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _sections() -> dict[str, str]:
    """Text by anchor, up to the next heading of any level."""
    parts = re.split(r"^##+ (.+)$", FENCED.sub("", TEXT), flags=re.MULTILINE)
    return {_anchor(name): text for name, text in zip(parts[1::2], parts[2::2], strict=True)}


SECTIONS = _sections()


def _cells(text: str) -> list[list[str]]:
    """Cells of every table row of a text."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in lines]


def _columns(text: str) -> dict[str, str]:
    """Column and type of the tables in a text, in order; shard columns are spelled out."""
    found: dict[str, str] = {}
    for name, type_name, *_ in (row for row in _cells(text) if len(row) > 2):
        if name == SHARD:
            found |= _columns(SECTIONS["shard"])
        elif name.startswith("`"):
            found[name.strip("`")] = type_name
    return found


def _type_name(dtype: Any) -> str:
    """A polars type as the page writes it."""
    kind = dtype() if isinstance(dtype, type) else dtype
    if isinstance(kind, pl.List):
        return f"list[{_type_name(kind.inner)}]"
    if isinstance(kind, pl.Array):
        return f"array[{_type_name(kind.inner)}, {kind.size}]"
    if isinstance(kind, pl.Datetime):
        return f"timestamp[{kind.time_unit}, {kind.time_zone}]"
    names = {pl.Boolean(): "bool"}
    return "struct" if isinstance(kind, pl.Struct) else names.get(kind, str(kind).lower())


def _written(columns: Mapping[str, Any]) -> dict[str, str]:
    """Columns of a table as the page must have them; fields of a list of structs follow it."""
    found: dict[str, str] = {}
    for name, dtype in columns.items():
        found[name] = _type_name(dtype)
        if isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.Struct):
            found |= {f"{name}[].{f.name}": _type_name(f.dtype) for f in dtype.inner.fields}
    return found


def _fields(record: Mapping[str, Any]) -> set[str]:
    """Names of a JSON record as the page writes them: `clips[].index`, `shape.num_frames`."""
    found: set[str] = set()
    for name, value in record.items():
        found.add(name)
        inner, mark = (
            (value[0], "[].") if isinstance(value, list | tuple) and value else (value, ".")
        )
        if isinstance(inner, Mapping):
            found |= {f"{name}{mark}{child}" for child in _fields(inner)}
    return found


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gpu_jobs.render_clips.job import render_clips
    from gpu_jobs.render_clips.spec import RenderClipsSpec

    folder = tmp_path_factory.mktemp("formats")
    spec = RenderClipsSpec(
        (make_recipe("museum").to_record(),), str(folder / "staging"), str(folder / "pack.tar")
    )
    render_clips(spec)
    return folder / "pack.tar"


@pytest.mark.parametrize("name", records.TABLES)
def test_every_table_has_its_columns_in_the_formats_page(name: str) -> None:
    table = records.TABLES[name]
    documented = _columns(SECTIONS[_anchor(name)])
    assert list(documented.items()) == list(_written(table.columns).items())


@pytest.mark.parametrize("name", records.TABLES)
def test_every_table_is_at_the_version_that_the_formats_page_says(name: str) -> None:
    own = re.search(r"version (\d+)", SECTIONS[_anchor(name)])
    common = re.search(r"All tables below are at\s+\*\*version (\d+)\*\*", TEXT)
    said = own or common
    assert said is not None
    assert int(said[1]) == records.TABLES[name].version


def test_every_kind_of_log_rows_is_in_the_formats_page() -> None:
    code: dict[str, tuple[str, str, str]] = {
        name: (kind.log, kind.table.name, "/".join(kind.table.key))
        for name, kind in logs.KINDS.items()
    }
    code["retractions"] = ("private and shared", "retractions", "/".join(records.RETRACTIONS.key))
    listed = {}
    for cells in _cells(SECTIONS["logs"]):
        if len(cells) == 4 and cells[0].startswith("`"):
            kind, log, link, key = (cell.strip("`") for cell in cells)
            listed[kind] = (log, link[1:].partition("]")[0], key)
    assert listed == code


def test_a_batch_begins_with_the_columns_that_the_formats_page_says() -> None:
    head = {"kind", "id", "schema_version"}
    for kind in logs.KINDS.values():
        extra = set(kind.format.columns) - set(kind.table.columns)
        assert extra - head <= {"payload_kind"}
        assert head <= set(kind.format.columns)
    assert head <= set(_columns(SECTIONS["logs"]))


def test_the_allow_list_of_the_shared_log_is_in_the_formats_page() -> None:
    listed = SECTIONS["logs"].partition("SHARED_COLUMNS`):")[2].partition(".\n")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == logs.SHARED_COLUMNS


def test_the_columns_of_the_clip_index_are_in_the_formats_page() -> None:
    assert tuple(_columns(SECTIONS["clip-index"])) == INDEX_COLUMNS


def test_the_tables_of_the_atlas_are_in_the_formats_page() -> None:
    parts = re.split(r"^\*\*(\w+)\*\*$", SECTIONS["atlas"], flags=re.MULTILINE)
    documented = {name: _columns(text) for name, text in zip(parts[1::2], parts[2::2], strict=True)}
    tables = atlas_tables(load_atlas())
    assert documented == {name: _written(table.schema) for name, table in tables.items()}


def test_the_fields_of_a_plan_a_scene_and_a_recipe_are_in_the_formats_page() -> None:
    recipe = make_recipe("zoo").to_record()
    scene, shape = recipe.pop("scene"), recipe["shape"]
    plan = replace(
        plan_wave(
            load_atlas(),
            wave="w0001",
            places=["lima/zoo"],
            clips_per_place=1,
            seed=1,
            shape=Shape(),
        ),
        accept_counts={"lima/zoo": (1, 2)},
    ).to_record()
    assert set(_columns(SECTIONS["scene"])) == _fields(scene)
    assert set(_columns(SECTIONS["recipe"])) == _fields({**recipe, "scene": ""})
    assert set(_columns(SECTIONS["wave-plan"])) == _fields(
        {**plan, "shape": "", "accept_counts": ""}
    )
    world_model = plan_world_model("Tiny-Cosmos3", tier="tiny").to_record()
    assert set(_columns(SECTIONS["world-model-of-a-plan"])) == set(world_model)
    assert set(_columns(SECTIONS["generated-recipe"])) == {f.name for f in fields(GeneratedRecipe)}
    assert plan["shape"].keys() == shape.keys()


@pytest.mark.parametrize("institution", ["street", "museum"])
def test_the_keys_of_a_cosmos_3_prompt_are_in_the_formats_page(institution: str) -> None:
    prompt = cosmos3_prompt(make_scene(institution), load_atlas(), Shape())
    text = SECTIONS["prompts"]
    listed = {cells[0].strip("`") for cells in _cells(text) if len(cells) == 2}
    assert listed - {"key", "---"} == prompt.keys()
    named = set(re.findall(r"`(\w+)`", text))
    inner = {path.rpartition(".")[2] for path in _fields(prompt) if "." in path}
    assert inner <= named


def test_the_fields_of_a_release_are_in_the_formats_page() -> None:
    tables = rows.wave_tables(range(3), rejected=(1,))
    names = ("clips", "signals", "dedup", "failures")
    release = compose_release(
        **{name: tables[name] for name in names},
        captions=tables["prompts"],
        wave="w0001",
        site="local",
        position="{}",
        atlas_hash="0" * 32,
    )
    places = {"num_clips_by_place": 0}
    assert set(_columns(SECTIONS["release"])) == _fields({**release.record, **places})


def test_the_fields_of_the_sites_file_are_in_the_formats_page() -> None:
    names = {f.name for f in fields(Site)} - {"name"}
    names |= {f"budgets.{f.name}" for f in fields(Budgets)}
    names |= {f"generation.{f.name}" for f in fields(Generation)}
    names |= {f"promotion.{f.name}" for f in fields(Promotion)}
    assert set(_columns(SECTIONS["sitestoml"])) == names
    training = {f.name for f in fields(Retraining)}
    training |= {f"regeneration.{f.name}" for f in fields(Regeneration)}
    assert set(_columns(SECTIONS["training-of-a-site"])) == training


def test_the_fields_of_a_drift_are_in_the_formats_page() -> None:
    from resources.site_drift import SiteDrift

    assert set(_columns(SECTIONS["drift"])) == {f.name for f in fields(SiteDrift)}


def test_the_columns_of_the_ledger_are_in_the_formats_page(tmp_path: Path) -> None:
    from resources.ledger import Ledger

    path = tmp_path / "ledger.sqlite"
    Ledger(path=str(path)).today()
    db = sqlite3.connect(path)
    columns = {name: kind.lower() for _, name, kind, *_ in db.execute("pragma table_info(entries)")}
    db.close()
    assert _columns(SECTIONS["ledger"]) == columns


def test_the_semantic_classes_are_in_the_formats_page() -> None:
    listed: dict[str, int] = {}
    for cells in _cells(SECTIONS["files-of-a-clip"]):
        pairs = zip(cells[::2], cells[1::2], strict=False)
        listed |= {name.strip("`"): int(number) for number, name in pairs if number.isdigit()}
    assert listed == {kind.name.lower(): int(kind) for kind in SemanticClass}


def test_the_files_of_a_clip_are_in_the_formats_page(pack: Path) -> None:
    text = SECTIONS["files-of-a-clip"]
    listed = [cells[0].strip("`") for cells in _cells(text) if len(cells) == 2]
    assert listed[2:] == [member.file_name for member in read_pack_index(pack)]


@pytest.mark.parametrize("name", ["frames", "boxes", "instances"])
def test_the_columns_of_a_clip_s_tables_are_in_the_formats_page(pack: Path, name: str) -> None:
    from worldloop.annotations import read_clip

    clip = read_clip(pack, read_pack_index(pack)[0].clip_id)
    text = SECTIONS["files-of-a-clip"].partition(f"**{name}.parquet**")[2]
    documented = _columns(re.split(r"^(?:\*\*|Semantic)", text, maxsplit=1, flags=re.M)[0])
    table: pl.DataFrame = getattr(clip, name)
    assert list(documented.items()) == list(_written(table.schema).items())


# webdataset leaves the last shard for the garbage collector to close
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("number", range(3))
def test_the_examples_of_the_formats_page_run(pack: Path, number: int) -> None:
    from worldloop.annotations import read_clip

    found: dict[str, Any] = {"PACK": pack}
    exec(compile(FENCED.findall(TEXT)[number], "docs/formats.md", "exec"), found)
    clip = read_clip(pack, found["recipe_id"])
    assert Recipe.from_record(clip.recipe) == make_recipe("museum")
    if number == 1:
        assert found["depth_m"] == pytest.approx(clip.depth_m)
        assert found["camera_to_world"].shape == (5, 4, 4)


def test_every_link_to_the_formats_page_has_its_section() -> None:
    pages = [*ROOT.glob("assets/*.py"), *ROOT.glob("worldloop/**/*.py"), *ROOT.glob("docs/**/*.md")]
    lines = [
        line
        for page in pages
        for line in page.read_text(encoding="utf-8").splitlines()
        if "formats.md" in line or page.name == "formats.md"
    ]
    linked = {anchor for line in lines for anchor in re.findall(r"#([a-z][\w-]*)\b", line)}
    assert len(linked) > 12
    assert linked <= SECTIONS.keys()
