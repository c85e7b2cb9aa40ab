"""The content of a feature file as ``sppfeat info --json`` prints it: types of its fields, with their meanings."""

from typing import Annotated, Any, TypeAlias, TypedDict

from sppfeat.config.distribution import Shard
from sppfeat.store.schema import ColumnBlock

__all__ = [
    "BoxInfo",
    "FailureInfo",
    "FileInfo",
    "ImageCounts",
    "ReductionInfo",
    "ReductionSource",
    "SourceInfo",
]

_Columns: TypeAlias = Annotated[dict[str, Any], ColumnBlock]


class ImageCounts(TypedDict):
    """Numbers of images by status.

    Attributes:
        total: number of images.
        done: number of images with descriptors.
        failed: number of images that could not be read or run.
        pending: number of images not yet extracted.
    """

    total: int
    done: int
    failed: int
    pending: int


class SourceInfo(TypedDict):
    """A file that holds rows of a virtual feature file.

    Attributes:
        path: path of the file.
        first_row: its first row in the virtual file.
        rows: number of its rows.
        bytes: size of the file.
    """

    path: str
    first_row: int
    rows: int
    bytes: int


class BoxInfo(TypedDict):
    """The boxes of a feature file.

    Attributes:
        source: the box file, ``grid:...`` or ``multiview``.
        rows: number of rows.
        with_descriptor: number of rows with a descriptor.
        of_failed_or_pending: number of rows of images that failed or are pending.
        clipped: number of boxes that extend beyond their image.
        degenerate: number of boxes without area inside their image; their rows are NaN.
        sub_cell: number of boxes smaller than a cell of the feature map.
        images_without_boxes: number of images without boxes.
        classes: number of rows of each class.
        scales: number of rows pooled at each short side of the network input.
        columns: names of the other columns of the box file.
    """

    source: str
    rows: int
    with_descriptor: int
    of_failed_or_pending: int
    clipped: int
    degenerate: int
    sub_cell: int
    images_without_boxes: int
    classes: dict[str, int]
    scales: dict[str, int]
    columns: list[str]


class ReductionSource(TypedDict):
    """The descriptors that a reduction was fitted on.

    Attributes:
        fingerprint: fingerprint of the file that it was fitted on.
        dimension: length of a descriptor before the reduction.
        selected: number of its values that are reduced.
        columns: blocks of columns before the reduction.
    """

    fingerprint: str
    dimension: int
    selected: int
    columns: list[_Columns]


class ReductionInfo(TypedDict):
    """The reduction of a feature file.

    Attributes:
        method: ``pca`` or ``random``.
        components: length of a descriptor after the reduction.
        whiten: true if every component has variance 1.
        normalize: scaling of the reduced descriptors.
        seed: random seed of the fit.
        fitted_rows: number of rows that it was fitted on.
        fit_rows: conditions that chose these rows.
        explained_variance: share of the variance that the components hold, 0 to 1; null for ``random``.
        fingerprint: fingerprint of the reduction.
        source: the descriptors before the reduction.
    """

    method: str
    components: int
    whiten: bool
    normalize: str
    seed: int
    fitted_rows: int
    fit_rows: list[str]
    explained_variance: float | None
    fingerprint: str
    source: ReductionSource


class FailureInfo(TypedDict):
    """An image that failed.

    Attributes:
        path: path of the image below the root.
        error: reason.
    """

    path: str
    error: str


class FileInfo(TypedDict):
    """The content of a feature file.

    Attributes:
        path: path of the file.
        schema_version: version of the file format.
        sppfeat_version: version of sppfeat that made the file.
        created: time at which the file was made, in ISO 8601.
        bytes: size of the file.
        rows: number of rows.
        dimension: length of a descriptor.
        dtype: data type of the descriptors.
        images: numbers of images by status.
        complete: true if no image is pending.
        shard: place of the file among the shards of an extraction; null if it holds the whole extraction.
        sources: files that hold the rows of a virtual file; null if the file holds them itself.
        boxes: the boxes; null if rows are whole images.
        root: folder that the paths of the images are relative to.
        classes: number of images of each class.
        columns: blocks of columns, one for each level of each layer.
        fingerprint: digest of all settings that affect the descriptors.
        weights_path: path of the weights file.
        config: every setting by name.
        reduction: how the descriptors were reduced; null if they were not.
        failures: the images that failed.
    """

    path: str
    schema_version: int
    sppfeat_version: str
    created: str
    bytes: int
    rows: int
    dimension: int
    dtype: str
    images: ImageCounts
    complete: bool
    shard: Annotated[dict[str, Any], Shard] | None
    sources: list[SourceInfo] | None
    boxes: BoxInfo | None
    root: str
    classes: dict[str, int]
    columns: list[_Columns]
    fingerprint: str
    weights_path: str
    config: dict[str, Any]
    reduction: ReductionInfo | None
    failures: list[FailureInfo]
