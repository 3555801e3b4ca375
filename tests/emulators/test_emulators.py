"""The emulators themselves: what they keep when they are killed, and what real clients get."""

import contextlib
import io
import os
import time
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import pytest

from tests.emulators.clouds import running
from tests.emulators.faults import Faults, faulty
from tests.emulators.fixtures import skip_without_azurite
from worldloop.errors import UnreachableError

NAMES = ["aws", "gcp", pytest.param("azure", marks=pytest.mark.cloud)]


@pytest.fixture(params=NAMES)
def own_emulator(request, tmp_path):
    """One that this test may stop."""
    if request.param == "azure":
        skip_without_azurite()
    with running(request.param, tmp_path) as emulator:
        yield emulator


@pytest.fixture
def google(gcp_emulator):
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    site = gcp_emulator.fresh_site()
    endpoint = {"api_endpoint": site.endpoint}
    with storage.Client("p", AnonymousCredentials(), client_options=endpoint) as client:
        yield client.bucket(site.bucket)


def test_a_stopped_emulator_is_away_and_comes_back_with_what_it_acknowledged(own_emulator):
    store = own_emulator.fresh_site().store()
    store.create("claim", b"mine")
    store.put("gone", b"")
    store.delete("gone")
    before = store.scan()
    own_emulator.stop()
    with pytest.raises(UnreachableError, match="did not answer"):
        store.get("claim")
    own_emulator.start()

    assert store.scan() == before
    assert store.get("claim") == b"mine"
    assert not store.create("claim", b"theirs")


def test_what_was_acknowledged_before_a_stop_during_writes_is_there(own_emulator):
    store = own_emulator.fresh_site().store()
    acknowledged = []

    def write(writer):
        with contextlib.suppress(UnreachableError):
            for n in range(100_000):
                store.create(f"{writer}/{n}", b"x")
                acknowledged.append(f"{writer}/{n}")

    with ThreadPoolExecutor(4) as pool:
        writing = [pool.submit(write, writer) for writer in range(4)]
        while len(acknowledged) < 40:
            time.sleep(0.01)
        own_emulator.stop()
        wait(writing, timeout=30)
        own_emulator.start()

    assert len(acknowledged) >= 40
    assert set(acknowledged) <= {key for key, _ in store.list()}


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_half_a_line_of_the_journal_is_forgotten(name, tmp_path):
    with running(name, tmp_path) as emulator:
        emulator.store().put("a", b"1")
        emulator.stop()
        with (tmp_path / "journal.jsonl").open("ab") as journal:
            journal.write(b'{"put": {"name": "site/b"')
        for key in ("c", "d"):
            emulator.start()
            emulator.store().put(key, b"1")
            emulator.stop()
        emulator.start()

        assert [key for key, _ in emulator.store().list()] == ["a", "c", "d"]


def test_secrets_are_in_the_environment_only_while_an_emulator_runs(tmp_path):
    with running("gcp", tmp_path) as emulator:
        variables = list(emulator.environ)
        assert all(os.environ[v] == emulator.environ[v] for v in variables)

    assert not any(v in os.environ for v in variables)


def test_glue_refuses_an_update_of_an_old_version(aws_emulator):
    import boto3
    from botocore.exceptions import ClientError

    keys = aws_emulator.pyiceberg_properties()
    glue = boto3.client(
        "glue",
        endpoint_url=keys["glue.endpoint"],
        region_name=keys["glue.region"],
        aws_access_key_id=keys["glue.access-key-id"],
        aws_secret_access_key=keys["glue.secret-access-key"],
    )
    glue.create_database(DatabaseInput={"Name": "races"})
    table = {"Name": "clips", "Parameters": {"n": "0"}}
    glue.create_table(DatabaseName="races", TableInput=table)
    seen = glue.get_table(DatabaseName="races", Name="clips")["Table"]["VersionId"]
    glue.update_table(DatabaseName="races", TableInput=table, VersionId=seen)

    with pytest.raises(ClientError, match="ConcurrentModification"):
        glue.update_table(DatabaseName="races", TableInput=table, VersionId=seen)
    glue.close()


def test_googles_client_writes_in_one_and_in_many_requests(google):
    content = np.random.default_rng(0).bytes(3 << 20)
    for name, chunk_size in (("simple", None), ("resumable", 1 << 20)):
        blob = google.blob(name, chunk_size=chunk_size)
        blob.upload_from_file(io.BytesIO(content), size=len(content))
        assert blob.download_as_bytes() == content
        assert google.blob(name).download_as_bytes(start=5, end=9) == content[5:10]


def test_googles_client_is_held_to_generations(google):
    from google.api_core.exceptions import PreconditionFailed

    blob = google.blob("a")
    blob.upload_from_string("1", if_generation_match=0)
    first = blob.generation
    blob.upload_from_string("2", if_generation_match=first)

    for generation in (0, first):
        with pytest.raises(PreconditionFailed):
            google.blob("a").upload_from_string("3", if_generation_match=generation)
    with pytest.raises(PreconditionFailed):
        google.blob("a").delete(if_generation_match=first)
    assert google.blob("a").download_as_bytes() == b"2"


def test_googles_client_lists_composes_and_copies(google):
    for name in ("x/1", "x/2", "y"):
        google.blob(name).upload_from_string(name)
    google.blob("both").compose([google.blob("x/1"), google.blob("x/2")])
    google.copy_blob(google.blob("y"), google, "x/3")
    found = google.list_blobs(delimiter="/", page_size=1)

    assert [blob.name for blob in found] == ["both", "y"]
    assert found.prefixes == {"x/"}
    assert [b.name for b in google.list_blobs(prefix="x/", page_size=2)] == ["x/1", "x/2", "x/3"]
    assert google.blob("both").download_as_bytes() == b"x/1x/2"


def test_the_proxy_draws_the_same_faults_again(aws_emulator):
    drawn = []
    for _ in range(2):
        with faulty(aws_emulator.fresh_site(), Faults(seed=5, slow_down_share=0.4)) as proxy:
            store = proxy.site.store()
            drawn.append([_outcome(store, n) for n in range(6)] + [dict(proxy.num_faults)])

    assert drawn[0] == drawn[1]
    assert drawn[0][-1]["slow_down"] > 0


def _outcome(store, n):
    try:
        return store.create(f"a/{n}", b"x")
    except UnreachableError:
        return "unreachable"
