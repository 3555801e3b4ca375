"""The registry of checkpoints: published whole, promoted, rolled back, tried as shadow, uploaded."""

import errno
import os
from pathlib import Path

import huggingface_hub
import pytest

from resources.checkpoint_registry import CheckpointRegistry
from resources.site_store import SiteStore
from tests.resources.hub_server import Hub, serve
from worldloop.errors import (
    AccessError,
    MalformedRecordError,
    PlanConflictError,
    StoreError,
    UnknownKeyError,
)

# huggingface_hub 2.4 sends files as httpx2 does not like it any more
SENDS_AS_BEFORE = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
LINE, REPO = "tiny", "ana/tiny-zoo"


def files(mark="a"):
    return {
        "README.md": b"---\nlicense: apache-2.0\n---\n# " + mark.encode(),
        "evaluation.json": b"{}",
        "adapter_config.json": b'{"r": 8}',
        "pytorch_lora_weights.safetensors": mark.encode() * 50,
    }


@pytest.fixture
def registry(tmp_path):
    return CheckpointRegistry(
        store=SiteStore(url=str(tmp_path / "store")), home=str(tmp_path / "home")
    )


@pytest.fixture
def promoted(registry):
    """Three published rounds, the first two promoted in turn."""
    for number in (1, 2, 3):
        registry.publish(LINE, f"r000{number}", files(str(number)))
    registry.promote(LINE, "r0001")
    registry.promote(LINE, "r0002", reason="better")
    return registry


def test_a_checkpoint_lies_as_in_the_hubs_cache(promoted):
    root = promoted.store.local_path("registry/tiny")
    assert (root / "refs" / "main").read_text() == "r0002"
    assert sorted(path.name for path in (root / "snapshots" / "r0002").iterdir()) == sorted(files())
    assert promoted.rounds(LINE) == ["r0001", "r0002", "r0003"]


def test_publishing_twice_is_as_once_and_other_bytes_are_refused(registry):
    assert registry.publish(LINE, "r0001", files())
    assert not registry.publish(LINE, "r0001", files())
    with pytest.raises(PlanConflictError, match=r"stands with another pytorch_lora_weights"):
        registry.publish(LINE, "r0001", files("b") | {"README.md": files()["README.md"]})
    assert registry.files(LINE, "r0001") == files()


def test_a_publication_that_was_killed_is_not_seen_and_a_re_run_completes_it(registry):
    part = dict(list(files().items())[:2])
    for name, content in part.items():
        registry.store.put(f"registry/tiny/snapshots/r0001/{name}", content)
    assert registry.rounds(LINE) == []
    with pytest.raises(UnknownKeyError, match="checkpoint of line tiny"):
        registry.promote(LINE, "r0001")
    assert registry.publish(LINE, "r0001", files())
    assert registry.promote(LINE, "r0001")


@pytest.mark.parametrize(
    "left_out", ["README.md", "evaluation.json", "pytorch_lora_weights.safetensors"]
)
def test_a_checkpoint_without_a_part_is_refused(registry, left_out):
    given = {name: content for name, content in files().items() if name != left_out}
    with pytest.raises(MalformedRecordError, match=left_out):
        registry.publish(LINE, "r0001", given)


def test_promoting_twice_is_as_once(promoted):
    assert not promoted.promote(LINE, "r0002")
    assert [one.round for one in promoted.history(LINE)] == ["r0001", "r0002"]


def test_a_roll_back_goes_to_the_one_before_and_a_repeated_one_no_further(promoted):
    assert promoted.roll_back(LINE, "clips are worse", of="r0002") == "r0001"
    assert promoted.roll_back(LINE, "clips are worse", of="r0002") == "r0001"
    assert promoted.main(LINE) == "r0001"
    last = promoted.history(LINE)[-1]
    assert (last.event, last.round, last.reason) == ("rolled_back", "r0002", "clips are worse")


def test_what_was_taken_back_is_not_gone_back_to(promoted):
    promoted.roll_back(LINE, "worse", of="r0002")
    promoted.promote(LINE, "r0003")
    assert promoted.roll_back(LINE, "worse too") == "r0001"
    assert promoted.roll_back(LINE, "and this") == ""
    assert promoted.main(LINE) == ""
    with pytest.raises(MalformedRecordError, match="nothing promoted"):
        promoted.roll_back(LINE, "once more")


def test_a_ref_that_a_killed_process_left_behind_is_put_right(promoted):
    promoted.store.put("registry/tiny/refs/main", b"r0001")
    assert not promoted.promote(LINE, "r0002")
    assert promoted.main(LINE) == "r0002"


def test_two_that_decide_at_once_do_not_both_succeed(promoted, monkeypatch):
    stale = promoted._numbers(LINE)[:1]
    monkeypatch.setattr(CheckpointRegistry, "_numbers", lambda self, line: stale)
    with pytest.raises(StoreError, match="Somebody else decided"):
        promoted.promote(LINE, "r0003")


def test_a_shadow_makes_its_share_of_the_waves(promoted):
    promoted.try_as_shadow(LINE, "r0003", share=0.25)
    made = [promoted.chosen(LINE, f"w{number:04d}") for number in range(200)]
    assert 30 <= made.count("r0003") <= 70
    assert set(made) == {"r0002", "r0003"}
    assert promoted.shadow(LINE) == "r0003"
    assert made[:5] == [promoted.chosen(LINE, f"w{number:04d}") for number in range(5)]


