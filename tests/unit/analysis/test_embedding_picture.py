"""Small pictures among points: none on another or over the border, near their points, and few points hidden."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sppfeat.analysis.show.embedding import place_pictures

SIDE = 0.085


def hidden(points, placed):
    """How many points lie under the picture of another one."""
    n = 0
    for position, (x, y) in placed.items():
        under = (abs(points[:, 0] - x) <= SIDE / 2) & (abs(points[:, 1] - y) <= SIDE / 2)
        n += int(under.sum()) - bool(under[position])
    return n


@settings(max_examples=20, deadline=None)
@given(n=st.integers(0, 200), seed=st.integers(0, 99), spread=st.sampled_from([0.0, 0.01, 0.2]))
def test_pictures_do_not_overlap_and_lie_within_the_plot_near_their_points(n, seed, spread):
    points = np.clip(0.5 + spread * np.random.default_rng(seed).standard_normal((n, 2)), 0, 1)
    placed = place_pictures(points, most=30, seed=seed)
    assert placed == place_pictures(points, most=30, seed=seed)
    assert bool(placed) == bool(n)
    assert len(placed) <= 30
    centres = np.array(list(placed.values())).reshape(-1, 2)
    assert (np.abs(centres - 0.5) <= 0.5 - SIDE / 2).all()
    for i, (position, centre) in enumerate(placed.items()):
        assert np.abs(points[position] - centre).max() <= 1.2 * SIDE
        assert (np.abs(centres[i + 1 :] - centre).max(axis=1, initial=0) >= SIDE).all() or i + 1 == len(
            placed
        )


def test_a_picture_stands_beside_a_group_and_on_a_point_that_is_alone():
    group = 0.3 + 0.002 * np.random.default_rng(0).standard_normal((50, 2))
    points = np.concatenate([group, [(0.8, 0.8)]])
    placed = place_pictures(points, most=60)
    assert hidden(points, placed) == 0
    assert placed[50] == pytest.approx((0.8, 0.8))
