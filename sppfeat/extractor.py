"""Computes descriptors in memory: images and boxes in, numpy arrays out; no feature file is written."""

import contextlib
import dataclasses
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sppfeat.boxes.table import clip_boxes
from sppfeat.config.distribution import RunOptions
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.progress import Bar, download_bar
from sppfeat.config.regions import RegionSpec, RowFlag
from sppfeat.config.request import DescriptorChoice
from sppfeat.config.specs import DEFAULT_BACKBONE, DEFAULT_SIZE, DescriptorSpec, InputSpec, parse_levels
from sppfeat.config.values import StrPath
from sppfeat.config.wording import counted
from sppfeat.errors import BoxError, BoxWarning, ConfigError
from sppfeat.extraction.caller_images import ImageLike, ImageReader, NetworkInput, as_list, name_image
from sppfeat.extraction.describe import Describer, ImageBoxes
from sppfeat.extraction.pipeline import schedule
from sppfeat.extraction.recompute import load_recorded_backbone
from sppfeat.extraction.regions import Projector, best_scales
from sppfeat.extraction.run import adopt_mean_norm, configure, descriptor_columns
from sppfeat.files.downloads import OnDownload
from sppfeat.geometry import FeatureGeometry
from sppfeat.networks.backbones import Backbone, load_backbone, wrap_module
from sppfeat.networks.devices import BATCH_PIXELS, choose_device
from sppfeat.store.feature_table import FeatureTable
from sppfeat.store.reduction import Reduction

__all__ = ["Extractor", "FeatureMap", "ImageLike", "NetworkInput"]


class FeatureMap(NamedTuple):
    """A feature map of one image, before pooling.

    Attributes:
        values: ``(C, H, W)`` float32 on the CPU: ``C`` channels of ``H x W`` cells.
        layer: name of the layer.
        stride: pixels of the network input from one cell to the next, or a ``(y, x)`` pair where the axes differ; None
            if the network does not have a fixed one.
    """

    values: torch.Tensor
    layer: str
    stride: float | tuple[float, float] | None


