"""The library's front door: images in, descriptors out, in memory."""

import os
from collections.abc import Sequence
from typing import Any, TypeAlias, TypeGuard, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn

from sppfeat.backbones import load_backbone, wrap_module
from sppfeat.config import (
    DEFAULT_BACKBONE,
    DEFAULT_LEVELS,
    DEFAULT_SIZE,
    DescriptorSpec,
    ExtractConfig,
    InputSpec,
    RunOptions,
)
from sppfeat.describe import BATCH_PIXELS, Describer, choose_device
from sppfeat.errors import BoxError, ConfigError, ImageError
from sppfeat.geometry import scale_boxes
from sppfeat.images import decode_image, image_from_array, probe_image, resize_image
from sppfeat.plan import input_sizes, schedule
from sppfeat.schema import ColumnBlock, column_blocks

__all__ = ["Extractor"]

ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8]


class Extractor:
    """Descriptors of images, or of boxes in them, as numpy arrays.

    Args:
        backbone: torchvision's name of a model, or a network of your own that takes ``(N, 3, H, W)``.
        weights: a torchvision weight name, a file, or ``"none"``; not with a network of your own.
        layer: node name, or several: their descriptors stand side by side. With a network of your own
            it must be given.
        levels: the pyramid.
        pool: ``"max"`` or ``"avg"``.
        normalize: ``"none"``, ``"l2"`` or ``"power"``.
        size: short side of the network input in pixels, or ``"native"``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"mps"``.
        precision: ``"fp32"``, ``"tf32"``, ``"bf16"`` or ``"fp16"``.
        batch_size: images per batch; chosen by their size where None.
        mean, std: of the network input; the weights' own where None (ImageNet's for your own network).
        seed: of the initial values with ``weights="none"``.
        **inputs: ``max_pixels``, ``exif``, ``flip`` as in :class:`sppfeat.config.InputSpec`.

    Raises:
        SppfeatError: settings, backbone, layer or weights that do not go.

    Attributes:
        config: everything that a descriptor depends on.
        columns: which column of a descriptor is what.
    """

    def __init__(
        self,
        backbone: str | nn.Module = DEFAULT_BACKBONE,
        *,
        weights: str = "DEFAULT",
        layer: str | Sequence[str] | None = None,
        levels: str | Sequence[int] = DEFAULT_LEVELS,
        pool: str = DescriptorSpec.pool,
        normalize: str = DescriptorSpec.normalize,
        size: int | str = DEFAULT_SIZE,
        device: str = RunOptions.device,
        precision: str = ExtractConfig.precision,
        batch_size: int | None = RunOptions.batch_size,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        seed: int = 0,
        **inputs: Any,
    ) -> None:
        layers = [layer] if isinstance(layer, str) else list(layer or ())
        descriptor = DescriptorSpec(levels=levels, pool=pool, normalize=normalize)  # type: ignore[arg-type]
        self._batch_size = RunOptions(device=device, batch_size=batch_size).batch_size
        target = choose_device(device, precision)
        if isinstance(backbone, str):
            loaded = load_backbone(backbone, weights=weights, layers=layers, seed=seed, mean=mean, std=std)
        else:
            loaded = wrap_module(backbone, layers=layers, mean=mean, std=std)
        self.config = ExtractConfig(
            backbone=loaded.spec,
            input=InputSpec(size=_parse_size(size), min_side=loaded.min_side, **inputs),
            descriptor=descriptor,
            precision=precision,
        )
        self.columns: tuple[ColumnBlock, ...] = column_blocks(
            loaded.spec.layers, loaded.channels, descriptor.levels
        )
        self._describer = Describer(
            loaded, descriptor, flip=self.config.input.flip, precision=precision, device=target
        )

    @property
    def dimension(self) -> int:
        """Length of a descriptor."""
        return self.columns[-1].stop

    def __call__(
        self,
        images: ImageLike | Sequence[ImageLike],
        boxes: Any = None,
        *,
        projection: str = "sppnet",
        margin: float = 0.0,
    ) -> Any:
        """Descriptors of one image or many.

        Args:
            images: one image or a sequence: a path, a Pillow image, or an ``(H, W, 3)`` or ``(H, W)`` uint8
                array (RGB or grey).
            boxes: for one image a ``(K, 4)`` array, for many a sequence of such: ``xyxy`` in pixels of the
                image as displayed, 0-based edges, half-open (the whole image is ``[0, 0, width, height]``).
            projection: how boxes become cells: ``"sppnet"``, ``"paper"`` or ``"roi_pool"``.
            margin: network-input pixels by which each box is tightened on each side.

        Returns:
            Without boxes ``(D,)`` float32 for one image, ``(N, D)`` for many. With boxes ``(K, D)`` for one,
            a list of such for many.

        Raises:
            ImageError: an image cannot be read; it is named.
            BoxError: boxes are malformed, or not one array per image.
        """
        if _is_one_image(images):
            if boxes is None:
                return self._whole_images([images])[0]
            return self._boxes_of(images, boxes, projection, margin)
        many = list(cast("Sequence[ImageLike]", images))
        if boxes is None:
            return self._whole_images(many)
        if len(boxes) != len(many):
            raise BoxError(f"boxes for {len(boxes)} images, but there are {len(many)} images")
        return [
            self._boxes_of(image, own, projection, margin) for image, own in zip(many, boxes, strict=True)
        ]

    def _whole_images(self, images: list[ImageLike]) -> npt.NDArray[np.float32]:
        result = np.empty((len(images), self.dimension), dtype=np.float32)
        if not images:
            return result
        image_hw = np.array([self._image_hw(image) for image in images], dtype=np.int32)
        input_hw, errors = input_sizes(image_hw, self.config.input)
        for i, reason in errors.items():
            raise ImageError(f"{_name(images[i], i)}: {reason}")
        every = np.arange(len(images))
        pixels_per_batch = BATCH_PIXELS[self._describer.device.type]
        for batch in schedule(input_hw, every, batch_size=self._batch_size, batch_pixels=pixels_per_batch):
            pixels = np.stack(
                [self._pixels(images[i], image_hw[i], batch.input_hw) for i in batch.images.tolist()]
            )
            result[batch.images] = self._describer.images(pixels)
        return result

    def _boxes_of(self, image: Any, boxes: Any, projection: str, margin: float) -> npt.NDArray[np.float32]:
        boxes_px = np.asarray(boxes, dtype=np.float64)
        if boxes_px.ndim != 2 or boxes_px.shape[1] != 4:
            raise BoxError(f"boxes of one image are a (K, 4) array, not one of shape {boxes_px.shape}")
        image_hw = self._image_hw(image)
        sizes, errors = input_sizes(np.array([image_hw], dtype=np.int32), self.config.input)
        if errors:
            raise ImageError(f"{_name(image, 0)}: {errors[0]}")
        input_hw = (int(sizes[0, 0]), int(sizes[0, 1]))
        pixels = self._pixels(image, image_hw, input_hw)
        boxes_in = scale_boxes(torch.from_numpy(boxes_px), image_hw, input_hw)
        return self._describer.boxes(pixels[None], boxes_in, rule=projection, margin=margin)

    def _image_hw(self, image: ImageLike) -> tuple[int, int]:
        if isinstance(image, str | os.PathLike):
            try:
                return probe_image(os.fspath(image), exif=self.config.input.exif)
            except ImageError as error:
                raise ImageError(f"{os.fspath(image)!r}: {error}") from error
        upright = image_from_array(image, exif=self.config.input.exif)
        return upright.height, upright.width

    def _pixels(self, image: ImageLike, image_hw: Any, input_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
        resample, exif = self.config.backbone.interpolation, self.config.input.exif
        if not isinstance(image, str | os.PathLike):
            return resize_image(image_from_array(image, exif=exif), input_hw=input_hw, resample=resample)
        try:
            return decode_image(
                os.fspath(image), exif=exif, image_hw=tuple(image_hw), input_hw=input_hw, resample=resample
            )
        except ImageError as error:
            raise ImageError(f"{os.fspath(image)!r}: {error}") from error


def _is_one_image(images: ImageLike | Sequence[ImageLike]) -> TypeGuard[ImageLike]:
    return isinstance(images, str | os.PathLike | Image.Image) or (
        isinstance(images, np.ndarray) and images.ndim in (2, 3) and images.dtype == np.uint8
    )


def _name(image: object, position: int) -> str:
    return repr(os.fspath(image)) if isinstance(image, str | os.PathLike) else f"image {position}"


def _parse_size(size: int | str) -> int | None:
    if size == "native":
        return None
    if isinstance(size, bool) or not isinstance(size, int | np.integer):
        raise ConfigError(f"size is {size!r}; allowed: pixels, or 'native'")
    return int(size)
