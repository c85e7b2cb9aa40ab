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

_N_IMAGES = 200
_N_ROWS = 200  # per image
_SEED = 0
_NO_SCRATCH = Path()  # for local images, which need no scratch folder


def estimate_factors(
    plan: Plan,
    columns: Sequence[ColumnBlock],
    mean_norm: float,
    *,
    decoder: Decoder,
    describe_for: Callable[[Plan], BatchDescriber],
    batch_pixels: int,
    measure: Callable[[Plan], Plan] | None = None,
    scratch: Path = _NO_SCRATCH,
) -> tuple[float, ...]:
    """Estimate the factor of each layer that brings the mean l2 norm of its columns to ``mean_norm``.

    Args:
        plan: the images and rows to draw a sample from.
        columns: the blocks of columns of a descriptor.
        mean_norm: the mean norm to reach.
        decoder: decodes the images.
        describe_for: makes the function that computes unscaled rows of a plan.
        batch_pixels: see :func:`sppfeat.extraction.plan.schedule`.
        measure: reads the sizes of the drawn images and returns their plan with them; None: draw only images of known
            size.
        scratch: existing folder for images that must be fetched.

    Returns:
        One factor per layer.

    Raises:
        ImageError: none of the drawn images could be read.
        ConfigError: the descriptors of a layer are all zero.
    """
    sample = sample_plan(plan, n_images=_N_IMAGES, n_rows=_N_ROWS, seed=_SEED, measure=measure)
    norms = _NormSink(columns, sample.n_rows)
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
            sink=norms,
        )
    if not norms.n_rows:
        reason = next(iter(norms.failures), "no image has a row")
        raise ImageError(f"no mean norm: none of the images ({sample.n_images}) could be used: {reason}")
    factors = []
    for layer, total in norms.sums().items():
        if not total > 0:
            raise ConfigError(f"the mean norm of layer {layer} is {total}: its descriptors cannot be scaled")
        factors.append(mean_norm * norms.n_rows / total)
    return tuple(factors)


def sample_plan(
    plan: Plan,
    *,
    n_images: int,
    n_rows: int,
    seed: int,
    measure: Callable[[Plan], Plan] | None = None,
) -> Plan:
    """Draw a random sample of a plan: at most ``n_images`` images, with at most ``n_rows`` rows each.

    Args:
        plan: all images.
        n_images: largest number of images.
        n_rows: largest number of rows per image.
        seed: seed of the draw.
        measure: reads the sizes of the drawn images and returns their plan with them; None: draw only images of known
            size.
    """
    rng = np.random.default_rng(seed)
    is_usable = _is_runnable(plan)
    if measure is not None:
        is_usable |= _is_unmeasured(plan)
    usable = np.flatnonzero(is_usable)
    images = np.sort(rng.choice(usable, min(n_images, len(usable)), replace=False))
    drawn = plan.take(images, [np.arange(*own) for own in plan.rows[images].tolist()])
    if measure is not None:
        drawn = measure(drawn)
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


def _is_unmeasured(plan: Plan) -> npt.NDArray[np.bool_]:
    """Return ``(N,)`` bool, True for images with rows whose size is still unknown."""
    return np.asarray(plan.is_unmeasured & (np.diff(plan.rows, axis=1).reshape(-1) > 0))


class _NormSink:
    """A sink that keeps the l2 norm of each row and layer, once even if a split batch repeats the row."""

    def __init__(self, columns: Sequence[ColumnBlock], n_rows: int) -> None:
        self._columns: dict[str, slice] = {}
        for block in columns:
            start = self._columns[block.layer].start if block.layer in self._columns else block.start
            self._columns[block.layer] = slice(start, block.stop)
        self._norms = np.full((n_rows, len(self._columns)), np.nan)
        self.failures: list[str] = []

    def write_rows(
        self,
        rows: npt.NDArray[np.int64],
        descriptors: npt.NDArray[np.floating[Any]],
        regions: RowRegions | None = None,  # noqa: ARG002
    ) -> None:
        """Keep the norms of rows ``(K,)``."""
        for i, columns in enumerate(self._columns.values()):
            self._norms[rows, i] = np.linalg.norm(descriptors[:, columns].astype(np.float64), axis=1)

    @property
    def n_rows(self) -> int:
        """Number of rows written so far."""
        return int((~np.isnan(self._norms[:, 0])).sum())

    def sums(self) -> dict[str, float]:
        """Return the sum of the norms of each layer, by name."""
        return dict(zip(self._columns, np.nansum(self._norms, axis=0).tolist(), strict=True))

    def mark_done(self, image: int) -> None:
        """Do nothing: only rows count."""

    def mark_failed(self, image: int, reason: str) -> None:  # noqa: ARG002
        """Keep the reason."""
        self.failures.append(reason)
