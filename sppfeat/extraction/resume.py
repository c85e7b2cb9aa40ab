"""Continuing a feature file: is it the same work, which images are left, what has changed since."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sppfeat.config.distribution import Shard
from sppfeat.config.extract_config import ExtractConfig, config_differences
from sppfeat.config.regions import RowFlag
from sppfeat.config.specs import InputSpec
from sppfeat.errors import StoreError
from sppfeat.extraction.plan import Plan
from sppfeat.extraction.row_planner import RowPlanner
from sppfeat.extraction.row_sink import Sink
from sppfeat.extraction.sizes import FoundSizes, input_sizes
from sppfeat.files.paths import PathTable
from sppfeat.inputs import Listing, Storage
from sppfeat.inputs.roots import below, is_below
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import RowAudit, Status, scale_indices
from sppfeat.store.tables import Annotations, RowBoxes

__all__ = [
    "Matched",
    "Recorded",
    "continued_plan",
    "copy_rows",
    "extended_plan",
    "match_inputs",
    "read_recorded",
    "relabelled",
]


@dataclass(frozen=True)
class Recorded:
    """What a feature file says of its images.

    Attributes:
        path: the file.
        root, paths, image_hw, rows, labels, classes, ids, boxes: as in :class:`sppfeat.extraction.plan.Plan`.
        status: ``(N,)`` uint8.
        norm_factors: what ``meannorm`` multiplies each layer's part with.
        shard: which part of a whole plan the file has; None: all of it.
    """

    path: Path
    root: bytes
    paths: PathTable
    image_hw: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    classes: tuple[bytes, ...]
    status: npt.NDArray[np.uint8]
    ids: PathTable | None
    boxes: RowBoxes | None
    norm_factors: tuple[float, ...] | None
    shard: Shard | None

    def is_of(self, listing: Listing) -> bool:
        """Whether the file is of these inputs: the same images in the same order, labelled alike."""
        return (
            (self.root, self.classes) == (listing.root, listing.classes)
            and np.array_equal(self.labels, listing.labels)
            and self.paths.has_same(listing.paths)
        )


@dataclass(frozen=True)
class Matched:
    """How the inputs of now relate to the images of a file.

    Attributes:
        root: where the file's images lie now.
        stored_as: ``(N,)`` int64, position in the listing of each image of the file; -1: not among the inputs.
        new: ``(k,)`` int64, positions in the listing of inputs that the file does not have.
        new_paths: these, relative to ``root``.
    """

    root: bytes
    stored_as: npt.NDArray[np.int64]
    new: npt.NDArray[np.int64]
    new_paths: list[bytes]

    @classmethod
    def of_all(cls, plan: Plan) -> "Matched":
        """A file that has the images of a plan, all and in their order."""
        return cls(plan.root, plan.stored_as, np.empty(0, dtype=np.int64), [])

    @property
    def vanished(self) -> npt.NDArray[np.int64]:
        """``(v,)`` int64, images of the file that are not among the inputs."""
        return np.flatnonzero(self.stored_as < 0)


def relabelled(recorded: Recorded, matched: Matched, listing: Listing) -> npt.NDArray[np.int64]:
    """Images of a file of which the inputs of now say another class: ``(k,)`` int64, positions in the file.

    Tables and archives can say so of images that lie where they were. Where they say no class, they say no other.
    """
    if not listing.classes:
        return np.empty(0, dtype=np.int64)
    index = {name: i for i, name in enumerate(recorded.classes)}
    # The last one is found by the label -1, which says nothing; what the file does not have is another class.
    in_file = np.array([*(index.get(name, len(index)) for name in listing.classes), -1], dtype=np.int64)
    images = np.flatnonzero(matched.stored_as >= 0)
    said = in_file[listing.labels[matched.stored_as[images]]]
    return np.asarray(images[(said >= 0) & (said != recorded.labels[images])])


def read_recorded(path: Path, config: ExtractConfig) -> Recorded:
    """Read what a file says of its images, if it was made with this configuration.

    Raises:
        StoreError: it is no feature file, or was made with other settings; these are named with both values.
    """
    try:
        with FeatureFile(path) as file:
            if file.is_reduced:
                raise StoreError("its descriptors were reduced, by 'sppfeat reduce'")
            differences = config_differences(file.config.to_dict(), config.to_dict())
            if differences:
                raise StoreError(f"it was made with other settings: {'; '.join(differences)}")
            return Recorded(
                path=path,
                root=os.fsencode(file.root),
                paths=file.path_table,
                image_hw=file.image_hw,
                rows=file.image_rows,
                labels=file.labels,
                classes=tuple(os.fsencode(name) for name in file.classes),
                status=file.status,
                ids=file.image_id_table,
                boxes=_recorded_boxes(file) if file.has_boxes else None,
                norm_factors=file.norm_factors,
                shard=file.shard,
            )
    except StoreError as error:
        raise StoreError(
            f"{str(path)!r} exists and cannot be continued; use --overwrite or another output: {error}"
        ) from error


def match_inputs(recorded: Recorded, listing: Listing) -> Matched:
    """Compare the inputs of now with the images of a file.

    The file's images are looked for under the root that it records; where the inputs lie elsewhere (the
    folder was moved), under the root of the inputs.

    Raises:
        StoreError: the file holds none of the inputs.
    """
    root, now = recorded.root, listing.paths
    if listing.root != recorded.root:
        if is_below(listing.root, recorded.root):
            folder = below(listing.root, recorded.root)
            now = PathTable(os.path.join(folder, path) for path in now)
        else:
            root = listing.root
    if now.has_same(recorded.paths):
        nothing = np.empty(0, dtype=np.int64)
        return Matched(root, np.arange(len(now), dtype=np.int64), nothing, [])
    stored_as = recorded.paths.positions_in(now)
    if (stored_as < 0).all():
        raise StoreError(
            f"{str(recorded.path)!r} exists and holds none of these inputs: its images lie under "
            f"{os.fsdecode(recorded.root)!r}, such as {os.fsdecode(recorded.paths[0])!r}; "
            "use --overwrite or another output"
        )
    new = np.setdiff1d(np.arange(len(now)), stored_as)
    return Matched(root, stored_as, new, [now[i] for i in new.tolist()])


def continued_plan(recorded: Recorded, matched: Matched, storage: Storage, spec: InputSpec) -> Plan:
    """The plan of the images that a file has, of the sizes that it knows.

    Args:
        recorded, matched: the file and the inputs of now.
        storage: where these are.
        spec: sizes of the network input.
    """
    input_hw, too_odd = input_sizes(recorded.image_hw, spec)
    gone = matched.vanished.tolist()
    return Plan(
        root=matched.root,
        paths=recorded.paths,
        image_hw=recorded.image_hw,
        input_hw=input_hw,
        rows=recorded.rows,
        labels=recorded.labels,
        classes=recorded.classes,
        errors={**too_odd, **dict.fromkeys(gone, "vanished: not among the inputs any more")},
        storage=storage,
        stored_as=matched.stored_as,
        ids=recorded.ids,
        boxes=recorded.boxes,
    )


def extended_plan(
    plan: Plan,
    matched: Matched,
    listing: Listing,
    spec: InputSpec,
    found: FoundSizes,
    planner: RowPlanner | None,
) -> Plan:
    """The plan of a file's images, at their rows, followed by the new inputs.

    New class names come after the ones that the file has; a file without labels stays without.

    Args:
        plan: of the file's images.
        matched, listing: the inputs of now.
        spec: sizes of the network input.
        found: ``(k, 2)`` int32 heights and widths of the new inputs, 0 where unknown, and the reasons by position.
        planner: makes the rows, where there are boxes.
    """
    sizes, reasons = found
    n_old, n_new = plan.n_images, len(matched.new)
    image_hw = np.concatenate((plan.image_hw, sizes))
    input_hw, too_odd = input_sizes(image_hw, spec)
    classes, labels = _extended_classes(plan.classes, listing, matched.new)
    first = np.arange(n_new, dtype=np.int64)
    ranges, boxes = np.stack((first, first + 1), axis=1), plan.boxes
    if boxes is not None and planner is not None:
        ranges, added = planner.rows(matched.root, [*plan.paths, *matched.new_paths], sizes, first=n_old)
        boxes = planner.join(boxes, added)
    return dataclasses.replace(
        plan,
        paths=PathTable([*plan.paths, *matched.new_paths]),
        image_hw=image_hw,
        input_hw=input_hw,
        rows=np.concatenate((plan.rows, plan.n_rows + ranges)),
        labels=np.concatenate((plan.labels, labels)),
        classes=classes,
        errors={
            **too_odd,
            **plan.errors,
            **{n_old + position: reason for position, reason in reasons.items()},
        },
        stored_as=np.concatenate((plan.stored_as, matched.new)),
        ids=_extended_ids(plan, listing, matched.new),
        boxes=boxes,
    )


def copy_rows(source: Path, sink: Sink, n_rows_at_once: int = 256) -> None:
    """Copy what became of the images of one file into one that begins with the same images and rows."""
    with FeatureFile(source) as file:
        status = file.status
        done_rows = np.flatnonzero(status[file.image_index] == Status.DONE)
        flags, regions = (file.row_flag, file.row_region) if file.has_boxes else (None, None)
        for start in range(0, len(done_rows), n_rows_at_once):
            rows = done_rows[start : start + n_rows_at_once]
            audit = None if flags is None or regions is None else RowAudit(flags[rows], regions[rows])
            sink.write_rows(rows, file.features[rows], audit)
        for image in np.flatnonzero(status == Status.DONE).tolist():
            sink.mark_done(image)
        for image, reason in file.errors.items():
            sink.mark_failed(image, reason)


def _recorded_boxes(file: FeatureFile) -> RowBoxes:
    """Rows as a file has them; a box that is smaller than a cell is found so again."""
    return RowBoxes(
        boxes_px=file.boxes,
        flag=file.row_flag & ~np.uint8(RowFlag.SUB_CELL),
        scale=scale_indices(file.row_scale, file.config.input),
        mirrored=file.row_mirrored,
        source=file.row_source,
        annotations=Annotations(
            label=file.row_label,
            classes=tuple(file.row_classes),
            score=file.row_score,
            ids=PathTable(file.row_id),
            extra_names=tuple(file.row_extra),
            extra=tuple(PathTable(column) for column in file.row_extra.values()),
        ),
        box_row=file.box_row,
    )


def _extended_ids(plan: Plan, listing: Listing, new: npt.NDArray[np.int64]) -> PathTable | None:
    """What the inputs call each image; a file without such names stays without."""
    if plan.ids is None:
        return None
    known = listing.ids
    return PathTable([*plan.ids, *(b"" if known is None else known[i] for i in new.tolist())])


def _extended_classes(
    classes: tuple[bytes, ...], listing: Listing, new: npt.NDArray[np.int64]
) -> tuple[tuple[bytes, ...], npt.NDArray[np.int64]]:
    if not classes:
        return classes, np.full(len(new), -1, dtype=np.int64)
    names = [listing.classes[label] if label >= 0 else None for label in listing.labels[new].tolist()]
    extended = list(dict.fromkeys([*classes, *(name for name in listing.classes if name in set(names))]))
    index = {name: i for i, name in enumerate(extended)}
    return tuple(extended), np.array([-1 if name is None else index[name] for name in names], dtype=np.int64)
