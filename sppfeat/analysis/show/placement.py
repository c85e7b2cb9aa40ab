"""Where small pictures go among points, so that they hide few of them."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Placed", "place_pictures"]

_GAP = 0.012  # between a point and its picture, of the plot's sides
_RINGS = (1.0, 1.7)  # how far from its point a picture may be: multiples of where it just does not hide it
_DIRECTIONS = ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, -1), (-1, 1))


class Placed(NamedTuple):
    """A picture of a point.

    Attributes:
        position: of the point among all.
        centre: ``x, y`` of the picture; as the points are, 0 to 1.
    """

    position: int
    centre: tuple[float, float]


def place_pictures(points: npt.NDArray[np.float64], *, side: float, most: int, seed: int = 0) -> list[Placed]:
    """Pictures of points that are drawn at random, each on its point or near to it, where it hides the fewest others.

    They do not overlap, and lie within the plot; points for which there is no such place have none.

    Args:
        points: ``(n, 2)``, 0 to 1 from the left and the lower edge of a plot.
        side: of a picture, in the same unit.
        most: how many pictures at most.
        seed: of the draw.
    """
    reach = side / 2 + _GAP
    offsets = np.array([(0, 0), *((dx * r, dy * r) for r in _RINGS for dx, dy in _DIRECTIONS)]) * reach
    placed: list[Placed] = []
    centres = np.empty((0, 2))
    for i in np.random.default_rng(seed).permutation(len(points)).tolist():
        if len(placed) == most:
            break
        tried = points[i] + offsets
        fits = (np.abs(tried - 0.5) <= 0.5 - side / 2).all(axis=1)
        if len(centres):
            fits &= (np.abs(tried[:, None] - centres).max(axis=2) >= side).all(axis=1)
        if not fits.any():
            continue
        tried = tried[fits]
        hides = np.abs(points - tried[:, None]).max(axis=2) <= side / 2
        hides[:, i] = False
        centre = tried[hides.sum(axis=1).argmin()]
        placed.append(Placed(i, (float(centre[0]), float(centre[1]))))
        centres = np.concatenate([centres, [centre]])
    return placed
