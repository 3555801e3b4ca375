"""Secrets by their places: variables, and the vaults of three clouds."""

import base64
import json
import types

import pytest

from resources import credentials
from resources.credentials import resolved
from tests.recorded_service import serving
from worldloop.errors import AccessError, MalformedRecordError, StoreError, UnreachableError

GCP_NAME = "projects/p/secrets/bucket-key"
TOKEN = "token-of-the-machine"


@pytest.fixture(autouse=True)
def forgetful():
    credentials.forget()
    yield
    credentials.forget()


@pytest.fixture
def secrets_manager(aws_emulator, monkeypatch):
    """moto's Secrets Manager, found as a machine's client finds the real one."""
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL", aws_emulator.endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    client = boto3.client("secretsmanager")
    yield client
    client.close()


@pytest.fixture
def google_identity(monkeypatch):
    import google.auth

    identity = types.SimpleNamespace(token=TOKEN, refresh=lambda _: None)
    monkeypatch.setattr(google.auth, "default", lambda **_: (identity, "p"))


@pytest.fixture
def azure_identity(monkeypatch):
    import azure.identity

    class Identity:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def get_token(self, scope):
            return types.SimpleNamespace(token=f"{TOKEN} {scope}")

    monkeypatch.setattr(azure.identity, "DefaultAzureCredential", Identity)


def google_answer(value):
    return 200, {}, {"payload": {"data": base64.b64encode(value.encode()).decode()}}


def test_a_variable_is_read_at_each_use(monkeypatch):
    monkeypatch.setenv("THE_KEY", "old")
    assert resolved({"key": "env:THE_KEY"}) == {"key": "old"}
    monkeypatch.setenv("THE_KEY", "new")
    assert resolved({"key": "env:THE_KEY"}) == {"key": "new"}


def test_a_missing_variable_is_named():
    with pytest.raises(StoreError, match=r"expected the variable NOT_SET_ANYWHERE"):
        resolved({"key": "env:NOT_SET_ANYWHERE"})


@pytest.mark.parametrize(
    "place",
    ["", "plain-text", "env:", "vault:x", "gcp:bucket-key", "azure:https://evil.org/secrets/x",
     "azure:http://v.vault.azure.net/secrets/x", "azure:https://v.vault.azure.net/keys/x"],
)  # fmt: skip
def test_a_place_that_is_none_is_refused(place):
    with pytest.raises(MalformedRecordError, match="expected env:NAME, aws:NAME"):
        resolved({"key": place})


def test_aws_keeps_a_secret_or_one_of_its_fields(secrets_manager):
    secrets_manager.create_secret(Name="plain", SecretString="value")
    secrets_manager.create_secret(Name="pair", SecretString=json.dumps({"id": "a", "key": "b"}))

    assert resolved({"a": "aws:plain", "b": "aws:pair#key"}) == {"a": "value", "b": "b"}
    with pytest.raises(StoreError, match="has no field 'word'"):
        resolved({"a": "aws:pair#word"})


def test_a_missing_secret_of_aws_is_named(secrets_manager):
    with pytest.raises(StoreError, match="'aws:never-made' is not there"):
        resolved({"a": "aws:never-made"})


def test_aws_without_credentials_is_refused(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

    with pytest.raises(AccessError, match=r"NoCredentialsError.*Log in"):
        resolved({"a": "aws:plain"})


def test_a_key_rotates_within_five_minutes(secrets_manager, monkeypatch):
    secrets_manager.create_secret(Name="turning", SecretString="old")
    assert resolved({"a": "aws:turning"}) == {"a": "old"}
    secrets_manager.put_secret_value(SecretId="turning", SecretString="new")
    assert resolved({"a": "aws:turning"}) == {"a": "old"}
    later = credentials.time.monotonic() + credentials.KEEP_S
    monkeypatch.setattr(credentials.time, "monotonic", lambda: later)

    assert resolved({"a": "aws:turning"}) == {"a": "new"}


def test_google_is_asked_for_the_latest_version_with_the_machines_token(
    google_identity, monkeypatch
):
    with serving(lambda _: google_answer("value")) as service:
        monkeypatch.setattr(credentials, "_SECRET_MANAGER", service.url)
        assert resolved({"a": f"gcp:{GCP_NAME}"}) == {"a": "value"}
        assert resolved({"a": f"gcp:{GCP_NAME}/versions/3"}) == {"a": "value"}

    paths = [f"/v1/{GCP_NAME}/versions/{version}:access" for version in ("latest", "3")]
    assert service.paths("GET") == paths
    assert service.asked[0].headers["Authorization"] == f"Bearer {TOKEN}"


def test_azure_is_asked_with_the_machines_token(azure_identity):
    with serving(lambda _: (200, {}, {"value": "value", "id": "..."})) as service:
        assert resolved({"a": f"azure:{service.url}/secrets/bucket-key"}) == {"a": "value"}

    assert service.paths("GET") == ["/secrets/bucket-key?api-version=7.4"]
    scope = "https://vault.azure.net/.default"
    assert service.asked[0].headers["Authorization"] == f"Bearer {TOKEN} {scope}"


@pytest.mark.parametrize(
    ("status", "error"),
    [(404, StoreError), (403, AccessError), (401, AccessError), (503, UnreachableError)],
)
def test_a_vault_that_refuses_is_named_without_its_words(
    status, error, azure_identity, google_identity, monkeypatch
):
    with serving(lambda _: (status, {}, {"error": "the-secret-itself"})) as service:
        monkeypatch.setattr(credentials, "_SECRET_MANAGER", service.url)
        for place in (f"azure:{service.url}/secrets/x", f"gcp:{GCP_NAME}"):
            with pytest.raises(error, match=place) as caught:
                resolved({"a": place})
            assert type(caught.value) is error
            assert "the-secret-itself" not in str(caught.value)
            assert TOKEN not in str(caught.value)


def test_a_vault_that_is_away_is_unreachable(azure_identity):
    with serving(lambda _: (200, {}, {})) as service:
        gone = service.url

    with pytest.raises(UnreachableError, match="gave no answer"):
        resolved({"a": f"azure:{gone}/secrets/x"})
