import numpy as np

from worldloop.scenes.shared_rows import SharedRows

RNG = np.random.default_rng(3)
KINDS = RNG.integers(0, 99, (4, 7)).astype(np.uint16)
ROWS = KINDS[RNG.integers(0, 4, (5, 30))]  # 5 groups of 30 rows, of four kinds


def filled():
    table = SharedRows(ROWS.shape[:2], ROWS.shape[2], np.uint16)
    for first, rows in enumerate(ROWS):
        table.put(first, rows)
    return table


def test_rows_are_read_as_they_were_put_alone_and_together():
    table, groups, entries = filled(), np.array([4, 0, 2]), np.array([29, 7, 7])
    assert np.array_equal(table[3, 5], ROWS[3, 5])
    assert np.array_equal(table[2], ROWS[2])
    assert np.array_equal(table[groups, entries], ROWS[groups, entries])


def test_equal_rows_are_kept_once():
    table = filled()
    assert len(np.unique(table.numbers)) == len(KINDS)
    assert sorted(map(tuple, table.rows[1:5].tolist())) == sorted(map(tuple, KINDS.tolist()))
    assert not table.rows[5:].any()


def test_rows_that_were_not_put_are_zeros_and_a_row_can_be_put_anew():
    table = SharedRows((2, 1), 3, np.uint32)
    table.put(0, [[1, 2, 3]])
    table.put(0, [[4, 5, 6]])
    assert table[0, 0].tolist() == [4, 5, 6]
    assert table[1, 0].tolist() == [0, 0, 0]
