import polars as pl
import pytest

from orchestration import search
from resources.clip_index import ClipIndex
from resources.federation import Federation
from resources.lance_projection import LanceProjection
from tests.lance_sites import lance_site
from worldloop.errors import UnknownKeyError
from worldloop.federated_results import FederatedResults


@pytest.fixture
def federation(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDLOOP_HOME", str(tmp_path))
    (tmp_path / "sites.toml").write_text(
        '[sites.local]\ncities = ["*"]\nstore = "sites/local"\n'
        '[sites.far]\ncities = ["lima"]\nstore = "sites/far"\n'
    )
    made = Federation(sites_path=str(tmp_path / "sites.toml"), home=str(tmp_path))
    for number, name in enumerate(made.names):
        site = lance_site(made.store(name), tmp_path / name)
        site.log_wave(f"w000{number + 1}", rejected=(1,))
        LanceProjection().catch_up(site.view)
    monkeypatch.setattr(search, "_embedded", lambda *_: ([0.1] * 8, "starter"))
    monkeypatch.setattr(search, "resources", dict)
    return made


def test_a_search_over_all_sites_finds_accepted_clips_of_each(federation):
    found = search.find_clips_everywhere("rain", federation=federation, limit=20)
    assert sorted(found.rows["site"].to_list()) == ["far"] * 3 + ["local"] * 3
    assert set(found.rows["status"]) == {"accepted"}
    assert search.partial_answer(found) == ""


def test_one_site_can_be_asked_alone(federation):
    found = search.find_clips_everywhere(
        "rain", federation=federation, limit=20, site="far", where="status = 'rejected'"
    )
    assert found.rows["site"].to_list() == ["far"]
    with pytest.raises(UnknownKeyError):
        search.find_clips_everywhere("rain", federation=federation, limit=1, site="fra")


def test_every_search_is_sampled_without_its_words(federation, tmp_path):
    search.find_clips_everywhere("a secret wish", federation=federation, limit=2)
    assert search.query_log().num_waiting("far") == 1
    assert "secret" not in (tmp_path / "queries" / "far.jsonl").read_text()


def test_words_are_looked_for_in_captions(federation, monkeypatch):
    index = ClipIndex.of_store(federation.store("local"))
    monkeypatch.setattr(search, "resources", lambda: {"clip_index": index})
    found = search.find_captions("caption 2", limit=1)
    assert found["caption"].to_list() == ["Caption 2"]
    nothing = ClipIndex(uri=f"{index.uri}-none")
    monkeypatch.setattr(search, "resources", lambda: {"clip_index": nothing})
    with pytest.raises(UnknownKeyError, match="make run"):
        search.find_captions("caption", limit=1)


def test_a_partial_answer_says_who_is_missing():
    found = FederatedResults(pl.DataFrame(), {"local": 1.0}, {"far": "no answer within 10 s"})
    assert search.partial_answer(found).splitlines()[-1] == "  far: no answer within 10 s"
