"""What runs over a listing need, loaded once whatever the number of files that they fill, and what is said of it."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.config.request import ExtractRequest
from sppfeat.decoding import Decoder
from sppfeat.extraction.parts import Task
from sppfeat.extraction.report import listing_notes
from sppfeat.extraction.setup import Equipment, load_equipment
from sppfeat.extraction.sizes import FoundSizes, read_sizes
from sppfeat.files.downloads import OnDownload
from sppfeat.inputs import Listing, Storage
from sppfeat.networks.acceleration import bfloat16_note
from sppfeat.networks.named_weights import bundled_note

__all__ = ["Means", "gather_means"]


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
    request: ExtractRequest,
    listing: Listing,
    on_probe: Callable[[int, int], None],
    *,
    on_download: OnDownload = lambda name, done, total: None,
) -> Iterator[Means]:
    """Load the network, start decoders and make a scratch folder; all is given back when the context ends."""
    with contextlib.ExitStack() as stack:
        equipment = load_equipment(request, on_download=on_download)
        config = equipment.config
        n_workers = equipment.n_workers(len(listing.paths))
        decoder = stack.enter_context(contextlib.closing(equipment.decoder(n_workers)))
        scratch = Path()
        if not listing.storage.is_local:
            folder = tempfile.TemporaryDirectory(prefix="sppfeat-", dir=request.scratch)
            scratch = Path(stack.enter_context(folder))
        notes = listing_notes(listing, request.labels)
        notes += filter(
            None, [bundled_note(config.backbone), bfloat16_note(equipment.device, config.precision)]
        )

        def probe(storage: Storage, images: npt.NDArray[np.int64]) -> FoundSizes:
            return read_sizes(storage, images, decoder=decoder, scratch=scratch, on_probe=on_probe)

        task = Task(request, config, listing, probe, equipment.planner)
        yield Means(equipment, decoder, n_workers, scratch, task, notes)
