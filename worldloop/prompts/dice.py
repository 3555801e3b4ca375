"""Choices of one text: a counter that a seed and a purpose start, cheap enough for thousands of texts a second."""

from collections.abc import Hashable, Sequence
from functools import cache
from typing import TypeVar

from worldloop.scenes.draws import draw_one, purpose_key
from worldloop.scenes.scene import Scene

Choice = TypeVar("Choice")
Phrase = TypeVar("Phrase", bound=Hashable)
# Park and Miller's generator with their second multiplier ("Technical correspondence", CACM 36(7), 1993,
# 105-110): its products fit into machine words, so it costs half of a generator of 64 bits.
_MULTIPLIER, _MODULUS, _BITS = 48271, 2**31 - 1, 31


class Dice:
    """Draws one choice after another; the same start gives the same choices on any machine.

    Example:
        >>> Dice(7).pick("abc") == Dice(7).pick("abc")
        True
    """

    __slots__ = ("_said", "_state")

    def __init__(self, start: int) -> None:
        """Begin at any whole number."""
        self._state = start % (_MODULUS - 1) + 1
        self._said: set[Hashable] = set()

    def below(self, limit: int) -> int:
        """A whole number from 0 up to a limit."""
        self._state = state = self._state * _MULTIPLIER % _MODULUS
        return state * limit >> _BITS

    def pick(self, choices: Sequence[Choice]) -> Choice:
        """One choice, evenly."""
        self._state = state = self._state * _MULTIPLIER % _MODULUS
        return choices[state * len(choices) >> _BITS]

    def fresh(self, choices: Sequence[Phrase]) -> Phrase:
        """One choice that this text has not had yet, as long as there is one."""
        num, said = len(choices), self._said
        first = self.below(num)
        choice = choices[first]
        while choice in said:
            first += 1
            if first == 2 * num:
                break
            choice = choices[first % num]
        said.add(choice)
        return choice

    def chance(self, percent: int) -> bool:
        """True for some per cent of all draws."""
        self._state = state = self._state * _MULTIPLIER % _MODULUS
        return state * 100 >> _BITS < percent

    def shuffled(self, items: Sequence[Choice]) -> list[Choice]:
        """The items in random order."""
        left, state = list(items), self._state
        for last in range(len(left) - 1, 0, -1):
            state = state * _MULTIPLIER % _MODULUS
            other = state * (last + 1) >> _BITS
            left[last], left[other] = left[other], left[last]
        self._state = state
        return left


def dice_of(scene: Scene, purpose: str, number: int = 0) -> Dice:
    """Dice for one purpose of one scene."""
    return Dice(draw_one(scene.seed, _key(purpose, scene.city, scene.institution, number)))


@cache
def _key(purpose: str, city: str, institution: str, number: int) -> int:
    return purpose_key("prompts", purpose, city, institution, number)
