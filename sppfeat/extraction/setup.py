"""The setup of a run, independent of its images: settings, network, device and decoders."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from sppfeat.boxes.formats import BoxFile, read_boxes
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.machine import available_cores
from sppfeat.config.regions import RegionSpec, parse_grid
from sppfeat.config.request import BackboneChoice, BoxChoice, DescriptorChoice, ExtractRequest
from sppfeat.config.specs import DescriptorSpec, InputSpec
from sppfeat.decoding import Decoder, DecoderPool, DecodeSettings, InlineDecoder
from sppfeat.errors import BoxError, ConfigError
from sppfeat.extraction.describe import Describer
from sppfeat.extraction.regions import Projector, map_sizes
from sppfeat.extraction.row_planner import RowPlanner
from sppfeat.extraction.rows import BoxSource, FileBoxes, ViewBoxes
from sppfeat.files.downloads import OnDownload
from sppfeat.networks.backbones import Backbone, load_backbone
from sppfeat.networks.devices import BATCH_PIXELS, choose_device
from sppfeat.store.comparability import descriptor_differences
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import ColumnBlock, column_blocks

__all__ = [
    "RunSetup",
    "adopt_mean_norm",
    "configure",
    "descriptor_columns",
    "load_chosen_backbone",
    "load_setup",
    "make_row_planner",
    "read_chosen_boxes",
]

_MAX_AUTO_WORKERS = 16
_MIN_IMAGES_PER_WORKER = 16  # a worker takes 0.2 s to start, the time of some 50 small images
_PROBE_BYTES = 1 << 20  # of memory for decoded images: the least, as headers need none


@dataclass(frozen=True)
class RunSetup:
    """Settings, network and device of a run; :func:`load_setup` makes it.

    Attributes:
        request: the user's request.
        config: the settings that determine a descriptor; the file records them.
        columns: the blocks of columns of a descriptor.
        backbone: the network.
        planner: plans the rows of boxes; None for whole images.
        box_file: the box file; None without one.
        device: device that runs the network.
    """

    request: ExtractRequest
    config: ExtractConfig
    columns: tuple[ColumnBlock, ...]
    backbone: Backbone
    planner: RowPlanner | None
    box_file: BoxFile | None
    device: torch.device

    @property
    def projector(self) -> Projector | None:
        """Projects boxes to cells; None for whole images."""
        return self.planner.projector if self.planner else None

    @property
    def batch_pixels(self) -> int:
        """Network-input pixels per batch, if the request does not set the number of images."""
        return BATCH_PIXELS[self.device.type]

    def make_describer(self, spec: DescriptorSpec, norm_factors: tuple[float, ...] | None) -> Describer:
        """Make the describer of this network, with the pyramid, pooling and normalization of ``spec``."""
        return Describer(
            self.backbone,
            dataclasses.replace(self.config, descriptor=spec),
            device=self.device,
            norm_factors=norm_factors,
            compile_network=self.request.run.compile,
        )

    def choose_n_workers(self, n_images: int) -> int:
        """Return the number of decoding processes for ``n_images`` images; 0: decode in this process."""
        workers = self.request.run.workers
        if workers is not None:
            return workers
        cores = available_cores() // self.request.run.n_local
        return max(1, min(cores, _MAX_AUTO_WORKERS, n_images // _MIN_IMAGES_PER_WORKER))

    def open_decoder(self, n_workers: int) -> Decoder:
        """Start a decoder with ``n_workers`` processes, or in this process for 0; the caller closes it."""
        return (
            DecoderPool(self._settings, n_workers=n_workers) if n_workers else InlineDecoder(self._settings)
        )

    @contextlib.contextmanager
    def open_prober(self) -> Iterator[Decoder]:
        """Start a small second decoder, for headers only."""
        if self.request.run.workers == 0:
            yield InlineDecoder(self._settings)
            return
        with contextlib.closing(
            DecoderPool(self._settings, n_workers=1, look_ahead_bytes=_PROBE_BYTES)
        ) as pool:
            yield pool

    @property
    def _settings(self) -> DecodeSettings:
        return DecodeSettings.of(self.config, self.request.run.max_decode_pixels)


def load_setup(
    request: ExtractRequest, *, on_download: OnDownload = lambda name, done, total: None
) -> RunSetup:
    """Load the network and the boxes, and resolve the settings of a run.

    Args:
        request: the user's request.
        on_download: called during a download with file name, bytes done, and bytes in total (None if unknown).

    Raises:
        SppfeatError: settings, weights or boxes are invalid.
    """
    device = choose_device(request.run.device, request.precision, local_rank=request.run.local_rank)
    backbone = load_chosen_backbone(request.backbone, on_download=on_download)
    box_file = read_chosen_boxes(request.boxes)
    config = configure(
        backbone,
        request.input,
        request.descriptor,
        precision=request.precision,
        boxes=request.boxes,
        box_file=box_file,
    )
    config = adopt_mean_norm(config, request.descriptor.normalize_from)
    return RunSetup(
        request=request,
        config=config,
        columns=descriptor_columns(config, backbone),
        backbone=backbone,
        planner=make_row_planner(request.boxes, config, backbone, box_file),
        box_file=box_file,
        device=device,
    )


def read_chosen_boxes(choice: BoxChoice | None) -> BoxFile | None:
    """Read the box file that the user chose, if any, and apply the user's convention.

    Raises:
        BoxError: the file cannot be read.
        ConfigError: the convention contradicts itself.
    """
    if choice is None or not choice.is_file:
        return None
    if not os.path.lexists(choice.boxes):
        raise BoxError(
            f"no such box file: {choice.boxes!r}; allowed: a file or folder, grid:RxC, such as grid:3x3, or multiview"
        )
    found = read_boxes(choice.boxes, box_format=choice.box_format)
    convention = found.table.convention.replace(
        coords=choice.coords,
        units=choice.units,
        origin=choice.origin,
        ends=choice.ends,
        order=choice.order,
    )
    return dataclasses.replace(found, table=dataclasses.replace(found.table, convention=convention))


def load_chosen_backbone(
    choice: BackboneChoice,
    *,
    fold: bool = True,
    on_download: OnDownload = lambda name, done, total: None,
) -> Backbone:
    """Load the backbone that a user chose; see :func:`sppfeat.networks.backbones.load_backbone`."""
    settings = dict(vars(choice))
    return load_backbone(settings.pop("name"), **settings, fold=fold, on_download=on_download)


def configure(
    backbone: Backbone,
    inputs: InputSpec,
    descriptor: DescriptorChoice,
    *,
    precision: str,
    boxes: BoxChoice | None = None,
    box_file: BoxFile | None = None,
) -> ExtractConfig:
    """Combine the settings that determine a descriptor.

    Args:
        backbone: the network.
        inputs: the user's network-input settings.
        descriptor: pyramid, pooling and normalization; ``normalize_from`` is left to :func:`adopt_mean_norm`.
        precision: arithmetic of the network: ``fp32``, ``tf32``, ``bf16`` or ``fp16``.
        boxes: the user's choice of boxes; None for whole images.
        box_file: the box file; None without one.

    Raises:
        ConfigError: settings are incompatible with each other, or with the backbone's head.
    """
    regions = None
    if boxes is not None:
        regions = RegionSpec(
            boxes="file" if box_file else boxes.boxes,
            boxes_sha256=box_file.sha256 if box_file else "",
            box_format=box_file.box_format if box_file else None,
            convention=box_file.table.convention if box_file else None,
            projection=boxes.projection,
            margin=boxes.margin,
            drop_duplicates=boxes.drop_duplicates,
        )
    head = backbone.head
    return ExtractConfig(
        backbone=backbone.spec,
        input=dataclasses.replace(inputs, min_side=backbone.min_side),
        descriptor=descriptor.spec(head=backbone.spec.head, head_level=head.level if head else None),
        precision=precision,
        regions=regions,
    )


def make_row_planner(
    choice: BoxChoice | None, config: ExtractConfig, backbone: Backbone, box_file: BoxFile | None
) -> RowPlanner | None:
    """Make the planner for the rows of boxes; None for whole images.

    Raises:
        ConfigError: boxes cannot be projected to the maps of this backbone.
    """
    if choice is None or config.regions is None:
        return None
    source: BoxSource
    if box_file is not None:
        source = FileBoxes(box_file.table, choice.boxes)
    else:
        grid = None if choice.boxes == "multiview" else parse_grid(choice.boxes)
        source = ViewBoxes(grid, config.input)
    projector = Projector.of(backbone, config.regions)
    return RowPlanner(
        source, config.input, projector, map_sizes(backbone) if choice.drop_duplicates else None
    )


def descriptor_columns(config: ExtractConfig, backbone: Backbone) -> tuple[ColumnBlock, ...]:
    """Return the blocks of columns of a descriptor: one per layer and level, or a single one for a head."""
    if backbone.head is not None:
        return column_blocks((backbone.head.name,), (backbone.head.channels,), (1,))
    return column_blocks(backbone.spec.layers, backbone.channels, config.descriptor.levels)


def adopt_mean_norm(config: ExtractConfig, path: Path | None) -> ExtractConfig:
    """Return the settings with the ``meannorm`` normalization and the factors of a feature file.

    Args:
        config: the settings.
        path: feature file made with ``meannorm``; None: return ``config`` unchanged.

    Raises:
        StoreError: the file is not a feature file.
        ConfigError: the file was made without ``meannorm``, or with settings other than ``config``.
    """
    if path is None:
        return config
    with FeatureFile(path) as file:
        recorded, factors = file.config, file.norm_factors
    if recorded.descriptor.mean_norm is None or factors is None:
        raise ConfigError(
            f"--normalize-from {str(path)!r}: it was made with --normalize {recorded.descriptor.normalize}; "
            "allowed: a file made with meannorm"
        )
    wanted = config.descriptor.normalize
    if wanted not in ("none", recorded.descriptor.normalize):
        raise ConfigError(
            f"--normalize-from {str(path)!r} has {recorded.descriptor.normalize}, and --normalize says {wanted}"
        )
    differences = descriptor_differences(recorded, config, ignoring=("normalize",))
    if differences:
        raise ConfigError(f"--normalize-from {str(path)!r} has other descriptors: {'; '.join(differences)}")
    descriptor = dataclasses.replace(
        config.descriptor, normalize=recorded.descriptor.normalize, norm_factors=factors
    )
    return dataclasses.replace(config, descriptor=descriptor)
