"""The nearest rows: against plain loops in float64, whatever the block size, ties, scales and odd values."""

import contextlib
import math

import numpy as np
import pytest
from feature_files import descriptors, new_file, write
from hypothesis import given
from hypothesis import strategies as st

from sppfeat.analysis.distances import exact_distances
from sppfeat.analysis.neighbours import METRICS, nearest_rows
from sppfeat.reader import FeatureFile
from sppfeat.store import FeatureWriter

N = 40


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = write_rows(tmp_path_factory.mktemp("neighbours") / "f.h5", descriptors(N))
    with FeatureFile(path) as opened:
        yield opened


def write_rows(path, rows, *, dtype="float32"):
    """A file of one row an image, with these descriptors."""
    new_file(path, n=len(rows), dtype=dtype)
    with contextlib.closing(FeatureWriter(path)) as writer:
        for i, row in enumerate(rows):
            write(writer, i, row[None].astype(dtype))
            writer.mark_done(i)
    return path


def set_rows(file, rows):
    """Other descriptors for an open file, in memory."""
    file.__dict__["features"] = rows
    return file.select()


def plain_distance(a, b, metric):
    """Plain loops over the values, in float64 with exact sums."""
    a, b = [float(v) for v in a], [float(v) for v in b]
    if metric == "l2":
        return math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True)))
    norms = [math.sqrt(math.fsum(v * v for v in vector)) for vector in (a, b)]
    if 0 in norms:
        return 1.0
    return math.fsum((x / norms[0] - y / norms[1]) ** 2 for x, y in zip(a, b, strict=True)) / 2


def plain_neighbours(rows, query, k, metric, *, excluded=-1, images=None):
    """Distances of the nearest rows, by sorting all of them."""
    every = sorted((plain_distance(row, query, metric), i) for i, row in enumerate(rows) if i != excluded)
    if images is not None:
        seen = set()
        every = [(r, i) for r, i in every if not (images[i] in seen or seen.add(images[i]))]
    return every[:k]


VALUES = st.sampled_from([0.0, 1.0, -1.0, 2.0, 0.5, 1e-3, 3.0])
DRAWN = st.integers(1, 12).flatmap(
    lambda n: st.lists(st.lists(VALUES, min_size=3, max_size=3), min_size=n, max_size=n)
)


class OfRows:
    """What a search needs of a selection and its file."""

    def __init__(self, values, images=None):
        self.values = values
        self.rows = np.arange(len(values))
        self.file = self
        self.image_index = self.rows if images is None else np.asarray(images)
        self.dimension = values.shape[1]

    def __len__(self):
        return len(self.rows)

    def has_descriptor(self):
        return np.ones(len(self.rows), dtype=bool)

    def take(self, positions):
        return self.values[positions]


@given(
    rows=DRAWN,
    queries=DRAWN,
    k=st.integers(1, 14),
    n_block=st.integers(1, 13),
    metric=st.sampled_from(METRICS),
    per_image=st.booleans(),
)
def test_neighbours_are_those_of_plain_loops(rows, queries, k, n_block, metric, per_image):
    rows, queries = np.array(rows, dtype=np.float32), np.array(queries, dtype=np.float32)
    images = np.arange(len(rows)) // 2
    part = OfRows(rows, images)
    excluded = np.arange(len(queries)) - 1
    options = {"metric": metric, "exclude": excluded, "one_per_image": per_image}
    found = nearest_rows(part, queries, k, block_nbytes=12 * n_block, **options)
    assert found.rows.shape == found.distances.shape == (len(queries), k)
    for i, query in enumerate(queries):
        expected = plain_neighbours(
            rows, query, k, metric, excluded=excluded[i], images=images if per_image else None
        )
        n = len(expected)
        assert (found.rows[i, n:] == -1).all()
        assert np.isinf(found.distances[i, n:]).all()
        assert np.allclose(found.distances[i, :n], [r for r, _ in expected], rtol=1e-13, atol=1e-30)
        # Rows may be in another order only where the oracle's distance is the same up to its roundings.
        own = exact_distances(query, rows, metric)
        order = [j for j in np.lexsort((np.arange(len(rows)), own)) if j != excluded[i]]
        if not per_image:
            assert found.rows[i, :n].tolist() == order[:n]
    again = nearest_rows(part, queries, k, **options)
    assert np.array_equal(again.rows, found.rows)
    assert np.array_equal(again.distances, found.distances)
