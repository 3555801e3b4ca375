"""Stores that anybody may reach are refused; asked are the emulators' real answers."""

import dataclasses
import json

import pytest

from resources.bucket_guard import findings, public_access, refuse_public
from tests.emulators.faults import Faults, faulty
from worldloop.errors import AccessError, StoreError, UnreachableError
from worldloop.sites import Site


@pytest.fixture
def site(emulator):
    return emulator.fresh_site()


def as_site(emulated):
    return Site("there", ("*",), emulated.url, options=emulated.options, secrets=emulated.secrets)


def refuse(emulated):
    refuse_public("there", emulated.url, emulated.options, emulated.secrets)


def s3(site):
    import boto3

    keys = site.lance_options()
    return boto3.client(
        "s3",
        endpoint_url=site.endpoint,
        region_name=keys["aws_region"],
        aws_access_key_id=keys["aws_access_key_id"],
        aws_secret_access_key=keys["aws_secret_access_key"],
    )


def gcs(site):
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    endpoint = {"api_endpoint": site.endpoint}
    return storage.Client("p", AnonymousCredentials(), client_options=endpoint)


def test_a_bucket_made_as_it_should_be_is_private(site):
    assert public_access(as_site(site)) == []
    refuse(site)


def test_a_missing_bucket_is_named(site):
    with pytest.raises(StoreError, match=r"no bucket at '.*not-there.*sites\.toml"):
        refuse(dataclasses.replace(site, bucket="not-there"))


def test_who_may_not_ask_is_refused(site):
    with faulty(site, Faults(refusal=(403, ""))) as proxy, pytest.raises(AccessError):
        refuse(proxy.site)


def test_a_cloud_that_does_not_answer_is_unreachable(aws_emulator):
    with (
        faulty(aws_emulator.fresh_site(), Faults(refusal=(500, ""))) as proxy,
        pytest.raises(UnreachableError, match="did not say whether it is public"),
    ):
        refuse(proxy.site)


def test_s3_without_a_public_access_block_is_refused(aws_emulator):
    site = aws_emulator.fresh_site()
    s3(site).delete_public_access_block(Bucket=site.bucket)

    with pytest.raises(AccessError, match=r"lacks BlockPublicAcls.*put-public-access-block"):
        refuse(site)


def test_s3_with_a_public_policy_or_list_is_refused(aws_emulator):
    site = aws_emulator.fresh_site()
    everybody = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [everybody]})
    s3(site).delete_public_access_block(Bucket=site.bucket)
    s3(site).put_bucket_acl(Bucket=site.bucket, ACL="public-read")
    s3(site).put_bucket_policy(Bucket=site.bucket, Policy=policy)

    with pytest.raises(AccessError, match=r"policy is public.*list names everybody"):
        refuse(site)


def test_gcs_without_prevention_or_open_to_all_users_is_refused(gcp_emulator):
    site = gcp_emulator.fresh_site()
    bucket = gcs(site).get_bucket(site.bucket)
    bucket.iam_configuration.public_access_prevention = "inherited"
    bucket.patch()
    policy = bucket.get_iam_policy(requested_policy_version=3)
    policy.bindings.append({"role": "roles/storage.objectViewer", "members": {"allUsers"}})
    bucket.set_iam_policy(policy)

    with pytest.raises(AccessError, match=r"'inherited'.*allUsers has roles/storage.objectViewer"):
        refuse(site)


def test_gcs_is_asked_through_dagsters_resource_when_the_machine_has_the_credentials(
    gcp_emulator, monkeypatch
):
    site = gcp_emulator.fresh_site()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", site.endpoint)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "p")

    assert findings(site.url, options={}, secrets={}) == []


@pytest.mark.cloud
@pytest.mark.parametrize("level", ["blob", "container"])
def test_a_container_with_anonymous_access_is_refused(azure_emulator, level):
    site = azure_emulator.fresh_site()
    with site.client() as client:
        container = client.get_container_client(site.bucket)
        container.set_container_access_policy({}, public_access=level)

    with pytest.raises(AccessError, match=f"anybody may read its {level}s.*public-access off"):
        refuse(site)


def test_a_folder_that_anybody_may_write_is_refused(tmp_path):
    refuse_public("local", str(tmp_path), {}, {})
    tmp_path.chmod(0o777)

    with pytest.raises(AccessError, match=r"any user of this machine.*chmod o-w"):
        refuse_public("local", str(tmp_path), {}, {})


def test_a_folder_that_is_not_there_yet_is_nobodys(tmp_path):
    refuse_public("local", str(tmp_path / "site"), {}, {})
