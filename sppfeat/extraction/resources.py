"""What runs over a listing need, loaded once whatever the number of files that they fill, and what is said of it."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.config.request import ExtractRequest
from sppfeat.config.wording import counted
from sppfeat.decoding import Decoder
from sppfeat.extraction.box_report import box_notes
from sppfeat.extraction.parts import Task
from sppfeat.extraction.plan import Plan
from sppfeat.extraction.setup import Equipment, load_equipment
from sppfeat.extraction.sizes import FoundSizes, read_sizes
from sppfeat.inputs import Listing, Storage
from sppfeat.networks.acceleration import bfloat16_note
from sppfeat.networks.bundled import bundled_note

__all__ = ["Means", "gather_means", "note_plan"]


class Means(NamedTuple):
    """What runs over a listing need.

    Attributes:
        equipment: settings, network and device.
        decoder: reads the images.
        n_workers: processes that it has, 0 for none.
        scratch: a folder for images that have to be fetched.
        task: what is to be done.
        notes: what the user should know about the inputs; for more of them.
    """

    equipment: Equipment
    decoder: Decoder
    n_workers: int
    scratch: Path
    task: Task
    notes: list[str]


@contextlib.contextmanager
def gather_means(
    request: ExtractRequest, listing: Listing, on_probe: Callable[[int, int], None]
) -> Iterator[Means]:
    """Load the network, start decoders and make a scratch folder; all is given back when the context ends."""
    with contextlib.ExitStack() as stack:
        equipment = load_equipment(request)
        config = equipment.config
        n_workers = equipment.n_workers(len(listing.paths))
        decoder = stack.enter_context(contextlib.closing(equipment.decoder(n_workers)))
        scratch = Path()
        if not listing.storage.is_local:
            folder = tempfile.TemporaryDirectory(prefix="sppfeat-", dir=request.scratch)
            scratch = Path(stack.enter_context(folder))
        notes = _listing_notes(listing, request.labels)
        notes += filter(
            None, [bundled_note(config.backbone), bfloat16_note(equipment.device, config.precision)]
        )

        def probe(storage: Storage, images: npt.NDArray[np.int64]) -> FoundSizes:
            return read_sizes(storage, images, decoder=decoder, scratch=scratch, on_probe=on_probe)

        task = Task(request, config, listing, probe, equipment.planner)
        yield Means(equipment, decoder, n_workers, scratch, task, notes)


def note_plan(means: Means, plan: Plan, *, is_new: bool) -> None:
    """Note what the user should know of a plan."""
    equipment = means.equipment
    means.notes.extend(_decode_notes(plan, equipment.config.input.decode))
    if plan.boxes is not None:
        table = equipment.box_file.table if equipment.box_file else None
        means.notes.extend(box_notes(plan, plan.boxes, table, is_new=is_new))


def _decode_notes(plan: Plan, decode: str) -> list[str]:
    """What fast decoding does, and to how many images it may: which of them are JPEGs no header was asked."""
    if decode == "exact":
        return []
    is_known = (plan.input_hw > 0).all(axis=2)
    is_twice = (plan.image_hw[:, None] // 2 >= plan.input_hw).all(axis=2)
    n_images = int((is_known & is_twice & plan.uses).any(axis=1).sum())
    return [
        "--decode fast: JPEGs at least twice as large as their network input are decoded at 1/2, 1/4 or 1/8 of "
        f"their size, which moves their descriptors by 2 to 15 %; {n_images} of "
        f"{counted(plan.n_images, 'image is', 'images are')} as large"
    ]


def _listing_notes(listing: Listing, labels: str) -> list[str]:
    notes = []
    if listing.n_other_files:
        notes.append(
            counted(
                listing.n_other_files,
                "file in folders and archives has",
                "files in folders and archives have",
            )
            + " no suffix of an image: left out"
        )
    if listing.n_repeated:
        notes.append(
            counted(listing.n_repeated, "image is", "images are")
            + " named more than once: each is taken once"
        )
    if labels == "folder" and not listing.classes:
        notes.append("no labels: no image lies in a folder below the inputs")
    elif listing.n_unlabelled and listing.classes:
        notes.append(
            counted(listing.n_unlabelled, "image is of no class: its", "images are of no class: their")
            + " label is -1"
        )
    elif listing.n_unlabelled and labels == "auto":
        notes.append(
            f"no labels: {counted(listing.n_unlabelled, 'image lies', 'images lie')} outside class folders; --labels "
            "folder labels the others"
        )
    return notes
