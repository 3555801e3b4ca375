"""What a site's catalogs cost: storage by the month, and what a run should be allowed to use.

What requests really cost is counted where they are asked (`resources.request_meter`).
"""

from worldloop.sites import Prices

_GB = 1e9  # as the three clouds count stored and sent bytes
# Reserved before a run and corrected after it, so on the high side.
_READS_PER_BATCH, _WRITES_PER_BATCH, _BYTES_PER_BATCH = 20.0, 8.0, 2e6
_READS_PER_RUN, _WRITES_PER_RUN = 150.0, 60.0


def storage_usd_per_month(size_bytes: int, prices: Prices) -> float:
    """What bytes that stay cost a month.

    Example:
        >>> storage_usd_per_month(50 * 10**9, Prices(usd_per_gb_month=0.02))
        1.0
    """
    return size_bytes / _GB * prices.usd_per_gb_month


def estimate_upkeep(num_batches: int, prices: Prices) -> dict[str, float]:
    """What bringing a site's catalogs up to date will probably use at most, by ledger kind.

    Bytes that are read count as leaving the region: the projector runs where Dagster runs.

    Args:
        num_batches: Log batches that have to be copied or applied.
        prices: Of the site's store.

    Example:
        >>> estimate_upkeep(10, Prices(usd_per_1000_writes=0.005, usd_per_1000_reads=0.0004))
        {'requests': 490.0, 'bytes': 20000000.0, 'usd': 0.00084}
    """
    num_writes = _WRITES_PER_RUN + num_batches * _WRITES_PER_BATCH
    num_reads = _READS_PER_RUN + num_batches * _READS_PER_BATCH
    num_bytes = num_batches * _BYTES_PER_BATCH
    usd = (
        num_writes / 1000 * prices.usd_per_1000_writes
        + num_reads / 1000 * prices.usd_per_1000_reads
        + num_bytes / _GB * prices.usd_per_gb_out
    )
    return {"requests": num_writes + num_reads, "bytes": num_bytes, "usd": round(usd, 9)}
