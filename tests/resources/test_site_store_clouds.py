"""The store on the emulators of the three clouds, and before a cloud that misbehaves."""

import base64
import dataclasses
import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from resources.request_meter import metered
from resources.site_store import SiteStore
from tests.emulators.faults import Faults, faulty
from worldloop.errors import AccessError, MalformedRecordError, StoreError, UnreachableError


@pytest.fixture
def site(emulator):
    return emulator.fresh_site()


@pytest.fixture
def store(site):
    return site.store()


def test_an_object_goes_in_and_out_of_every_cloud(store):
    store.put("a/b.txt", b"hello")

    found = store.head("a/b.txt")
    assert (found.key, found.size_bytes) == ("a/b.txt", 5)
    assert abs(datetime.now(UTC) - store.modified_at("a/b.txt")) < timedelta(minutes=1)
    assert store.get("a/b.txt") == b"hello"
    assert store.get_range("a/b.txt", 1, 3) == b"ell"
    for offset in (3, 30):
        with pytest.raises(StoreError, match="cut short"):
            store.get_range("a/b.txt", offset, 10)


def test_of_eight_creators_exactly_one_wins(store):
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: store.create("claim", f"{n}".encode()), range(8)))

    assert won.count(True) == 1
    assert store.get("claim") == f"{won.index(True)}".encode()


def test_every_emulator_passes_the_probe(store):
    store.probe()

    assert store.list() == []


def test_listings_go_on_over_pages(store):
    keys = [f"many/{n:04d}" for n in range(1005)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b""), keys))

    assert [found.key for found in store.scan("many")] == keys
    assert [found.key for found in store.scan("many", after=keys[990])] == keys[991:]
    assert [len(page) for page in store.pages("many", page_size=500)] == [500, 500, 5]
    store.delete_many([*keys, "many/never was"])
    assert store.list("many") == []


def test_many_objects_come_in_the_order_asked_for(store):
    keys = [f"batch/{n}" for n in (3, 1, 2)] * 12
    for key in set(keys):
        store.put(key, key.encode())

    assert list(store.get_many(keys)) == [(key, key.encode()) for key in keys]
    with pytest.raises(StoreError, match="'batch/missing'"):
        list(store.get_many(["batch/1", "batch/missing"]))


def test_a_large_file_goes_in_parts_and_is_copied_once_to_another_store(site, store, tmp_path):
    content = np.random.default_rng(0).bytes(20 << 20)
    key = f"packs/{hashlib.sha256(content).hexdigest()}.tar"
    (tmp_path / "pack").write_bytes(content)
    backup = SiteStore(url=str(tmp_path / "backup"))
    with metered() as meter:
        assert store.put_file(key, tmp_path / "pack") == len(content)
        assert store.put_file(key, tmp_path / "pack") == 0
        assert backup.copy_from(store, key)
        assert not backup.copy_from(store, key)

    assert backup.get(key) == content
    assert meter.of(site.url).bytes_in == len(content)
    assert meter.of(backup.url).bytes_in == len(content)


def test_a_copy_of_a_damaged_source_leaves_nothing(site, store, tmp_path, monkeypatch):
    key = f"packs/{'a' * 64}.tar"
    other = SiteStore(url=str(tmp_path))
    other.put(key, bytes(17 << 20))
    read = other.get_range
    short = lambda self, key, offset, size: read(key, offset + 1, size)  # noqa: E731
    monkeypatch.setattr(SiteStore, "get_range", short)

    with pytest.raises(StoreError, match="cut short"):
        store.copy_from(other, key)
    assert store.list() == []


def test_a_copy_never_replaces_what_stands(store, tmp_path):
    other = SiteStore(url=str(tmp_path))
    other.put("plans/w0001.json", b"first")
    store.put("plans/w0002.json", b"second")

    assert store.copy_from(other, "plans/w0001.json")
    assert not store.copy_from(other, "plans/w0001.json", to="plans/w0002.json")
    assert store.get("plans/w0002.json") == b"second"


def test_a_folder_of_a_bucket_is_a_store(store):
    inner = store.within("replicas/lima/")
    inner.put("a", b"x")

    assert store.list() == [("replicas/lima/a", 1)]
    assert inner.list() == [("a", 1)]


def test_requests_and_bytes_are_counted_by_store(site, store):
    with metered() as meter:
        store.within("inner").put("a", b"12345")
        store.create("b", b"1")
        store.get("b")
        store.exists("c")
        store.list()
        store.delete_many(["b"])

    usage = meter.of(site.url)
    assert (usage.writes, usage.reads, usage.lists, usage.deletes) == (2, 2, 1, 1)
    assert (usage.bytes_in, usage.bytes_out) == (6, 1)


def test_the_meter_counts_what_goes_over_the_wire(site):
    with faulty(site) as proxy, metered() as meter:
        store = proxy.site.store()
        for n in range(3):
            store.put(f"a/{n}", b"x")
            store.get(f"a/{n}")
        store.list("a")
        store.size("a/1")

    assert meter.total.requests == sum(proxy.num_requests.values()) == 8


@pytest.mark.parametrize("verb", ["put", "get", "list", "create"])
def test_a_missing_bucket_is_named(site, verb):
    lost = dataclasses.replace(site, bucket="not-there").store()
    arguments = {"put": ("a", b""), "create": ("a", b""), "get": ("a",), "list": ("a",)}[verb]

    with pytest.raises(StoreError, match=r"no bucket 'not-there'.*sites.toml"):
        getattr(lost, verb)(*arguments)


