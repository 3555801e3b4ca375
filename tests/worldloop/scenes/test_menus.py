import numpy as np

from worldloop.scenes.draws import pick, sample, span, spans
from worldloop.scenes.menus import NONE, Menu

RNG = np.random.default_rng(5)
ROWS = [tuple(f"{size} {number}" for number in range(size)) for size in range(22)]
TURNS = RNG.integers(0, len(ROWS), 3000)
NUMBERS = RNG.integers(0, 2**32, len(TURNS), dtype=np.uint64)


def filled():
    menu = Menu()
    return menu, np.array([menu.row(choices) for choices in ROWS])[TURNS]


def test_a_menu_picks_as_one_number_does():
    menu, rows = filled()
    chosen = menu.pick(rows, NUMBERS).tolist()
    assert {row for row, index in zip(TURNS, chosen, strict=True) if index == NONE} == {0}
    for turn, number, index in zip(TURNS, NUMBERS.tolist(), chosen, strict=True):
        assert index == NONE or menu.items[index] == pick(number, ROWS[turn])


def test_a_menu_samples_as_one_number_does():
    menu, rows = filled()
    counts = RNG.integers(0, 6, len(TURNS))
    told = menu.tuples(menu.sample(rows, NUMBERS, counts))
    turns = zip(TURNS, NUMBERS.tolist(), counts.tolist(), strict=True)
    assert told == [tuple(sample(number, ROWS[turn], count)) for turn, number, count in turns]


def test_whole_rows_keep_their_order():
    menu, rows = filled()
    assert menu.tuples(menu.whole(rows)) == [ROWS[turn] for turn in TURNS]


def test_equal_rows_are_kept_once_and_an_empty_one_is_the_first():
    menu, numbers = Menu(), Menu(np.int64)
    assert (menu.row(("a", "b")), menu.row(("b",)), menu.row(("a", "b")), menu.row(())) == (
        *(1, 2, 1),
        0,
    )
    assert (numbers.row([7, 9]), numbers.row([7]), numbers.row([7, 9])) == (1, 2, 1)


def test_spans_of_arrays_are_those_of_one_number():
    lowest = RNG.integers(0, 9, len(NUMBERS))
    found = spans(NUMBERS, lowest, lowest + 4).tolist()
    turns = zip(NUMBERS.tolist(), lowest.tolist(), strict=True)
    assert found == [span(number, low, low + 4) for number, low in turns]
