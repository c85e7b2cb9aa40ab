"""Pictures of feature files: their values against plain loops, and the files that the commands write."""

import functools
import itertools
import os

import numpy as np
import pytest
from command_line import run
from conftest import write_image
from hypothesis import given, settings
from hypothesis import strategies as st
from pictured_files import CLASSES, FAILED, pictured_file
from PIL import Image

import sppfeat
from sppfeat.analysis.reduce import reduce
from sppfeat.analysis.rows import count_labels, draw_classes, draw_rows, draw_stratified
from sppfeat.analysis.search import Query, describe_queries
from sppfeat.analysis.show.contact_sheet import draw_queries, draw_sheet, make_contact_sheet, sheet_text
from sppfeat.analysis.show.distributions import (
    Sizes,
    draw_norms,
    draw_sizes,
    measure_norms,
    measure_sizes,
    norms_text,
)
from sppfeat.analysis.show.embedding import (
    MOST_NAMED,
    draw_embedding,
    embed_rows,
    mark_classes,
    place_pictures,
)
from sppfeat.analysis.show.figure import drawing
from sppfeat.analysis.show.thumbnails import PictureSource, find_row_pictures, read_thumbnails
from sppfeat.errors import ConfigError
from sppfeat.store.reader import FeatureFile

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from matplotlib.text import Text


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return pictured_file(tmp_path_factory.mktemp("pictured"))


@pytest.fixture
def file(path):
    with FeatureFile(path) as opened:
        yield opened


@pytest.fixture
def selection(file):
    return file.select()


show = functools.partial(run, "show")


def test_drawn_rows_are_some_of_them_in_their_order(selection):
    drawn = draw_rows(selection, 7, seed=3).rows
    assert set(drawn) < set(selection.rows)
    assert (np.diff(drawn) > 0).all()
    assert len(drawn) == 7 == len(set(drawn))
    assert (draw_rows(selection, 7, seed=4).rows != drawn).any()
    assert draw_rows(selection, 23) is selection


@pytest.mark.parametrize("most", [3, 6, 10, 17])
def test_a_stratified_draw_has_each_class_by_its_share(file, most):
    labels = np.array([0] * 16 + [1] * 7 + [2])
    selection = file.select(labels=labels)
    drawn = draw_stratified(selection, most, seed=1)
    assert len(drawn) == most
    for label in range(3):
        share = (selection.y == label).sum() * most / len(selection)
        assert abs((drawn.y == label).sum() - share) <= 1


def test_a_draw_of_classes_keeps_all_their_rows(file):
    selection = file.select(labels=[f"class {i % 7}" if i < 21 else None for i in range(24)])
    some = draw_classes(selection, 3, seed=1)
    classes = set(some.y.tolist())
    assert len(classes) == 3
    assert min(classes) >= 0
    assert some.rows.tolist() == [
        row for row, y in zip(selection.rows, selection.y, strict=True) if y in classes
    ]
    assert draw_classes(selection, 7) is selection
    enough = draw_classes(selection, 2, least=3, seed=1)  # row 4 failed: class 4 has two
    assert 4 not in enough.y


def test_principal_components_equal_numpy(selection):
    embedding = embed_rows(selection)
    rows = selection.X.astype(np.float64)
    centred = rows - rows.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ axes[:2].T
    signs = np.sign((expected * embedding.points).sum(axis=0))
    np.testing.assert_allclose(embedding.points, signs * expected, atol=1e-4)
    np.testing.assert_allclose(embedding.explained, (singular**2 / (singular**2).sum())[:2], rtol=1e-4)


def test_tsne_keeps_neighborhoods_and_a_seed_gives_the_same_points(selection):
    points, again = (embed_rows(selection, method="tsne", seed=3).points for _ in range(2))
    assert np.array_equal(points, again)
    distances = np.linalg.norm(points[:, None] - points, axis=2) + np.diag([np.inf] * len(points))
    assert (selection.y[distances.argmin(axis=1)] == selection.y).mean() > 0.8


@pytest.mark.parametrize("rows", [[], [3], [3, 5]])
def test_few_rows_can_be_embedded_by_their_principal_components_only(file, rows):
    selection = file.select(rows=np.array(rows, dtype=np.int64))
    embedding = embed_rows(selection)
    assert embedding.points.shape == (len(rows), 2)
    assert np.isfinite(embedding.points).all()
    with pytest.raises(ConfigError, match=f"--method tsne needs 5 rows or more; {len(rows)} are selected"):
        embed_rows(selection, method="tsne")


def change_rows(selection, rows, monkeypatch):
    """Lets a selection have these descriptors."""
    monkeypatch.setattr(type(selection), "take", lambda _, at: rows[at])


