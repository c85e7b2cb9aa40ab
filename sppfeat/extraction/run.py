"""Resolves a request once for all its parts: settings, network, boxes, inputs, decoder and scratch folder."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from sppfeat.boxes.formats import BoxFile, read_boxes
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.machine import available_cores
from sppfeat.config.regions import RegionSpec, parse_grid
from sppfeat.config.request import BackboneChoice, BoxChoice, DescriptorChoice, Request
from sppfeat.config.specs import DescriptorSpec, InputSpec
from sppfeat.decoding import Decoder, DecoderPool, DecodeSettings, InlineDecoder
from sppfeat.errors import BoxError, ConfigError
from sppfeat.extraction.describe import Describer
from sppfeat.extraction.plan import FoundSizes, Plan, make_plan, read_sizes
from sppfeat.extraction.regions import Projector, map_sizes
from sppfeat.extraction.rows import RowPlanner, fill_in_sizes
from sppfeat.files.downloads import OnDownload
from sppfeat.inputs import FileStorage, Listing, list_images
from sppfeat.networks.backbones import Backbone, load_backbone
from sppfeat.networks.devices import BATCH_PIXELS, bfloat16_hint, bfloat16_note, choose_device
from sppfeat.networks.named_weights import bundled_hint
from sppfeat.store.comparability import descriptor_differences
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import UNKNOWN, ColumnBlock, column_blocks

__all__ = [
    "OnProbe",
    "Run",
    "adopt_mean_norm",
    "configure",
    "descriptor_columns",
    "load_chosen_backbone",
    "open_run",
]

OnProbe = Callable[[int, int], None]
"""Called with the number of image headers read so far, and the total."""

_MAX_AUTO_WORKERS = 16
_MIN_IMAGES_PER_WORKER = 16  # a worker takes 0.2 s to start, the time of some 50 small images
_PROBE_BYTES = 1 << 20  # memory for decoded images: the minimum, as headers need none
_MOST_MEASURED_FIRST = 50_000  # files; with more, the network would wait too long for headers


@dataclass(frozen=True, kw_only=True)
class Run:
    """The settings, network and inputs of a run; :func:`open_run` makes it."""

    request: Request
    config: ExtractConfig  # the settings that determine a descriptor; the file records them
    columns: tuple[ColumnBlock, ...]
    backbone: Backbone
    device: torch.device
    planner: RowPlanner | None  # plans the rows of boxes; None for whole images
    listing: Listing
    decoder: Decoder
    n_workers: int  # number of decoding processes; 0: images are decoded in this process
    scratch: Path  # folder for images that must be fetched
    notes: list[str]  # notes for the user; planning adds to them
    hints: tuple[str, ...]  # advice that does not depend on the images
    on_probe: OnProbe

    @property
    def projector(self) -> Projector | None:
        """Projects boxes to cells; None for whole images."""
        return self.planner.projector if self.planner else None

    @property
    def has_views(self) -> bool:
        """True if boxes are views of each image; False for whole images and for boxes of a box file."""
        return self.planner is not None and self.planner.has_views

    @property
    def batch_pixels(self) -> int:
        """Network-input pixels per batch, if the request does not set the number of images."""
        return BATCH_PIXELS[self.device.type]

    @property
    def measures_first(self) -> bool:
        """True to read all image headers before the first image is run; False to read them chunk by chunk.

        Rows that depend on image sizes require it. Otherwise it is done if it is quick: the summary is then more
        complete, and batches of one input size are larger.
        """
        if self.planner is not None and self.planner.needs_sizes:
            return True
        if self.request.headers != "auto":
            return self.request.headers == "first"
        return (
            isinstance(self.listing.storage, FileStorage) and len(self.listing.paths) <= _MOST_MEASURED_FIRST
        )

    def plan_inputs(self) -> Plan:
        """Plan all images and rows of the inputs, after reading headers if :attr:`measures_first`."""
        found, versions = self.measure_inputs(np.arange(len(self.listing.paths)))
        rows = None
        if self.planner is not None:
            rows = self.planner.rows(self.listing.root, self.listing.paths, found[0])
        return make_plan(self.listing, *found, self.config.input, rows, versions=versions)

    def measure_inputs(self, inputs: npt.NDArray[np.int64]) -> tuple[FoundSizes, npt.NDArray[np.int64]]:
        """Return sizes and versions of inputs ``(n,)``, both unknown unless :attr:`measures_first`."""
        versions = np.full((len(inputs), 2), UNKNOWN, dtype=np.int64)
        if not self.measures_first:
            return (np.zeros((len(inputs), 2), dtype=np.int32), {}), versions
        versions = self.listing.storage.versions(inputs)  # before the headers are read
        return self._read_sizes(inputs), versions

    def _read_sizes(self, inputs: npt.NDArray[np.int64]) -> FoundSizes:
        """Read the headers of inputs, given their positions ``(n,)`` int64 in the listing."""
        return read_sizes(
            self.listing.storage, inputs, decoder=self.decoder, scratch=self.scratch, on_probe=self.on_probe
        )

    def measure(
        self, plan: Plan, images: npt.NDArray[np.int64], found: FoundSizes | None = None
    ) -> npt.NDArray[np.int64]:
        """Fill in the sizes of images ``(n,)`` of a plan; return the images whose size has changed.

        ``found`` are the sizes; None to read the headers.
        """
        if found is None:
            plan.note_versions(images)
            found = self._read_sizes(plan.storage_index[images])
        return fill_in_sizes(plan, images, found, self.config.input, self.planner)

    def make_describer(
        self, norm_factors: tuple[float, ...] | None, spec: DescriptorSpec | None = None
    ) -> Describer:
        """Make a describer, with the factors of ``meannorm`` if any; ``spec`` replaces the descriptor settings."""
        return Describer(
            self.backbone,
            dataclasses.replace(self.config, descriptor=spec or self.config.descriptor),
            device=self.device,
            norm_factors=norm_factors,
            compile_network=self.request.run.compile,
        )

    def open_prober(self) -> contextlib.closing[Decoder]:
        """Start a small second decoder for headers."""
        n_workers = 0 if self.request.run.workers == 0 else 1
        return contextlib.closing(_open_decoder(self.request, self.config, n_workers, _PROBE_BYTES))


@contextlib.contextmanager
def open_run(
    request: Request,
    listing: Listing | None = None,
    *,
    on_probe: OnProbe = lambda done, total: None,
    on_download: OnDownload = lambda name, done, total: None,
) -> Iterator[Run]:
    """List the inputs, load network and boxes, start the decoder and make a scratch folder; release them on exit.

    Pass a ``listing`` if the inputs have been listed already.

    Raises:
        SppfeatError: inputs, settings, boxes or weights are invalid.
    """
    listing = listing or list_images(
        request.inputs,
        labels=request.labels,
        exclude=request.exclude,
        include=request.include,
        encoding=request.encoding,
    )
    device = choose_device(request.run.device, request.precision, local_rank=request.run.local_rank)
    backbone = load_chosen_backbone(request.backbone, on_download=on_download)
    box_file = _read_box_file(request.boxes, encoding=request.encoding)
    config = configure(
        backbone,
        request.input,
        request.descriptor,
        precision=request.precision,
        boxes=request.boxes,
        box_file=box_file,
    )
    config = adopt_mean_norm(config, request.descriptor.normalize_from)
    n_workers = _choose_n_workers(request, len(listing.paths))
    with contextlib.ExitStack() as stack:
        decoder = stack.enter_context(contextlib.closing(_open_decoder(request, config, n_workers)))
        scratch = Path()
        if not listing.storage.is_local:
            folder = tempfile.TemporaryDirectory(prefix="sppfeat-", dir=request.scratch)
            scratch = Path(stack.enter_context(folder))
        notes = [*listing.notes]
        warning = bfloat16_note(device, config.precision)
        notes += filter(None, [request.shard_note, backbone.weights_note, warning])
        hints = filter(None, [bundled_hint(config.backbone), bfloat16_hint(device, config.precision)])
        yield Run(
            request=request,
            config=config,
            columns=descriptor_columns(config, backbone),
            backbone=backbone,
            device=device,
            planner=_make_row_planner(request.boxes, config, backbone, box_file),
            listing=listing,
            decoder=decoder,
            n_workers=n_workers,
            scratch=scratch,
            notes=notes,
            hints=tuple(hints),
            on_probe=on_probe,
        )


def _read_box_file(choice: BoxChoice | None, *, encoding: str | None) -> BoxFile | None:
    """Read the box file that the user chose, if any, and apply the user's convention."""
    if choice is None or not choice.is_file:
        return None
    if not os.path.lexists(choice.boxes):
        raise BoxError(
            f"no such box file: {choice.boxes!r}; allowed: a file or folder, grid:RxC, such as grid:3x3, or multiview"
        )
    found = read_boxes(
        choice.boxes,
        box_format=choice.box_format,
        encoding=encoding,
        label=choice.box_label,
        names=choice.box_names,
        images=choice.box_images,
        categories=choice.box_categories,
    )
    convention = choice.convention(found.table.convention)
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
    """Combine the settings that determine a descriptor, except ``normalize_from``: see :func:`adopt_mean_norm`.

    Raises:
        ConfigError: settings are incompatible with each other, or with the backbone's head.
    """
    regions = None
    if boxes is not None:
        regions = RegionSpec(
            boxes="file" if box_file else boxes.boxes,
            boxes_sha256=box_file.sha256 if box_file else "",
            box_format=box_file.box_format if box_file else None,
            box_label=boxes.box_label,
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


def adopt_mean_norm(config: ExtractConfig, path: Path | None) -> ExtractConfig:
    """Return the settings with the normalization and factors of a file made with ``meannorm``, if a path is given.

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
            f"--normalize-from {str(path)!r} was made with --normalize {recorded.descriptor.normalize}; "
            "give a file made with meannorm"
        )
    wanted = config.descriptor.normalize
    if wanted not in ("none", recorded.descriptor.normalize):
        raise ConfigError(
            f"--normalize-from {str(path)!r} was made with {recorded.descriptor.normalize}, but --normalize is {wanted}"
        )
    differences = descriptor_differences(recorded, config, ignoring=("normalize",))
    if differences:
        raise ConfigError(
            f"--normalize-from {str(path)!r} was made with different settings: {'; '.join(differences)}"
        )
    descriptor = dataclasses.replace(
        config.descriptor, normalize=recorded.descriptor.normalize, norm_factors=factors
    )
    return dataclasses.replace(config, descriptor=descriptor)


def _make_row_planner(
    choice: BoxChoice | None, config: ExtractConfig, backbone: Backbone, box_file: BoxFile | None
) -> RowPlanner | None:
    """Make the planner of rows for boxes; None for whole images."""
    if choice is None or config.regions is None:
        return None
    is_grid = box_file is None and choice.boxes != "multiview"
    return RowPlanner(
        config.input,
        Projector.of(backbone, config.regions),
        map_sizes(backbone) if choice.drop_duplicates else None,
        table=box_file.table if box_file else None,
        path=choice.boxes,
        grid=parse_grid(choice.boxes) if is_grid else None,
    )


def descriptor_columns(config: ExtractConfig, backbone: Backbone) -> tuple[ColumnBlock, ...]:
    """Return the blocks of columns of a descriptor: one per layer and level, or a single block for a head."""
    if backbone.head is not None:
        return column_blocks((backbone.head.name,), (backbone.head.channels,), (1,))
    return column_blocks(backbone.spec.layers, backbone.channels, config.descriptor.levels)


def _choose_n_workers(request: Request, n_images: int) -> int:
    """Return the number of decoding processes; 0: decode in this process."""
    workers = request.run.workers
    if workers is not None:
        return workers
    cores = available_cores() // request.run.n_local
    return max(1, min(cores, _MAX_AUTO_WORKERS, n_images // _MIN_IMAGES_PER_WORKER))


def _open_decoder(
    request: Request, config: ExtractConfig, n_workers: int, look_ahead_bytes: int = 256 << 20
) -> Decoder:
    settings = DecodeSettings.of(config, request.run.max_decode_pixels)
    if not n_workers:
        return InlineDecoder(settings)
    return DecoderPool(settings, n_workers=n_workers, look_ahead_bytes=look_ahead_bytes)
