"""Continues a feature file: matches its images with the inputs, and plans the images that are left."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sppfeat.config.distribution import Shard
from sppfeat.config.extract_config import ExtractConfig, config_differences
from sppfeat.config.regions import RowFlag
from sppfeat.config.specs import InputSpec
from sppfeat.config.wording import counted
from sppfeat.errors import StoreError
from sppfeat.extraction.changes import FileChanges, changed_note
from sppfeat.extraction.plan import Plan, input_sizes
from sppfeat.extraction.run import Run
from sppfeat.files.paths import PathIndex, PathTable
from sppfeat.inputs import Listing, Storage
from sppfeat.inputs.names import below, is_below
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import UNKNOWN, RowRegions, Status, scale_indices
from sppfeat.store.tables import Annotations, FileTables, RowBoxes
from sppfeat.store.writer import FeatureWriter

__all__ = [
    "MatchedInputs",
    "RecordedImages",
    "cannot_continue",
    "copy_rows",
    "match_inputs",
    "notes_on_changes",
    "plan_additions",
    "plan_recorded",
    "read_recorded",
]


@dataclass(frozen=True, kw_only=True)
class RecordedImages(FileTables):
    """The images and rows of an existing feature file, with the status ``(N,)`` uint8 of each image.

    ``has_versions`` is False for files of old versions, which do not record sizes and times of image files.
    """

    path: Path
    has_versions: bool
    status: npt.NDArray[np.uint8]
    norm_factors: tuple[float, ...] | None
    shard: Shard | None

    def matches(self, listing: Listing) -> bool:
        """Return True if the file holds exactly these inputs: same images, same order, same labels."""
        return (
            (self.root, self.classes) == (listing.root, listing.classes)
            and np.array_equal(self.labels, listing.labels)
            and self.paths.has_same(listing.paths)
        )


@dataclass(frozen=True)
class MatchedInputs:
    """The inputs of a run, matched with the images of a file.

    Attributes:
        root: folder that holds the file's images now.
        listing_index: ``(N,)`` int64, index in the listing of each image of the file; -1 if it is not an input.
        new, new_paths: listing indices ``(k,)`` int64 of the inputs that the file lacks, and their paths relative to
            ``root``.
    """

    root: bytes
    listing_index: npt.NDArray[np.int64]
    new: npt.NDArray[np.int64]
    new_paths: list[bytes]

    @classmethod
    def for_plan(cls, plan: Plan) -> "MatchedInputs":
        """Return the match for a file that holds exactly the images of a plan, in the same order."""
        return cls(plan.root, plan.storage_index, np.empty(0, dtype=np.int64), [])

    @property
    def vanished(self) -> npt.NDArray[np.int64]:
        """``(v,)`` int64, indices of the file's images that are missing from the inputs."""
        return np.flatnonzero(self.listing_index < 0)


def _relabeled_images(
    recorded: RecordedImages, matched: MatchedInputs, listing: Listing
) -> npt.NDArray[np.int64]:
    """Return ``(k,)`` int64, indices of the file's images whose class has changed in the inputs.

    A table or an archive can change the class of an image without moving it. Inputs without a class do not count.
    """
    images = np.flatnonzero(matched.listing_index >= 0)
    labels = listing.labels[matched.listing_index[images]]
    now = np.array([*listing.classes, b""], dtype=object)[labels]  # label -1, no class, is the last name
    before = np.array([*recorded.classes, b""], dtype=object)[recorded.labels[images]]
    return np.asarray(images[(labels >= 0) & (now != before)])