@pytest.mark.parametrize("fault", ["slow_down_share", "too_many_share", "cut_share"])
def test_a_store_that_is_busy_is_asked_again(site, fault):
    with faulty(site, Faults(seed=3, **{fault: 0.3})) as proxy:
        store = patient(proxy.site)
        for n in range(10):
            assert store.create(f"a/{n}", b"x")
        assert len(store.list("a")) == 10

    assert proxy.num_faults[fault.removesuffix("_share")] > 0
    assert sum(proxy.num_requests.values()) == 11 + sum(proxy.num_faults.values())


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        (Faults(slow_down_share=1), "throttles.*503.*fewer runs"),
        (Faults(too_many_share=1), "throttles.*429.*fewer runs"),
        (Faults(cut_share=1), "did not answer.*when the store is back"),
        (Faults(latency_s=2), "did not answer.*when the store is back"),
        (Faults(refusal=(500, "")), "did not answer.*500"),
    ],
)
def test_a_store_that_stays_away_is_unreachable(site, faults, words):
    with faulty(site, faults) as proxy:
        store = patient(proxy.site, client_max_retries="1", timeout="0.5s")
        for ask in (lambda: store.put("a", b""), lambda: store.get("a"), store.list):
            with pytest.raises(UnreachableError, match=words):
                ask()


def test_a_create_whose_answer_was_lost_is_still_ours(site):
    with faulty(site, Faults(seed=1, lost_answer_share=0.4, verbs=("PUT",))) as proxy:
        store = patient(proxy.site)
        assert all(store.create(f"a/{n}", f"{n}".encode()) for n in range(12))
        assert not any(store.create(f"a/{n}", b"theirs") for n in range(12))

    assert proxy.num_faults["lost_answer"] > 0


def test_the_probe_refuses_a_store_that_drops_preconditions(site):
    careless = faulty(unsigned(site), Faults(ignores_preconditions=True))
    with careless as proxy, pytest.raises(StoreError, match="expected create-if-absent"):
        proxy.site.store().probe()


def test_the_probe_refuses_a_store_that_shows_writes_late(store, monkeypatch):
    monkeypatch.setattr(SiteStore, "scan", lambda *_, **__: [])

    with pytest.raises(StoreError, match=r"does not show at once.*strongly consistent"):
        store.probe()


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_are_named_by_their_place(site, status):
    with faulty(
        site, Faults(refusal=(status, "<Error><Code>AccessDenied</Code></Error>"))
    ) as proxy:
        place = next(iter(proxy.site.secrets.values()))
        with pytest.raises(AccessError, match=f"refused our credentials.*{status}.*{place}"):
            proxy.site.store().get("a")


def test_a_clock_that_is_off_is_named(site):
    if site.name == "gcp":
        pytest.skip("GCS checks tokens and no request time")
    with faulty(site, Faults(skew=timedelta(hours=1))) as proxy:
        for ask in (proxy.site.store().get, proxy.site.store().list):
            with pytest.raises(AccessError, match=r"refused our clock: it is 20.*NTP"):
                ask("a")


def test_secrets_are_in_no_message_and_no_repr(site, caplog):
    caplog.set_level(logging.DEBUG)
    said = []
    with faulty(unsigned(site)) as proxy:
        store = patient(proxy.site, client_max_retries="0")
        secrets = list(proxy.site.environ.values())
        answers = [(status, " ".join(secrets)) for status in (400, 401, 403, 404, 500, 503)]
        for refusal in answers:
            proxy.faults = Faults(refusal=refusal)
            for ask in (store.get, store.list, store.size):
                with pytest.raises(StoreError) as caught:
                    ask("a")
                assert caught.value.__cause__ is None
                assert caught.value.__suppress_context__
                said += [str(caught.value), repr(caught.value)]
    everything = "\n".join([*said, repr(store), str(store), store.model_dump_json(), caplog.text])

    assert not [secret for secret in secrets if secret in everything]
    assert "sig=" not in everything


@pytest.mark.parametrize(
    "option", ["aws_secret_access_key", "google_service_account_key", "azure_storage_account_key"]
)
def test_a_secret_among_the_options_is_refused_without_repeating_it(option):
    with pytest.raises(MalformedRecordError, match=f"{option}.*Move it to secrets") as caught:
        SiteStore(url="s3://bucket/site", options={option: "the-secret-itself"})

    assert "the-secret-itself" not in str(caught.value)


def test_an_unknown_option_is_refused(site):
    store = SiteStore(
        url=site.url, options={**site.options, "shoe_size": "43"}, secrets=site.secrets
    )

    with pytest.raises(MalformedRecordError, match=r"shoe_size.*sites.toml"):
        store.get("a")


def test_a_new_key_is_used_without_a_restart(site, monkeypatch):
    variable, old = next((k, v) for k, v in site.environ.items() if "_KEY" in k)
    new = old + " " if old.startswith("{") else base64.b64encode(bytes(64)).decode()
    store = site.store()
    store.put("a", b"1")
    first = store._backend
    monkeypatch.setenv(variable, new)

    assert store._backend is not first


def patient(site, **options):
    """A store that asks often, without long pauses."""
    asked = {"client_max_retries": "12", "client_retry_timeout": "60", **options}
    return SiteStore(url=site.url, options={**site.options, **asked}, secrets=site.secrets)


def unsigned(site):
    """The site with credentials that do not sign the preconditions: an address that expires."""
    return site.with_signed_address() if site.name == "azure" else site
