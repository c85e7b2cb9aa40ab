"""Boxes from a box file to rows: right values in the right place, whatever happens to the run."""

import csv
import math

import h5py
import numpy as np
import pytest
import torch
from conftest import write_image
from extraction_runs import (
    BACKBONE,
    SIZE,
    assert_all_done,
    assert_same_contents,
    assert_same_file,
    contents,
    difference,
    extract,
    plain_maps,
    plain_network,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

import sppfeat
from sppfeat.config.distribution import RunOptions
from sppfeat.config.regions import RowFlag
from sppfeat.config.request import BackboneChoice, BoxChoice, DescriptorChoice
from sppfeat.config.specs import InputSpec
from sppfeat.decoding import decoder
from sppfeat.errors import ConfigError, ImageError, StoreError
from sppfeat.extraction.recompute import recompute_rows
from sppfeat.store.verify import verify_file

STRIDE, OFFSET = 16, 15  # of squeezenet1_1's features
SCALES = (48, 80, 120)
# Fractions of the image's width and height; beyond 0..1 they reach over its border.
BOXES = [
    (0.0, 0.0, 1.0, 1.0),
    (0.1, 0.2, 0.35, 0.9),
    (-0.2, 0.5, 0.4, 1.3),
    (1.0, 0.0, 1.5, 0.5),
    (0.6, 0.6, 0.62, 0.63),
    (0.5, 0.9, 0.5, 0.95),
    (math.nan, 0.1, 0.5, 0.6),
    (0.7, 0.1, 0.2, 0.6),
    (0.34, 0.01, 0.99, 0.44),
    (0.1, 0.2, 0.3501, 0.9),
]


@pytest.fixture(scope="module")
def network():
    return plain_network()


def size_of(path):
    with Image.open(path) as image:
        return image.size


def write_boxes(path, boxes, header="path,x0,y0,x1,y1"):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(boxes)
    return path


@pytest.fixture
def boxes_of(folder, tmp_path):
    """A CSV of boxes of eleven of twelve pictures, not grouped by picture, and of one that is not an input."""
    images = sorted(folder.rglob("*.png"))[:-1]
    lines = [("elsewhere.png", 0, 0, 5, 5)]
    for i, box in enumerate(BOXES):
        for j, image in enumerate(images):
            if (i + j) % 3:
                width, height = size_of(image)
                lines.append(
                    (image.name, *(v * side for v, side in zip(box, (width, height) * 2, strict=True)))
                )
    return write_boxes(tmp_path / "boxes.csv", lines)


def csv_boxes(path):
    with open(path) as file:
        return [(line[0], *map(float, line[1:5])) for line in list(csv.reader(file))[1:]]


def expected_region(box, image_wh, input_wh, map_wh, rule, mirrored):
    """``(x0, y0, x1, y1)`` of cells, half-open, one axis after the other."""
    result = [0, 0, 0, 0]
    for axis in (0, 1):
        low, high = (box[i] * input_wh[axis] / image_wh[axis] for i in (axis, axis + 2))
        if mirrored and axis == 0:
            low, high = input_wh[0] - high, input_wh[0] - low
        if rule == "sppnet":
            first = math.floor((low - OFFSET) / STRIDE + 0.5)
            last = math.ceil((high - 1 - OFFSET) / STRIDE - 0.5)
        elif rule == "paper":
            first = math.floor((low - OFFSET) / STRIDE) + 1
            last = math.ceil((high - 1 - OFFSET) / STRIDE) - 1
        else:
            first = math.floor(low / STRIDE + 0.5)
            last = math.floor((high - 1) / STRIDE + 0.5)
        if first > last:
            first = last = math.floor((first + last + 2) / 2) - 1
        result[axis] = min(max(first, 0), map_wh[axis] - 1)
        result[axis + 2] = min(max(last, 0), map_wh[axis] - 1) + 1
    return result


class Oracle:
    """The row of one box, by plain loops and plain torch."""

    def __init__(self, network):
        self.network = network
        self.cache = {}

    def map_of(self, path, size, mirrored):
        key = (path, size, mirrored)
        if key not in self.cache:
            self.cache[key] = plain_maps(self.network, path, size=size, mirrored=mirrored)
        return self.cache[key]

    def row(self, path, box, *, scales, rule, flip):
        """Flag, scale, region and descriptor."""
        width, height = size_of(path)
        cut = [min(max(v, 0), side) for v, side in zip(box, (width, height) * 2, strict=True)]
        if any(map(math.isnan, box)) or cut[0] >= cut[2] or cut[1] >= cut[3]:
            return RowFlag.DEGENERATE, -1, None, None
        flag = RowFlag.CLIPPED if cut != list(box) else RowFlag.OK
        wanted = 224 * min(width, height) / math.sqrt((cut[2] - cut[0]) * (cut[3] - cut[1]))
        scale = min(scales, key=lambda side: (abs(side - wanted), side))
        short = min(width, height)
        input_wh = [scale if side == short else int(side * scale / short + 0.5) for side in (width, height)]
        vectors, regions = [], []
        for mirrored in (False, True) if flip else (False,):
            fmap = self.map_of(path, scale, mirrored)
            region = expected_region(cut, (width, height), input_wh, fmap.shape[:1:-1], rule, mirrored)
            crop = fmap[..., region[1] : region[3], region[0] : region[2]]
            vectors.append(torch.cat([F.adaptive_max_pool2d(crop, n).flatten() for n in (1, 2)]).numpy())
            regions.append(region)
        return flag, scale, regions[0], np.mean(vectors, axis=0)


@pytest.fixture(scope="module")
def oracle(network):
    return Oracle(network)


@pytest.mark.slow
@settings(max_examples=8)
@given(
    rule=st.sampled_from(["sppnet", "paper", "roi_pool"]),
    scales=st.sampled_from([(), (), SCALES]),
    flip=st.booleans(),
    batch_size=st.sampled_from([None, 1, 3]),
    workers=st.sampled_from([0, 0, 2]),
    stop_after=st.sampled_from([None, 1, 4]),
)
def test_rows_equal_plain_loops_whatever_the_run_settings(
    folder, boxes_of, tmp_path_factory, oracle, rule, scales, flip, batch_size, workers, stop_after
):
    output = tmp_path_factory.mktemp("out") / "f.h5"
    changes = {
        "boxes": BoxChoice(boxes=str(boxes_of), projection=rule),
        "input": InputSpec(size=SIZE, scales=scales, flip=flip),
        "run": RunOptions(workers=workers, batch_size=batch_size, device="cpu"),
    }
    if stop_after:
        extract([folder], output, stop_after=stop_after, **changes)
    extract([folder], output, **changes)

    said = csv_boxes(boxes_of)
    with sppfeat.open(output) as file:
        assert (file.status == 1).all()
        by_name = {path.rsplit("/", 1)[-1]: image for image, path in enumerate(file.paths)}
        image_of = [by_name.get(name, -1) for name, *_ in said]
        in_order = sorted((i for i in range(len(said)) if image_of[i] >= 0), key=lambda i: (image_of[i], i))
        assert file.row_source.tolist() == in_order
        assert file.image_index.tolist() == [image_of[i] for i in in_order]
        back = {source: row for row, source in enumerate(in_order)}
        assert file.box_row.tolist() == [back.get(i, -1) for i in range(len(said))]
        assert np.array_equal(file.boxes, [said[i][1:] for i in in_order], equal_nan=True)
        for row, source in enumerate(in_order):
            path = folder / file.paths[image_of[source]]
            settings_ = {"scales": scales or (SIZE,), "rule": rule, "flip": flip}
            flag, scale, region, descriptor = oracle.row(path, said[source][1:], **settings_)
            assert int(file.row_flag[row]) & ~RowFlag.SUB_CELL == flag
            assert file.row_scale[row] == scale
            if descriptor is None:
                assert np.isnan(file.features[row]).all()
            else:
                assert file.row_region[row].tolist() == [region]
                assert difference(file.features[row], descriptor) <= 1e-5
        assert not verify_file(file).problems
        assert not recompute_rows(file, 5).problems


@pytest.fixture
def made(folder, boxes_of, tmp_path):
    output = tmp_path / "made.h5"
    extract([folder], output, boxes=BoxChoice(boxes=str(boxes_of)))
    return output


def test_boxes_pooled_in_slices_are_the_same(folder, boxes_of, tmp_path, made, monkeypatch):
    monkeypatch.setattr("sppfeat.extraction.describe._SLICE_VALUES", 2 * 512 * 5)
    extract([folder], tmp_path / "sliced.h5", boxes=BoxChoice(boxes=str(boxes_of)))
    assert_same_file(made, tmp_path / "sliced.h5")


@pytest.mark.slow
def test_duplicates_share_a_row_and_box_row_points_to_it(folder, boxes_of, tmp_path, made):
    output = tmp_path / "fewer.h5"
    choice = BoxChoice(boxes=str(boxes_of), drop_duplicates=True)
    extraction, _ = extract([folder], output, boxes=choice)
    with sppfeat.open(made) as every, sppfeat.open(output) as fewer:
        n_inputs = (every.box_row >= 0).sum()
        assert fewer.n_rows < every.n_rows == n_inputs
        assert extraction.summary().boxes.same_region == every.n_rows - fewer.n_rows
        assert np.array_equal(every.box_row >= 0, fewer.box_row >= 0)
        known = np.flatnonzero(every.box_row >= 0)
        a, b = every.box_row[known], fewer.box_row[known]
        assert np.array_equal(every.row_region[a], fewer.row_region[b])
        assert np.array_equal(every.image_index[a], fewer.image_index[b])
        for x, y in zip(every.features[a], fewer.features[b], strict=True):
            assert np.array_equal(np.isnan(x), np.isnan(y))
            assert np.isnan(x).all() or difference(x, y) <= 1e-5
        assert not verify_file(fewer).problems


def test_all_columns_of_a_box_file_are_kept(folder, tmp_path):
    lines = [
        ("img2.png", 1, 2, 30, 40, "a cat", 0.5, "b17", "left", "x/y"),
        ("img0.png", 0, 0, 5, 50, "", "", "", "", ""),
        ("img0.png", 3, 3, 9, 9, "dög", 1, "b2", "ünder", "z"),
    ]
    boxes = write_boxes(tmp_path / "b.csv", lines, "path,x0,y0,x1,y1,label,score,id,where,strange/name")
    extract([folder], tmp_path / "f.h5", boxes=BoxChoice(boxes=str(boxes)))
    with sppfeat.open(tmp_path / "f.h5") as file:
        assert file.row_source.tolist() == [1, 2, 0]
        assert file.row_classes == ["a cat", "dög"]
        assert file.row_label.tolist() == [-1, 1, 0]
        assert np.array_equal(file.row_score, [np.nan, 1.0, 0.5], equal_nan=True)
        assert file.row_id == ["", "b2", "b17"]
        assert file.row_extra == {"where": ["", "ünder", "left"], "strange/name": ["", "z", "x/y"]}
        assert file.attribute("boxes_path") == str(boxes)


def test_boxes_of_unreadable_images_keep_their_rows(mixed_folder, tmp_path):
    names = sorted(path.name for path in mixed_folder.rglob("*") if path.is_file())
    boxes = write_boxes(tmp_path / "b.csv", [(name, 0, 0, 20 + i, 30) for i in (0, 1) for name in names])
    extract([mixed_folder], tmp_path / "f.h5", boxes=BoxChoice(boxes=str(boxes)))
    with sppfeat.open(tmp_path / "f.h5") as file:
        failed = {path.rsplit("/", 1)[-1] for path, s in zip(file.paths, file.status, strict=True) if s == 2}
        assert failed == {"empty.jpg", "text.jpg", "short.png"}
        assert file.n_rows == 2 * len(names)
        for row in range(file.n_rows):
            name = file.paths[file.image_index[row]].rsplit("/", 1)[-1]
            assert name == names[file.row_source[row] % len(names)]
            assert np.isnan(file.features[row]).all() == (name in failed)
        assert len(file.rows_with_descriptor()) == 2 * (len(names) - 3)
        assert not verify_file(file).problems


def test_normalized_boxes_of_repaired_images_are_scaled_to_their_size(folder, tmp_path):
    good = (folder / "cat" / "img1.png").read_bytes()
    (folder / "cat" / "img1.png").write_text("broken")
    boxes = write_boxes(
        tmp_path / "b.csv",
        [(f"img{i}.png", 0.1, 0.1, 0.5 + 0.1 * k, 0.9) for i in (1, 3, 5) for k in range(3)],
    )
    changes = {
        "boxes": BoxChoice(boxes=str(boxes), box_units="normalized"),
        "input": InputSpec(scales=SCALES),
    }
    extract([folder], tmp_path / "f.h5", **changes)
    with sppfeat.open(tmp_path / "f.h5") as file:
        assert file.status.tolist().count(2) == 1
        assert np.isnan(file.boxes[:3]).all()
        assert (file.row_scale[:3] == -1).all()
    (folder / "cat" / "img1.png").write_bytes(good)
    extract([folder], tmp_path / "f.h5", retry_failed=True, **changes)
    extract([folder], tmp_path / "fresh.h5", **changes)
    assert_same_file(tmp_path / "f.h5", tmp_path / "fresh.h5")


def test_an_image_repaired_while_others_are_added_gets_its_own_flags(folder, tmp_path):
    good = (folder / "cat" / "img1.png").read_bytes()
    (folder / "cat" / "img1.png").write_text("broken")
    fractions = [(0.1, 0.1, 0.5, 0.9), (0.5, 0.1, 0.5, 0.9), (0.5, 0.5, 1.5, 1.5)]
    boxes = write_boxes(tmp_path / "b.csv", [(f"img{i}.png", *box) for i in (1, 8) for box in fractions])
    choice = BoxChoice(boxes=str(boxes), box_units="normalized")
    extract([folder / "cat", folder / "dog" / "img0.png"], tmp_path / "f.h5", boxes=choice)
    (folder / "cat" / "img1.png").write_bytes(good)
    extract([folder], tmp_path / "f.h5", boxes=choice, retry_failed=True, add_new=True)
    extract([folder], tmp_path / "fresh.h5", boxes=choice)
    a, b = contents(tmp_path / "f.h5"), contents(tmp_path / "fresh.h5")
    assert_same_contents({**a, **{name: b[name] for name in ("images/label", "classes")}}, b)


@pytest.mark.slow
def test_an_unknown_number_of_windows_needs_a_new_file(folder, tmp_path):
    good = (folder / "cat" / "img1.png").read_bytes()
    (folder / "cat" / "img1.png").write_text("broken")
    by_pixels = {"boxes": BoxChoice(boxes="grid:16x16px")}
    extract([folder], tmp_path / "f.h5", **by_pixels)
    (folder / "cat" / "img1.png").write_bytes(good)
    extract([folder], tmp_path / "f.h5", retry_failed=True, **by_pixels)
    with sppfeat.open(tmp_path / "f.h5") as file:
        assert list(file.errors) == [0]
        assert "start over with --overwrite" in file.errors[0]
    extract([folder], tmp_path / "f.h5", overwrite=True, **by_pixels)
    assert_all_done(tmp_path / "f.h5")


@pytest.mark.slow
def test_boxes_of_new_images_follow_the_others(folder, boxes_of, tmp_path):
    boxes = BoxChoice(boxes=str(boxes_of), drop_duplicates=True)
    extract([folder / "cat", folder / "dog" / "img0.png"], tmp_path / "f.h5", boxes=boxes)
    extract([folder], tmp_path / "f.h5", boxes=boxes, add_new=True)
    extract([folder], tmp_path / "fresh.h5", boxes=boxes)
    labels = ("images/label", "classes")  # a file that had none stays without
    a, b = contents(tmp_path / "f.h5"), contents(tmp_path / "fresh.h5")
    assert_same_contents({**a, **{name: b[name] for name in labels}}, b)


@pytest.mark.slow
def test_another_box_file_or_convention_is_refused(folder, boxes_of, tmp_path, made):
    with pytest.raises(StoreError, match=r"box_origin: 0 in the file, 1 in this command"):
        extract([folder], made, boxes=BoxChoice(boxes=str(boxes_of), box_origin=1))
    with pytest.raises(StoreError, match=r"boxes: 'file' in the file, not set in this command"):
        extract([folder], made)
    moved = tmp_path / "elsewhere.csv"
    moved.write_bytes(boxes_of.read_bytes())
    _, progress = extract([folder], made, boxes=BoxChoice(boxes=str(moved)))
    assert progress.n_done == 0
    moved.write_bytes(boxes_of.read_bytes() + b"img1.png,0,0,1,1\n")
    with pytest.raises(StoreError, match=r"the content of the box file has changed"):
        extract([folder], made, boxes=BoxChoice(boxes=str(moved)))


def test_a_box_file_without_boxes_gives_a_file_without_rows(folder, tmp_path):
    boxes = write_boxes(tmp_path / "b.csv", [])
    extraction, progress = extract([folder], tmp_path / "f.h5", boxes=BoxChoice(boxes=str(boxes)))
    assert progress.n_done == 12
    with sppfeat.open(tmp_path / "f.h5") as file:
        assert file.features.shape == (0, extraction.run.columns[-1].stop)
        assert file.to_sklearn()[0].shape == (0, file.dimension)
        assert not verify_file(file).problems


def test_images_with_nothing_to_pool_are_not_decoded(folder, tmp_path, monkeypatch):
    boxes = write_boxes(tmp_path / "b.csv", [("img1.png", -9, -9, -1, -1), ("img3.png", 0, 0, 9, 9)])
    decoded = []

    def decode(path, **settings):
        decoded.append(path)
        return real(path, **settings)

    real = decoder.decode_image
    monkeypatch.setattr(decoder, "decode_image", decode)
    extract([folder], tmp_path / "f.h5", boxes=BoxChoice(boxes=str(boxes)))
    assert [place.path.rsplit(b"/", 1)[-1] for place in decoded] == [b"img3.png"]
    with sppfeat.open(tmp_path / "f.h5") as file:
        assert (file.status == 1).all()
        assert np.isnan(file.features[0]).all()
        assert not np.isnan(file.features[1]).any()


@pytest.mark.slow
def test_an_image_that_fails_at_one_scale_fails_at_all(folder, tmp_path, monkeypatch):
    boxes = write_boxes(
        tmp_path / "b.csv", [(f"img{i}.png", 0, 0, side, side) for i in (1, 3) for side in (33, 28, 20)]
    )

    def decode(place, *, input_hw, **settings):
        if place.path.endswith(b"img1.png") and min(input_hw) == 300:
            raise ImageError("gone in between")
        return real(place, input_hw=input_hw, **settings)

    real = decoder.decode_image
    monkeypatch.setattr(decoder, "decode_image", decode)
    changes = {"boxes": BoxChoice(boxes=str(boxes)), "input": InputSpec(scales=(200, 300, 400))}
    _, progress = extract([folder], tmp_path / "f.h5", **changes)
    with sppfeat.open(tmp_path / "f.h5") as file:
        assert file.row_scale[:3].tolist() == [300, 300, 400]  # it fails before its last scale
        assert progress.n_failed == 1
        assert list(file.errors.values()) == ["gone in between"]
        assert np.isnan(file.features[:3]).all()
        assert not np.isnan(file.features[3:]).any()


@pytest.mark.slow
def test_whole_views_equal_whole_images_at_each_scale(folder, tmp_path, network):
    scales = (48, 64)
    changes = {"boxes": BoxChoice(boxes="multiview"), "input": InputSpec(scales=scales)}
    extract([folder], tmp_path / "f.h5", **changes)
    with sppfeat.open(tmp_path / "f.h5") as file:
        assert file.n_rows == 12 * 2 * 20
        names = np.array(file.row_id)
        for scale in scales:
            for mirrored in (False, True):
                rows = np.flatnonzero(names == f"{scale} whole{' mirrored' if mirrored else ''}")
                assert file.image_index[rows].tolist() == list(range(12))
                assert (file.row_scale[rows] == scale).all()
                assert (file.row_mirrored[rows] == mirrored).all()
                for image, row in enumerate(rows):
                    fmap = plain_maps(network, folder / file.paths[image], size=scale, mirrored=mirrored)
                    expected = torch.cat([F.adaptive_max_pool2d(fmap, n).flatten() for n in (1, 2)]).numpy()
                    assert difference(file.features[row], expected) <= 1e-5
        assert not recompute_rows(file, 20).problems
        centres = names == "64 centre mirrored"
        assert (file.row_region[centres][..., 2:] > file.row_region[centres][..., :2]).all()


@pytest.mark.slow
@pytest.mark.parametrize("boxes", ["grid:3x4:0.5", "multiview"])
def test_boxes_follow_sides_that_are_rounded_independently(folder, tmp_path, boxes):
    """They equal those of pictures that were resized beforehand, by different factors along x and y."""
    spec = InputSpec(size=140, round_to=32)  # 140 x 210 becomes 128 x 224
    extract([folder], tmp_path / "f.h5", boxes=BoxChoice(boxes=boxes), input=spec)
    sizes = {
        (40, 60): (128, 224),
        (60, 40): (224, 128),
        (48, 48): (128, 128),
        (33, 71): (128, 288),  # 301
        (90, 64): (192, 128),  # 197
    }
    with sppfeat.open(tmp_path / "f.h5") as file:
        for path, hw in zip(file.paths, file.image_hw.tolist(), strict=True):
            height, width = sizes[tuple(hw)]
            resized = tmp_path / "resized" / path
            resized.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(folder / path) as image:
                image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR).save(resized)
        extract(
            [tmp_path / "resized"],
            tmp_path / "r.h5",
            boxes=BoxChoice(boxes=boxes),
            input=InputSpec(size=None),
        )
        with sppfeat.open(tmp_path / "r.h5") as other:
            assert other.paths == file.paths
            assert np.array_equal(file.row_region, other.row_region)
            for row, expected in zip(file.features, other.features, strict=True):
                assert difference(row, expected) <= 1e-5
        assert not verify_file(file).problems
        assert not recompute_rows(file, 10).problems


