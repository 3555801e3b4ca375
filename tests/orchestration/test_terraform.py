"""The modules are parsed and held to policies; providers cannot be fetched here, so nothing is planned."""

import re
from pathlib import Path
from typing import Any

import hcl2
import pytest

FOLDER = Path(__file__).parents[2] / "orchestration" / "terraform"
CLOUDS = ("aws", "gcp", "azure")
SECRET = re.compile(r"(?i)(password|secret|access_key|token|client_secret)\w*\s*=\s*\"[^\"$]+\"")
_PUBLIC = {"allUsers", "allAuthenticatedUsers"}


def plain(value: Any) -> Any:
    """Parsed HCL without the quotes and marks that the parser keeps."""
    if isinstance(value, dict):
        return {k.strip('"'): plain(v) for k, v in value.items() if not k.startswith("__")}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.strip('"') if isinstance(value, str) else value


def sections(cloud: str, section: str) -> list[dict[str, Any]]:
    """All entries of a section of a module, from all of its files."""
    parsed = [hcl2.loads(path.read_text()) for path in sorted((FOLDER / cloud).glob("*.tf"))]
    return [entry for module in parsed for entry in plain(module).get(section, [])]


def blocks(cloud: str, section: str) -> dict[tuple[str, ...], dict[str, Any]]:
    """Blocks of a module by their labels, e.g. ("aws_s3_bucket", "site") or ("bucket",)."""
    found = {}
    for entry in sections(cloud, section):
        ((kind, inner),) = entry.items()
        if section in ("resource", "data"):
            found |= {(kind, name): body for name, body in inner.items()}
        else:
            found[(kind,)] = inner
    return found


def of_kind(cloud: str, kind: str, section: str = "resource") -> dict[str, dict[str, Any]]:
    return {labels[1]: body for labels, body in blocks(cloud, section).items() if labels[0] == kind}


def allowed(document: str) -> list[tuple[str, list[str]]]:
    """Actions and resources that an AWS policy document allows by itself."""
    statements = of_kind("aws", "aws_iam_policy_document", "data")[document]["statement"]
    allows = [entry for entry in statements if entry["effect"] == "Allow"]
    return [(action, entry["resources"]) for entry in allows for action in entry["actions"]]


def named_local(cloud: str, name: str) -> list[str]:
    (locals_,) = sections(cloud, "locals")
    return list(locals_[name])


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_variable_and_output_says_what_it_is(cloud):
    spoken = blocks(cloud, "variable") | blocks(cloud, "output")
    assert len(spoken) >= 8
    assert [name for name, body in spoken.items() if not body.get("description")] == []


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_variable_that_is_used_is_declared_and_the_other_way_round(cloud):
    texts = " ".join(path.read_text() for path in (FOLDER / cloud).glob("*.tf"))
    declared = {labels[0] for labels in blocks(cloud, "variable")}
    assert set(re.findall(r"\bvar\.(\w+)", texts)) == declared


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_reference_to_a_resource_has_its_resource(cloud):
    texts = " ".join(path.read_text() for path in (FOLDER / cloud).glob("*.tf"))
    known = set(blocks(cloud, "resource")) | set(blocks(cloud, "data"))
    named = re.findall(r"(?<![\"\w/])(?:data\.)?((?:aws|google|azurerm)_\w+)\.(\w+)", texts)
    assert {pair for pair in named if pair not in known} == set()


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_provider_is_pinned_to_a_major_version(cloud):
    (terraform,) = sections(cloud, "terraform")
    providers = [spec for group in terraform["required_providers"] for spec in group.values()]
    (provider,) = [spec for spec in providers if isinstance(spec, dict)]
    assert re.fullmatch(r"~> \d+\.\d+", provider["version"])


@pytest.mark.parametrize("cloud", CLOUDS)
def test_no_secret_and_no_public_member_stands_in_a_module(cloud):
    for path in (FOLDER / cloud).glob("*.tf"):
        assert not SECRET.search(path.read_text()), path.name
    members = [body.get("member") for body in blocks(cloud, "resource").values()]
    assert not _PUBLIC & {member for member in members if isinstance(member, str)}


def test_every_bucket_on_aws_is_closed_encrypted_and_keeps_older_versions():
    buckets = set(of_kind("aws", "aws_s3_bucket"))
    closed = of_kind("aws", "aws_s3_bucket_public_access_block")
    assert set(closed) == buckets
    for body in closed.values():
        assert [body[k] for k in body if k != "bucket"] == [True] * 4
    encrypted = "aws_s3_bucket_server_side_encryption_configuration"
    assert set(of_kind("aws", encrypted)) == buckets
    assert set(of_kind("aws", "aws_s3_bucket_versioning")) == buckets
    assert set(of_kind("aws", "aws_s3_bucket_ownership_controls")) == buckets


