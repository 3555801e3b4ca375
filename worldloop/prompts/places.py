"""What prose calls the places: names of each kind, prepositions, short names, and the ground under it."""

from collections.abc import Mapping
from dataclasses import dataclass

from worldloop.atlas.atlas import Atlas
from worldloop.atlas.records import Institution
from worldloop.prompts.dice import Dice


@dataclass(frozen=True)
class PlaceWords:
    """How prose speaks of a kind of place.

    Attributes:
        names: Nouns without article; each says which kind it is.
        at: Prepositions before it.
        short: Nouns that stand for it once it was named.
        grounds: Surfaces with article that are there in any case.
    """

    names: tuple[str, ...]
    at: tuple[str, ...]
    short: tuple[str, ...]
    grounds: tuple[str, ...]


OPEN_ROAD = PlaceWords(
    ("road",), ("on", "along"), ("road",), ("the asphalt", "the roadway", "the verge")
)
"""A road that nobody walks along; prose has its name from the atlas."""
_IN = ("inside", "in", "within")
_AT = ("at", "in")
_FLOORS = ("the floor", "the walls", "the far wall", "the doorway")


def _indoors(names: str, short: str, grounds: str = "", at: tuple[str, ...] = _IN) -> PlaceWords:
    more = tuple(grounds.split("|")) if grounds else ()
    return PlaceWords(tuple(names.split("|")), at, tuple(short.split("|")), (*_FLOORS, *more))


def _outdoors(names: str, short: str, grounds: str, at: tuple[str, ...] = _AT) -> PlaceWords:
    return PlaceWords(
        tuple(names.split("|")), at, tuple(short.split("|")), tuple(grounds.split("|"))
    )


WORDS: Mapping[str, PlaceWords] = {
    "street": _outdoors(
        "city street|street of shops|street|urban street|street in the built-up centre",
        "street|block|neighbourhood",
        "the pavement|the asphalt|the kerb|the house fronts|the roadway",
        ("on", "along"),
    ),
    "hospital": _indoors(
        "hospital ward|hospital|ward of a hospital|hospital bay",
        "ward|hospital|bay",
        "the ward floor|the ceiling panels|the aisle",
    ),
    "zoo": _outdoors(
        "zoo|zoological garden|city zoo",
        "zoo|park",
        "the paths|the railings|the trodden earth|the enclosures",
    ),
    "museum": _indoors(
        "museum gallery|museum|exhibition room of a museum",
        "museum|gallery|room",
        "the gallery floor|the picture frames",
    ),
    "amusement_park": _outdoors(
        "amusement park|theme park|family amusement park",
        "park|midway",
        "the midway|the paving|the ride platforms|the painted steel",
    ),
    "park": _outdoors(
        "city park|public park|park|urban park",
        "park",
        "the lawns|the paths|the grass|the gravel",
    ),
    "library": _indoors(
        "public library|library|lending library|municipal library",
        "library|reading room|hall",
        "the shelves|the tabletops|the book spines",
    ),
    "train_station": _indoors(
        "train station|railway station|big train station",
        "station|concourse|hall",
        "the platform edge|the concourse floor|the rails",
    ),
    "market": _outdoors(
        "market|open-air market|street market",
        "market|square",
        "the paving|the stalls|the awnings|the narrow aisles",
    ),
    "school": _indoors(
        "school|local school|school building",
        "school|classroom wing|building",
        "the corridor floor|the desks",
    ),
    "airport": _indoors(
        "airport terminal|airport|passenger terminal of an airport",
        "terminal|airport|hall",
        "the polished floor|the counters|the concourse",
        ("in", "inside", "at"),
    ),
    "aquarium": _indoors(
        "aquarium|public aquarium", "aquarium|hall", "the glass|the carpet|the tank fronts"
    ),
    "cafe": _indoors(
        "cafe|small cafe|neighbourhood cafe",
        "cafe|room",
        "the tabletops|the counter|the chair backs",
    ),
    "bakery": _indoors(
        "bakery|bread bakery|small bakery",
        "bakery|shop",
        "the counter|the floury boards|the shelves",
    ),
    "clinic": _indoors(
        "health clinic|clinic|medical clinic|outpatient clinic",
        "clinic|waiting room",
        "the desk|the linoleum",
    ),
    "botanical_garden": _outdoors(
        "botanical garden|public botanical garden",
        "garden|park",
        "the leaves|the paths|the beds|the glasshouse roofs",
    ),
    "gallery": _indoors(
        "art gallery|gallery of art|contemporary art gallery",
        "gallery|room|space",
        "the pale floor|the hung works",
    ),
    "science_centre": _indoors(
        "science centre|hands-on science centre", "centre|hall", "the exhibits|the polished panels"
    ),
    "planetarium": _indoors(
        "planetarium|domed planetarium", "planetarium|theatre|dome", "the dome|the carpet"
    ),
    "water_park": _outdoors(
        "water park|outdoor water park",
        "park|bathing area",
        "the wet tiles|the pool edge|the slides|the water",
    ),
    "university": _indoors(
        "university|university building|university faculty",
        "university|faculty|building",
        "the benches|the corridor",
    ),
    "metro_station": _indoors(
        "metro station|underground metro station",
        "station|platform level",
        "the platform edge|the tiles|the tunnel mouth",
    ),
    "bus_station": _outdoors(
        "bus station|city bus station|intercity bus station",
        "station|forecourt|yard",
        "the asphalt|the canopy|the bays|the kerbs",
    ),
    "stadium": _outdoors(
        "stadium|sports stadium|city stadium",
        "stadium|bowl|arena",
        "the pitch|the tiers|the railings|the stands",
    ),
    "mall": _indoors(
        "shopping mall|mall|covered shopping mall",
        "mall|arcade",
        "the polished floor|the shopfronts",
    ),
    "theatre": _indoors(
        "theatre|playhouse theatre|city theatre", "theatre|house", "the stage|the stalls|the aisle"
    ),
    "place_of_worship": _indoors(
        "place of worship|house of worship",
        "hall|sanctuary|building",
        "the stone floor|the columns|the threshold",
    ),
    "harbour": _outdoors(
        "harbour|working harbour|city harbour",
        "harbour|port|waterfront",
        "the quay|the water|the decks|the hulls",
        ("at", "in"),
    ),
    "town_hall": _indoors(
        "town hall|municipal town hall", "hall|building|town hall", "the staircase|the counters"
    ),
    "court": _indoors(
        "court building|courthouse|law court",
        "court|building|courthouse",
        "the benches|the panelled walls",
    ),
    "post_office": _indoors(
        "post office|local post office|branch post office",
        "post office|hall|branch",
        "the counters|the scales",
    ),
    "fire_station": _indoors(
        "fire station|city fire station",
        "station|hall|building",
        "the engine bays|the concrete floor",
    ),
}
"""By institution of the atlas; one that is not listed is called by its name there."""


def words_of(kind: Institution) -> PlaceWords:
    """How prose speaks of an institution."""
    found = WORDS.get(kind.key)
    if found:
        return found
    short = kind.name.rpartition(" ")[2]
    return PlaceWords((kind.name,), _AT, (short,), ("the ground",))


def where(atlas: Atlas, city: str, dice: Dice | None = None) -> str:
    """City and country: `Lima, Peru`; a city that is its own country is named once."""
    name, country = atlas.city(city).name, atlas.country(city).name
    if name == country:
        return name
    if dice is None or dice.chance(75):
        return f"{name}, {country}"
    return f"{name} in {country}"