@pytest.mark.slow
def test_mean_norm_is_estimated_recorded_and_adopted(folder, boxes_of, tmp_path, made):
    boxes = BoxChoice(boxes=str(boxes_of))
    scaled = DescriptorChoice(levels=(1, 2), normalize="meannorm:20")
    extract([folder], tmp_path / "f.h5", boxes=boxes, descriptor=scaled, stop_after=1)
    extract([folder], tmp_path / "f.h5", boxes=boxes, descriptor=scaled)
    taken = DescriptorChoice(levels=(1, 2), normalize_from=tmp_path / "f.h5")
    extract([folder / "cat"], tmp_path / "taken.h5", boxes=boxes, descriptor=taken)
    with sppfeat.open(made) as plain, sppfeat.open(tmp_path / "f.h5") as file:
        rows = file.rows_with_descriptor()
        norms = np.linalg.norm(file.features[rows].astype(np.float64), axis=1)
        assert norms.mean() == pytest.approx(20, rel=1e-5)
        (factor,) = file.norm_factors
        for row in rows:
            assert difference(file.features[row], plain.features[row] * np.float32(factor)) <= 1e-5
        assert not recompute_rows(file, 5).problems
        with sppfeat.open(tmp_path / "taken.h5") as other:
            assert other.norm_factors == file.norm_factors == other.config.descriptor.norm_factors
            assert other.config.descriptor.normalize == "meannorm:20"
            for row in other.rows_with_descriptor():
                assert difference(other.features[row], file.features[row]) <= 1e-5
            assert not recompute_rows(other, 5).problems
    extractor = sppfeat.Extractor(
        BACKBONE.name, weights="none", seed=3, size=SIZE, levels=(1, 2), normalize_from=tmp_path / "f.h5"
    )
    assert extractor.config.descriptor.norm_factors == (factor,)


