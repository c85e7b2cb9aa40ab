"""Rows of a feature file computed again, each from its image alone."""

import os
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from sppfeat.boxes.coordinates import clip_boxes
from sppfeat.decoding.images import decode_image
from sppfeat.extraction.describe import Describer, RegionRequest, choose_device
from sppfeat.extraction.plan import input_sizes
from sppfeat.extraction.regions import Projector
from sppfeat.inputs.lookup import find_image
from sppfeat.networks.backbones import Backbone
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import scale_indices

__all__ = ["Recomputation", "RecomputedRow"]


class RecomputedRow(NamedTuple):
    """One row.

    Attributes:
        descriptor: ``(D,)`` float32.
        region: ``(L, 4)`` int32, cells of each layer's map; empty for a whole image.
    """

    descriptor: npt.NDArray[np.float32]
    region: npt.NDArray[np.int32]


class Recomputation:
    """Computes rows of a file again.

    Args:
        file: an open file.
        backbone: the recorded one.
        device: where to compute.
        root: folder that the images lie under; the recorded one where None.

    Raises:
        ConfigError: a device that is not there, or a backbone that takes no boxes.
    """

    def __init__(self, file: FeatureFile, backbone: Backbone, *, device: str, root: str | None) -> None:
        config = file.config
        self._file = file
        self._config = config
        self._root = os.fsencode(file.root if root is None else root)
        self._projector = Projector.of(backbone, config.regions) if config.regions else None
        self._describer = Describer(
            backbone,
            config.descriptor,
            flip=config.input.flip,
            precision=config.precision,
            device=choose_device(device, config.precision),
            norm_factors=file.norm_factors,
        )
        self._image_index, self._image_hw = file.image_index, file.image_hw
        self._boxes = file.boxes
        self._row_scale = scale_indices(file.row_scale, config.input) if file.has_boxes else None
        self._row_mirrored = file.row_mirrored if file.has_boxes else None

    def path_of(self, row: int) -> str:
        """Where the image of a row is looked for."""
        return os.fsdecode(os.path.join(self._root, self._file.path_table[int(self._image_index[row])]))

    def row(self, row: int) -> RecomputedRow:
        """Compute a row that has a descriptor.

        Raises:
            ImageError: its image cannot be read any more.
        """
        image = int(self._image_index[row])
        height, width = self._image_hw[image].tolist()
        sizes, _ = input_sizes(np.array([[height, width]], dtype=np.int32), self._config.input)
        scale = 0 if self._row_scale is None else int(self._row_scale[row])
        in_h, in_w = sizes[0, scale].tolist()
        pixels = decode_image(
            find_image(self._root, self._file.path_table[image]),
            exif=self._config.input.exif,
            image_hw=(height, width),
            input_hw=(in_h, in_w),
            resample=self._config.backbone.interpolation,
            max_pixels=height * width,  # whatever the limit was, it was below it
            decode=self._config.input.decode,
        )[None]
        if self._projector is None or self._row_mirrored is None:
            return RecomputedRow(self._describer.images(pixels)[0], np.empty((0, 4), dtype=np.int32))
        clipped, _ = clip_boxes(self._boxes[row : row + 1], np.array([[height, width]], dtype=np.int32))
        mirrored = torch.from_numpy(self._row_mirrored[row : row + 1])
        request = RegionRequest(torch.from_numpy(clipped), mirrored, (height, width))
        described = next(self._describer.regions(pixels, [request], self._projector))
        return RecomputedRow(described.descriptors[0], described.regions.cells[0].numpy().astype(np.int32))
