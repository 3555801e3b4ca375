"""Which frames stand for a clip."""


def spaced_indices(num_frames: int, *, count: int) -> list[int]:
    """Frame numbers in the middle of `count` equal parts of a clip, ascending, without repeats.

    Example:
        >>> spaced_indices(121, count=4)
        [15, 45, 75, 105]
        >>> spaced_indices(2, count=4)
        [0, 1]
    """
    return sorted({(2 * part + 1) * num_frames // (2 * count) for part in range(count)})
