"""What a run is made of, before it is known which images there are: settings, network, device, decoders."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from sppfeat.boxes.formats import BoxFile
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.machine import available_cores
from sppfeat.config.request import ExtractRequest
from sppfeat.config.specs import DescriptorSpec
from sppfeat.decoding import Decoder, DecoderPool, DecodeSettings, InlineDecoder
from sppfeat.extraction.configure import (
    configure,
    descriptor_blocks,
    load_choice,
    read_box_choice,
    row_planner_of,
)
from sppfeat.extraction.describe import BATCH_PIXELS, Describer, choose_device
from sppfeat.extraction.regions import Projector
from sppfeat.extraction.row_planner import RowPlanner
from sppfeat.networks.backbones import Backbone
from sppfeat.store.schema import ColumnBlock

__all__ = ["Equipment", "load_equipment"]

_MAX_AUTO_WORKERS = 16
_MIN_IMAGES_PER_WORKER = 16  # a worker takes 0.2 s to start: as long as some 50 small images
_PROBE_BYTES = 1 << 20  # of memory for decoded images, of a decoder that decodes none


@dataclass(frozen=True)
class Equipment:
    """What a run works with, whatever its images.

    Attributes:
        request: what was asked.
        config: what shapes a descriptor, and is recorded.
        blocks: the columns of a descriptor.
        backbone: the network.
        planner: makes the rows of boxes; None for whole images.
        box_file: where these come from, if from a file.
        device: where the network runs.
    """

    request: ExtractRequest
    config: ExtractConfig
    blocks: tuple[ColumnBlock, ...]
    backbone: Backbone
    planner: RowPlanner | None
    box_file: BoxFile | None
    device: torch.device

    @property
    def projector(self) -> Projector | None:
        """How boxes become regions; None for whole images."""
        return self.planner.projector if self.planner else None

    @property
    def batch_pixels(self) -> int:
        """Network-input pixels per batch, where no number of images is asked for."""
        return BATCH_PIXELS[self.device.type]

    def describer(self, spec: DescriptorSpec, norm_factors: tuple[float, ...] | None) -> Describer:
        """What turns pixels into descriptors."""
        return Describer(
            self.backbone,
            spec,
            flip=self.config.input.flip,
            precision=self.config.precision,
            device=self.device,
            norm_factors=norm_factors,
            compile_network=self.request.run.compile,
        )

    def n_workers(self, n_images: int) -> int:
        """Processes that decode so many images, 0 for none."""
        workers = self.request.run.workers
        if workers is not None:
            return workers
        cores = available_cores() // self.request.run.n_local
        return max(1, min(cores, _MAX_AUTO_WORKERS, n_images // _MIN_IMAGES_PER_WORKER))

    def decoder(self, n_workers: int) -> Decoder:
        """What reads images, in so many processes; to be closed."""
        return (
            DecoderPool(self._settings, n_workers=n_workers) if n_workers else InlineDecoder(self._settings)
        )

    @contextlib.contextmanager
    def prober(self) -> Iterator[Decoder]:
        """What reads headers only, beside a decoder."""
        if self.request.run.workers == 0:
            yield InlineDecoder(self._settings)
            return
        with contextlib.closing(
            DecoderPool(self._settings, n_workers=1, look_ahead_bytes=_PROBE_BYTES)
        ) as pool:
            yield pool

    @property
    def _settings(self) -> DecodeSettings:
        return DecodeSettings(
            exif=self.config.input.exif,
            resample=self.config.backbone.interpolation,
            max_pixels=self.request.run.max_decode_pixels,
            decode=self.config.input.decode,
        )


def load_equipment(request: ExtractRequest) -> Equipment:
    """Load what a run needs.

    Raises:
        SppfeatError: settings, weights or boxes that do not allow it.
    """
    device = choose_device(request.run.device, request.precision, local_rank=request.run.local_rank)
    backbone = load_choice(request.backbone)
    box_file = read_box_choice(request.boxes)
    config = configure(
        backbone,
        request.input,
        request.descriptor,
        precision=request.precision,
        boxes=request.boxes,
        box_file=box_file,
    )
    return Equipment(
        request=request,
        config=config,
        blocks=descriptor_blocks(config, backbone),
        backbone=backbone,
        planner=row_planner_of(request.boxes, config, backbone, box_file),
        box_file=box_file,
        device=device,
    )