def notes_on_changes(
    run: Run,
    recorded: RecordedImages,
    matched: MatchedInputs,
    changes: FileChanges,
    is_to_do: npt.NDArray[np.bool_],
) -> list[str]:
    """Describe the changes of the inputs since a file was begun; ``is_to_do`` marks the images that will run."""
    notes, request = [], run.request
    changed = np.flatnonzero(changes.changed & (recorded.status != Status.PENDING))
    n_new = len(matched.new) if recorded.shard is None else 0
    n_vanished, missing = len(matched.vanished), np.flatnonzero(changes.missing)
    if request.update:
        kept = "; done images that are missing keep their rows"
        n_missing = n_vanished + len(missing)
        notes.append(
            f"update: {n_new} new, {len(changed)} changed, {n_missing} missing{kept if n_missing else ''}"
        )
    else:
        if n_vanished:
            in_file = counted(n_vanished, "image in the file is", "images in the file are")
            notes.append(f"{in_file} missing from the inputs")
        if len(missing):
            gone, example = counted(len(missing), "image file"), os.fsdecode(recorded.paths[missing[0]])
            notes.append(f"{gone} no longer found, such as {example!r}; the rows stay")
        if n_new and not request.adds_new:
            example = os.fsdecode(matched.new_paths[0])
            notes.append(
                f"{counted(n_new, 'input is', 'inputs are')} not in the file, such as {example!r}; "
                "--update adds them"
            )
    if not request.runs_changed:
        changed = changed[~is_to_do[changed]]
    runs_by = "" if request.runs_changed else "--update-changed"
    notes += changed_note(recorded.paths, recorded.versions, changes, changed, runs_by=runs_by)
    if (request.update or request.update_changed) and not recorded.has_versions:
        notes.append(
            "the file was made by an older sppfeat, which did not record modification times, so changed images cannot "
            "be found; --overwrite starts over"
        )
    n_relabeled = len(_relabeled_images(recorded, matched, run.listing))
    if n_relabeled:
        notes.append(
            f"{counted(n_relabeled, 'image has another class', 'images have other classes')} in the inputs than in the "
            "file, which keeps its own; to take those of the inputs, add --overwrite"
        )
    return notes


def cannot_continue(path: Path, reason: str) -> StoreError:
    """Return the error for an output that this run cannot continue."""
    return StoreError(
        f"cannot continue {str(path)!r}: {reason}. Use --overwrite to replace it, or another output"
    )


