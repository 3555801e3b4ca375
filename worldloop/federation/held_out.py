"""Which cities are held out of training, the same ones round after round, and neutral scenes of them."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence

from worldloop.atlas.atlas import Atlas
from worldloop.scenes.scene import Scene
from worldloop.seeds import derive_seed
from worldloop.waves import PlannedClip, scenes_of_clips

SHARE = 0.1


def pick_held_out(
    cities: Mapping[str, Collection[str]], *, earlier: Iterable[str] = (), share: float = SHARE
) -> tuple[str, ...]:
    """Cities whose clips are never trained on: about a tenth, at least one where there are two.

    A city's hash decides, so a city that is held out stays so whatever else is filmed. A site keeps a
    city to train on as long as another site's can be held out.

    Args:
        cities: Cities with clips, by site.
        earlier: Cities that earlier rounds held out; they stay out.
        share: Of the cities, 0 to 1.
        share: Of the cities, 0 to 1.

    Returns:
        Keys in order; empty if there are fewer than two cities with clips.

    Example:
        >>> pick_held_out({"aws": ["tokyo"], "gcp": ["lima", "oslo"]})
        ('oslo',)
    """
    everywhere = sorted({city for mine in cities.values() for city in mine})
    kept = set(earlier)
    chosen = {city for city in everywhere if city in kept or _place(city) < share}
    if not chosen and len(everywhere) > 1:
        spare = {city for mine in cities.values() if len(set(mine)) > 1 for city in mine}
        chosen = {min(spare or everywhere, key=_place)}
    return tuple(sorted(chosen)) if len(chosen) < len(everywhere) else tuple(everywhere[:-1])


def neutral_scenes(atlas: Atlas, places: Sequence[str], *, count: int, seed: int) -> list[Scene]:
    """Scenes that no wave films, the places in turn: what samples show before and after.

    Args:
        atlas: Where the places are described.
        places: `<city>/<institution>`, each once.
        count: How many.
        seed: The same seed gives the same scenes.
    """
    if not places or count < 1:
        return []
    trial = derive_seed("trial", seed)
    clips = []
    for index in range(count):
        turn, number = divmod(index, len(places))
        city, kind = (one.key for one in atlas.parse_place(places[number]))
        clips.append(PlannedClip(index, city, kind, derive_seed("clip", trial, city, kind, turn)))
    return scenes_of_clips(atlas, clips)


def _place(city: str) -> float:
    """A number from 0 to 1 that belongs to a city."""
    digest = hashlib.blake2b(f"held out {city}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
