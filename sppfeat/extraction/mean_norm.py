"""The scaling of SPP-net's released code: one factor per layer, such that the mean l2 norm is a given one.

The code (SPP_net, ``rcnn_feature_stats``) scales features to a mean norm of 20, which it estimates on up to
200 images with up to 200 boxes each. Here the factor is estimated per layer, before the first row, on images
and boxes drawn from the whole plan.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.decoding import Decoder
from sppfeat.errors import ConfigError, ImageError
from sppfeat.extraction.pipeline import Describe, run_pipeline
from sppfeat.extraction.plan import Plan, schedule
from sppfeat.store.schema import ColumnBlock, RowAudit

__all__ = ["estimate_factors", "sample_plan"]

_N_IMAGES = 200
_N_ROWS = 200  # of each image
_SEED = 0
_NOWHERE = Path()


def estimate_factors(
    plan: Plan,
    blocks: Sequence[ColumnBlock],
    mean_norm: float,
    *,
    decoder: Decoder,
    describe_for: Callable[[Plan], Describe],
    batch_pixels: int,
    learn: Callable[[Plan], Plan] | None = None,
    scratch: Path = _NOWHERE,
) -> tuple[float, ...]:
    """What to multiply each layer's part of a descriptor with, so that its mean l2 norm is ``mean_norm``.

    Args:
        plan: images and rows, of which some are drawn.
        blocks: the columns of a descriptor.
        mean_norm: wanted.
        decoder: reads the images.
        describe_for: a plan to what makes its rows, not scaled.
        batch_pixels: see :func:`sppfeat.extraction.plan.schedule`.
        learn: a plan of the drawn images to one in which their sizes are known, if they can be; None: only those whose
            size is known are drawn.
        scratch: an existing folder, where images have to be fetched.

    Returns:
        One factor per layer.

    Raises:
        ImageError: none of the drawn images could be read.
        ConfigError: a layer's descriptors are all zero.
    """
    sample = sample_plan(plan, n_images=_N_IMAGES, n_rows=_N_ROWS, seed=_SEED, learn=learn)
    norms = _NormSink(blocks, sample.n_rows)
    batches = schedule(
        sample.input_hw,
        np.arange(sample.n_images),
        batch_size=None,
        batch_pixels=batch_pixels,
        uses=sample.uses,
    )
    with sample.storage.fetch(sample.stored_as, scratch) as places:
        run_pipeline(
            sample,
            batches,
            places=lambda images: [places[i] for i in images.tolist()],
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
    learn: Callable[[Plan], Plan] | None = None,
) -> Plan:
    """A plan of up to ``n_images`` images, drawn at random, with up to ``n_rows`` rows of each.

    Args:
        plan: all images.
        n_images, n_rows: at most.
        seed: of the draw.
        learn: a plan of the drawn images to one in which their sizes are known, if they can be; None: only those whose
            size is known are drawn.
    """
    rng = np.random.default_rng(seed)
    is_usable = _can_run(plan)
    if learn is not None:
        is_usable |= _may_run(plan)
    usable = np.flatnonzero(is_usable)
    images = np.sort(rng.choice(usable, min(n_images, len(usable)), replace=False))
    drawn = plan.take(images, [np.arange(*own) for own in plan.rows[images].tolist()])
    if learn is not None:
        drawn = learn(drawn)
    runs = np.flatnonzero(_can_run(drawn))
    chosen = []
    for first, stop in drawn.rows[runs].tolist():
        rows = np.arange(first, stop)
        if drawn.boxes is not None:
            rows = rows[drawn.boxes.scale[first:stop] >= 0]
        chosen.append(np.sort(rng.choice(rows, min(n_rows, len(rows)), replace=False)))
    return drawn.take(runs, chosen)


def _can_run(plan: Plan) -> npt.NDArray[np.bool_]:
    """``(N,)`` bool: which images have a size and rows that are pooled."""
    return np.asarray((plan.input_hw > 0).all(axis=(1, 2)) & plan.uses.any(axis=1))


def _may_run(plan: Plan) -> npt.NDArray[np.bool_]:
    """``(N,)`` bool: which images have rows, and a size that is not known yet."""
    is_unknown = (plan.image_hw == 0).any(axis=1)
    is_unknown[list(plan.errors)] = False
    return np.asarray(is_unknown & (np.diff(plan.rows, axis=1).reshape(-1) > 0))


class _NormSink:
    """Keeps the l2 norms of each layer's part: of each row once, though a batch that is split gives some again."""

    def __init__(self, blocks: Sequence[ColumnBlock], n_rows: int) -> None:
        self._columns: dict[str, slice] = {}
        for block in blocks:
            start = self._columns[block.layer].start if block.layer in self._columns else block.start
            self._columns[block.layer] = slice(start, block.stop)
        self._norms = np.full((n_rows, len(self._columns)), np.nan)
        self.failures: list[str] = []

    def write_rows(
        self,
        rows: npt.NDArray[np.int64],
        descriptors: npt.NDArray[np.floating[Any]],
        audit: RowAudit | None = None,  # noqa: ARG002
    ) -> None:
        """Keep the norms of some rows."""
        for i, columns in enumerate(self._columns.values()):
            self._norms[rows, i] = np.linalg.norm(descriptors[:, columns].astype(np.float64), axis=1)

    @property
    def n_rows(self) -> int:
        """Rows that were written."""
        return int((~np.isnan(self._norms[:, 0])).sum())

    def sums(self) -> dict[str, float]:
        """Return the sum of the norms of each layer's part."""
        return dict(zip(self._columns, np.nansum(self._norms, axis=0).tolist(), strict=True))

    def mark_done(self, image: int) -> None:
        """Need nothing."""

    def mark_failed(self, image: int, reason: str) -> None:  # noqa: ARG002
        """Keep the reason."""
        self.failures.append(reason)
