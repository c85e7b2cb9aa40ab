"""The resources of a run: network, decoder and scratch folder, loaded once for all files."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.config.request import ExtractRequest
from sppfeat.decoding import Decoder
from sppfeat.extraction.parts import PartRequest
from sppfeat.extraction.report import listing_notes
from sppfeat.extraction.setup import RunSetup, load_setup
from sppfeat.extraction.sizes import FoundSizes, read_sizes
from sppfeat.files.downloads import OnDownload
from sppfeat.inputs import Listing, Storage
from sppfeat.networks.acceleration import bfloat16_note
from sppfeat.networks.named_weights import bundled_note

__all__ = ["RunResources", "open_resources"]


class RunResources(NamedTuple):
    """The resources of a run; :func:`open_resources` makes them.

    Attributes:
        setup: settings, network and device.
        decoder: decodes the images.
        n_workers: number of decoding processes; 0: images are decoded in this process.
        scratch: folder for images that must be fetched.
        part_request: the request with its inputs and settings; it determines the parts.
        notes: notes for the user; planning adds to them.
    """

    setup: RunSetup
    decoder: Decoder
    n_workers: int
    scratch: Path
    part_request: PartRequest
    notes: list[str]


@contextlib.contextmanager
def open_resources(
    request: ExtractRequest,
    listing: Listing,
    on_probe: Callable[[int, int], None],
    *,
    on_download: OnDownload = lambda name, done, total: None,
) -> Iterator[RunResources]:
    """Load the network, start the decoder and make a scratch folder; the context releases them on exit.

    Args:
        request: the user's request.
        listing: the inputs.
        on_probe: called with the number of image headers read so far, and the total.
        on_download: called during a download with file name, bytes done, and bytes in total (None if unknown).

    Raises:
        SppfeatError: settings, boxes or weights are invalid.
    """
    with contextlib.ExitStack() as stack:
        setup = load_setup(request, on_download=on_download)
        config = setup.config
        n_workers = setup.choose_n_workers(len(listing.paths))
        decoder = stack.enter_context(contextlib.closing(setup.open_decoder(n_workers)))
        scratch = Path()
        if not listing.storage.is_local:
            folder = tempfile.TemporaryDirectory(prefix="sppfeat-", dir=request.scratch)
            scratch = Path(stack.enter_context(folder))
        notes = listing_notes(listing, request.labels)
        notes += filter(None, [bundled_note(config.backbone), bfloat16_note(setup.device, config.precision)])

        def probe(storage: Storage, images: npt.NDArray[np.int64]) -> FoundSizes:
            return read_sizes(storage, images, decoder=decoder, scratch=scratch, on_probe=on_probe)

        part_request = PartRequest(request, config, listing, probe, setup.planner)
        yield RunResources(setup, decoder, n_workers, scratch, part_request, notes)
