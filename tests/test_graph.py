import json
import subprocess
import sys
from pathlib import Path

import dagster as dg

from tests.golden.make_snapshots import GRAPH, describe_graph

ROOT = Path(__file__).resolve().parent.parent


def test_the_graph_is_the_recorded_one():
    assert describe_graph() == json.loads(GRAPH.read_text())


def test_the_code_location_needs_no_environment_and_never_imports_torch():
    code = (
        "import sys; import orchestration.definitions; "
        "heavy = {'torch', 'warp', 'open_clip', 'lancedb', 'lance', 'pyiceberg', 'boto3', 'azure', 'google.cloud'} & set(sys.modules); "
        "sys.exit(','.join(sorted(heavy)) or 0)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-2000:]


def test_every_asset_says_what_it_is_and_where_it_belongs():
    from orchestration.definitions import defs

    for node in defs.resolve_asset_graph().asset_nodes:
        assert node.description, node.key
        assert node.group_name != "default", node.key


def test_nothing_is_automated_but_the_catalogs_of_the_sites():
    from orchestration.definitions import defs

    automated = [
        node.key.to_user_string()
        for node in defs.resolve_asset_graph().asset_nodes
        if node.automation_condition is not None
    ]

    assert sorted(automated) == ["aws_catalog", "azure_catalog", "gcp_catalog", "local_catalog"]


def test_both_loaders_point_at_the_same_module():
    import tomllib

    import yaml

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    modules = [
        entry["python_module"]["module_name"]
        for entry in yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"]
    ]

    assert project["dagster"]["module_name"] in modules
    assert project["dg"]["project"]["code_location_target_module"] in modules


def test_a_shard_key_splits_into_city_and_wave():
    from assets.partitions import shard_key, split_key

    assert split_key(shard_key("tokyo", "w0001")) == ("tokyo", "w0001")
    assert isinstance(shard_key("tokyo", "w0001"), dg.MultiPartitionKey)
