"""The partition schemes of the graph: city x wave for shards, wave for what closes one."""

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


def every_city_of_the_wave(asset: str) -> AssetDep:
    """A dependency of a wave-level asset on all cities of the same wave."""
    return AssetDep(
        AssetKey(asset),
        partition_mapping=MultiToSingleDimensionPartitionMapping(partition_dimension_name="wave"),
    )


def is_nearly_full(num_waves: int, num_cities: int) -> bool:
    """Whether the shards come near the count that Dagster handles well."""
    return num_waves * num_cities >= WARN_SHARE * MAX_PARTITIONS
