"""Nearest neighbors, compared with plain loops in float64: block sizes, ties, scales, and nonfinite values."""

import math

import numpy as np
import pytest
from feature_files import DIMENSION, descriptors, fill, new_file
from hypothesis import given
from hypothesis import strategies as st

from sppfeat.analysis.choices import METRICS
from sppfeat.analysis.neighbors import exact_distances, nearest_rows, to_points
from sppfeat.config.machine import row_ranges
from sppfeat.errors import ConfigError
from sppfeat.store.reader import FeatureFile

N = 40


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """One row an image; image 7 failed, 8 is pending."""
    new = new_file(tmp_path_factory.mktemp("neighbors") / "f.h5", n=N)
    return fill(new, descriptors(N), failed=[7], pending=[8])


class RowsInMemory:
    """Rows in memory, in place of a selection and its file."""

    def __init__(self, values, images=None):
        self.values = values
        self.rows = np.arange(len(values))
        self.file = self
        self.image_index = self.rows if images is None else np.asarray(images)
        self.n_rows, self.dimension = values.shape

    def __len__(self):
        return len(self.rows)

    def has_descriptor(self):
        return np.ones(len(self.rows), dtype=bool)

    def blocks(self, positions, *, nbytes):
        for part in row_ranges(len(positions), row_nbytes=4 * self.dimension, nbytes=nbytes):
            yield part, self.values[positions[part]]


def plain_distance(a, b, metric):
    """The distance of two rows, from plain loops with exact sums."""
    a, b = [float(v) for v in a], [float(v) for v in b]
    if metric == "l2":
        return math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True)))
    norms = [math.sqrt(math.fsum(v * v for v in vector)) for vector in (a, b)]
    if 0 in norms:
        return 1.0
    return math.fsum((x / norms[0] - y / norms[1]) ** 2 for x, y in zip(a, b, strict=True)) / 2


def plain_nearest(rows, query, k, metric, *, left_out, images):
    """The distances of the nearest rows, by sorting all of them."""
    every = sorted((plain_distance(row, query, metric), i) for i, row in enumerate(rows) if i not in left_out)
    seen = set()
    return [r for r, i in every if not (images[i] in seen or seen.add(images[i]))][:k]


def check(found, i, rows, query, metric, *, left_out=(), images=None):
    """Asserts that the neighbors of a query are those of plain loops, ordered by distance, then by row."""
    of_image = range(len(rows)) if images is None else images
    expected = plain_nearest(rows, query, len(found.rows[i]), metric, left_out=left_out, images=of_image)
    n = len(expected)
    assert (found.rows[i, n:] == -1).all()
    assert np.isinf(found.distances[i, n:]).all()
    assert np.allclose(found.distances[i, :n], expected, rtol=1e-12, atol=1e-30)
    pairs = list(zip(found.distances[i, :n].tolist(), found.rows[i, :n].tolist(), strict=True))
    assert pairs == sorted(pairs)  # equal distances in the order of their rows
    assert len({of_image[row] for _, row in pairs}) == n
    for distance, row in pairs:
        assert row not in left_out
        assert distance == pytest.approx(plain_distance(rows[row], query, metric), rel=1e-12, abs=1e-30)
        twins = [j for j in range(row) if j not in left_out and np.array_equal(rows[j], rows[row])]
        assert images is not None or set(twins) <= {row for _, row in pairs}


VALUES = st.sampled_from([0.0, 1.0, -1.0, 2.0, 0.5, 1e-3, 3.0])
DRAWN = st.integers(1, 12).flatmap(
    lambda n: st.lists(st.lists(VALUES, min_size=3, max_size=3), min_size=n, max_size=n)
)


@pytest.mark.slow
@given(
    rows=DRAWN,
    queries=DRAWN,
    k=st.integers(1, 14),
    n_block=st.integers(1, 13),
    metric=st.sampled_from(METRICS),
    per_image=st.booleans(),
)
def test_neighbors_are_those_of_plain_loops(rows, queries, k, n_block, metric, per_image):
    rows, queries = np.array(rows, dtype=np.float32), np.array(queries, dtype=np.float32)
    images = np.arange(len(rows)) // 2
    part = RowsInMemory(rows, images)
    excluded = np.arange(len(queries)) % (len(rows) + 1) - 1
    options = {"metric": metric, "exclude": excluded.tolist(), "one_per_image": per_image}
    found = nearest_rows(part, queries, k, block_nbytes=12 * n_block, **options)
    assert found.rows.shape == found.distances.shape == (len(queries), k)
    for i, query in enumerate(queries):
        row = excluded[i]
        own = set() if row < 0 else set(np.flatnonzero(images == images[row])) if per_image else {row}
        check(found, i, rows, query, metric, left_out=own, images=images if per_image else None)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("metric", METRICS)
