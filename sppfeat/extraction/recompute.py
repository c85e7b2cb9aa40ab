"""Reloads the network that made a feature file, and recomputes rows to compare them with the file."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sppfeat.config.values import StrPath
from sppfeat.decoding import DecodeSettings
from sppfeat.errors import ImageError, StoreError
from sppfeat.extraction.describe import Describer, ImageBoxes
from sppfeat.extraction.regions import Projector
from sppfeat.extraction.setup import descriptor_columns
from sppfeat.extraction.single_images import read_pixels
from sppfeat.extraction.sizes import input_sizes
from sppfeat.files.downloads import OnDownload
from sppfeat.inputs.lookup import find_image
from sppfeat.networks.backbones import Backbone, load_backbone
from sppfeat.networks.devices import choose_device
from sppfeat.store.feature_table import FeatureTable
from sppfeat.store.schema import scale_indices

__all__ = ["RowComparison", "load_recorded_backbone", "recompute_rows"]

# Largest relative l2 difference between a stored and a recomputed descriptor. For fp32 it is this project's definition
# of equality; for the others it is the rounding error of 10, 7 and 10 bits through some 50 layers.
_TOLERANCE = {"fp32": 1e-5, "tf32": 1e-2, "bf16": 6e-2, "fp16": 1e-2}
_FLOAT16_ROUNDING = 1e-3


def load_recorded_backbone(
    file: FeatureTable,
    *,
    weights: str | None = None,
    weights_dir: StrPath | None = None,
    on_download: OnDownload = lambda name, done, total: None,
) -> Backbone:
    """Load the backbone that made a file, with exactly the recorded weights; see :meth:`sppfeat.Extractor.from_file`.

    Raises:
        StoreError: the network was a caller's own, its weights are missing or have changed, or the file's columns do
            not match its network and settings.
        SppfeatError: the backbone cannot be loaded.
    """
    spec = file.config.backbone
    if spec.weights == "module":
        raise StoreError(f"rows of {spec.name} cannot be computed again: its network is not known here")
    if weights is None:
        weights = file.attribute("weights_path") if spec.weights == "file" else spec.weights
        if spec.weights == "file" and not Path(weights).is_file():
            raise StoreError(f"the weights {weights!r} are not there any more; say where with --weights")
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
            f"the weights {weights!r} are not those of the file: sha256 is {backbone.spec.weights_sha256[:12]}..., "
            f"recorded is {spec.weights_sha256[:12]}..."
        )
    if file.extracted_columns != descriptor_columns(file.config, backbone):
        raise StoreError(f"{str(file.path)!r}: its columns are not those of its network and its settings")
    return backbone


@dataclass(frozen=True, kw_only=True)
class RowComparison:
    """The result of comparing recomputed rows with the file.

    Attributes:
        rows: indices of the compared rows.
        tolerance: largest relative l2 difference that counts as equal.
        largest_difference: largest relative l2 difference found.
        problems: a sentence for each row that differs by more, or whose image cannot be read.
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
    """Recompute randomly chosen rows, one image at a time, and compare them with the file; see :func:`sppfeat.verify`.

    All rows with a descriptor are compared if there are fewer than ``n_rows``.

    Raises:
        SppfeatError: the backbone cannot be rebuilt, or its weights are not the recorded ones.
    """
    backbone = load_recorded_backbone(file, weights=weights, weights_dir=weights_dir, on_download=on_download)
    folder = os.fsencode(file.root if root is None else root)
    recomputer = _RowRecomputer(file, backbone, device=device, folder=folder)
    candidates = file.rows_with_descriptor()
    chosen = np.random.default_rng(seed).choice(candidates, min(n_rows, len(candidates)), replace=False)
    rows = sorted(chosen.tolist())
    image_index, regions = file.image_index, file.row_region if file.has_boxes else None
    # Rows of a reduced file were rounded twice: before and after the reduction.
    dtypes = [file.config.descriptor.dtype, file.dtype.name] if file.is_reduced else [file.dtype.name]
    limit = _TOLERANCE[file.config.precision] + _FLOAT16_ROUNDING * dtypes.count("float16")
    largest, problems = 0.0, []
    for row in rows:
        path = os.path.join(folder, file.path_table[int(image_index[row])])
        where = f"row {row} ({os.fsdecode(path)!r})"
        try:
            descriptor, region = recomputer.recompute(row)
        except ImageError as error:
            problems.append(f"{where} cannot be read any more: {error}")
            continue
        difference = _measure_difference(file, row, descriptor)
        largest = max(largest, difference)
        if not difference <= limit:
            problems.append(f"{where} differs by {difference:.2e} (relative l2), more than {limit:g}")
        if regions is not None and not np.array_equal(regions[row], region):
            problems.append(
                f"{where} is of the region {region.tolist()}, the file says {regions[row].tolist()}"
            )
    return RowComparison(rows=rows, tolerance=limit, largest_difference=largest, problems=problems)


class _RowRecomputer:
    """Recomputes single rows of a file with the backbone that it records, from the images in a folder."""

    def __init__(self, file: FeatureTable, backbone: Backbone, *, device: str, folder: bytes) -> None:
        config = file.config
        self._config = config
        self._folder = folder
        self._projector = Projector.of(backbone, config.regions) if config.regions else None
        self._describer = Describer(
            backbone,
            config,
            device=choose_device(device, config.precision),
            norm_factors=file.norm_factors,
        )
        # These columns are read once: each access to one reads all of it.
        self._paths, self._image_index, self._image_hw = file.path_table, file.image_index, file.image_hw
        self._boxes = file.boxes
        self._scale = scale_indices(file.row_scale, config.input) if file.has_boxes else None
        self._mirrored = file.row_mirrored if file.has_boxes else None

    def recompute(self, row: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """Return the descriptor ``(D,)`` of a row, and its regions ``(L, 4)``, empty for a whole image.

        Raises:
            ImageError: the image cannot be read any longer.
        """
        image = int(self._image_index[row])
        height, width = self._image_hw[image].tolist()
        sizes, _ = input_sizes(np.array([[height, width]], dtype=np.int32), self._config.input)
        in_h, in_w = sizes[0, 0 if self._scale is None else self._scale[row]].tolist()
        place = find_image(self._folder, self._paths[image])
        settings = DecodeSettings.of(self._config, height * width)  # the run accepted it, whatever its limit
        pixels = read_pixels(place, settings, image_hw=(height, width), input_hw=(in_h, in_w))[None]
        if self._projector is None or self._mirrored is None:
            (descriptors, wait), regions = self._describer.describe_images(pixels), None
        else:
            one = np.array([row])
            boxes = ImageBoxes(image, one, self._boxes[one], self._mirrored[one], (height, width))
            described = self._describer.describe_boxes(pixels, [boxes], self._projector)
            _, _, descriptors, regions, wait = next(described)
        wait()
        return descriptors[0], np.empty((0, 4), dtype=np.int32) if regions is None else regions.region[0]


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
