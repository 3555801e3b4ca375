"""Parts of the day, as the index filters by them and the embedder's captions say them."""

_TWILIGHT_DEG = 6.0
_MIDDAY_HOUR = 12.0


def daypart(*, hour: float, sun_elevation_deg: float) -> str:
    """Part of the day by the sun and not by the clock: an Oslo summer evening is no night.

    Example:
        >>> daypart(hour=23.0, sun_elevation_deg=-20.0), daypart(hour=7.0, sun_elevation_deg=3.0)
        ('night', 'dawn')
    """
    before_noon = hour < _MIDDAY_HOUR
    if sun_elevation_deg < -_TWILIGHT_DEG:
        return "night"
    if sun_elevation_deg < _TWILIGHT_DEG:
        return "dawn" if before_noon else "dusk"
    return "morning" if before_noon else "afternoon"
