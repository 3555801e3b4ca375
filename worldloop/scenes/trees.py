"""Which kind of tree a scene shows: that of the plants it names, else one of the climate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worldloop.atlas.records import City, Species
from worldloop.scenes.draws import pick
from worldloop.scenes.scene import Detail
from worldloop.scenes.seasons import temperature_of

PALM, BROADLEAF, CONIFER, BARE = TREES = ("palm", "broadleaf", "conifer", "bare")
"""Values of the style `trees`; `bare` is broadleaf without leaves."""
_CONIFERS = (
    *("araucaria", "arborvitae", "cedar", "conifer", "cypress", "fir", "hemlock", "juniper"),
    *("larch", "pine", "redwood", "sequoia", "spruce", "yew"),
)
_EVERGREENS = (  # broadleaf all the same
    *("bay", "camphor", "carob", "eucalypt", "eucalyptus", "evergreen", "ficus", "gum"),
    *("holly", "holm", "laurel", "lemon", "magnolia", "olive", "orange"),
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
        named: Species by name, as kind and whether it keeps its leaves in winter.
        kinds: What to choose from where a scene names none.
        cold_winters: Whether other broadleaf trees are bare in winter.
    """

    named: Mapping[str, tuple[str, bool]]
    kinds: tuple[str, ...]
    cold_winters: bool

    def shown(self, details: Sequence[Detail], season: str, number: int) -> str:
        """The kind of all trees of a scene, one of `TREES`.

        Args:
            details: Of the scene; a tree among them is the one that is shown.
            season: Of the scene.
            number: A random number below 2**32.
        """
        kind, keeps = next(
            (self.named[one.says] for one in details if one.says in self.named),
            (pick(number, self.kinds), False),
        )
        bare = kind == BROADLEAF and season == "winter" and self.cold_winters and not keeps
        return BARE if bare else kind


def trees_of(city: City, species: Sequence[Species]) -> Trees:
    """The trees of a place from its climate and what is known to grow there."""
    names = [one.name for one in species if one.kind == "tree"]
    kinds = next(
        found for n in (3, 2, 1, 0) if (found := _OF_CLIMATE.get(city.koeppen[:n], ())) or not n
    )
    return Trees(
        {name: (kind_of_tree(name), _is_among(name, _EVERGREENS)) for name in names},
        kinds or (BROADLEAF,),
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


def _is_among(name: str, words: Sequence[str]) -> bool:
    """Whether a name has one of some words, singular or plural."""
    forms = name.lower().replace("-", " ").split()
    return any(form in (word, f"{word}s", f"{word}es") for form in forms for word in words)
