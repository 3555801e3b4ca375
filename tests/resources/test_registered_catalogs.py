"""Catalogs whose Iceberg tables are registered in Glue: on moto, read back by pyiceberg's own Glue catalog."""

import pytest

from resources.catalog_upkeep import Catalogs
from tests import rows
from tests.resources.test_guarded_store import federation_at
from worldloop.errors import UnreachableError

SILENT = "http://127.0.0.1:9"


def catalogs_at(site, folder, endpoint):
    federation = federation_at(site, folder)
    path = folder / "sites.toml"
    asked = f'registration = {{ kind = "glue", dataset = "footage", endpoint = "{endpoint}" }}\n'
    path.write_text(path.read_text() + 'iceberg = { kind = "sql" }\n' + asked)
    federation.log("local").append("lineage", rows.lineage(range(3)))
    return Catalogs(federation=federation, ledger_folder=str(folder))


def seen_by_glue(site):
    """Rows of `clips` as somebody reads them who only knows Glue."""
    from pyiceberg.catalog.glue import GlueCatalog

    where = {"access-key-id": "emulated", "secret-access-key": "emulated", "region": "us-east-1"}
    how = {f"{s}.{name}": value for s in ("glue", "s3") for name, value in where.items()}
    catalog = GlueCatalog(
        "theirs", **how, **{f"{s}.endpoint": site.endpoint for s in ("glue", "s3")}
    )
    try:
        return catalog.load_table(("footage", "clips")).scan().to_arrow().to_pylist()
    finally:
        catalog.close()


def test_glue_knows_the_newest_rows_after_each_run_and_a_rebuild_names_all_three(
    aws_emulator, tmp_path
):
    site = aws_emulator.fresh_site()
    catalogs = catalogs_at(site, tmp_path, site.endpoint)

    first = catalogs.follow("aws", key="first")
    assert [row["wave"] for row in seen_by_glue(site)] == ["w0001"] * 3
    catalogs.federation.log("local").append("lineage", rows.lineage(range(2), wave="w0002"))
    assert catalogs.look("aws").projections[-1].name == "replicas"
    catalogs.follow("aws", key="second")

    assert len(seen_by_glue(site)) == 5
    assert [one.name for one in first.status.projections] == ["lance", "iceberg", "glue"]
    assert set(catalogs.rebuild("aws", actor="test")) == {"lance", "iceberg", "glue"}
    status = catalogs.look("aws")
    assert [one.num_behind for one in status.projections] == [0, 0, 0]
    assert [one.num_rows for one in status.projections] == [0, 5, 5]


def test_a_registration_that_does_not_answer_keeps_no_table_from_following(
    aws_emulator, tmp_path, monkeypatch
):
    monkeypatch.setattr("resources.registration._ATTEMPTS", 1)
    catalogs = catalogs_at(aws_emulator.fresh_site(), tmp_path, SILENT)

    with pytest.raises(UnreachableError, match="Glue's database 'footage' did not answer"):
        catalogs.follow("aws", key="run")

    status = catalogs.look("aws")
    assert {one.name: one.num_rows for one in status.projections} == {"lance": 0, "iceberg": 3}
    assert status.num_behind == 0
    assert "glue: Glue's database" in status.problem
    (line,) = [one for one in catalogs.statuses() if one.site == "aws"]
    assert line.reachable