def test_a_shadow_ends_with_its_promotion_or_its_withdrawal(promoted):
    promoted.try_as_shadow(LINE, "r0003", share=1.0)
    assert not promoted.try_as_shadow(LINE, "r0003", share=1.0)
    assert promoted.withdraw_shadow(LINE, reason="no better") == "r0003"
    assert (promoted.shadow(LINE), promoted.main(LINE)) == ("", "r0002")
    assert promoted.chosen(LINE, "w0001") == "r0002"
    promoted.try_as_shadow(LINE, "r0003", share=1.0)
    promoted.promote(LINE, "r0003")
    assert (promoted.shadow(LINE), promoted.main(LINE)) == ("", "r0003")


@pytest.mark.parametrize(("round_key", "share"), [("r0003", 0.0), ("r0003", 1.5), ("r0002", 0.5)])
def test_an_odd_shadow_is_refused(promoted, round_key, share):
    with pytest.raises(MalformedRecordError, match="shadow of line tiny"):
        promoted.try_as_shadow(LINE, round_key, share=share)


def test_a_line_without_decisions_uses_the_base(registry):
    assert (registry.main(LINE), registry.chosen(LINE, "w0001"), registry.rounds(LINE)) == (
        "",
        "",
        [],
    )
    assert registry.withdraw_shadow(LINE, reason="none") == ""


def test_a_checkpoint_of_a_folder_is_used_where_it_lies(promoted):
    folder = promoted.local_folder(LINE, "r0001")
    assert folder == promoted.store.local_path("registry/tiny/snapshots/r0001")
    with pytest.raises(UnknownKeyError, match="r0009"):
        promoted.local_folder(LINE, "r0009")


def test_a_checkpoint_of_a_bucket_is_copied_once(promoted, monkeypatch):
    monkeypatch.setattr("resources.checkpoint_registry.folder_of", lambda url: None)
    folder = promoted.local_folder(LINE, "r0002")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files("2")
    monkeypatch.setattr(CheckpointRegistry, "_copy", None)
    assert promoted.local_folder(LINE, "r0002") == folder


@pytest.fixture
def of_a_bucket(promoted, monkeypatch):
    """The same, as if its store were a bucket: checkpoints are copied before they are used."""
    monkeypatch.setattr("resources.checkpoint_registry.folder_of", lambda url: None)
    return promoted


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (errno.ENOSPC, StoreError, r"No room in .* for 'r0002' \(\d+ bytes\)"),
        (errno.EROFS, AccessError, "Read-only file system"),
    ],
)
def test_a_copy_that_finds_no_room_is_one_clear_error_and_is_made_later(
    of_a_bucket, monkeypatch, number, error, words
):
    write = Path.write_bytes

    def refuse(path, content):
        if path.name == "evaluation.json":
            raise OSError(number, os.strerror(number))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(error, match=words):
        of_a_bucket.local_folder(LINE, "r0002")
    monkeypatch.setattr(Path, "write_bytes", write)
    folder = of_a_bucket.local_folder(LINE, "r0002")

    assert {path.name for path in folder.iterdir()} == files().keys()
    assert [path.name for path in folder.parent.iterdir()] == ["r0002"]


def test_two_that_copy_at_once_both_find_it_whole(of_a_bucket, monkeypatch):
    write, other = Path.write_bytes, []

    def write_while_another_copies(path, content):
        if not other:
            other.append(path)
            of_a_bucket.local_folder(LINE, "r0002")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_while_another_copies)
    folder = of_a_bucket.local_folder(LINE, "r0002")

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files("2")
    assert [path.name for path in folder.parent.iterdir()] == ["r0002"]


def test_what_lies_beside_the_decisions_is_none(promoted):
    promoted.store.put("registry/tiny/history/000001.json.orig", b"of an editor")

    assert [one.round for one in promoted.history(LINE)] == ["r0001", "r0002"]


@pytest.fixture
def hub(promoted, monkeypatch):
    for name in ("HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_DISABLE_XET", True
    )  # a service of its own
    huggingface_hub.close_session()
    with serve(Hub({})) as held:
        yield held
    huggingface_hub.close_session()


@SENDS_AS_BEFORE
def test_an_upload_makes_main_and_a_tag_of_the_promoted_round(promoted, hub):
    at_hub = promoted.model_copy(update={"endpoint": hub.url})
    commit = at_hub.upload(LINE, "r0002", REPO, token=hub.write_token)
    repo = hub.repos[REPO]
    assert repo.files == files("2")
    assert repo.tags == {"round-r0002": commit} == {"round-r0002": repo.commit}
    assert repo.messages == ["tiny, round r0002"]


@SENDS_AS_BEFORE
def test_an_upload_again_sends_nothing_and_a_candidate_leaves_main_alone(promoted, hub):
    at_hub = promoted.model_copy(update={"endpoint": hub.url})
    commit = at_hub.upload(LINE, "r0002", REPO, token=hub.write_token)
    assert at_hub.upload(LINE, "r0002", REPO, token=hub.write_token) == commit
    assert len(hub.repos[REPO].messages) == 1
    at_hub.upload(LINE, "r0003", REPO, token=hub.write_token)
    repo = hub.repos[REPO]
    assert (repo.files, repo.others["candidates"].files) == (files("2"), files("3"))
    assert repo.tags["round-r0003"] == repo.others["candidates"].commit


def test_a_wrong_token_or_no_hub_is_one_clear_error(promoted, hub):
    at_hub = promoted.model_copy(update={"endpoint": hub.url})
    with pytest.raises(StoreError, match=r"answered 403.*token of kind Write"):
        at_hub.upload(LINE, "r0002", REPO, token="hf_read")
    away = promoted.model_copy(update={"endpoint": "http://127.0.0.1:9"})
    with pytest.raises(StoreError, match="registry itself is complete"):
        away.upload(LINE, "r0002", REPO, token=hub.write_token)
