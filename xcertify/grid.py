"""Grids: groups of neighbouring features that are treated as one."""

from __future__ import annotations

import numpy as np

from xcertify.checks import one_number, whole_numbers


def grid_cells(shape: tuple[int, ...], grid_size: int | tuple[int, int] | None) -> np.ndarray:
    """Number of the cell that each feature belongs to.

    Parameters
    ----------
    shape
        Shape of one input: image (H, W, C), time series (T, W) or tabular (W,).
    grid_size
        Images are cut into grid_size x grid_size cells (channels stay together), or for a pair
        into so many rows and columns; time series into grid_size stretches of time for every
        variable. A side shorter than the grid is cut into single features; tabular data is not
        cut. None: every feature is a cell.

    Returns
    -------
    cells
        Integers (H, W), (T, W) or (W,), from 0 on without a gap. Where the grid does not divide a
        side, the cells differ by one feature, as in a nearest-neighbour resizing of the grid.

    Raises
    ------
    ValueError
        For a grid size that is not a whole number of at least 1, and another shape.

    Examples
    --------
    >>> grid_cells((3, 4, 1), 2)
    array([[0, 0, 1, 1],
           [2, 2, 3, 3],
           [2, 2, 3, 3]])
    """
    if len(shape) not in (1, 2, 3):
        raise ValueError(
            f"a grid needs images (H, W, C), time series (T, W) or tabular data (W,). "
            f"Received: inputs of shape {shape}"
        )
    features = shape[:2]
    if grid_size is None or len(shape) == 1:
        return np.arange(int(np.prod(features))).reshape(features)
    if len(shape) == 2:
        nb_rows, nb_columns = one_number("grid_size", grid_size, "time series"), shape[1]
    else:
        nb_rows, nb_columns = whole_numbers("grid_size", grid_size)
    rows, columns = _stretches(shape[0], nb_rows), _stretches(shape[1], nb_columns)
    return rows[:, None] * (columns[-1] + 1) + columns


def cells_of_entries(cells: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Cell of each entry of an input, (*shape): the channels of a pixel share that of the pixel."""
    return np.broadcast_to(cells[..., None], shape) if len(shape) == 3 else cells


def _stretches(size: int, nb_stretches: int) -> np.ndarray:
    """Stretch that each of `size` positions belongs to, by the position's middle."""
    return (2 * np.arange(size) + 1) * min(size, nb_stretches) // (2 * size)
