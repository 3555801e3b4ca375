"""`worldloop catalog` in a home of four folders, with stand-in projections."""

import json

import click
import pytest
from click.testing import CliRunner

from orchestration.cli import main
from resources.site_store import SiteStore
from tests import rows
from tests.assets.stand_ins import TextCatalogs
from tests.resources.federated_sites import footage


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home folder with three clips in the log of `local`."""
    folder = tmp_path / "home"
    monkeypatch.setenv("WORLDLOOP_HOME", str(folder))
    monkeypatch.setenv("DAGSTER_HOME", str(folder / "dagster"))
    for variable in ("WORLDLOOP_SITES", "WORLDLOOP_DEPLOYMENT", "WORLDLOOP_READ_ONLY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("orchestration.deployments.Catalogs", TextCatalogs)
    from orchestration.deployments import federation

    clips, pack = footage("w0001", "tokyo", 3)
    federation().store("local").put(clips["pack_key"][0], pack)
    log = federation().log("local")
    log.append("clips", clips)
    log.append("lineage", rows.lineage(range(3)).with_columns(pack_key=clips["pack_key"]))
    return folder


def worldloop(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def facts(*words):
    answer = worldloop("catalog", "status", "--json", *words)
    assert answer.exit_code == 0, answer.output
    return {one["site"]: one for one in json.loads(answer.stdout)}


def test_status_names_every_site_and_what_it_lacks(home):
    found = facts()

    assert list(found) == ["local", "aws", "gcp", "azure"]
    assert found["aws"]["num_behind"] == 1
    assert found["aws"]["lag_s"] > 0


def test_rebuild_without_a_group_is_that_of_the_lance_table_here(home):
    from orchestration.deployments import federation

    answer = worldloop("rebuild")

    assert answer.output == "local: lance 3 rows\n"
    (audit,) = federation().log("local").read("audits").iter_rows(named=True)
    assert (audit["action"], audit["of_id"]) == ("rebuild", "lance")


def test_in_a_narrow_terminal_no_word_of_the_status_is_broken(home, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes it for a terminal

    lines = click.unstyle(worldloop("catalog", "status").stdout).splitlines()

    assert "last repair requests" in lines[0]
    assert len(lines) == 5
    assert max(map(len, lines)) <= 80


def test_status_is_a_table_for_people_and_names_who_does_not_answer(home, monkeypatch):
    (home / "sites.toml").write_text(
        '[sites.local]\ncities = ["*"]\nstore = "sites/local"\n'
        '[sites.aws]\ncities = []\nstore = "s3://nowhere/site"\n'
        'secrets = { aws_access_key_id = "env:WORLDLOOP_TEST_NO_SUCH" }\n'
    )

    answer = worldloop("catalog", "status")

    assert answer.exit_code == 0, answer.output
    assert "unreachable" in answer.output
    assert "aws: " in answer.output
    assert "WORLDLOOP_TEST_NO_SUCH" in answer.output


def test_rebuild_replicate_and_repair_say_what_they_did_and_leave_audit_rows(home):
    from orchestration.deployments import federation

    assert "aws: 1 batches came" in worldloop("catalog", "replicate").output
    assert "iceberg 3 rows" in worldloop("catalog", "rebuild", "--site", "aws").output
    assert "0 missing" in worldloop("catalog", "repair", "--site", "aws", "--deep").output

    audits = federation().log("aws").read("audits")
    assert sorted(audits["action"]) == ["rebuild", "repair"]
    assert all(audits["actor"])
    assert facts("--site", "aws")["aws"]["num_behind"] == 0


def test_an_unknown_site_or_projection_is_one_clear_error(home):
    assert "Did you mean 'aws'?" in worldloop("catalog", "status", "--site", "awss").output
    wrong = worldloop("catalog", "rebuild", "--site", "aws", "--projection", "lanse")
    assert wrong.exit_code == 1
    assert "Did you mean 'lance'?" in wrong.output


def test_a_site_without_a_backup_says_so(home):
    assert "no backup is configured" in worldloop("catalog", "backup", "--site", "aws").output
    wrong = worldloop("catalog", "restore", "aws")
    assert wrong.exit_code == 1
    assert "`backup` in sites.toml" in wrong.output


def test_a_lost_site_is_restored_from_its_backup_and_its_catalogs_are_rebuilt(home):
    import shutil

    text = '[sites.local]\ncities = ["*"]\nstore = "sites/local"\nbackup = "kept"\n'
    (home / "sites.toml").write_text(text)
    assert "new" in worldloop("catalog", "backup").output
    assert "1: 20" in worldloop("catalog", "backup", "--list").output
    shutil.rmtree(home / "sites" / "local")

    answer = worldloop("catalog", "restore", "local")

    assert answer.exit_code == 0, answer.output
    assert "rebuilt lance, iceberg" in answer.output
    assert facts()["local"]["num_rows"] == 3


def test_clips_are_taken_back_at_every_site_with_a_reason(home):
    from orchestration.deployments import federation

    worldloop("catalog", "replicate")
    recipe = federation().log("local").read("lineage")["recipe_id"][0]

    answer = worldloop("catalog", "retract", recipe, "--reason", "asked for", "--yes")

    assert answer.exit_code == 0, answer.output
    assert recipe not in set(federation().log("local").read("lineage")["recipe_id"])
    assert f"{recipe}: gone: bytes, rows of clips, lineage; stays: audit" in answer.output
    assert recipe not in set(
        federation().view("gcp").replicas["local"].read("lineage")["recipe_id"]
    )
    (audit,) = federation().log("local").read("audits").iter_rows(named=True)
    assert (audit["action"], audit["reason"]) == ("retract", "asked for")


def test_a_read_only_process_reads_and_refuses_to_write(home, monkeypatch):
    monkeypatch.setenv("WORLDLOOP_READ_ONLY", "1")

    refused = worldloop("catalog", "rebuild")

    assert facts()["local"]["num_behind"] == 1
    assert refused.exit_code == 1
    assert "WORLDLOOP_READ_ONLY" in refused.output
    assert not (home / "sites" / "local" / "projections").exists()


def test_nothing_gets_past_a_read_only_store(home, monkeypatch):
    from orchestration.deployments import resources
    from worldloop.errors import AccessError

    monkeypatch.setenv("WORLDLOOP_READ_ONLY", "1")
    kit = resources()

    with pytest.raises(AccessError, match="WORLDLOOP_READ_ONLY"):
        kit["site_log"].append("lineage", rows.lineage(range(9)))
    with pytest.raises(AccessError, match="WORLDLOOP_READ_ONLY"):
        kit["store"].within("packs").put("a", b"1")


def test_validate_passes_the_shipped_sites_and_names_what_is_wrong(home):
    fine = worldloop("catalog", "validate")
    assert fine.exit_code == 0, fine.output
    (home / "sites.toml").write_text(
        '[sites.local]\ncities = ["*"]\nstore = "sites/local"\n'
        '[sites.aws]\ncities = ["tokio"]\nstore = "aws"\n'
        "prices = { usd_per_1000_writes = 0.005 }\n"
    )

    wrong = worldloop("catalog", "validate")

    assert wrong.exit_code == 1
    assert "Did you mean 'tokyo'?" in wrong.output
    assert "2 things are wrong" in wrong.output


def test_validate_refuses_a_city_that_is_at_home_at_two_sites(home):
    (home / "sites.toml").write_text(
        '[sites.local]\ncities = ["lima"]\nstore = "a"\n[sites.aws]\ncities = ["lima"]\nstore = "b"\n'
    )

    wrong = worldloop("catalog", "validate")

    assert wrong.exit_code == 1
    assert "one site a city" in wrong.output


def test_the_store_of_a_home_is_that_of_its_only_site(home):
    from orchestration.deployments import resources

    assert type(resources()["store"]) is SiteStore
