"""Which credentials and options a store is opened with."""

import types
from datetime import UTC, datetime, timedelta

import pytest

from resources.site_store import SiteStore
from tests.recorded_service import serving
from worldloop.errors import AccessError, MalformedRecordError, StoreError

PLAIN = {"allow_http": "true", "client_max_retries": "0"}
TOKEN = "token-of-the-machine"


def listing(_):
    return 404, {}, None


def asked_with(url, options):
    """The Authorization header of a read."""
    with serving(listing) as service:
        here = {name: value.format(service.url) for name, value in options.items()}
        with pytest.raises(StoreError, match="No object 'a'"):
            SiteStore(url=url, options={**PLAIN, **here}).get("a")
    headers = {name.lower(): value for name, value in service.asked[0].headers.items()}
    return headers.get("authorization", "")


def test_s3_without_secrets_is_asked_with_what_boto3_finds(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-of-the-machine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    options = {"aws_endpoint": "{}", "aws_region": "eu-west-1"}

    assert "Credential=key-of-the-machine/" in asked_with("s3://bucket/site", options)


def test_gcs_without_secrets_is_asked_with_what_googles_client_finds(monkeypatch):
    import google.auth

    ends_at = datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=1)
    identity = types.SimpleNamespace(token=TOKEN, expiry=ends_at, refresh=lambda _: None)
    monkeypatch.setattr(google.auth, "default", lambda **_: (identity, "p"))

    assert asked_with("gs://bucket/site", {"google_base_url": "{}"}) == f"Bearer {TOKEN}"


def test_azure_without_secrets_is_asked_with_what_its_client_finds(monkeypatch):
    import azure.identity

    ends_at = (datetime.now(UTC) + timedelta(hours=1)).timestamp()
    token = types.SimpleNamespace(token=TOKEN, expires_on=int(ends_at))
    identity = types.SimpleNamespace(get_token=lambda *_, **__: token)
    monkeypatch.setattr(azure.identity, "DefaultAzureCredential", lambda: identity)
    options = {"azure_storage_account_name": "account", "azure_endpoint": "{}/account"}

    assert asked_with("az://container/site", options) == f"Bearer {TOKEN}"


def test_a_machine_without_any_credentials_is_told_so(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    store = SiteStore(url="s3://bucket/lonely", options={"aws_region": "eu-west-1"})

    with pytest.raises(AccessError, match=r"No credentials for 's3://bucket/lonely'.*sites\.toml"):
        store.get("a")


def test_retries_that_are_no_number_are_refused():
    store = SiteStore(url="gs://bucket/site", options={"client_max_retries": "many"})

    with pytest.raises(MalformedRecordError, match="'many'"):
        store.get("a")