class Extractor:
    """Computes descriptors of images, or of boxes in them, as numpy arrays.

    Example:
        >>> extractor = Extractor(size=64, levels=(1, 2), device="cpu")  # the bundled demo network
        >>> photo = np.zeros((48, 64, 3), dtype=np.uint8)  # or the path of a file, or a Pillow image
        >>> extractor(photo).shape, extractor([photo, photo]).shape
        ((2560,), (2, 2560))
        >>> extractor(photo, boxes=[[0, 0, 32, 48]]).shape
        (1, 2560)

    Args:
        backbone: a torchvision model name, the bundled ``"spp_s16"``, or your own network, which takes
            ``(N, 3, H, W)``.
        weights: torchvision weights name, weights file, or ``"none"`` for random values; ignored for your own network.
        weights_dir: folder to search for named weights before torch's hub cache.
        layer: name of the graph node whose feature map is pooled, or several names; their descriptors are
            concatenated. Required for your own network.
        levels: pyramid levels; level ``n`` pools ``n x n`` bins. None: ``(1, 2, 4)``, or the level that ``head`` needs.
        pool: pooling operator within each bin: ``"max"`` or ``"avg"``.
        normalize: scaling of each layer's descriptor: ``"none"``, ``"l2"`` or ``"power"``; for ``meannorm``, give
            ``normalize_from``.
        normalize_from: feature file made with ``meannorm``, whose factors are applied.
        head: ``"fc6"`` or ``"fc7"``: the last fully connected layer to pass the pooled map through.
        size: short side of the network input in pixels, or ``"native"`` to keep the image's own size.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"mps"``.
        precision: ``"fp32"``, ``"tf32"``, ``"bf16"`` or ``"fp16"``.
        batch_size: images per batch; None: as many as suit the device.
        mean, std: per-channel mean and deviation of the network input, for RGB in 0..1; None: those of the weights
            (ImageNet's for your own network).
        seed: seed of the random values for ``weights="none"``.
        max_decode_pixels: largest image file to decode, in pixels; a larger one raises ImageError.
        on_download: called during a download with file name, bytes done, and bytes in total (None if unknown); None:
            show a progress bar on standard error.
        **inputs: ``scales``, ``max_pixels``, ``round_to``, ``exif``, ``decode`` or ``flip``; see
            :class:`sppfeat.config.specs.InputSpec`.

    Raises:
        SppfeatError: settings, backbone, layer or weights are invalid or incompatible.

    Attributes:
        config: the settings that determine a descriptor, before any reduction.
        columns: the blocks of columns of a descriptor: layer, level, channels and range.
    """

    def __init__(
        self,
        backbone: str | nn.Module = DEFAULT_BACKBONE,
        *,
        weights: str = "DEFAULT",
        weights_dir: StrPath | None = None,
        layer: str | Sequence[str] | None = None,
        levels: str | Sequence[int] | None = None,
        pool: str = DescriptorSpec.pool,
        normalize: str = DescriptorSpec.normalize,
        normalize_from: StrPath | None = None,
        head: str | None = None,
        size: int | str = DEFAULT_SIZE,
        device: str = RunOptions.device,
        precision: str = ExtractConfig.precision,
        batch_size: int | None = RunOptions.batch_size,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        seed: int = 0,
        max_decode_pixels: int = RunOptions.max_decode_pixels,
        on_download: OnDownload | None = None,
        **inputs: Any,
    ) -> None:
        layers = [layer] if isinstance(layer, str) else list(layer or ())
        choice = DescriptorChoice(
            levels=None if levels is None else parse_levels(levels),
            pool=pool,
            normalize=normalize,
            normalize_from=None if normalize_from is None else Path(normalize_from),
        )
        choice.spec()  # raises on invalid settings before the network is built
        run = RunOptions(device=device, batch_size=batch_size, max_decode_pixels=max_decode_pixels)
        chosen_device = choose_device(device, precision)
        if isinstance(backbone, str):
            with download_bar() if on_download is None else contextlib.nullcontext(on_download) as show:
                loaded = load_backbone(
                    backbone,
                    weights=weights,
                    weights_dir=weights_dir,
                    layers=layers,
                    seed=seed,
                    mean=mean,
                    std=std,
                    head=head,
                    on_download=show,
                )
        elif head is None:
            loaded = wrap_module(backbone, layers=layers, mean=mean, std=std)
        else:
            raise ConfigError(f"head is {head!r}; heads belong to named networks: leave it out for your own")
        short_side: Any = None if size == "native" else size
        spec = InputSpec(size=short_side, **inputs)
        config = adopt_mean_norm(configure(loaded, spec, choice, precision=precision), choice.normalize_from)
        if config.descriptor.mean_norm is not None and config.descriptor.norm_factors is None:
            raise ConfigError(
                f"normalize is {normalize!r}, which is estimated on many images: pass a feature file that was made "
                "with it as normalize_from"
            )
        self._set_up(loaded, config, run, chosen_device, config.descriptor.norm_factors)

    @classmethod
    def from_file(
        cls,
        file: FeatureTable | StrPath,
        *,
        weights: str | None = None,
        weights_dir: StrPath | None = None,
        device: str = RunOptions.device,
        batch_size: int | None = RunOptions.batch_size,
        max_decode_pixels: int | None = None,
        on_download: OnDownload | None = None,
    ) -> "Extractor":
        """Rebuild the extractor that made a feature file, for descriptors comparable with those in the file.

        If ``sppfeat reduce`` made the file, the extractor applies the same reduction.

        Args:
            file: an open feature file, or its path.
            weights: weights file or name, if they have moved; None: as recorded.
            weights_dir, device, batch_size, on_download: see the class.
            max_decode_pixels: see the class; None: its default, or the largest image of the file.

        Raises:
            StoreError: the file is not a feature file, or its weights are missing or have changed.
            SppfeatError: the network cannot be loaded.
        """
        with contextlib.ExitStack() as opened:
            if not isinstance(file, FeatureTable):
                file = opened.enter_context(FeatureTable(file))
            limit = file.max_decode_pixels if max_decode_pixels is None else max_decode_pixels
            run = RunOptions(device=device, batch_size=batch_size, max_decode_pixels=limit)
            chosen_device = choose_device(device, file.config.precision)
            show = on_download or opened.enter_context(download_bar())
            loaded = load_recorded_backbone(file, weights=weights, weights_dir=weights_dir, on_download=show)
            extractor = cls.__new__(cls)
            extractor._set_up(loaded, file.config, run, chosen_device, file.norm_factors, file.reduction)
        return extractor

    def _set_up(
        self,
        backbone: Backbone,
        config: ExtractConfig,
        run: RunOptions,
        device: torch.device,
        norm_factors: tuple[float, ...] | None,
        reduction: Reduction | None = None,
    ) -> None:
        self.config = config
        self.columns = descriptor_columns(config, backbone) if reduction is None else reduction.columns
        self._reduction = reduction
        self._batch_size = run.batch_size
        self._reader = ImageReader(config, run.max_decode_pixels)
        self._backbone = backbone
        self._describer = Describer(backbone, config, device=device, norm_factors=norm_factors)

    @property
    def dimension(self) -> int:
        """Length ``D`` of a descriptor."""
        return self.columns[-1].stop

    def __call__(
        self,
        images: ImageLike | Sequence[ImageLike],
        boxes: Any = None,
        *,
        projection: str | None = None,
        margin: float | None = None,
        progress: bool = False,
    ) -> Any:
        """Compute the descriptors of one image or many.

        Args:
            images: one image or a sequence of images. An image is a path, possibly inside an archive
                (``a.zip/b.jpg``), a byte range of a file, a Pillow image, or an ``(H, W, 3)`` RGB or ``(H, W)`` gray
                uint8 array. An ``(N, H, W, 3)`` array is a sequence.
            boxes: a ``(K, 4)`` array for one image, a sequence of such arrays for several: ``xyxy`` edges in pixels of
                the image as displayed, 0-based, half-open (the whole image is ``[0, 0, width, height]``).
            projection: rule that maps boxes to feature-map cells: ``"sppnet"``, ``"paper"`` or ``"roi_pool"``; None:
                the rule of the file (:meth:`from_file`), or ``"sppnet"``.
            margin: network-input pixels to cut from each side of a box; None: the margin of the file, or 0.
            progress: True to show a progress bar on standard error or in the notebook.

        Returns:
            Without boxes: ``(D,)`` float32 for one image, ``(N, D)`` for a sequence. With boxes: ``(K, D)`` for one
            image, a list of such arrays for a sequence. Boxes are clipped to their image. A box without area inside the
            image, or with a coordinate that is not finite, gives a row of NaN; one
            :class:`~sppfeat.errors.BoxWarning` per call counts them.

        Raises:
            ImageError: an image cannot be read; the message names it.
            BoxError: boxes are malformed, or their number of arrays differs from the number of images.
        """
        image_list, is_one = as_list(images)
        if boxes is None:
            with Bar("reading headers", len(image_list), unit="image", shown=progress) as bar:
                rows = self._describe_whole(image_list, bar)
            return rows[0] if is_one else rows
        projector = self.projector(projection=projection, margin=margin)
        box_arrays = [boxes] if is_one else boxes
        if len(box_arrays) != len(image_list):
            raise BoxError(
                f"boxes are given for {counted(len(box_arrays), 'image')}, but there are "
                f"{counted(len(image_list), 'image')}; give one (K, 4) array per image"
            )
        result, without_area = [], []
        with Bar("extracting", len(image_list), unit="image", shown=progress) as bar:
            for i, (image, own) in enumerate(zip(image_list, box_arrays, strict=True)):
                rows, notes = self._describe_boxes(image, own, projector)
                result.append(rows)
                without_area += [f"{note} of {name_image(image, i)}" for note in notes]
                bar.move_to(len(result))
        if without_area:
            one = "box has no area inside the image, so its descriptor is NaN: "
            many = "boxes have no area inside the image, so their descriptors are NaN; the first is "
            text = f"{counted(len(without_area), one, many)}{without_area[0]}"
            warnings.warn(text, BoxWarning, stacklevel=2)
        return result[0] if is_one else result

    def network_input(self, image: ImageLike, *, scale: int = 0) -> NetworkInput:
        """Read an image and resize it to the network input, before mean and deviation are applied.

        Args:
            image: an image, as in :meth:`__call__`.
            scale: index into ``config.input.short_sides``.

        Raises:
            ImageError: the image cannot be read, or cannot be resized to a valid network input.
        """
        return self._reader.network_input(image, scale)

    def feature_maps(self, images: ImageLike | NetworkInput | Sequence[ImageLike], *, scale: int = 0) -> Any:
        """Compute the feature maps of one image or many, before pooling.

        Args:
            images: one image or a sequence of images, as in :meth:`__call__`; or what :meth:`network_input` returned,
                which is not resized again.
            scale: index into ``config.input.short_sides``.

        Returns:
            A :class:`FeatureMap` for each layer of the extractor; for a sequence, a list of them for each image.

        Raises:
            ImageError: an image cannot be read; the message names it.

        Example:
            >>> extractor = Extractor(size=64, device="cpu")
            >>> (fmap,) = extractor.feature_maps(np.zeros((48, 64, 3), dtype=np.uint8))
            >>> fmap.layer, fmap.values.shape, fmap.stride
            ('features', torch.Size([512, 4, 6]), 16.0)
        """
        if isinstance(images, NetworkInput):
            return self._compute_maps(images)
        image_list, is_one = as_list(images)
        result = [self._compute_maps(self.network_input(image, scale=scale)) for image in image_list]
        return result[0] if is_one else result

    def _compute_maps(self, network_input: NetworkInput) -> list[FeatureMap]:
        maps = self._describer.compute_maps(self._describer.make_batch(network_input.pixels[None]))
        layers = self._backbone.spec.layers
        return [
            FeatureMap(fmap[0].cpu(), layer, stride)
            for fmap, layer, stride in zip(maps, layers, self._strides, strict=True)
        ]

    @cached_property
    def _strides(self) -> tuple[float | tuple[float, float] | None, ...]:
        try:
            return tuple(geometry.stride for geometry in self._geometries)
        except ConfigError:  # receptive-field arithmetic does not apply to the network
            return (None,) * len(self._backbone.spec.layers)

    def projector(self, *, projection: str | None = None, margin: float | None = None) -> Projector:
        """Make a projector from boxes to feature-map cells; see :meth:`__call__` for the arguments.

        Raises:
            ConfigError: the projection is unknown, or the network's receptive fields do not allow it.
        """
        given: dict[str, Any] = {"projection": projection, "margin": margin}
        changes = {name: value for name, value in given.items() if value is not None}
        spec = dataclasses.replace(self.config.regions or RegionSpec(boxes="multiview"), **changes)
        return Projector(self._geometries, spec.projection, spec.margin)

    @cached_property
    def _geometries(self) -> tuple[FeatureGeometry, ...]:
        return tuple(self._backbone.geometry(i) for i in range(len(self._backbone.spec.layers)))

    def _describe_whole(self, images: list[ImageLike], bar: Bar) -> npt.NDArray[np.float32]:
        image_hws, input_hws = self._reader.sizes(images, on_progress=bar.move_to)
        # An image is run at the scale that a box covering all of it would get.
        uses = np.zeros(input_hws.shape[:2], dtype=bool)
        for i, (height, width) in enumerate(image_hws):
            whole = np.array([[0.0, 0.0, width, height]])
            uses[i, best_scales(whole, (height, width), self.config.input.short_sides)] = True
        result = np.empty((len(images), self.dimension), dtype=np.float32)
        most, every, n_done = BATCH_PIXELS[self._describer.device.type], np.arange(len(images)), 0
        for batch in schedule(input_hws, every, batch_size=self._batch_size, batch_pixels=most, uses=uses):
            pixels = [self._reader.pixels(images[i], image_hws[i], batch.input_hw) for i in batch.images]
            descriptors, wait = self._describer.describe_images(np.stack(pixels))
            wait()
            result[batch.images] = self._reduce(descriptors)
            n_done += len(batch.images)
            bar.move_to(n_done, label="extracting")
        return result

    def _describe_boxes(
        self, image: Any, boxes: Any, projector: Projector
    ) -> tuple[npt.NDArray[np.float32], list[str]]:
        """Return the descriptors of boxes of an image, and a text about each box without area inside it."""
        try:
            boxes_px = np.asarray(boxes, dtype=np.float64)
            if boxes_px.shape == (0,):  # an empty list
                boxes_px = boxes_px.reshape(0, 4)
        except (TypeError, ValueError) as error:
            raise BoxError(f"boxes of one image are not numbers of shape (K, 4): {error}") from error
        if boxes_px.ndim != 2 or boxes_px.shape[1] != 4:
            raise BoxError(
                f"boxes of one image are an array of shape {boxes_px.shape}; give one of shape (K, 4)"
            )
        (image_hw,), input_hws = self._reader.sizes([image])
        clipped, flag = clip_boxes(boxes_px, np.full((len(boxes_px), 2), image_hw, dtype=np.int32))
        described_rows = np.flatnonzero((flag & RowFlag.DEGENERATE) == 0)
        scale = best_scales(clipped[described_rows], image_hw, self.config.input.short_sides)
        result = np.full((len(boxes_px), self.dimension), np.nan, dtype=np.float32)
        for i in np.unique(scale).tolist():
            rows = described_rows[scale == i]
            pixels = self._reader.pixels(image, image_hw, input_hws[0, i])
            own = ImageBoxes(0, rows, boxes_px[rows], np.zeros(len(rows), dtype=bool), image_hw)
            for found in self._describer.describe_boxes(pixels[None], [own], projector):
                found.wait()
                result[found.rows] = self._reduce(found.descriptors)
        height, width = image_hw
        notes = [
            f"box {i}, {boxes_px[i].tolist()}, in the {width} x {height} pixels"
            for i in np.flatnonzero(flag & RowFlag.DEGENERATE)
        ]
        return result, notes

    def _reduce(self, descriptors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return descriptors if self._reduction is None else self._reduction.apply(descriptors)
