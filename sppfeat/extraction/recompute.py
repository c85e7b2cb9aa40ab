"""Recomputes rows of a feature file one image at a time, with the recorded network, and compares them."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sppfeat.config.distribution import RunOptions
from sppfeat.config.values import StrPath
from sppfeat.decoding import DecodeSettings
from sppfeat.decoding.images import decode_image, probe_image
from sppfeat.errors import ImageError, StoreError
from sppfeat.extraction.changes import describe_change, place_version
from sppfeat.extraction.describe import Describer, ImageBoxes
from sppfeat.extraction.plan import input_sizes
from sppfeat.extraction.regions import Projector
from sppfeat.extraction.run import descriptor_columns
from sppfeat.files.downloads import OnDownload
from sppfeat.inputs import find_image
from sppfeat.networks.backbones import Backbone, load_backbone
from sppfeat.networks.devices import choose_device
from sppfeat.store.feature_table import FeatureTable
from sppfeat.store.schema import scale_indices

__all__ = ["RowComparison", "load_recorded_backbone", "recompute_rows"]

# Largest relative l2 difference between a stored and a recomputed descriptor. For fp32 it is this project's definition
# of equality; for the others, the rounding error of 10, 7 and 10 bits through some 50 layers.
_TOLERANCE = {"fp32": 1e-5, "tf32": 1e-2, "bf16": 6e-2, "fp16": 1e-2}
_FLOAT16_ROUNDING = 1e-3
_ANY_SIZE = 1 << 62  # pixels; headers of images that have grown are still read


def load_recorded_backbone(
    file: FeatureTable,
    *,
    weights: str | None = None,
    weights_dir: StrPath | None = None,
    on_download: OnDownload = lambda name, done, total: None,
) -> Backbone:
    """Load the backbone that made a file, with exactly the recorded weights; see :meth:`sppfeat.Extractor.from_file`.

    Raises:
        StoreError: the network was a caller's own, its weights are missing or have changed, or the columns of the file
            do not match its network and settings.
        SppfeatError: the backbone cannot be loaded.
    """
    spec = file.config.backbone
    if spec.weights == "module":
        raise StoreError(
            f"{str(file.path)!r} was made with a network from Python ({spec.name}), which cannot be loaded by name; "
            "describe images with Extractor and the same network"
        )
    if weights is None:
        weights = file.attribute("weights_path") if spec.weights == "file" else spec.weights
        if spec.weights == "file" and not Path(weights).is_file():
            raise StoreError(f"the weights {weights!r} no longer exist; give their new path with --weights")
    backbone = load_backbone(
        spec.name,
        weights=weights,
        weights_dir=weights_dir,
        layers=spec.layers,
        seed=spec.seed or 0,
        mean=spec.mean,
        std=spec.std,
        head=spec.head,
        on_download=on_download,
    )
    if backbone.spec.weights_sha256 != spec.weights_sha256:
        raise StoreError(
            f"the weights {weights!r} differ from the weights that made the file: sha256 "
            f"{backbone.spec.weights_sha256[:12]}..., recorded {spec.weights_sha256[:12]}..."
        )
    if file.extracted_columns != descriptor_columns(file.config, backbone):
        raise StoreError(f"{str(file.path)!r}: its columns do not match its network and settings")
    return backbone


@dataclass(frozen=True, kw_only=True)
class RowComparison:
    """The result of comparing recomputed rows with the file.

    Attributes:
        rows: indices of the compared rows.
        tolerance: largest relative l2 difference that counts as equal.
        largest_difference: largest relative l2 difference found.
        problems: one sentence for each row that differs by more, or whose image cannot be read.
    """

    rows: list[int]
    tolerance: float
    largest_difference: float
    problems: list[str]


def recompute_rows(
    file: FeatureTable,
    n_rows: int,
    *,
    seed: int = 0,
    root: str | None = None,
    weights: str | None = None,
    weights_dir: StrPath | None = None,
    device: str = "auto",
    on_download: OnDownload = lambda name, done, total: None,
) -> RowComparison:
    """Recompute ``n_rows`` random rows, or all if there are fewer, and compare them; see :func:`sppfeat.verify`.

    Raises:
        SppfeatError: the backbone cannot be rebuilt, or its weights are not the recorded ones.
    """
    backbone = load_recorded_backbone(file, weights=weights, weights_dir=weights_dir, on_download=on_download)
    config, folder = file.config, os.fsencode(file.root if root is None else root)
    describer = Describer(
        backbone, config, device=choose_device(device, config.precision), norm_factors=file.norm_factors
    )
    projector = Projector.of(backbone, config.regions) if config.regions else None
    candidates = file.rows_with_descriptor()
    rows = np.sort(
        np.random.default_rng(seed).choice(candidates, min(n_rows, len(candidates)), replace=False)
    )
    # Each access reads the whole column.
    images, paths, versions = file.image_index[rows], file.path_table, file.image_versions
    image_hw = file.image_hw[images]
    input_hw, _ = input_sizes(image_hw, config.input)
    scale, boxes_px = np.zeros(len(rows), dtype=np.int16), file.boxes[rows]
    if projector is not None:
        scale, mirrored = scale_indices(file.row_scale, config.input)[rows], file.row_mirrored[rows]
        regions = file.row_region[rows]
    # Rows of a reduced file were rounded twice: before and after the reduction.
    dtypes = [config.descriptor.dtype, file.dtype.name] if file.is_reduced else [file.dtype.name]
    limit = _TOLERANCE[config.precision] + _FLOAT16_ROUNDING * dtypes.count("float16")
    largest, problems = 0.0, []
    for i, (row, image) in enumerate(zip(rows.tolist(), images.tolist(), strict=True)):
        (height, width), (in_h, in_w) = image_hw[i].tolist(), input_hw[i, scale[i]].tolist()
        where = f"row {row} ({os.fsdecode(os.path.join(folder, paths[image]))!r})"
        # The run accepted this many pixels. An image that has grown since fails for its size.
        settings = DecodeSettings.of(config, max(height * width, RunOptions.max_decode_pixels))
        try:
            place = find_image(folder, paths[image])
            now_hw = probe_image(place, exif=settings.exif, max_pixels=_ANY_SIZE)
            if now_hw != (height, width):
                now = f"{now_hw[0]} x {now_hw[1]}"
                problems.append(
                    f"{where}: the image has changed since extraction (was {height} x {width}, is {now}; height x "
                    "width)"
                )
                continue
            pixels = decode_image(
                place, image_hw=(height, width), input_hw=(in_h, in_w), **settings._asdict()
            )[None]
        except ImageError as error:
            problems.append(f"{where}: the image can no longer be read: {error}")
            continue
        if projector is None:
            (descriptors, wait), region = describer.describe_images(pixels), None
        else:
            own = slice(i, i + 1)
            boxes = ImageBoxes(image, rows[own], boxes_px[own], mirrored[own], (height, width))
            _, _, descriptors, region, wait = next(describer.describe_boxes(pixels, [boxes], projector))
        wait()
        difference = _measure_difference(file, row, descriptors[0])
        largest = max(largest, difference)
        if not difference <= limit:
            how = describe_change(versions[image], place_version(place))
            since = f"; the image has changed since extraction ({how})" if how else ""
            problems.append(f"{where} differs by {difference:.2e} (relative l2), more than {limit:g}{since}")
        if region is not None and not np.array_equal(regions[i], region.region[0]):
            problems.append(
                f"{where} pools the region {region.region[0].tolist()}, but the file has {regions[i].tolist()}"
            )
    return RowComparison(rows=rows.tolist(), tolerance=limit, largest_difference=largest, problems=problems)


def _measure_difference(file: FeatureTable, row: int, descriptor: npt.NDArray[np.float32]) -> float:
    """Return the relative l2 difference between a stored row and its recomputed descriptor ``(D,)``."""
    stored, computed, least_norm = file.features[row], descriptor, 0.0
    if file.reduction is not None:
        computed = file.reduction.apply(descriptor[None])[0]
        least_norm = float(file.reduction.sensitivity(descriptor[None])[0])
    finite = np.isfinite(stored)
    with np.errstate(over="ignore"):
        rounded = computed.astype(stored.dtype)
    if not np.array_equal(stored[~finite], rounded[~finite], equal_nan=True):
        return float("inf")
    a, b = stored[finite].astype(np.float64), computed[finite].astype(np.float64)
    norm = max(float(np.linalg.norm(b)), least_norm)
    difference = float(np.linalg.norm(a - b))
    return difference / norm if norm > 0 else (0.0 if difference == 0 else float("inf"))
