"""Estimates the factors of ``meannorm``: one per layer, which scales the mean l2 norm to a given value.

SPP-net's released code (SPP_net, ``rcnn_feature_stats``) scales features to a mean norm of 20, estimated on up to 200
images with up to 200 boxes each. We estimate one factor per layer, before the first row is written, on images and boxes
drawn at random from the whole plan.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.decoding import Decoder
from sppfeat.errors import ConfigError, ImageError
from sppfeat.extraction.pipeline import BatchDescriber, run_pipeline
from sppfeat.extraction.plan import Plan, schedule
from sppfeat.store.schema import ColumnBlock, RowRegions

__all__ = ["estimate_factors", "sample_plan"]


def estimate_factors(
    plan: Plan,
    columns: Sequence[ColumnBlock],
    mean_norm: float,
    *,
    decoder: Decoder,
    describe_for: Callable[[Plan], BatchDescriber],
    batch_pixels: int,
    measure: Callable[[Plan], Plan],
    scratch: Path,
) -> tuple[float, ...]:
    """Estimate the factor of each layer that brings the mean l2 norm of its columns to ``mean_norm``.

    Args:
        plan: the images and rows to draw a sample from.
        columns: the blocks of columns of a descriptor.
        mean_norm: the mean norm to reach.
        decoder: decodes the images.
        describe_for: makes the function that computes unscaled rows of a plan.
        batch_pixels: see :func:`sppfeat.extraction.plan.schedule`.
        measure: reads the sizes of the drawn images and returns their plan with them.
        scratch: existing folder for images that must be fetched.

    Returns:
        One factor per layer.

    Raises:
        ImageError: none of the drawn images could be read.
        ConfigError: the descriptors of a layer are all zero.
    """
    sample = sample_plan(plan, measure)
    layers: dict[str, slice] = {}
    for block in columns:
        layers[block.layer] = slice(layers.get(block.layer, block).start, block.stop)
    sink = _NormSink(list(layers.values()), sample.n_rows)
    batches = schedule(
        sample.input_hw,
        np.arange(sample.n_images),
        batch_size=None,
        batch_pixels=batch_pixels,
        uses=sample.uses,
    )
    with sample.storage.fetch(sample.storage_index, scratch) as places:
        run_pipeline(
            sample,
            batches,
            find_places=lambda images: [places[i] for i in images.tolist()],
            decoder=decoder,
            describe=describe_for(sample),
            sink=sink,
        )
    n_rows = int((~np.isnan(sink.norms[:, 0])).sum())
    if not n_rows:
        reason = next(iter(sink.failures), "no image has a row")
        raise ImageError(f"no mean norm: none of the images ({sample.n_images}) could be used: {reason}")
    totals = np.nansum(sink.norms, axis=0).tolist()
    for layer, total in zip(layers, totals, strict=True):
        if not total > 0:
            raise ConfigError(f"the mean norm of layer {layer} is {total}: its descriptors cannot be scaled")
    return tuple(mean_norm * n_rows / total for total in totals)


def sample_plan(
    plan: Plan, measure: Callable[[Plan], Plan], *, n_images: int = 200, n_rows: int = 200, seed: int = 0
) -> Plan:
    """Draw a random sample of a plan: at most ``n_images`` images, with at most ``n_rows`` rows each.

    Args:
        plan: all images.
        measure: reads the sizes of the drawn images and returns their plan with them.
        n_images: largest number of images.
        n_rows: largest number of rows per image.
        seed: seed of the draw.
    """
    rng = np.random.default_rng(seed)
    has_rows = np.diff(plan.rows, axis=1).reshape(-1) > 0
    usable = np.flatnonzero(_is_runnable(plan) | (plan.is_unmeasured & has_rows))
    images = np.sort(rng.choice(usable, min(n_images, len(usable)), replace=False))
    drawn = measure(plan.take(images, [np.arange(*own) for own in plan.rows[images].tolist()]))
    runs = np.flatnonzero(_is_runnable(drawn))
    chosen = []
    for first, stop in drawn.rows[runs].tolist():
        rows = np.arange(first, stop)
        if drawn.boxes is not None:
            rows = rows[drawn.boxes.scale[first:stop] >= 0]
        chosen.append(np.sort(rng.choice(rows, min(n_rows, len(rows)), replace=False)))
    return drawn.take(runs, chosen)


def _is_runnable(plan: Plan) -> npt.NDArray[np.bool_]:
    """Return ``(N,)`` bool, True for images of valid size with rows to pool."""
    return np.asarray((plan.input_hw > 0).all(axis=(1, 2)) & plan.uses.any(axis=1))


class _NormSink:
    """A sink that keeps the l2 norm of each row and layer, once even if a split batch repeats the row."""

    def __init__(self, layers: Sequence[slice], n_rows: int) -> None:
        self._layers = layers
        self.norms = np.full((n_rows, len(layers)), np.nan)
        self.failures: list[str] = []

    def write_rows(
        self,
        rows: npt.NDArray[np.int64],
        descriptors: npt.NDArray[np.floating[Any]],
        regions: RowRegions | None = None,  # noqa: ARG002
    ) -> None:
        for i, columns in enumerate(self._layers):
            self.norms[rows, i] = np.linalg.norm(descriptors[:, columns].astype(np.float64), axis=1)

    def mark_done(self, image: int) -> None:
        """Do nothing: only rows count."""

    def mark_failed(self, image: int, reason: str) -> None:  # noqa: ARG002
        self.failures.append(reason)