def test_rows_with_nan_are_left_out_and_counted(selection, monkeypatch):
    rows = np.array(selection.X)
    rows[[2, 5], 0] = np.nan, np.inf
    change_rows(selection, rows, monkeypatch)
    embedding = embed_rows(selection)
    assert embedding.n_nonfinite == 2
    assert embedding.selection.rows.tolist() == np.delete(selection.rows, [2, 5]).tolist()
    assert measure_norms(selection).n_nonfinite == 2


@pytest.mark.parametrize(("scale", "width"), [(1, 0), (1, 1e-6), (1e38, 0)])
@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_rows_that_hardly_differ_have_finite_points(selection, monkeypatch, method, scale, width):
    rows = np.full((23, 15), scale, np.float32)
    rows[:, 3] += width * np.arange(23)
    change_rows(selection, rows, monkeypatch)
    embedding = embed_rows(selection, method=method)  # t-SNE itself ended the process
    assert embedding.points.shape == (23, 2)
    assert np.isfinite(embedding.points).all()
    assert embedding.explained is None or np.isfinite(embedding.explained).all()


def test_norms_of_each_layer(selection, monkeypatch):
    rows = np.array(selection.X)
    rows[4, :10] = 0
    change_rows(selection, rows, monkeypatch)
    norms = measure_norms(selection)
    assert norms.layers == ("layer3", "layer4")
    for row, found in zip(rows, norms.values, strict=True):
        expected = [sum(float(x) ** 2 for x in part) ** 0.5 for part in (row[:10], row[10:])]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert norms.n_zero == (1, 0)


def test_sizes_leave_out_failed_images(file):
    sizes = measure_sizes(file)
    assert sizes.heights.tolist() == [20 + i for i in range(24) if i != FAILED]
    assert set(sizes.widths.tolist()) == {30}
    assert sizes.n_left_out == 1
    with pytest.raises(ConfigError, match="whole images"):
        measure_sizes(file, of="boxes")


def test_labels_are_counted_most_frequent_first(file, selection):
    assert count_labels(selection) == [("cat", 8), (CLASSES[2], 8), ("dog", 7)]
    some = file.select(labels={"0.png": "a", "2.png": "b", "3.png": "b"})
    assert count_labels(some) == [("", 20), ("b", 2), ("a", 1)]
    assert count_labels(file.select(labels=np.arange(24) % 2)) == [("0", 11), ("1", 12)][::-1]


def test_every_row_has_one_mark_and_no_two_classes_look_alike(file):
    many = file.select(labels=[f"class {i % (MOST_NAMED + 3)}" if i else None for i in range(24)])
    marks = mark_classes(many)
    assert sorted(np.concatenate([mark.positions for mark in marks]).tolist()) == list(range(23))
    looks = [(mark.color, mark.shape) for mark in marks]
    assert len(set(looks)) == len(looks)
    assert len(marks) == MOST_NAMED + 2
    assert [mark.text for mark in marks[-2:]] == ["2 more classes (2)", "no label (1)"]


def test_every_class_is_in_the_legend_whatever_its_name(file):
    names = ["_hidden", "$x^", "a" * 500, "new\nline"]
    embedding = embed_rows(file.select(labels=[names[i % 4] for i in range(24)]))
    with drawing():
        figure = draw_embedding(embedding, {}, {}, title="title")
        texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        figure.canvas.draw()
    assert sorted(texts) == [" _hidden (5)", "$x^ (6)", "a" * 25 + "... (6)", r"new\nline (6)"]


def texts_of(figure):
    """The visible texts of a figure with their places."""
    figure.draw_without_rendering()
    texts = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_visible())
    return [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text().strip()]


def sizes_of(pairs, counts):
    widths, heights = np.repeat(np.array(pairs, dtype=np.float64), counts, axis=0).T
    return Sizes("images", widths, heights, 0)