def test_every_bucket_on_gcp_is_closed_and_encrypted():
    for body in of_kind("gcp", "google_storage_bucket").values():
        assert body["public_access_prevention"] == "enforced"
        assert body["uniform_bucket_level_access"] is True
        assert body["encryption"]


def test_the_account_on_azure_takes_no_keys_and_shows_nothing():
    (account,) = of_kind("azure", "azurerm_storage_account").values()
    assert account["shared_access_key_enabled"] is False
    assert account["allow_nested_items_to_be_public"] is False
    assert account["https_traffic_only_enabled"] is True
    containers = of_kind("azure", "azurerm_storage_container").values()
    assert {body["container_access_type"] for body in containers} == {"private"}


def test_no_aws_identity_may_do_everything_or_reach_everything():
    for document in ("reader", "writer", "janitor"):
        for action, resources in allowed(document):
            assert "*" not in action, (document, action)
            assert resources != ["*"], (document, action)


def test_the_reader_changes_nothing():
    verbs = ("Put", "Delete", "Create", "Update", "Abort", "Generate")
    assert [a for a, _ in allowed("reader") if a.split(":")[1].startswith(verbs)] == []
    gcp = {**of_kind("gcp", "google_storage_bucket_iam_member")}
    assert gcp["read"]["role"] == "roles/storage.objectViewer"
    azure = of_kind("azure", "azurerm_role_assignment")["read"]
    assert azure["role_definition_name"] == "Storage Blob Data Reader"


def test_the_writer_deletes_only_what_can_be_made_again():
    deleting = [str(r) for action, r in allowed("writer") if action == "s3:DeleteObject"]
    (aws,) = [resources for resources in deleting if "backup" not in resources]
    assert "local.made_again" in aws
    kept = {"logs", "packs", "plans", "releases", "replicas"}
    local = named_local("aws", "made_again") + named_local("azure", "made_again")
    assert not kept & set(local)
    assert set(named_local("gcp", "kept")) == kept
    replace = of_kind("gcp", "google_storage_bucket_iam_member")["replace"]
    assert "local.kept" in str(replace["condition"])
    azure = of_kind("azure", "azurerm_role_assignment")["replace"]
    assert "blobs/delete" in azure["condition"]


def test_only_the_janitor_deletes_in_a_backup_but_for_the_probe():
    deleting = [
        str(r) for action, r in allowed("writer") if "Delete" in action and "backup" in str(r)
    ]
    assert deleting == ["['${aws_s3_bucket.backup.arn}/probe/*']"]
    assert any("backup" in str(r) for action, r in allowed("janitor") if "Delete" in action)
    gcp = of_kind("gcp", "google_storage_bucket_iam_member")
    assert "/objects/probe/" in str(gcp["probe_backup"]["condition"])
    assert "objectUser" not in str(gcp["back_up"])
    azure = of_kind("azure", "azurerm_role_assignment")["probe_backup"]
    assert "StringLike 'probe/*'" in azure["condition"]


def test_whoever_writes_may_look_whether_a_bucket_is_public():
    looks = {action for action, resources in allowed("reader") if "backup" in str(resources)}
    assert {"s3:GetBucketPublicAccessBlock", "s3:GetBucketPolicyStatus", "s3:GetBucketAcl"} <= looks
    (role,) = of_kind("gcp", "google_project_iam_custom_role").values()
    assert set(role["permissions"]) == {"storage.buckets.get", "storage.buckets.getIamPolicy"}
    assert "backup" in str(of_kind("gcp", "google_storage_bucket_iam_member")["look"]["for_each"])


@pytest.mark.parametrize("cloud", CLOUDS)
def test_old_footage_gets_cheaper_and_nothing_else_moves(cloud):
    texts = " ".join(path.read_text() for path in (FOLDER / cloud).glob("*.tf"))
    assert "var.cold_after_days" in texts
    rules = {
        "aws": of_kind("aws", "aws_s3_bucket_lifecycle_configuration"),
        "gcp": of_kind("gcp", "google_storage_bucket"),
        "azure": of_kind("azure", "azurerm_storage_management_policy"),
    }[cloud]
    moving = [
        rule
        for body in rules.values()
        for rule in body.get("rule", body.get("lifecycle_rule", []))
        if re.search(r"transition|SetStorageClass|tier_to", str(rule))
    ]
    assert len(moving) == 1
    assert "packs/" in str(moving[0])
