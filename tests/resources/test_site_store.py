import multiprocessing
import resource
import signal
from pathlib import Path

import pytest

from resources.site_store import SiteStore
from worldloop.errors import StoreError

SPAWN = multiprocessing.get_context("spawn")
SMALL, LARGE = 100_000, 3_000_000


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path):
    return SiteStore(url=str(tmp_path / "site") if request.param == "folder" else "memory:///")


@pytest.fixture
def folder(tmp_path):
    return SiteStore(url=str(tmp_path / "site"))


def test_what_was_put_is_there_whole_and_in_parts(store):
    store.put("whole/a.txt", b"hello")

    assert store.get("whole/a.txt") == b"hello"
    assert store.get_range("whole/a.txt", 1, 3) == b"ell"
    assert store.size("whole/a.txt") == 5
    assert store.list("whole") == [("whole/a.txt", 5)]


def test_putting_again_replaces(store):
    store.put("again/a.txt", b"old")
    store.put("again/a.txt", b"new")

    assert store.get("again/a.txt") == b"new"


def test_only_the_first_creation_counts(store):
    assert store.create("first/a.txt", b"first")
    assert not store.create("first/a.txt", b"second")
    assert store.get("first/a.txt") == b"first"


def test_a_deleted_object_is_gone_and_may_be_deleted_again(store):
    store.put("gone/a.txt", b"x")
    store.delete("gone/a.txt")
    store.delete("gone/a.txt")

    assert not store.exists("gone/a.txt")


@pytest.mark.parametrize("verb", ["get", "size"])
def test_a_missing_object_is_named(store, verb):
    with pytest.raises(StoreError, match=r"No object 'missing/a.txt' in .*Run the asset"):
        getattr(store, verb)("missing/a.txt")


def test_a_range_beyond_the_end_is_an_error_and_not_short(folder):
    folder.put("a.txt", b"hello")

    for offset in (3, 30):
        with pytest.raises(StoreError, match="cut short"):
            folder.get_range("a.txt", offset, 10)


def test_listing_goes_on_behind_a_key(store):
    for name in "cab":
        store.put(f"order/{name}", b"")

    assert [found.key for found in store.scan("order", after="order/a")] == ["order/b", "order/c"]


def test_a_file_named_by_its_content_is_written_once(folder, tmp_path):
    path = tmp_path / "pack.tar"
    path.write_bytes(b"pack")
    key = f"packs/{'a' * 64}.tar"

    assert folder.put_file(key, path) == 4
    assert folder.put_file(key, path) == 0
    assert folder.put_file("packs/latest.tar", path) == 4
    assert folder.put_file("packs/latest.tar", path) == 4


def test_a_short_file_under_a_content_name_is_written_again(folder, tmp_path):
    path = tmp_path / "pack.tar"
    path.write_bytes(b"pack")
    key = f"packs/{'a' * 64}.tar"
    folder.put(key, b"pa")

    assert folder.put_file(key, path) == 4
    assert folder.get(key) == b"pack"


def test_a_folder_has_paths_and_free_bytes_and_other_stores_say_that_they_have_not(folder):
    folder.put("a/b.txt", b"12345")
    memory = SiteStore(url="memory:///")

    assert folder.local_path("a/b.txt").read_bytes() == b"12345"
    assert folder.used_bytes() == 5
    assert folder.free_bytes() > 0
    assert memory.free_bytes() is None
    with pytest.raises(StoreError, match="expected a store that is a folder"):
        memory.local_path("a/b.txt")


def test_the_probe_accepts_a_store_that_honours_create_if_absent(store):
    store.probe()

    assert store.list("probe") == []


def test_the_probe_refuses_a_store_that_ignores_create_if_absent(folder, monkeypatch):
    def create(self, key, content):
        self.put(key, content)
        return True

    monkeypatch.setattr(SiteStore, "create", create)

    with pytest.raises(StoreError, match="expected create-if-absent"):
        folder.probe()


def write_on_a_small_disk(url, path, answers):
    """In a process of its own, where no file may grow beyond 1 MB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    store = SiteStore(url=url)
    for write in (
        lambda: store.put("full/put", b"1" * LARGE),
        lambda: store.create("full/create", b"1" * LARGE),
        lambda: store.put_file("full/file", Path(path)),
    ):
        try:
            write()
        except StoreError as error:
            answers.put(str(error))
    answers.put(store.put("full/small", b"1" * SMALL))


def test_a_full_disk_is_an_error_that_says_what_to_do_and_leaves_nothing(folder, tmp_path):
    large, answers = tmp_path / "large", SPAWN.Queue()
    large.write_bytes(b"1" * LARGE)
    folder.put("full/put", b"old")
    process = SPAWN.Process(target=write_on_a_small_disk, args=(folder.url, str(large), answers))
    process.start()
    said = [answers.get(timeout=60) for _ in range(4)]
    process.join()

    assert said[3] is None
    assert all("No room" in words and "worldloop gc --dry-run" in words for words in said[:3])
    files = [path.name for path in folder.local_path("full").iterdir()]
    assert sorted(files) == ["put", "small"]
    assert folder.get("full/put") == b"old"
