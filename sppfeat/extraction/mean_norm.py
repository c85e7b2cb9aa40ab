"""Estimates the factors of ``meannorm``: one per layer, to scale the mean l2 norm to a given value.

SPP-net's released code (SPP_net, ``rcnn_feature_stats``) scales features to a mean norm of 20, estimated on up to 200
images with up to 200 boxes each. We estimate one factor per layer on images and boxes drawn at random from the whole
plan, before the first row is written.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.config.wording import counted
from sppfeat.errors import ConfigError, ImageError
from sppfeat.extraction.describe import make_batch_describer
from sppfeat.extraction.pipeline import run_pipeline
from sppfeat.extraction.plan import Plan
from sppfeat.extraction.run import Run
from sppfeat.store.schema import RowRegions

__all__ = ["estimate_factors", "sample_plan"]

Measure = Callable[[Plan, npt.NDArray[np.int64]], object]
"""Fills the sizes of images ``(n,)`` into a plan."""


def estimate_factors(run: Run, plan: Plan) -> tuple[float, ...] | None:
    """Estimate the factor of each layer of a run, on a sample of a plan; None for other normalizations.

    Raises:
        ImageError: none of the drawn images could be read.
        ConfigError: the descriptors of a layer are all zero.
    """
    spec = run.config.descriptor
    mean_norm = spec.mean_norm
    if mean_norm is None or spec.norm_factors is not None:
        return spec.norm_factors
    sample, images = sample_plan(plan, run.measure)
    plain = run.make_describer(None, dataclasses.replace(spec, normalize="none"))
    layers: dict[str, slice] = {}  # columns of each layer; its levels are side by side
    for block in run.columns:
        start = layers[block.layer].start if block.layer in layers else block.start
        layers[block.layer] = slice(start, block.stop)
    sink = _NormSink(list(layers.values()), sample.rows_of(images))
    with sample.storage.fetch(sample.storage_index[images], run.scratch) as places:
        run_pipeline(
            sample,
            images,
            find_places=lambda batch: [places[i] for i in np.searchsorted(images, batch).tolist()],
            batch_size=None,
            batch_pixels=run.batch_pixels,
            decoder=run.decoder,
            describe=make_batch_describer(sample, plain, run.projector),
            sink=sink,
        )
    n_rows = int((~np.isnan(sink.norms[:, 0])).sum())
    if not n_rows:
        reason = next(iter(sink.failures), "no image has a row")
        raise ImageError(
            f"cannot estimate the mean norm from the sample of {counted(len(images), 'image')}: {reason}"
        )
    totals = np.nansum(sink.norms, axis=0).tolist()
    for layer, total in zip(layers, totals, strict=True):
        if not total > 0:
            raise ConfigError(
                f"the mean norm of layer {layer} is {total}, so its descriptors cannot be scaled"
            )
    return tuple(mean_norm * n_rows / total for total in totals)


def sample_plan(
    plan: Plan, measure: Measure, *, n_images: int = 200, n_rows: int = 200, seed: int = 0
) -> tuple[Plan, npt.NDArray[np.int64]]:
    """Draw at most ``n_images`` random images of a plan, with at most ``n_rows`` random rows each.

    Returns a copy of the plan in which only the drawn boxes have a scale, and the images, ``(n,)`` int64, ascending.
    """
    rng = np.random.default_rng(seed)
    sample = plan.copied()
    is_unmeasured = sample.is_unmeasured & (np.diff(plan.rows, axis=1).reshape(-1) > 0)
    usable = np.flatnonzero(_is_runnable(sample, np.arange(plan.n_images)) | is_unmeasured)
    images = np.sort(rng.choice(usable, min(n_images, len(usable)), replace=False))
    measure(sample, images[is_unmeasured[images]])
    images = images[_is_runnable(sample, images)]
    if sample.boxes is not None:
        is_drawn = np.zeros(plan.n_rows, dtype=bool)
        for first, stop in sample.rows[images].tolist():
            rows = first + np.flatnonzero(sample.boxes.scale[first:stop] >= 0)
            is_drawn[rng.choice(rows, min(n_rows, len(rows)), replace=False)] = True
        sample.boxes.scale[~is_drawn] = -1
    return sample, images


def _is_runnable(plan: Plan, images: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return ``(n,)`` bool, True for images ``(n,)`` of valid size with rows to pool."""
    has_size = (plan.input_hw[images] > 0).all(axis=(1, 2))
    return np.asarray(has_size & plan.scales_in_use(images).any(axis=1))


class _NormSink:
    """A sink that keeps the l2 norm of each row by layer; a row that a split batch repeats counts once."""

    def __init__(self, layers: Sequence[slice], rows: npt.NDArray[np.int64]) -> None:
        self._layers = layers
        self._rows = rows
        self.norms = np.full((len(rows), len(layers)), np.nan)
        self.failures: list[str] = []

    def write_rows(
        self,
        rows: npt.NDArray[np.int64],
        descriptors: npt.NDArray[np.floating[Any]],
        regions: RowRegions | None,  # noqa: ARG002
    ) -> None:
        positions = np.searchsorted(self._rows, rows)
        for i, columns in enumerate(self._layers):
            self.norms[positions, i] = np.linalg.norm(descriptors[:, columns].astype(np.float64), axis=1)

    def mark_done(self, image: int) -> None:
        """Do nothing: only rows count."""

    def mark_failed(self, image: int, reason: str) -> None:  # noqa: ARG002
        self.failures.append(reason)
