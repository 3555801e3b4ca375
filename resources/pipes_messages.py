"""Over what a job's messages come back: a file of this machine, or a bucket when it runs in a cloud.

The readers are Dagster's own, of dagster-aws, -gcp and -azure; they authenticate as the machine does.
"""

from urllib.parse import urlparse

from dagster import PipesMessageReader, PipesTempFileMessageReader

from worldloop.errors import MalformedRecordError, MissingExtraError

URL_VARIABLE = "WORLDLOOP_PIPES_URL"  # tells the job where to write; see gpu_jobs/common/entry.py
_POLL_S = 2.0


def message_reader(url: str) -> PipesMessageReader:
    """The reader for a place.

    Args:
        url: `s3://bucket`, `gs://bucket` or `az://account/container`; empty for a local file. The
            job has to write there: `gpu_jobs.common.entry` does, by what Pipes tells it.

    Raises:
        MalformedRecordError: If no reader knows such a place.
        MissingExtraError: If the reader's package is not installed.
    """
    if not url:
        return PipesTempFileMessageReader()
    parsed = urlparse(url)
    known = {"s3": _s3, "gs": _gcs, "az": _azure}
    if parsed.scheme not in known or not parsed.netloc:
        raise MalformedRecordError(
            "WORLDLOOP_PIPES_URL",
            url,
            "s3://bucket, gs://bucket or az://account/container",
            "Correct it.",
        )
    return known[parsed.scheme](parsed.netloc, parsed.path.strip("/"))


def _s3(bucket: str, _folder: str) -> PipesMessageReader:
    from dagster_aws.pipes import PipesS3MessageReader
    from dagster_aws.s3 import S3Resource

    return PipesS3MessageReader(bucket=bucket, client=S3Resource().get_client(), interval=_POLL_S)


def _gcs(bucket: str, _folder: str) -> PipesMessageReader:
    try:  # the package imports Dataproc's client, which dagster-gcp does not ask for
        from dagster_gcp.pipes.message_readers import PipesGCSMessageReader
    except ModuleNotFoundError as error:
        raise MissingExtraError("google-cloud-dataproc", "pipes-gcp") from error
    from dagster_gcp.gcs import GCSResource

    return PipesGCSMessageReader(bucket=bucket, client=GCSResource().get_client())


def _azure(account: str, container: str) -> PipesMessageReader:
    from azure.identity import DefaultAzureCredential
    from azure.storage.blob import BlobServiceClient
    from dagster_azure.pipes import PipesAzureBlobStorageMessageReader

    address = f"https://{account}.blob.core.windows.net"
    client = BlobServiceClient(address, credential=DefaultAzureCredential())
    return PipesAzureBlobStorageMessageReader(container=container, client=client, interval=_POLL_S)
