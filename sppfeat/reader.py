"""Feature files, read: checked when opened, memory-mapped where possible, ready for scikit-learn."""

import json
import math
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import numpy.typing as npt

from sppfeat.config import ExtractConfig
from sppfeat.errors import ConfigError, StoreError
from sppfeat.hdf5 import hdf5_errors, is_linked, read_dataset, read_in_parts, text_attribute
from sppfeat.layout import check_layout, is_reduced, read_column_blocks
from sppfeat.paths import StrPath
from sppfeat.reduction import FitRecord, Reduction
from sppfeat.schema import ColumnBlock, RowFlag, Status
from sppfeat.selection import LabelSource, RowsLike, Selection, select
from sppfeat.sharding import Shard
from sppfeat.source_files import SourceFiles, read_source_files
from sppfeat.sources import PathTable
from sppfeat.texts import one_line
from sppfeat.virtual_features import VirtualFeatures

if TYPE_CHECKING:
    from sppfeat.torch_dataset import FeatureDataset

__all__ = ["FeatureFile", "open_features"]


class FeatureFile:
    """A feature file, open for reading; also while another process is filling it.

    Use :func:`sppfeat.open`. A row whose image failed holds NaN, one whose image is pending is undefined:
    :meth:`to_sklearn` and :meth:`iter_batches` hand out only rows that have a descriptor.

    Nobody may shorten the file while it is open, nor after arrays of it were handed out: the system ends a process
    (SIGBUS) that reads through a map what is no longer there. Replacing it by another file is harmless.

    Args:
        path: the file.

    Attributes:
        path: the file.
        sources: the files that have its rows, where 'sppfeat merge' made it of them; None where it has them itself.

    Raises:
        StoreError: no file, no HDF5 file, not a file of this format, of a newer schema, or inconsistent; or merged of
            files of which one is missing or was changed since.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = Path(os.fsdecode(path))
        if not os.path.exists(self.path):  # Path.exists raises on a name that is too long
            raise StoreError(_why_missing(self.path))
        if not self.path.is_file():
            raise StoreError(f"not a file: {str(self.path)!r}")
        with hdf5_errors(self.path, "cannot be opened as HDF5"):
            self._file = h5py.File(self.path, "r")
        try:
            self._nbytes = self.nbytes
            self._stored = check_layout(self._file, self.path)
            self._identity = (self.attribute("fingerprint"), self._stored.shape)
            self.sources = self._find_sources()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "FeatureFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self.n_rows

    def __repr__(self) -> str:
        return (
            f"<FeatureFile {str(self.path)!r}: {self.n_rows} rows x {self.dimension}, {self.n_images} images>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and other processes open the file again: it is not in the pickle."""
        return _reopen, (os.path.abspath(self.path), self._identity)

    def close(self) -> None:
        """Close the file; arrays that were handed out stay valid."""
        self._file.close()

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return self.stat().st_size

    @property
    def read_paths(self) -> list[Path]:
        """The file, and those that have its rows: what nobody may write to who reads it."""
        sources = self.sources or ()
        return [self.path, *(Path(self.sources.path_of(i)) for i in range(len(sources)) if self.sources)]

    def stat(self) -> os.stat_result:
        """What the system says of the file that is open, whatever has its name by now."""
        return os.fstat(self._file.id.get_vfd_handle())

    def features_offset(self) -> int | None:
        """Where ``/features`` begin in the file, in bytes; None where they are not one piece of it."""
        return self._stored.offset

    @property
    def n_rows(self) -> int:
        """Number of rows, with and without descriptor."""
        return self._stored.shape[0]

    @property
    def dimension(self) -> int:
        """Length of a descriptor."""
        return self._stored.shape[1]

    @property
    def dtype(self) -> np.dtype[np.floating[Any]]:
        """Type of the descriptors: float32 or float16."""
        return self._stored.dtype

    @property
    def n_images(self) -> int:
        """Number of images."""
        return int(self._file["images/status"].shape[0])

    @cached_property
    def features(self) -> npt.NDArray[np.floating[Any]] | VirtualFeatures:
        """``(R, D)`` float32 or float16, memory-mapped, read-only; failed and pending rows too.

        Of a merged file whose rows lie in other files something that is indexed as an array is.
        """
        return self._map("features") if self.sources is None else VirtualFeatures(self.sources)

    def drop_pages(self) -> None:
        """Give back the memory that mapped :attr:`features` were read into; what is read again comes from the disk.

        For whoever reads all of a large file once: the system counts these pages as memory of the process until it
        needs them for something else.
        """
        if isinstance(self.features, VirtualFeatures):
            self.features.drop_pages()
            return
        mapped = getattr(self.features, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)

    @property
    def boxes(self) -> npt.NDArray[np.float64]:
        """``(R, 4)`` float64, ``xyxy`` in pixels of the image as displayed, edges, half-open."""
        return self._read("boxes")

    @property
    def image_index(self) -> npt.NDArray[np.int64]:
        """``(R,)`` int64: the image of each row."""
        return self._read("image_index")

    @cached_property
    def paths(self) -> list[str]:
        """``(N,)``: path of each image, relative to :attr:`root`, as ``os.fsdecode`` has it."""
        return [os.fsdecode(path) for path in self.path_table]

    @cached_property
    def path_table(self) -> PathTable:
        """:attr:`paths` as bytes, compactly."""
        return self._path_table("images/path")

    @cached_property
    def image_ids(self) -> PathTable | None:
        """What the inputs called the images, as bytes; None where they had no such names."""
        return self._path_table("images/id") if self.has_table("images/id") else None

    def path_of(self, image: int) -> str:
        """Path of one image, relative to :attr:`root`."""
        return os.fsdecode(self.path_table[image])

    @property
    def image_hw(self) -> npt.NDArray[np.int32]:
        """``(N, 2)`` int32: height and width of each image as displayed."""
        return self._read("images/size")

    @property
    def image_rows(self) -> npt.NDArray[np.int64]:
        """``(N, 2)`` int64: half-open range of each image's rows."""
        return self._read("images/rows")

    @property
    def status(self) -> npt.NDArray[np.uint8]:
        """``(N,)`` uint8: 0 pending, 1 done, 2 failed; read anew each time."""
        # Through a map: HDF5 may have cached what another process has written over since.
        return np.array(self._map("images/status"))

    @property
    def errors(self) -> dict[int, str]:
        """Why images failed, by image."""
        failed = np.flatnonzero(self.status == Status.FAILED)
        texts = self._map("images/error")
        return {int(i): bytes(texts[i]).decode("utf-8", "replace") for i in failed}

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """``(N,)`` int64: class of each image, an index into :attr:`classes`, or -1."""
        return self._read("images/label")

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes; empty where they are not known."""
        return [os.fsdecode(name) for name in self._read("classes")]

    @property
    def has_boxes(self) -> bool:
        """Whether rows are boxes; whole images otherwise, and then there is nothing in the ``row_*``."""
        return "row_source" in self._file

    @property
    def row_source(self) -> npt.NDArray[np.int64]:
        """``(R,)`` int64: position of each row's box in the box file."""
        return self._read("row_source")

    @property
    def row_flag(self) -> npt.NDArray[np.uint8]:
        """``(R,)`` uint8: what was found of each row's box, bits of :class:`sppfeat.schema.RowFlag`."""
        return np.array(self._map("row_flag"))

    @property
    def row_scale(self) -> npt.NDArray[np.int32]:
        """``(R,)`` int32: short side at which each row was pooled; 0 the image's own size, -1 none."""
        return np.array(self._map("row_scale"))

    @property
    def row_mirrored(self) -> npt.NDArray[np.bool_]:
        """``(R,)`` bool: whether each row was pooled from the mirror image."""
        return self._read("row_mirrored").astype(bool)

    @property
    def row_region(self) -> npt.NDArray[np.int32]:
        """``(R, L, 4)`` int32: cells of each layer's map, ``x0, y0, x1, y1``, half-open; zeros: none yet."""
        return np.array(self._map("row_region"))

    @property
    def row_label(self) -> npt.NDArray[np.int64]:
        """``(R,)`` int64: class of each row's box, an index into :attr:`row_classes`, or -1."""
        return self._read("row_label")

    @property
    def row_score(self) -> npt.NDArray[np.float64]:
        """``(R,)`` float64: score of each row's box, NaN where there is none."""
        return self._read("row_score")

    @cached_property
    def row_id(self) -> list[str]:
        """``(R,)``: what the box file calls each row's box; empty where it has no name."""
        return [os.fsdecode(name) for name in self._read("row_id")]

    @cached_property
    def row_classes(self) -> list[str]:
        """Names of the classes of boxes; empty where they are not known."""
        return [os.fsdecode(name) for name in self._read("row_classes")] if self.has_boxes else []

    @cached_property
    def row_extra(self) -> dict[str, list[str]]:
        """Further columns of the box file by name, each ``(R,)`` texts."""
        names = [os.fsdecode(name) for name in self._read("row_extra_names")]
        columns = self._read("row_extra").reshape(self.n_rows, len(names)).T
        return {name: [os.fsdecode(t) for t in column] for name, column in zip(names, columns, strict=True)}

    @property
    def box_row(self) -> npt.NDArray[np.int64]:
        """For each box of the box file the row that has its descriptor; -1: its image was no input."""
        return self._read("box_row")

    @property
    def target_names(self) -> list[str]:
        """What the numbers of ``y`` stand for: :attr:`row_classes` if boxes have classes, else :attr:`classes`."""
        return self.row_classes or self.classes

    @cached_property
    def columns(self) -> tuple[ColumnBlock, ...]:
        """Which column of a descriptor is what."""
        return read_column_blocks(self._file, self.path)

    @property
    def is_reduced(self) -> bool:
        """Whether the descriptors were reduced to fewer dimensions: see :attr:`reduction`."""
        return is_reduced(self._file)

    @cached_property
    def reduction(self) -> Reduction | None:
        """What reduced the descriptors, to be applied to others; None where they are as extracted."""
        if not self.is_reduced:
            return None
        try:
            return Reduction(
                record=FitRecord.from_json(self.attribute("reduction")),
                mean=self._read("reduction/mean"),
                components=self._read("reduction/components"),
                scale=self._read("reduction/scale"),
            )
        except ConfigError as error:
            raise StoreError(f"{str(self.path)!r}: its reduction: {one_line(str(error))}") from error

    @property
    def reduction_fingerprint(self) -> str | None:
        """Of the :attr:`reduction`: descriptors with different ones cannot be compared; None where there is none."""
        return None if self.reduction is None else self.reduction.fingerprint

    @property
    def extracted_columns(self) -> tuple[ColumnBlock, ...]:
        """Which column was what when the descriptors were extracted; :attr:`columns` where they were not reduced."""
        return self.columns if self.reduction is None else self.reduction.record.source_columns

    @cached_property
    def config(self) -> ExtractConfig:
        """The settings that the descriptors were extracted with; a :attr:`reduction` came after that."""
        where = f"{str(self.path)!r}: its attribute 'config'"
        try:
            return ExtractConfig.from_dict(json.loads(self.attribute("config")))
        except json.JSONDecodeError as error:
            raise StoreError(f"{where} is not JSON: {error}") from error
        # Nested too deeply, digits without end, or a value of a type that nobody thought of.
        except (ConfigError, RecursionError, ValueError, TypeError, ArithmeticError, LookupError) as error:
            raise StoreError(f"{where}: {one_line(str(error))}") from error

    @property
    def norm_factors(self) -> tuple[float, ...] | None:
        """What ``meannorm`` multiplied each layer's part with; None where that was not asked for."""
        text = text_attribute(self._file, "norm_factors", self.path)
        if text is None:
            return None
        try:
            recorded = json.loads(text)
            factors = tuple(map(_positive_number, recorded)) if isinstance(recorded, list) else ()
        except (RecursionError, ValueError, OverflowError):
            factors = ()
        if not factors:
            raise StoreError(
                f"{str(self.path)!r}: its attribute 'norm_factors' is {one_line(repr(text))}; "
                "allowed: a list of numbers above 0"
            )
        return factors

    @property
    def shard(self) -> Shard | None:
        """Which images and rows of a whole plan the file has; None: all of them."""
        text = text_attribute(self._file, "shard", self.path)
        if text is None:
            return None
        try:
            return Shard.from_json(text)
        except ConfigError as error:
            raise StoreError(f"{str(self.path)!r}: its attribute 'shard': {one_line(str(error))}") from error

    @property
    def schema_version(self) -> int:
        """Version of the file format."""
        return int(self._file.attrs["schema_version"])

    @property
    def root(self) -> str:
        """Folder that :attr:`paths` are relative to."""
        return self.attribute("input_root")

    def attribute(self, name: str) -> str:
        """Return a text attribute of the file.

        Raises:
            StoreError: there is none.
        """
        value = self.find_attribute(name)
        if value is None:
            raise StoreError(f"{str(self.path)!r} has no text attribute {name!r}")
        return value

    def find_attribute(self, name: str) -> str | None:
        """Return a text attribute of the file, or None where there is none."""
        return text_attribute(self._file, name, self.path)

    def table(self, name: str) -> npt.NDArray[Any]:
        """Content of a dataset beside the features, as it is stored; texts as bytes."""
        return np.reshape(self._read(name), self._file[name].shape)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Shape of a dataset beside the features."""
        shape: tuple[int, ...] = self._file[name].shape
        return shape

    def table_parts(self, name: str) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        """The same in parts, in their order, of so many entries that memory stays small, and which entries they are."""
        self._check_length(name)
        return read_in_parts(self._file, name, self.path)

    def has_table(self, name: str) -> bool:
        """Whether there is a dataset that not every file has, such as ``images/id``."""
        return is_linked(self._file, name, self.path)

    def has_descriptor(self) -> npt.NDArray[np.bool_]:
        """``(R,)`` bool, whether a row has a descriptor: its image is done, and its box has an area."""
        has_one = np.asarray(self.status[self.image_index] == Status.DONE)
        if self.has_boxes:
            has_one &= (self.row_flag & RowFlag.DEGENERATE) == 0
        return has_one

    def rows_with_descriptor(self) -> npt.NDArray[np.int64]:
        """Numbers of the rows that have a descriptor, ascending: of images that are done, and with an area."""
        return np.flatnonzero(self.has_descriptor())

    def count_boxes(self) -> dict[str, int]:
        """How many rows there are, how many have a descriptor, and how many were found what of their box."""
        flag = self.row_flag
        return {
            "rows": self.n_rows,
            "with_descriptor": len(self.rows_with_descriptor()),
            "of_failed_or_pending": int((self.status[self.image_index] != Status.DONE).sum()),
            "clipped": int(((flag & RowFlag.CLIPPED) != 0).sum()),
            "degenerate": int(((flag & RowFlag.DEGENERATE) != 0).sum()),
            "sub_cell": int(((flag & RowFlag.SUB_CELL) != 0).sum()),
        }

    def select(
        self,
        *,
        rows: RowsLike = None,
        layers: Iterable[str] | str | None = None,
        levels: Iterable[int] | int | None = None,
        bins: Mapping[int, Iterable[tuple[int, int]]] | None = None,
        labels: LabelSource = None,
    ) -> Selection:
        """Some rows and columns of the file, with labels and groups that fit them; nothing is read yet.

        Args:
            rows: None for every row that has a descriptor. A slice, a mask ``(R,)``, or conditions in words, which
                all hold (of one kind: any of them): ``"label=cat*"``, ``"image=train/*"``, ``"flag=ok"``, ``"0:100"``:
                those that have a descriptor, in file order; with ``"status=failed"`` (or ``done``, ``pending``,
                ``any``) also those that have none. Row numbers: these, in this order.
            layers, levels: which; all where None.
            bins: for a level the bins ``(row, column)`` to take; of levels that are not named all.
            labels: what class each row is of: None for the classes of boxes where the file has any, else of images;
                ``"box"``, ``"image"``; a table (``.csv``, ``.tsv``) with columns ``label``, and ``path`` or
                ``row``; a mapping of paths to classes; an array of ``R`` rows or ``N`` images.

        Returns:
            The selection. Where levels or bins of a layer are left out, what is left of it is scaled again as
            the file's ``normalize`` says (``l2``, ``power``; a mean norm stays what it was).

        Raises:
            ConfigError: rows, layers, levels, bins or classes that there are not.
            LabelError: labels that are malformed, or of other images.
        """
        return select(self, rows=rows, layers=layers, levels=levels, bins=bins, labels=labels)

    def to_sklearn(
        self,
        *,
        labels: LabelSource = None,
        levels: Iterable[int] | int | None = None,
        layers: Iterable[str] | str | None = None,
        rows: RowsLike = None,
        bins: Mapping[int, Iterable[tuple[int, int]]] | None = None,
    ) -> tuple[npt.NDArray[np.floating[Any]], npt.NDArray[Any] | None]:
        """``X`` and ``y`` of the rows that have a descriptor, or of a selection.

        Args:
            labels, levels, layers, rows, bins: as for :meth:`select`.

        Returns:
            ``X`` ``(n, d)``: a read-only view of the memory-mapped file where these rows and columns are one range
            of it (always, when all are asked for, no image failed or is pending and every box has an area),
            else a copy. ``y`` ``(n,)`` int64, the class of each row as an index into :attr:`target_names`: of its
            box if the box file has classes, else of its image; -1 where it has none; None where no classes are
            known. With ``labels=`` the numbers are of the names that :meth:`select` gives as its ``target_names``.
        """
        return self.select(labels=labels, levels=levels, layers=layers, rows=rows, bins=bins).to_sklearn()

    def iter_batches(
        self, batch_size: int = 1024, *, seed: int | None = None, **selection: Any
    ) -> Iterator[tuple[npt.NDArray[np.floating[Any]], npt.NDArray[Any] | None]]:
        """``X`` and ``y`` as :meth:`to_sklearn`, ``batch_size`` rows at a time, for ``partial_fit``.

        Args:
            batch_size: rows at a time; the last may be fewer.
            seed: of a random order, without which a file sorted by class gives one class after the other; None
                for the order of the file.
            **selection: as for :meth:`select`.
        """
        return self.select(**selection).iter_batches(batch_size, seed=seed)

    def to_pandas(self, **selection: Any) -> Any:
        """A ``pandas.DataFrame`` of everything but the vectors, one line per row, aligned with :meth:`to_sklearn`.

        Args:
            **selection: as for :meth:`select`; ``rows="status=any"`` for the rows that failed, too.

        Returns:
            A table indexed by the row's number, see :func:`sppfeat.selection.pandas_table.to_pandas`.

        Raises:
            ConfigError: pandas is not installed; or see :meth:`select`.
        """
        return self.select(**selection).to_pandas()

    def to_torch_dataset(self, **selection: Any) -> "FeatureDataset":
        """A ``torch.utils.data.Dataset`` of ``(vector, class)``: float32 ``(d,)``, and int64 with -1 for none.

        Args:
            **selection: as for :meth:`select`.
        """
        return self.select(**selection).to_torch_dataset()

    @property
    def groups(self) -> npt.NDArray[np.int64]:
        """``(n,)`` int64: image of each row that :meth:`to_sklearn` gives, for grouped splits."""
        return self.select().groups

    def _find_sources(self) -> SourceFiles | None:
        if not self._stored.is_virtual:
            return None
        sources = read_source_files(self._file, self.path, self._stored)
        sources.check()
        return sources

    def _map(self, name: str) -> npt.NDArray[Any]:
        """Return a dataset as a read-only memory map; its content where it is not one piece of the file."""
        self._check_length(name)
        with hdf5_errors(self.path, f"cannot read /{name}"):
            dataset = self._file[name]
            offset = dataset.id.get_offset()
            if offset is None or dataset.chunks is not None or 0 in dataset.shape:
                return read_dataset(self._file, name, self.path)
            # By descriptor: another file may have been renamed to this path since.
            with os.fdopen(os.dup(self._file.id.get_vfd_handle()), "rb") as raw:
                return np.memmap(raw, dtype=dataset.dtype, mode="r", offset=offset, shape=dataset.shape)

    def _read(self, name: str) -> npt.NDArray[Any]:
        self._check_length(name)
        return read_dataset(self._file, name, self.path)

    def _path_table(self, name: str) -> PathTable:
        """Texts without an object for each, which takes 100 bytes."""
        return PathTable(chain.from_iterable(texts for _, texts in self.table_parts(name)))

    def _check_length(self, name: str) -> None:
        """Refuse to read a file that is shorter than when it was opened: HDF5 would read zeros."""
        if self.nbytes < self._nbytes:
            raise StoreError(
                f"{str(self.path)!r}: cannot read /{name}: the file was cut short since it was opened, "
                f"from {self._nbytes} to {self.nbytes} bytes"
            )


def _reopen(path: str, identity: tuple[Any, ...]) -> FeatureFile:
    file = FeatureFile(path)
    if file._identity != identity:
        file.close()
        raise StoreError(f"{path!r} is another file by now")
    return file


def _positive_number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{value!r} is no number above 0")
    return float(value)


def open_features(path: StrPath) -> FeatureFile:
    """Open a feature file for reading; the same as ``sppfeat.open``.

    Args:
        path: the file.

    Returns:
        The open file, a context manager.

    Raises:
        StoreError: no file, no HDF5 file, not a file of this format, of a newer schema, or inconsistent.
    """
    return FeatureFile(path)


def _why_missing(path: Path) -> str:
    from sppfeat.remote.urls import shown
    from sppfeat.remote_output import url_of  # which knows of all that uploads; nothing else here needs it

    url = url_of(path)
    if url is None:
        return f"no such file: {str(path)!r}"
    return f"{shown(url)} is read from this machine only: fetch it first"
