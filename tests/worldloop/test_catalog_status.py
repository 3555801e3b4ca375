import json
from datetime import UTC, datetime

from worldloop.catalog_status import COLUMNS, ProjectionStatus, SiteStatus, table_rows


def standing(**changes):
    lance = ProjectionStatus("lance", 30, 1_000_000, 0, 0.0, "ivf_rq", 0.981, "s3://b/lance")
    iceberg = ProjectionStatus("iceberg", 90, 500_000, 2, 12.5, location="s3://b/iceberg")
    facts = {"num_requests": 1234, "cost_usd": 0.01, "location": "s3://b", **changes}
    return SiteStatus("aws", "aws", (lance, iceberg), **facts)


def test_a_site_is_as_late_as_its_latest_projection_and_as_wide_as_its_widest():
    status = standing()

    assert (status.lag_s, status.num_behind, status.num_rows) == (12.5, 2, 90)
    assert (status.size_bytes, status.index, status.recall) == (1_500_000, "ivf_rq", 0.981)
    assert not status.late
    assert standing(max_lag_s=12.0).late


def test_table_json_and_metadata_have_the_same_columns():
    status = standing(last_repair=datetime(2026, 5, 1, 4, 0, tzinfo=UTC))

    assert tuple(status.facts()) == COLUMNS
    assert set(COLUMNS) <= set(json.loads(json.dumps(status.record())))
    assert dict(zip(COLUMNS, table_rows([status])[0], strict=True)) == {
        "site": "aws",
        "lag_s": "12",
        "num_rows": "90",
        "size_bytes": "1.5 MB",
        "index": "ivf_rq",
        "recall": "0.981",
        "last_repair": "2026-05-01 04:00",
        "num_requests": "1,234",
        "cost_usd": "0.0100",
        "took_s": "0.0",
        "location": "s3://b",
        "problem": "-",
    }