@pytest.mark.slow
def test_boxes_have_a_region_in_each_layer(folder, boxes_of, tmp_path):
    two = BackboneChoice(name="squeezenet1_1", weights="none", seed=3, layers=("features.1", "features"))
    extract([folder], tmp_path / "f.h5", backbone=two, boxes=BoxChoice(boxes=str(boxes_of)))
    with sppfeat.open(tmp_path / "f.h5") as file:
        rows = file.rows_with_descriptor()
        assert file.row_region.shape == (file.n_rows, 2, 4)
        sides = file.row_region[rows, :, 2:] - file.row_region[rows, :, :2]
        assert (sides[:, 0] >= sides[:, 1]).all()
        assert (sides[:, 0] > sides[:, 1]).any()
        assert not verify_file(file).problems
        assert not recompute_rows(file, 10).problems


@pytest.mark.slow
def test_a_head_on_a_whole_image_equals_the_layer_of_the_network(tmp_path):
    write_image(tmp_path / "in" / "a.png", 224, 224, seed=1)
    boxes = write_boxes(tmp_path / "b.csv", [("a.png", 0, 0, 224, 224), ("a.png", 30, 30, 90, 120)])
    alexnet = BackboneChoice(name="alexnet", weights="none", seed=3, head="fc6")
    changes = {"backbone": alexnet, "input": InputSpec(size=224), "descriptor": DescriptorChoice()}
    extract([tmp_path / "in"], tmp_path / "f.h5", boxes=BoxChoice(boxes=str(boxes)), **changes)
    with sppfeat.open(tmp_path / "f.h5") as file:
        assert file.features.shape == (2, 4096)
        assert file.columns[0][:3] == ("fc6", 1, 4096)
        assert file.row_region[0].tolist() == [[0, 0, 13, 13]]
        assert not verify_file(file).problems
        assert not recompute_rows(file, 2).problems
        network = plain_network("alexnet", layer="classifier.2")
        expected = plain_maps(network, tmp_path / "in" / "a.png", size=224)[0].numpy()
        assert difference(file.features[0], expected) <= 1e-5
    levels = DescriptorChoice(levels=(1, 2))
    with pytest.raises(ConfigError, match=r"levels are \[1, 2\]; allowed with --head fc6, .*: 6"):
        extract([tmp_path / "in"], tmp_path / "g.h5", **{**changes, "descriptor": levels})
    with pytest.raises(ConfigError, match=r"pool is 'avg'; allowed with --head fc6: max"):
        extract(
            [tmp_path / "in"], tmp_path / "g.h5", **{**changes, "descriptor": DescriptorChoice(pool="avg")}
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "change", "problem"),
    [
        ("row_source", lambda v: v[::-1], "/row_source and /box_row contradict each other"),
        ("row_flag", lambda v: v | 2, "or of boxes without area, are not NaN"),
    ],
)
def test_verify_finds_tampered_datasets(made, dataset, change, problem):
    with h5py.File(made, "r+") as file:
        file[dataset][...] = change(file[dataset][()])
    with sppfeat.open(made) as file:
        assert any(problem in text for text in verify_file(file).problems)


def test_verify_finds_a_row_of_another_region(made):
    with h5py.File(made, "r+") as file:
        file["row_region"][:, :, 2:] += 1
    with sppfeat.open(made) as file:
        assert any("pools the region" in text for text in recompute_rows(file, 3).problems)
