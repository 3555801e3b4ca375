import math
from pathlib import Path

import pytest

from worldloop.errors import MalformedRecordError, UnknownKeyError
from worldloop.sites import Budgets, load_sites, parse_sites

SHIPPED = Path(__file__).parents[2] / "orchestration" / "sites.toml"
SITE = {"cities": ["*"], "store": "sites/local"}


def parse(**changes):
    return parse_sites({"sites": {"local": {**SITE, **changes}}})


def test_the_shipped_file_has_one_site_for_every_city():
    local = load_sites(SHIPPED).site("local")

    assert load_sites(SHIPPED).site_of("tokyo") == local
    assert local.max_disk_gb == 10
    assert local.budgets.limits()["gpu_s"] == 0


def test_a_city_is_at_home_where_it_is_named_before_the_site_that_takes_all():
    sites = parse_sites({"sites": {"local": SITE, "aws": {"cities": ["lima"], "store": "s3://b"}}})

    assert (sites.site_of("lima").name, sites.site_of("oslo").name) == ("aws", "local")


def test_a_city_without_a_home_and_a_site_without_a_name_are_errors():
    sites = parse(cities=["lima"])

    with pytest.raises(UnknownKeyError, match="'oslo'"):
        sites.site_of("oslo")
    with pytest.raises(UnknownKeyError, match="Did you mean 'local'"):
        sites.site("locale")


def test_what_is_not_named_has_its_default():
    site = parse().site("local")

    assert site.budgets == Budgets()
    assert (site.budgets.cpu_s, site.budgets.usd) == (math.inf, 0)
    assert site.generation.num_cities == 5


def test_numbers_are_read():
    site = parse(max_disk_gb=2, budgets={"cpu_s": 60}, generation={"num_cities": 2}).site("local")

    assert (site.max_disk_gb, site.budgets.cpu_s, site.generation.num_cities) == (2.0, 60.0, 2)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"citys": []}, "sites.local"),
        ({"cities": "tokyo"}, "cities"),
        ({"cities": [1]}, "cities"),
        ({"store": ""}, "store"),
        ({"max_disk_gb": -1}, "max_disk_gb"),
        ({"max_disk_gb": "10 GB"}, "max_disk_gb"),
        ({"max_disk_gb": math.nan}, "max_disk_gb"),
        ({"budgets": {"gpu_hours": 1}}, "budgets"),
        ({"budgets": {"usd": True}}, "usd"),
        ({"budgets": 3}, "budgets"),
        ({"generation": {"num_cities": 0}}, "num_cities"),
        ({"generation": {"num_frames": 61.5}}, "num_frames"),
    ],
)
def test_a_mistake_is_named_with_its_place(changes, named):
    with pytest.raises(MalformedRecordError, match=named):
        parse(**changes)


def test_a_city_with_two_homes_is_refused():
    with pytest.raises(MalformedRecordError, match=r"'\*'.*one site a city"):
        parse_sites({"sites": {"local": SITE, "aws": SITE}})


@pytest.mark.parametrize("text", ["", "sites = 1", "[site.local]", "[sites", "[sites]"])
def test_a_file_of_another_shape_is_refused(tmp_path, text):
    path = tmp_path / "sites.toml"
    path.write_text(text)

    with pytest.raises(MalformedRecordError, match=r"sites\.toml"):
        load_sites(path)
    with pytest.raises(MalformedRecordError, match="none"):
        load_sites(tmp_path / "none.toml")