def read_recorded(path: Path, config: ExtractConfig) -> RecordedImages:
    """Read the images of a file that was made with these settings.

    Raises:
        StoreError: the file is not a feature file, or was made with different settings; the message lists both values.
    """
    try:
        with FeatureFile(path) as file:
            if file.is_reduced:
                raise StoreError("'sppfeat reduce' wrote it")
            differences = config_differences(file.config.to_dict(), config.to_dict())
            if differences:
                raise StoreError(f"it was extracted with different settings: {'; '.join(differences)}")
            return RecordedImages(
                path=path,
                root=os.fsencode(file.root),
                paths=file.path_table,
                has_versions=file.has("images/nbytes"),
                image_hw=file.image_hw,
                versions=file.image_versions,
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
        raise cannot_continue(path, str(error)) from error


def match_inputs(recorded: RecordedImages, listing: Listing) -> MatchedInputs:
    """Match the inputs with the images of a file, by path.

    If the inputs lie inside the recorded root, paths are compared relative to it. Otherwise the folder is assumed to
    have moved, and each side is compared relative to its own root.

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
    if now.has_same(recorded.paths):  # much faster than to look up every path
        listing_index = np.arange(len(now), dtype=np.int64)
    else:
        listing_index = PathIndex(now).positions(recorded.paths)
    if (listing_index < 0).all():
        found = f"images below {os.fsdecode(recorded.root)!r}, such as {os.fsdecode(recorded.paths[0])!r}"
        raise cannot_continue(recorded.path, f"it holds none of these inputs, but {found}")
    new = np.setdiff1d(np.arange(len(now)), listing_index)
    return MatchedInputs(root, listing_index, new, [now[i] for i in new.tolist()])


def plan_recorded(
    recorded: RecordedImages, matched: MatchedInputs, storage: Storage, spec: InputSpec
) -> Plan:
    """Plan the images of a file, with the recorded sizes; images that are missing now are among the errors."""
    input_hw, too_odd = input_sizes(recorded.image_hw, spec)
    is_failing = recorded.status[matched.vanished] != Status.DONE
    recorded.versions[matched.vanished[is_failing]] = UNKNOWN  # if it comes back, it counts as changed
    vanished = dict.fromkeys(matched.vanished.tolist(), "missing from the inputs")
    tables = {field.name: getattr(recorded, field.name) for field in dataclasses.fields(FileTables)}
    return Plan(
        **{**tables, "root": matched.root},
        input_hw=input_hw,
        errors={**too_odd, **vanished},
        storage=storage,
        storage_index=matched.listing_index,
    )


def plan_additions(plan: Plan, matched: MatchedInputs, run: Run) -> Plan:
    """Plan the images of a file, whose rows keep their places, followed by the new inputs.

    New class names follow the names in the file; a file without labels gets none.
    """
    (sizes, reasons), versions = run.measure_inputs(matched.new)
    listing, planner = run.listing, run.planner
    n_old, new, paths = plan.n_images, matched.new, [*plan.paths, *matched.new_paths]
    image_hw = np.concatenate((plan.image_hw, sizes))
    input_hw, too_odd = input_sizes(image_hw, run.config.input)
    classes, labels = _extended_classes(plan.classes, listing, new)
    first = np.arange(len(new), dtype=np.int64)
    ranges, boxes, ids = np.stack((first, first + 1), axis=1), plan.boxes, plan.ids
    if boxes is not None and planner is not None:
        ranges, added = planner.rows(matched.root, paths, sizes, first=n_old)
        boxes = planner.join(boxes, added)
    if ids is not None:
        ids = PathTable([*ids, *(listing.ids[i] if listing.ids else b"" for i in new.tolist())])
    return dataclasses.replace(
        plan,
        paths=PathTable(paths),
        image_hw=image_hw,
        input_hw=input_hw,
        versions=np.concatenate((plan.versions, versions)),
        rows=np.concatenate((plan.rows, plan.n_rows + ranges)),
        labels=np.concatenate((plan.labels, labels)),
        classes=classes,
        errors={**too_odd, **plan.errors, **{n_old + i: reason for i, reason in reasons.items()}},
        storage_index=np.concatenate((plan.storage_index, new)),
        ids=ids,
        boxes=boxes,
    )


def copy_rows(
    source: Path, writer: FeatureWriter, *, leaving: Sequence[int] = (), n_rows_at_once: int = 256
) -> None:
    """Copy rows and image outcomes into a longer file that begins with the same images and rows.

    The images ``leaving`` stay pending, to be run again.
    """
    with FeatureFile(source) as file:
        status = file.status
        status[[image for image in leaving if image < len(status)]] = Status.PENDING
        done_rows = np.flatnonzero(status[file.image_index] == Status.DONE)
        flags, regions = (file.row_flag, file.row_region) if file.has_boxes else (None, None)
        for start in range(0, len(done_rows), n_rows_at_once):
            rows = done_rows[start : start + n_rows_at_once]
            own = None if flags is None or regions is None else RowRegions(flags[rows], regions[rows])
            writer.write_rows(rows, file.features[rows], own)
        for image in np.flatnonzero(status == Status.DONE).tolist():
            writer.mark_done(image)
        for image, reason in file.errors.items():
            if status[image] == Status.FAILED:
                writer.mark_failed(image, reason)


def _recorded_boxes(file: FeatureFile) -> RowBoxes:
    """Return the boxes of a file's rows, without the sub-cell flag, which the run sets."""
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


def _extended_classes(
    classes: tuple[bytes, ...], listing: Listing, new: npt.NDArray[np.int64]
) -> tuple[tuple[bytes, ...], npt.NDArray[np.int64]]:
    if not classes:
        return classes, np.full(len(new), -1, dtype=np.int64)
    names = [listing.classes[label] if label >= 0 else None for label in listing.labels[new].tolist()]
    extended = list(dict.fromkeys([*classes, *(name for name in listing.classes if name in set(names))]))
    index = {name: i for i, name in enumerate(extended)}
    return tuple(extended), np.array([-1 if name is None else index[name] for name in names], dtype=np.int64)
