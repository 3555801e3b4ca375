"""Looks whether anybody may read or write a site's store, and refuses a store that is public.

Asked are the clouds' own clients through Dagster's resources: public access blocks, policies and
access lists of S3, public access prevention and members of GCS, public access of a container, and
the mode of a folder. What our credentials may not ask is a finding too: unknown is not private.
"""

import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlparse

from resources.credentials import resolved
from resources.store_client import folder_of
from worldloop.errors import AccessError, StoreError, UnreachableError
from worldloop.sites import CLOUDS, Site

_EVERYBODY_S3 = (
    "http://acs.amazonaws.com/groups/global/AllUsers",
    "http://acs.amazonaws.com/groups/global/AuthenticatedUsers",
)
_EVERYBODY_GCS = ("allUsers", "allAuthenticatedUsers")
_BLOCKS = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
_NOT_SET = ("NoSuchPublicAccessBlockConfiguration", "NoSuchBucketPolicy")


class Finding(NamedTuple):
    """Why a store is, or could be, public.

    Attributes:
        found: What it has.
        remedy: What to change.
    """

    found: str
    remedy: str


def public_access(site: Site) -> list[Finding]:
    """Why anybody might reach a site's store; empty if nobody but its own identities can.

    Raises:
        StoreError: If there is no such bucket.
        UnreachableError: If the cloud does not answer.
    """
    return findings(site.store, options=site.options, secrets=site.secrets)


def findings(url: str, *, options: Mapping[str, str], secrets: Mapping[str, str]) -> list[Finding]:
    """The same for a store by its URL.

    Args:
        url: A folder or a bucket.
        options: Of obstore's client, as in sites.toml.
        secrets: Secret options, each with where it is kept.
    """
    cloud = CLOUDS.get(urlparse(url).scheme, "local")
    known = {**options, **resolved(secrets)}
    return _LOOKERS[cloud](url, known)


def refuse_public(
    site_name: str, url: str, options: Mapping[str, str], secrets: Mapping[str, str]
) -> None:
    """Stop before anything is written into a store that anybody may read.

    Raises:
        AccessError: If it is public, or nobody can say; with what to change.
    """
    found = findings(url, options=options, secrets=secrets)
    if found:
        what = "; ".join(finding.found for finding in found)
        remedies = " ".join(dict.fromkeys(finding.remedy for finding in found))
        raise AccessError(
            f"The store {url!r} of the site {site_name!r} is open to others: {what}. Expected one "
            f"that only its own identities reach. {remedies}"
        )


def _of_folder(url: str, _: Mapping[str, str]) -> list[Finding]:
    root = folder_of(url)
    if root is None or not root.exists():
        return []
    mode = root.stat().st_mode
    if mode & stat.S_IWOTH:
        return [Finding("any user of this machine may write to it", f"Run `chmod o-w {root}`.")]
    return []


def _of_s3(url: str, known: Mapping[str, str]) -> list[Finding]:
    bucket = urlparse(url).netloc
    remedy = (
        f"Block public access: `aws s3api put-public-access-block --bucket {bucket}`, all four."
    )
    with _s3_client(known) as client, _cloud_errors(url):
        block = _s3(client.get_public_access_block, bucket, "PublicAccessBlockConfiguration")
        policy = _s3(client.get_bucket_policy_status, bucket, "PolicyStatus")
        grants = _s3(client.get_bucket_acl, bucket, "Grants")
    found = []
    if isinstance(block, str):
        found.append(f"its public access block is unknown ({block})")
    else:
        missing = [name for name in _BLOCKS if not (block or {}).get(name)]
        found += [f"its public access block lacks {', '.join(missing)}"] if missing else []
    if isinstance(policy, dict) and policy.get("IsPublic"):
        found.append("its policy is public")
    elif isinstance(policy, str):
        found.append(f"its policy is unknown ({policy})")
    if isinstance(grants, str):
        found.append(f"its access list is unknown ({grants})")
    elif any(grant.get("Grantee", {}).get("URI") in _EVERYBODY_S3 for grant in grants or ()):
        found.append("its access list names everybody")
    return [Finding(words, remedy) for words in found]


def _s3(ask: Callable[..., Any], bucket: str, part: str) -> Any:
    """A part of an answer; None if it is not set, the code if we may not know."""
    from botocore.exceptions import ClientError

    try:
        return ask(Bucket=bucket)[part]
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in _NOT_SET:
            return None
        if code in ("AccessDenied", "MethodNotAllowed"):
            return code
        raise


@contextmanager
def _s3_client(known: Mapping[str, str]) -> Iterator[Any]:
    from dagster_aws.s3 import S3Resource

    client = S3Resource(
        region_name=_first(known, "aws_region", "region"),
        endpoint_url=_first(known, "aws_endpoint", "aws_endpoint_url", "endpoint", "endpoint_url"),
        aws_access_key_id=_first(known, "aws_access_key_id", "access_key_id"),
        aws_secret_access_key=_first(known, "aws_secret_access_key", "secret_access_key"),
        aws_session_token=_first(known, "aws_session_token", "aws_token", "session_token", "token"),
    ).get_client()
    try:
        yield client
    finally:
        client.close()