@pytest.mark.parametrize(
    ("pairs", "counts", "keys"),
    [
        ([(300, 200), (200, 300), (250, 250)], [150, 10, 1], {"images", "1", "150"}),
        ([(100 + i % 50, 100 + i // 50) for i in range(1500)], 1, {"images", "1"}),
        ([(20, 9000), (400, 300)], 1, {"images", "1"}),
        ([(0, 0)], 0, {"images"}),
    ],
)
def test_colors_of_sizes_count_images_and_have_a_key(pairs, counts, keys):
    sizes = sizes_of(pairs, counts)
    with drawing():
        figure = draw_sizes(sizes, title="a title")
        found = texts_of(figure)
    (cells,) = [c for axes in figure.axes for c in axes.collections if type(c).__name__ == "PolyCollection"]
    assert cells.get_array().sum() == len(sizes.widths)
    assert {*keys, "a title"} <= {text for text, _ in found}
    assert all(figure.bbox.x0 <= place.x0 < place.x1 <= figure.bbox.x1 for _, place in found)


@pytest.mark.parametrize("high", [300, 1300, 9000, 200_000])
def test_texts_beside_sizes_cover_neither_points_nor_each_other(high):
    sides = np.geomspace(20, high, 60)
    sizes = Sizes("images", np.tile(sides, 60), np.repeat(sides, 60), 0)
    with drawing():
        figure = draw_sizes(sizes)
        figure.draw_without_rendering()
        (axes,) = (each for each in figure.axes if each.get_xlabel())
        (low, top) = axes.get_xlim()
        ticks = [
            t for a in (axes.xaxis, axes.yaxis) for t in a.get_major_ticks() if low <= t.get_loc() <= top
        ]
        texts = [text.get_window_extent() for text in (*axes.texts, *(tick.label1 for tick in ticks))]
    assert len(ticks) >= 4
    for a, b in itertools.combinations([*texts, axes.get_window_extent()], 2):
        assert not a.padded(-1).overlaps(b), (a, b)


def test_equal_norms_of_reduced_rows_are_a_sentence(path, tmp_path):
    reduce(path, tmp_path / "r.h5", components=2, normalize="l2")
    with FeatureFile(tmp_path / "r.h5") as file:
        norms = measure_norms(file.select())
    assert norms.normalize == "l2"
    assert norms_text(norms, 0) == "pca: 23 rows, all 1.000"
    with drawing():
        figure = draw_norms(norms, [0], has_titles=True)
        (text,) = [text for text, _ in texts_of(figure)]
    assert text == "pca: 23 rows, all 1.000\nAll l2 norms are equal, after --normalize l2."
    assert not figure.axes[0].patches


def sheet_of(selection, n, k, **how):
    queries = draw_queries(selection, n)
    return make_contact_sheet(selection, queries, describe_queries(queries, selection), k=k, **how)


def test_captions_of_small_contact_sheets(file, selection):
    assert sheet_text(sheet_of(selection, 2, 3)).startswith("2 queries (left) and their 3 nearest rows by")
    few = file.select(rows=np.array([3, 5]), labels=[None] * 24)
    assert sheet_text(sheet_of(few, 1, 8)) == "1 query (left) and its nearest row by cosine distance"
    assert (
        sheet_text(sheet_of(file.select(rows=np.array([3])), 1, 8)) == "1 query; the file has no other rows"
    )
    sheet = sheet_of(few, 1, 8)
    with drawing():
        found = texts_of(draw_sheet(sheet, {}))
    assert sheet.lines[0].neighbors[0].name in "\n".join(text for text, _ in found)


def test_neighbors_are_marked_only_with_several_classes(file, selection):
    several, one = (sheet_of(rows, 1, 2) for rows in (selection, file.select(labels=["a"] * 24)))
    assert sheet_text(several).endswith("; 2 of 2 possible neighbors have the query's class")
    assert sheet_text(one) == "1 query (left) and its 2 nearest rows by cosine distance"
    for sheet, is_marked in ((several, True), (one, False)):
        with drawing():
            texts = "".join(text for text, _ in texts_of(draw_sheet(sheet, {})))
        assert ("\N{CHECK MARK}" in texts) == is_marked
        assert (sheet.lines[0].neighbors[0].name in texts) == (not is_marked)


def test_a_contact_sheet_has_the_nearest_rows_and_not_the_query(selection):
    sheet, features = sheet_of(selection, 4, 3, metric="l2"), selection.file.features
    assert len({line.label for line in sheet.lines[:3]}) == 3
    for line in sheet.lines:
        query = line.query
        others = [row for row in selection.rows.tolist() if row != query.row]
        distances = {row: float(np.linalg.norm(features[row] - features[query.row])) for row in others}
        assert [n.row for n in line.neighbors] == sorted(others, key=lambda row: distances[row])[:3]
        for n in line.neighbors:
            assert n.distance == pytest.approx(distances[n.row], rel=1e-5)
            assert n.is_same == (n.row % 3 == query.row % 3)
            assert (n.label, n.name) == (CLASSES[n.row % 3], f"{n.row}.png")
    assert sheet.n_judged == 12


def test_neighbors_are_compared_with_the_possible_number_and_with_chance(selection):
    sheet = sheet_of(selection, 3, 10)  # one query of each class, of 8, 8 and 7 rows
    assert (sheet.n_judged, sheet.n_possible) == (30, 7 + 7 + 6)
    assert sheet.n_by_chance == pytest.approx(10 * (7 + 7 + 6) / 22)
    assert sheet_of(selection, 3, 2).n_possible == 6
    everything = sheet_of(selection, 3, 22)
    assert everything.n_same == everything.n_possible == pytest.approx(everything.n_by_chance)
    assert sheet_of(selection, 3, 22, one_per_image=True).n_possible == 20  # each row is an image of its own


@pytest.mark.slow
def test_thumbnails_are_the_images_at_their_aspect_ratio(file, tmp_path):
    pictured = find_row_pictures(file, [3, 7, 3])
    assert list(pictured) == [3, 7]
    thumbnails = read_thumbnails(pictured, exif="apply", side=15)
    assert thumbnails[3].pixels.shape == (12, 15, 3)  # 23 x 30
    with Image.open(os.fsdecode(pictured[3].path)) as whole:
        assert (thumbnails[3].pixels == np.asarray(whole.resize((15, 12), Image.Resampling.BICUBIC))).all()
    assert read_thumbnails(pictured, exif="apply", side=500)[7].pixels.shape == (27, 30, 3)


@pytest.mark.slow
def test_images_that_are_gone_or_changed_have_a_reason(file, tmp_path):
    write_image(tmp_path / "3.png", 5, 5, seed=0)
    (tmp_path / "5.png").write_text("nonsense")
    thumbnails = read_thumbnails(find_row_pictures(file, [2, 3, 5], root=tmp_path), exif="apply")
    assert [thumbnail.pixels for thumbnail in thumbnails.values()] == [None] * 3
    assert thumbnails[2].reason == "no such file"
    assert "changed" in thumbnails[3].reason
    assert read_thumbnails({}, exif="apply") == {}


@pytest.mark.slow
def test_a_box_is_outlined_within_its_surroundings(tmp_path):
    pixels = np.zeros((200, 100, 3), np.uint8)
    pixels[80:120, 40:80] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    box = PictureSource(os.fsencode(tmp_path / "a.png"), (200, 100), (40.0, 80.0, 80.0, 120.0))
    shown = read_thumbnails({0: box, 1: box._replace(is_mirrored=True)}, exif="apply", side=60)
    assert shown[0].pixels.shape == (60, 60, 3)
    assert shown[0].pixels[10, 10].tolist() == [255, 213, 0]  # the outline, ten pixels from the edge
    assert shown[0].pixels[30, 30].tolist() == [200, 200, 200]
    assert shown[0].pixels[2, 2].tolist() == [0, 0, 0]
    assert (shown[1].pixels == shown[0].pixels[:, ::-1]).all()


@pytest.mark.slow
def test_every_finite_box_has_a_thumbnail(tmp_path):
    write_image(tmp_path / "a.png", 200, 100, seed=0)
    boxes = [
        (0, 0, 0.001, 0.001),
        (-50, -50, 500, 500),
        (99.9, 199.9, 100, 200),
        (9, 9, 3, 3),
        (np.nan, 0, 1, 1),
    ]
    sources = [PictureSource(os.fsencode(tmp_path / "a.png"), (200, 100), box) for box in boxes]
    shown = read_thumbnails(dict(enumerate(sources)), exif="apply", side=40)
    assert [shown[i].pixels is None for i in range(5)] == [False] * 4 + [True]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "suffix"), [("embedding", "png"), ("neighbors", "pdf"), ("norms", "svg"), ("sizes", "png")]
)
def test_pictures_are_whole_files_with_the_same_bytes(path, tmp_path, command, suffix):
    output = tmp_path / f"0.{suffix}"
    few = ["--random", "2", "-k", "2"] if command == "neighbors" else []
    result = show(command, path, "-o", output, *few, code=0)
    assert result.stdout == ""
    content = output.read_bytes()
    assert content[:5] == {"png": b"\x89PNG\r", "svg": b"<?xml", "pdf": b"%PDF-"}[suffix]
    assert list(tmp_path.iterdir()) == [output]
    function = getattr(sppfeat, f"show_{command}")
    picture = function(path, tmp_path / f"1.{suffix}", **({"n_random": 2, "k": 2} if few else {}))
    assert picture.path.read_bytes() == content
    printed = [*picture.details, f"wrote {output} ({picture.summary})"]
    assert result.stderr.splitlines()[-len(printed) :] == printed


@pytest.mark.slow
def test_queries_may_be_rows_and_no_file_is_written_for_wrong_ones(path, tmp_path):
    output, photo = tmp_path / "o.png", tmp_path / "photo.png"
    result = show("neighbors", path, "row:0", "row:5", "-o", output, "-k", "3", "--root", tmp_path, code=0)
    assert "note: 8 of 8 images cannot be read; the first: no such file" in result.stderr
    with Image.open(output) as picture:
        assert picture.width > picture.height
    write_image(photo, 40, 40, seed=0)
    before = photo.read_bytes()
    for query, picture in (("row:4", "p.png"), ("no-such.png", "p.png"), (photo, "photo.png")):
        result = show("neighbors", path, query, "-o", tmp_path / picture, "--overwrite", code=2)
    assert photo.read_bytes() == before
    assert not (tmp_path / "p.png").exists()


@pytest.mark.parametrize("command", ["embedding", "neighbors", "norms", "sizes"])
def test_wrong_outputs_are_refused(path, tmp_path, command):
    there = tmp_path / "there.png"
    there.write_text("mine")
    show(command, path, "-o", there, code=1)
    assert there.read_text() == "mine"
    same = tmp_path / "same.png"
    same.symlink_to(path)
    result = show(command, path, "-o", same, "--overwrite")
    assert (result.exit_code, "is also an input" in result.stderr) == (2, True)
    assert path.read_bytes().startswith(b"\x89HDF")


def test_rows_without_descriptor_are_refused(file):
    everything = file.select(rows=["status=any"])
    for function in (embed_rows, measure_norms, lambda selection: draw_queries(selection, 3)):
        with pytest.raises(ConfigError, match="1 of 24 rows has no descriptor; the first is row 4"):
            function(everything)


def test_queries_other_than_rows_are_pictured_by_their_text(selection):
    queries = [Query("a.png", path="a.png"), Query("row:2", row=2)]
    sheet = make_contact_sheet(selection, queries, selection.take(np.array([0, 2])), k=2)
    assert sheet.lines[0].label == ""
    assert all(n.is_same is None for n in sheet.lines[0].neighbors)
    assert sheet.lines[0].neighbors[0].row == 0  # an image is no row, though it may be equal to one
    assert sheet.lines[1].name == "2.png"


# Small pictures among points

SIDE = 0.085


def along(start, end):
    """Positions on a leader; between two of them less than a hundredth of a picture's side."""
    return start + np.linspace(0, 1, 301)[:, None] * (end - start)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(0, 200), seed=st.integers(0, 99), spread=st.sampled_from([0.0, 0.01, 0.2]))
