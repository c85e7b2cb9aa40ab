import torch
from hypothesis import given
from hypothesis import strategies as st

from sppfeat.pooling.bins import distinct_bins

SIDES = st.integers(1, 30)
LEVELS = st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True)


@st.composite
def maps_with_regions(draw):
    height, width = draw(SIDES), draw(SIDES)
    regions = []
    for _ in range(draw(st.integers(1, 6))):
        x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        regions.append([x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))])
    return (height, width), regions


@given(drawn=maps_with_regions(), levels=LEVELS)
def test_every_bin_is_found_and_listed_once(drawn, levels):
    map_hw, regions = drawn
    bins = distinct_bins(torch.tensor(regions), levels, map_hw)
    listed = list(zip(*(edge.tolist() for edge in bins[:4]), strict=True))
    assert len(set(listed)) == len(listed)
    used = set()
    for n, of_level in zip(levels, bins.of_level, strict=True):
        for (x0, y0, x1, y1), row in zip(regions, of_level.tolist(), strict=True):
            expected = [
                (
                    y0 + i * (y1 - y0) // n,
                    y0 - (-(i + 1) * (y1 - y0) // n),
                    x0 + j * (x1 - x0) // n,
                    x0 - (-(j + 1) * (x1 - x0) // n),
                )
                for i in range(n)
                for j in range(n)
            ]
            assert [listed[bin_] for bin_ in row] == expected
            used |= set(row)
    assert used == set(range(len(listed)))
