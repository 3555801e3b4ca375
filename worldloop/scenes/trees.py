"""Which kind of tree a scene shows: that of the plants it names, else one of the climate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worldloop.atlas.records import City, Species
from worldloop.atlas.seasons import temperature_of
from worldloop.scenes.draws import pick
from worldloop.scenes.scene import Detail

PALM, BROADLEAF, CONIFER, BARE = TREES = ("palm", "broadleaf", "conifer", "bare")
"""Values of the style `trees`; `bare` is broadleaf without leaves."""
_CONIFERS = (
    *("araucaria", "arborvitae", "cedar", "conifer", "cypress", "fir", "hemlock", "juniper"),
    *("larch", "pine", "redwood", "sequoia", "spruce", "yew"),
)
_EVERGREENS = (  # broadleaf all the same
    *("banyan", "bay", "camphor", "carob", "casuarina", "eucalypt", "eucalyptus", "evergreen"),
    *("ficus", "fig", "gum", "holly", "holm", "laurel", "lemon", "loquat", "magnolia", "olive"),
    "orange",
)
# Where no plant is named: kinds by the longest beginning of the Koeppen class, likelier ones more often.
_OF_CLIMATE = {
    "A": (PALM, PALM, BROADLEAF),
    "BWh": (PALM, PALM, BROADLEAF),
    "BSh": (PALM, BROADLEAF),
    "B": (BROADLEAF, BROADLEAF, CONIFER),
    "Cs": (BROADLEAF, BROADLEAF, CONIFER, PALM),
    "C": (BROADLEAF,),
    "D": (BROADLEAF, BROADLEAF, CONIFER),
    "Dfc": (CONIFER, CONIFER, BROADLEAF),
    "Dwc": (CONIFER, CONIFER, BROADLEAF),
    "Dsc": (CONIFER, CONIFER, BROADLEAF),
    "Dfd": (CONIFER,),
    "Dwd": (CONIFER,),
    "E": (CONIFER,),
}


@dataclass(frozen=True)
class Trees:
    """Trees of a place.

    Attributes:
        named: Species by name: the kind, and what it is in a cold winter.
        kinds: What to choose from where a scene names none.
        cold_winters: Whether winters are cold enough for trees to be bare.
    """

    named: Mapping[str, tuple[str, str]]
    kinds: tuple[str, ...]
    cold_winters: bool

    def shown(self, details: Sequence[Detail], season: str, number: int) -> str:
        """The kind of all trees of a scene, one of `TREES`.

        Args:
            details: Of the scene; a tree among them is the one that is shown.
            season: Of the scene.
            number: A random number below 2**32.
        """
        named = next((self.named[one.says] for one in details if one.says in self.named), None)
        kind, in_winter = named or _with_winter(pick(number, self.kinds))
        return in_winter if season == "winter" and self.cold_winters else kind


def trees_of(city: City, species: Sequence[Species]) -> Trees:
    """The trees of a place from its climate and what is known to grow there."""
    names = [one.name for one in species if one.kind == "tree"]
    classes = (city.koeppen[:length] for length in (3, 2, 1))
    kinds = next(_OF_CLIMATE[one] for one in classes if one in _OF_CLIMATE)
    return Trees(
        {name: _with_winter(kind_of_tree(name), name) for name in names},
        kinds,
        temperature_of(city, "winter") == "cold",
    )


def kind_of_tree(name: str) -> str:
    """The kind of a tree by its English name, with its leaves on.

    Example:
        >>> [kind_of_tree(n) for n in ("date palms", "cypresses", "fir trees", "plane trees")]
        ['palm', 'conifer', 'conifer', 'broadleaf']
    """
    if _is_among(name, ("palm",)):
        return PALM
    return CONIFER if _is_among(name, _CONIFERS) else BROADLEAF


def _with_winter(kind: str, name: str = "") -> tuple[str, str]:
    """A kind, and what it is in a cold winter."""
    sheds = kind == BROADLEAF and not _is_among(name, _EVERGREENS)
    return kind, BARE if sheds or _is_among(name, ("larch",)) else kind


def _is_among(name: str, words: Sequence[str]) -> bool:
    """Whether a name has one of some words, singular or plural."""
    forms = name.lower().replace("-", " ").split()
    return any(form in (word, f"{word}s", f"{word}es") for form in forms for word in words)