def test_pictures_hide_no_picture_no_leader_and_not_their_own_point(n, seed, spread):
    points = np.clip(0.5 + spread * np.random.default_rng(seed).standard_normal((n, 2)), 0, 1)
    placed = place_pictures(points, most=30, seed=seed)
    assert placed == place_pictures(points, most=30, seed=seed)
    assert bool(placed) == bool(n)
    assert len(placed) <= 30
    starts, centers = points[list(placed)], np.array(list(placed.values())).reshape(-1, 2)
    assert (np.abs(centers - 0.5) <= 0.5 - SIDE / 2).all()
    assert (np.abs(starts - centers).max(axis=1, initial=0) <= 2 * SIDE).all()
    for i, center in enumerate(centers):
        assert (np.abs(starts - center).max(axis=1) > SIDE / 2).all()
        for j in {*range(len(centers))} - {i}:
            assert np.abs(center - centers[j]).max() >= SIDE
            leader = along(starts[j], centers[j])
            assert (np.abs(leader - center).max(axis=1) > 0.49 * SIDE).all()


def test_leaders_do_not_cross():
    points = np.random.default_rng(0).random((60, 2))
    placed = place_pictures(points, most=30)
    lines = [(points[i], np.array(center) - points[i]) for i, center in placed.items()]
    assert len(lines) > 20
    for (p, along_p), (q, along_q) in itertools.combinations(lines, 2):
        # Solves p + s * along_p = q + t * along_q.
        matrix = np.stack([along_p, -along_q], axis=1)
        if abs(np.linalg.det(matrix)) > 1e-12:
            s, t = np.linalg.solve(matrix, q - p)
            assert not (0 < s < 1 and 0 < t < 1)


def test_a_picture_stands_beside_a_group_and_beside_a_point_that_is_alone():
    group = 0.3 + 0.002 * np.random.default_rng(0).standard_normal((50, 2))
    points = np.concatenate([group, [(0.8, 0.8)]])
    placed = place_pictures(points, most=60)
    assert np.abs(np.subtract(placed[50], (0.8, 0.8))).max() < SIDE
    for center in placed.values():
        assert (np.abs(points - center).max(axis=1) > SIDE / 2).all()
