from dataclasses import replace

import pytest
import sqlglot

from worldloop.errors import MalformedRecordError
from worldloop.registrations import (
    LakeTable,
    bigquery_dataset,
    bigquery_table,
    fabric_shortcut,
    glue_table,
)

CLIPS = LakeTable(
    "clips",
    "gs://bucket/iceberg/clips",
    "gs://bucket/iceberg/clips/metadata/00007-a.metadata.json",
    {"recipe_id": "string", "duration_s": "double"},
    12,
)


def test_bigquery_reads_the_newest_metadata_through_the_connection():
    statement = bigquery_table("my-project", "worldloop", "eu.lake", CLIPS)
    assert "EXTERNAL TABLE `my-project`.`worldloop`.`clips`" in statement
    assert "WITH CONNECTION `my-project`.`eu`.`lake`" in statement
    assert "uris = ['gs://bucket/iceberg/clips/metadata/00007-a.metadata.json']" in statement


def test_without_a_connection_the_caller_reads():
    assert "CONNECTION" not in bigquery_table("my-project", "worldloop", "", CLIPS)


@pytest.mark.parametrize("location", ["", "EU"])
def test_the_data_set_is_made_where_it_was_asked_for(location):
    statement = bigquery_dataset("my-project", "worldloop", location)
    parsed = sqlglot.parse_one(statement, dialect="bigquery")
    assert parsed.args["kind"] == "SCHEMA"
    assert ("location" in statement) == bool(location)


@pytest.mark.parametrize("name", ["clips`; drop table x", "a b", "", "1clips", "clips'--"])
def test_a_name_that_could_leave_its_place_is_refused(name):
    with pytest.raises(MalformedRecordError, match=r"sites\.toml"):
        bigquery_table("my-project", "worldloop", "", replace(CLIPS, name=name))


def test_a_quote_in_a_file_name_cannot_end_the_string():
    odd = replace(CLIPS, metadata_location="gs://b/it's.metadata.json")
    assert "uris = ['gs://b/it%27s.metadata.json']" in bigquery_table("my-project", "d", "", odd)


def test_glue_gets_columns_and_the_file_that_was_registered_before():
    entry = glue_table(CLIPS, previous="gs://older")
    assert entry["Parameters"]["previous_metadata_location"] == "gs://older"
    assert entry["StorageDescriptor"]["Columns"][1] == {"Name": "duration_s", "Type": "double"}


def test_a_shortcut_names_account_container_and_folder():
    table = replace(CLIPS, location="abfss://lake@acct.dfs.core.windows.net/wl/iceberg/clips")
    target = fabric_shortcut("c-1", table)["target"]["adlsGen2"]
    assert target["location"] == "https://acct.dfs.core.windows.net"
    assert (target["subpath"], target["connectionId"]) == ("/lake/wl/iceberg/clips", "c-1")


def test_a_table_outside_azure_gets_no_shortcut():
    with pytest.raises(MalformedRecordError, match="abfss://"):
        fabric_shortcut("c-1", CLIPS)
