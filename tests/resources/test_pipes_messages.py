"""A job whose messages come back over a bucket, and what is said when that cannot be."""

import pytest

from resources.pipes_messages import message_reader
from tests.factories import make_recipe
from tests.resources.test_job_launcher import launch, render_spec
from worldloop.errors import MalformedRecordError


def test_a_job_reports_over_a_bucket(tmp_path, monkeypatch, aws_emulator):
    site = aws_emulator.fresh_site()
    monkeypatch.setenv("AWS_ENDPOINT_URL", site.endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")

    result = launch(
        "render_clips",
        render_spec(tmp_path, make_recipe("zoo")),
        messages_url=f"s3://{site.bucket}",
    )

    assert result.success
    (made,) = result.asset_materializations_for_node("footage")
    assert made.metadata["num_clips"].value == 1


@pytest.mark.parametrize("url", ["ftp://bucket", "s3://", "bucket"])
def test_a_place_that_no_reader_knows_is_refused(url):
    with pytest.raises(MalformedRecordError, match="WORLDLOOP_PIPES_URL"):
        message_reader(url)
