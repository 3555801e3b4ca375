import threading

import pytest

from resources.request_meter import Usage, count, metered
from worldloop.sites import Prices


def test_meters_within_one_another_count_the_same():
    with metered() as outer:
        count("s3://a/x", Usage(reads=1))
        with metered() as inner:
            count("s3://a/x/inner", Usage(writes=2))

    assert (outer.total.requests, inner.total.requests) == (3, 2)


def test_a_store_counts_what_is_within_it_and_not_its_neighbour():
    with metered() as meter:
        for url in ("s3://a/x", "s3://a/x/replicas/b", "s3://a/xy"):
            count(url, Usage(reads=1, bytes_out=10))

    assert meter.of("s3://a/x").bytes_out == 20


def test_nothing_is_counted_outside_a_meter():
    with metered() as meter:
        pass
    count("s3://a/x", Usage(reads=1))

    assert meter.by_url == {}


def test_threads_lose_no_count():
    with metered() as meter:
        asking = [
            threading.Thread(target=lambda: [count("a", Usage(reads=1)) for _ in range(500)])
            for _ in range(4)
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()

    assert meter.total.reads == 2000


def test_requests_cost_what_the_site_says():
    usage = Usage(reads=10_000, writes=900, lists=100, deletes=5, bytes_out=2_000_000_000)

    assert usage.usd(Prices(0.005, 0.0004, 0.02, 0.09)) == pytest.approx(0.005 + 0.004 + 0.18)
    assert usage.requests == 11_005
