import pytest

from resources.site_drift import SiteDrift, publish_drift, read_drift
from resources.site_store import SiteStore
from worldloop.errors import MalformedRecordError


def test_drift_leaves_a_site_only_in_the_fields_that_are_allowed(tmp_path):
    store = SiteStore(url=str(tmp_path))
    odd = SiteDrift("aws", "r0001", "a caption of a clip", 0.5, 40)

    with pytest.raises(MalformedRecordError) as caught:
        publish_drift(store, odd)

    assert "drift.json, wave" in str(caught.value)
    assert "a wave's key" in str(caught.value)
    assert "caption" not in str(caught.value)
    assert read_drift(store, "aws") is None


def test_a_site_says_its_drift_anew_in_the_place_of_what_it_said(tmp_path):
    store = SiteStore(url=str(tmp_path))
    for drift in (0.5, 0.25):
        publish_drift(store, SiteDrift("aws", "", "w0002", drift, 40))

    assert read_drift(store, "aws").drift == 0.25


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"site":"aws"}'])
def test_a_damaged_record_says_what_to_do(content):
    with pytest.raises(MalformedRecordError, match="Measure it again"):
        SiteDrift.from_json(content)
