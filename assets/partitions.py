"""The partition schemes of the graph: city x wave and site x round for shards, wave and round for what joins them."""

from collections.abc import Iterable

from dagster import (
    AssetDep,
    AssetKey,
    DynamicPartitionsDefinition,
    MultiPartitionKey,
    MultiPartitionsDefinition,
    MultiToSingleDimensionPartitionMapping,
    StaticPartitionsDefinition,
)

from worldloop.atlas.atlas import load_atlas

MAX_PARTITIONS = 100_000  # Dagster's recommendation for one asset
WARN_SHARE = 0.8

waves = DynamicPartitionsDefinition(name="wave")
cities = StaticPartitionsDefinition(list(load_atlas().cities))
city_by_wave = MultiPartitionsDefinition({"city": cities, "wave": waves})
rounds = DynamicPartitionsDefinition(name="round")


def site_by_round(sites: Iterable[str]) -> MultiPartitionsDefinition:
    """Every site of the sites file in every round."""
    return MultiPartitionsDefinition(
        {"round": rounds, "site": StaticPartitionsDefinition(list(sites))}
    )


def split_key(partition_key: str) -> tuple[str, str]:
    """City and wave of a partition key.

    Example:
        >>> split_key("tokyo|w0001")
        ('tokyo', 'w0001')
    """
    city, _, wave = str(partition_key).partition("|")
    return city, wave


def shard_key(city: str, wave: str) -> MultiPartitionKey:
    """The partition key of a city in a wave."""
    return MultiPartitionKey({"city": city, "wave": wave})


def site_round_key(site: str, round_key: str) -> MultiPartitionKey:
    """The partition key of a site in a round.

    Example:
        >>> str(site_round_key("aws", "r0001"))
        'r0001|aws'
    """
    return MultiPartitionKey({"round": round_key, "site": site})


def split_site_round(partition_key: str) -> tuple[str, str]:
    """Site and round of a partition key; Dagster writes its parts in order of the dimensions' names.

    Example:
        >>> split_site_round("r0001|aws")
        ('aws', 'r0001')
    """
    round_key, _, site = str(partition_key).partition("|")
    return site, round_key


def every_site_of_the_round(asset: str) -> AssetDep:
    """A dependency of a round-level asset on all sites of the same round."""
    return AssetDep(
        AssetKey(asset),
        partition_mapping=MultiToSingleDimensionPartitionMapping(partition_dimension_name="round"),
    )


def every_city_of_the_wave(asset: str) -> AssetDep:
    """A dependency of a wave-level asset on all cities of the same wave."""
    return AssetDep(
        AssetKey(asset),
        partition_mapping=MultiToSingleDimensionPartitionMapping(partition_dimension_name="wave"),
    )


def is_nearly_full(num_waves: int, num_cities: int) -> bool:
    """Whether the shards come near the count that Dagster handles well."""
    return num_waves * num_cities >= WARN_SHARE * MAX_PARTITIONS