def test_many_rows_in_many_columns(metric, per_image):
    """More columns than are added up at once; clusters, duplicates, and rows that are nearly the same."""
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.random((200, 1100), dtype=np.float32), 10, axis=0)
    noise = rng.choice([0, 1e-6, 1e-3, 0.3], size=(2000, 1)).astype(np.float32)
    rows += noise * rng.random((2000, 1100), dtype=np.float32)
    images = np.arange(2000) // 3
    queries = rows[[0, 5, 1234]] * np.float32(1 + 1e-6)
    part = RowsInMemory(rows, images)
    options = {"metric": metric, "one_per_image": per_image}
    found = nearest_rows(part, queries, 20, block_nbytes=1 << 20, **options)
    for i, query in enumerate(queries):
        exact = exact_distances(to_points(query[None], metric)[0], to_points(rows, metric), metric)
        order = np.lexsort((np.arange(2000), exact))
        if per_image:
            order = order[np.sort(np.unique(images[order], return_index=True)[1])]
        assert found.rows[i].tolist() == order[:20].tolist()
        assert np.array_equal(found.distances[i], exact[order[:20]])
        plain = [plain_distance(rows[j], query, metric) for j in order[:12]]
        assert np.allclose(exact[order[:12]], plain, rtol=1e-9, atol=1e-20)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e19, 1e30])
@pytest.mark.parametrize("metric", METRICS)
def test_rows_of_any_magnitude(metric, scale):
    rows = np.random.default_rng(0).standard_normal((300, 7)).astype(np.float32)
    rows[::3] *= np.float32(scale)
    rows[7] = 0
    queries = np.concatenate((rows[3:5] + np.float32(0.1), np.zeros((1, 7), dtype=np.float32)))
    found = nearest_rows(RowsInMemory(rows), queries, 9, metric=metric, block_nbytes=28 * 100)
    for i, query in enumerate(queries):
        check(found, i, rows, query, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_nonfinite_rows_are_never_found(metric):
    rows = descriptors(N)
    rows[3], rows[4, 0], rows[5, 0] = np.nan, np.inf, -np.inf
    found = nearest_rows(RowsInMemory(rows), rows[:1], N, metric=metric, block_nbytes=60 * 4)
    assert sorted(found.rows[0, : N - 3].tolist()) == [i for i in range(N) if i not in (3, 4, 5)]
    assert (found.rows[0, N - 3 :] == -1).all()


def test_a_selection_of_a_file(path):
    with FeatureFile(path) as file:
        # status=any selects the failed and the pending row, too, but they have no descriptor.
        selection = file.select(rows=["status=any"], levels=2, layers="layer3")
        query = selection.of_descriptors(descriptors(N)[4:5])
        assert np.array_equal(query, descriptors(N)[4:5, 2:10])
        found = nearest_rows(selection, query, N)
        check(found, 0, descriptors(N)[:, 2:10], query[0], "cosine", left_out=(7, 8))
        twice = file.select(rows=[9, 2, 2, 30])
        found = nearest_rows(twice, descriptors(N)[2:3], 5)
        assert found.rows[0, 0] == 2
        assert sorted(found.rows[0].tolist()) == [-1, -1, 2, 9, 30]
        assert nearest_rows(file.select(rows=[]), descriptors(1), 2).rows.tolist() == [[-1, -1]]
        assert nearest_rows(file.select(), np.empty((0, DIMENSION)), 2).rows.shape == (0, 2)


def test_queries_are_rounded_to_the_type_of_a_float16_file(tmp_path):
    rows = descriptors(N)
    path = new_file(tmp_path / "half.h5", n=N, dtype="float16")
    with FeatureFile(fill(path, rows.astype("float16"))) as file:
        selection = file.select()
        found = nearest_rows(selection, selection.of_descriptors(rows), 1, metric="l2")
    assert found.rows[:, 0].tolist() == list(range(N))
    assert (found.distances == 0).all()


def test_wrong_arguments_are_refused(path):
    with FeatureFile(path) as file:
        for options, message in (
            ({"metric": "l1"}, "metric is 'l1'"),
            ({"k": 0}, "k is 0; allowed: 1 or more"),
        ):
            with pytest.raises(ConfigError, match=message):
                nearest_rows(file.select(), descriptors(1), **options)
        with pytest.raises(ConfigError, match=r"descriptors of shape \(2, 3\); allowed: \(m, 15\)"):
            file.select().of_descriptors(np.zeros((2, 3)))
