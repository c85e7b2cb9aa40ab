"""A projection of descriptors to fewer dimensions, as a feature file records it.

This module applies projections, with numpy only; :mod:`sppfeat.analysis.reduce` fits them.
"""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.config.machine import row_ranges
from sppfeat.config.specs import ReductionSpec
from sppfeat.errors import ConfigError, SppfeatError
from sppfeat.store.descriptor_columns import ColumnSelection, select_columns
from sppfeat.store.schema import ColumnBlock, check_dimension

__all__ = ["FitRecord", "Reduction"]

_BLOCK_NBYTES = 64 << 20  # of descriptors, projected at a time


@dataclass(frozen=True, kw_only=True)
class FitRecord:
    """The origin of a reduction: its settings and the descriptors it was fitted on.

    Attributes:
        source_columns: blocks of columns of the descriptors before the reduction.
        source_normalize: the ``normalize`` setting of those descriptors.
        source_fingerprint: fingerprint of the file that the reduction was fitted on.
        fitted_rows: number of rows that the reduction was fitted on; 0 for a random projection.
        explained_variance: share of those rows' variance that the components keep, 0 to 1; None for a random
            projection.
    """

    spec: ReductionSpec
    source_columns: tuple[ColumnBlock, ...]
    source_normalize: str
    source_fingerprint: str
    fitted_rows: int
    explained_variance: float | None

    def __post_init__(self) -> None:
        check_dimension(self.source_columns, self.source_columns[-1].stop)

    @cached_property
    def selection(self) -> ColumnSelection:
        """The columns of the descriptors that are projected."""
        return select_columns(self.source_columns, layers=self.spec.layers, levels=self.spec.levels)

    def to_json(self) -> str:
        """Return the record as canonical JSON."""
        values = dataclasses.asdict(self)
        values["source_columns"] = [list(block) for block in self.source_columns]
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "FitRecord":
        """Return the record that :meth:`to_json` wrote; raise ConfigError if the text is not such a record."""
        try:
            values = json.loads(text)
            recorded = dict(values.pop("spec"))
            spec: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in recorded.items()}
            columns = tuple(ColumnBlock(*block) for block in values.pop("source_columns"))
            return cls(spec=ReductionSpec(**spec), source_columns=columns, **values)
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise ConfigError(f"it does not record a reduction: {error}") from error
        except SppfeatError as error:
            raise ConfigError(str(error)) from error


@dataclass(frozen=True, kw_only=True, eq=False)
class Reduction:
    """A projection of descriptors ``(n, D)`` to fewer dimensions ``(n, D')``.

    Attributes:
        record: the settings, and the descriptors that the projection was fitted on.
        mean: ``(d,)`` float32, subtracted from the selected columns.
        components: ``(D', d)`` float32, the directions of the projection.
        scale: ``(D',)`` float32, factor of each component: 1, or its whitening factor.

    Raises:
        ConfigError: an array does not fit the record, or is not finite.
    """

    record: FitRecord
    mean: npt.NDArray[np.float32]
    components: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        n, d = self.record.spec.components, self.record.selection.width
        for name, shape in (("mean", (d,)), ("components", (n, d)), ("scale", (n,))):
            array = getattr(self, name)
            if array.shape != shape:
                raise ConfigError(f"{name} has the shape {array.shape}, not {shape}")
            if not np.isfinite(array).all():
                raise ConfigError(f"{name} holds values that are not finite")

    @property
    def spec(self) -> ReductionSpec:
        """The settings of the user."""
        return self.record.spec

    @property
    def dimension(self) -> int:
        """Length of a reduced descriptor."""
        return self.record.spec.components

    @property
    def source_dimension(self) -> int:
        """Length of a descriptor before the reduction."""
        return self.record.source_columns[-1].stop

    @property
    def columns(self) -> tuple[ColumnBlock, ...]:
        """The columns of a reduced descriptor: one block."""
        return (ColumnBlock(self.spec.method, 1, self.dimension, 0, self.dimension),)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of record and arrays, in hexadecimal: where it is equal, comparable descriptors stay comparable."""
        digest = hashlib.sha256(self.record.to_json().encode())
        for array in (self.mean, self.components, self.scale):
            digest.update(np.ascontiguousarray(array, dtype="<f4").data)
        return digest.hexdigest()

    def fingerprint_of(self, source_fingerprint: str) -> str:
        """Return the fingerprint of a reduced file, from the fingerprint of the file before the reduction."""
        return hashlib.sha256(f"{source_fingerprint} {self.fingerprint}".encode()).hexdigest()

    def apply(self, descriptors: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """Reduce whole descriptors ``(n, D)`` of any float type to ``(n, D')`` float32, as ``sppfeat reduce`` does.

        A row that holds NaN gives a row of NaN. ConfigError is raised for descriptors that are not ``(n, D)``.
        """
        if descriptors.ndim != 2 or descriptors.shape[1] != self.source_dimension:
            raise ConfigError(
                f"descriptors to reduce are of shape {descriptors.shape}; allowed: (n, {self.source_dimension})"
            )
        reduced = np.empty((len(descriptors), self.dimension), dtype=np.float32)
        row_nbytes = 4 * self.source_dimension
        with np.errstate(over="ignore", invalid="ignore"):
            for part in row_ranges(len(descriptors), row_nbytes=row_nbytes, nbytes=_BLOCK_NBYTES):
                reduced[part] = self._components_of(descriptors[part])
            if self.spec.normalize == "l2":
                norm = np.linalg.norm(reduced.astype(np.float64), axis=1, keepdims=True)
                reduced /= np.where(norm > 0, norm, 1).astype(np.float32)
        return reduced

    def sensitivity(self, descriptors: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
        """Return ``(n,)`` scales against which rounding errors of reduced descriptors ``(n, D)`` are measured.

        A scale bounds the change of a reduced descriptor when its descriptor changes by as much as its own norm.
        Relative to the reduced norm, rounding errors look larger: subtracting the mean and whitening amplify them.
        """
        selection, normalize = self.record.selection, self.record.source_normalize
        norms = np.linalg.norm(selection.take(descriptors, normalize).astype(np.float64), axis=1)
        scaled = self.components.astype(np.float64) * self.scale[:, None]
        moved = norms * math.sqrt(max(0.0, float(np.linalg.eigvalsh(scaled @ scaled.T)[-1])))
        if self.spec.normalize != "l2":
            return np.asarray(moved)
        raw = np.linalg.norm(self._components_of(descriptors).astype(np.float64), axis=1)
        return np.asarray(moved / np.where(raw > 0, raw, 1))

    def _components_of(self, descriptors: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        selected = self.record.selection.take(descriptors, self.record.source_normalize)
        centered = np.subtract(selected, self.mean, dtype=np.float32)
        return np.asarray((centered @ self.components.T) * self.scale, dtype=np.float32)