def _of_gcs(url: str, known: Mapping[str, str]) -> list[Finding]:
    name = urlparse(url).netloc
    with _gcs_client(known) as client, _cloud_errors(url):
        bucket = client.get_bucket(name)
        policy = bucket.get_iam_policy(requested_policy_version=3)
    prevention = bucket.iam_configuration.public_access_prevention
    found = []
    if prevention != "enforced":
        found.append(f"its public access prevention is {prevention!r}")
    everybody = [
        f"{member} has {binding['role']}"
        for binding in policy.bindings
        for member in binding["members"]
        if member in _EVERYBODY_GCS
    ]
    remedy = f"Run `gcloud storage buckets update gs://{name} --public-access-prevention`."
    return [Finding(words, remedy) for words in [*found, *sorted(everybody)]]


@contextmanager
def _gcs_client(known: Mapping[str, str]) -> Iterator[Any]:
    import json

    from dagster_gcp import GCSResource
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage  # type: ignore[import-untyped] # no stubs
    from google.oauth2 import service_account

    key = json.loads(_first(known, "google_service_account_key", "service_account_key") or "{}")
    path = _first(known, "google_service_account", "google_application_credentials")
    if not key and not path:
        client = GCSResource().get_client()
    elif key.get("disable_oauth"):
        endpoint = {"api_endpoint": key["gcs_base_url"]}
        client = storage.Client("none", AnonymousCredentials(), client_options=endpoint)
    else:
        made: Any = service_account.Credentials
        credentials = (
            made.from_service_account_info(key) if key else made.from_service_account_file(path)
        )
        client = storage.Client(credentials.project_id, credentials)
    try:
        yield client
    finally:
        client.close()


def _of_azure(url: str, known: Mapping[str, str]) -> list[Finding]:
    container = urlparse(url).netloc.partition("@")[0]
    remedy = (
        "Switch anonymous access off: `az storage container set-permission --public-access off "
        f"--name {container}`, and on the account `--allow-blob-public-access false`."
    )
    with _azure_client(known) as client, _cloud_errors(url):
        shared = client.get_container_client(container).get_container_properties().public_access
    if shared:
        return [Finding(f"anybody may read its {shared}s", remedy)]
    return []


def _azure_client(known: Mapping[str, str]) -> AbstractContextManager[Any]:
    from dagster_azure.blob import (
        AzureBlobStorageDefaultCredential,
        AzureBlobStorageKeyCredential,
        AzureBlobStorageResource,
        AzureBlobStorageSASTokenCredential,
    )

    account = _first(known, "azure_storage_account_name", "account_name")
    endpoint = _first(known, "azure_endpoint", "azure_storage_endpoint", "endpoint")
    key = _first(known, "azure_storage_account_key", "account_key")
    signed = _first(known, "azure_storage_sas_token", "azure_storage_sas_key", "sas_token")
    credential: Any = AzureBlobStorageDefaultCredential()
    if key:
        credential = AzureBlobStorageKeyCredential(key=key)
    elif signed:
        credential = AzureBlobStorageSASTokenCredential(token=signed)
    address = endpoint or f"https://{account}.blob.core.windows.net"
    client: AbstractContextManager[Any] = AzureBlobStorageResource(
        account_url=address, credential=credential
    ).get_client()
    return client


@contextmanager
def _cloud_errors(url: str) -> Iterator[None]:
    """The errors of the three clients as ours, without their words, which may quote addresses."""
    from azure.core.exceptions import AzureError
    from botocore.exceptions import BotoCoreError, ClientError
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException

    try:
        yield
    except (
        AzureError,
        BotoCoreError,
        ClientError,
        GoogleAPICallError,
        GoogleAuthError,
        RequestException,
    ) as error:
        raise _as_ours(url, error) from None


def _as_ours(url: str, error: Any) -> StoreError:
    answer = getattr(error, "response", None)
    status = getattr(error, "status_code", None) or getattr(error, "code", None)
    if isinstance(answer, dict):
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    found = f"{type(error).__name__}, status {status}"
    if status == 404:
        return StoreError(
            f"There is no bucket at {url!r} ({found}); expected one that exists. Create it, or "
            "correct `store` of the site in sites.toml."
        )
    if status in (401, 403):
        return AccessError(
            f"Nobody could say whether {url!r} is public ({found}); expected credentials that may "
            "read its access settings. Give the site's identity that right."
        )
    return UnreachableError(
        f"The cloud of {url!r} did not say whether it is public ({found}); expected an answer. "
        "Run it again later."
    )


def _first(known: Mapping[str, str], *names: str) -> str | None:
    return next((known[name] for name in names if known.get(name)), None)


_LOOKERS: Mapping[str, Callable[[str, Mapping[str, str]], list[Finding]]] = {
    "local": _of_folder,
    "aws": _of_s3,
    "gcp": _of_gcs,
    "azure": _of_azure,
}
