"""Extraction on a Ray cluster: actors fill one file per part, and the files are merged into the output.

A request goes in; a planned extraction comes out, with the interface of :class:`~sppfeat.extraction.run.Extraction`.
Only this package imports Ray, and it must not know how rows are computed or stored. Ray imports it in each actor before
the environment is set up, so modules that load torch are imported inside functions.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sppfeat.config.distribution import RayOptions
from sppfeat.config.request import ExtractRequest
from sppfeat.config.wording import counted
from sppfeat.errors import ConfigError, StoreError
from sppfeat.files.downloads import OnDownload

if TYPE_CHECKING:
    from sppfeat.extraction.parts import Part
    from sppfeat.extraction.ray.extraction import RayExtraction
    from sppfeat.extraction.resources import RunResources
    from sppfeat.extraction.run import Extraction

__all__ = ["prepare_ray"]


@contextlib.contextmanager
def prepare_ray(
    request: ExtractRequest,
    *,
    on_probe: Callable[[int, int], None] = lambda done, total: None,
    on_download: OnDownload = lambda name, done, total: None,
    verbose: bool = False,
) -> "Iterator[RayExtraction | Extraction]":
    """Plan an extraction on a Ray cluster, and connect to the cluster or start one.

    Args:
        request: the user's request; without Ray options, the defaults apply.
        on_probe: called with the number of image headers read so far, and the total.
        on_download: called during a download with file name, bytes done, and bytes in total (None if unknown).
        verbose: True to print the messages of Ray and its workers.

    Yields:
        The extraction, ready to run. Nothing has been written yet. If the output is complete already, an extraction
        with nothing to do.

    Raises:
        SppfeatError: see :func:`sppfeat.extraction.run.prepare`.
        EngineError: the cluster cannot be reached or started.
    """
    from sppfeat.extraction.output import lock_output
    from sppfeat.extraction.parts import plan_inputs
    from sppfeat.extraction.ray.cluster import connect
    from sppfeat.extraction.ray.extraction import RayExtraction
    from sppfeat.extraction.ray.part_files import PartFiles, cut_into_parts, part_pattern
    from sppfeat.extraction.report import plan_notes
    from sppfeat.extraction.resources import open_resources
    from sppfeat.extraction.run import make_extraction
    from sppfeat.extraction.shard_plan import PLACEHOLDER
    from sppfeat.files.outputs import check_output
    from sppfeat.files.remote import url_of
    from sppfeat.inputs import list_images

    if PLACEHOLDER in str(request.output):
        raise ConfigError(
            f"the output {str(request.output)!r} has {PLACEHOLDER} in its name: it goes with shards"
        )
    if url_of(request.output) is not None:
        raise ConfigError(
            f"the output {url_of(request.output)!r} is a URL; allowed with --engine ray: a file on a file system that "
            "all nodes share"
        )
    check_output(request.output)
    request = _make_absolute(request)
    listing = list_images(request.inputs, labels=request.labels)
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(contextlib.ExitStack())
        held = lock.enter_context(lock_output(request))
        resources = stack.enter_context(
            open_resources(_planning_request(request), listing, on_probe, on_download=on_download)
        )
        resources = resources._replace(
            part_request=dataclasses.replace(resources.part_request, request=request)
        )
        if request.output.exists():
            finished = _find_finished(resources)
            if finished is not None:
                yield make_extraction(resources, finished, held)
                return
        plan = plan_inputs(resources.part_request)
        resources.notes.extend(plan_notes(plan, resources.setup, is_new=True))
        bounds = cut_into_parts(plan)
        files = PartFiles(part_pattern(request.output), bounds)
        extraction = RayExtraction(resources, plan, bounds, files, lock)
        if not request.dry_run and extraction.unfinished:
            address = request.ray.address if request.ray else None
            extraction.use_cluster(stack.enter_context(connect(address, verbose=verbose)))
        yield extraction


def _find_finished(resources: "RunResources") -> "Part | None":
    """Return the part of an existing output if nothing is left to do; None if the part files decide.

    Raises:
        StoreError: images are left to do, and the output is not made of part files.
    """
    from sppfeat.extraction.parts import find_part
    from sppfeat.extraction.ray.part_files import is_made_of_parts

    wanted = resources.part_request
    output, options = wanted.request.output, wanted.request.ray or RayOptions()
    if is_made_of_parts(output):
        if options.merge != "virtual":
            return None
        try:
            part = find_part(wanted, resources.notes)
        except StoreError:  # part files have changed since the merge; PartFiles checks them later
            return None
        return None if len(part.to_do) else part
    part = find_part(wanted, resources.notes)
    if len(part.to_do):
        raise StoreError(
            f"{str(output)!r} has {counted(len(part.to_do), 'image')} to do, and --engine ray did not begin it: "
            "--engine local continues it"
        )
    return part


def _make_absolute(request: ExtractRequest) -> ExtractRequest:
    """Return the request with absolute paths, which hold in whatever folder an actor runs."""

    def real(path: Any) -> Any:
        return path if path is None else type(path)(os.path.abspath(path))

    backbone, boxes = request.backbone, request.boxes
    is_file = os.path.exists(backbone.weights) and backbone.weights not in ("DEFAULT", "none")
    return dataclasses.replace(
        request,
        # Follow links: the target is written.
        output=Path(os.path.realpath(request.output)),
        backbone=dataclasses.replace(
            backbone,
            weights=real(backbone.weights) if is_file else backbone.weights,
            weights_dir=real(backbone.weights_dir),
        ),
        descriptor=dataclasses.replace(
            request.descriptor, normalize_from=real(request.descriptor.normalize_from)
        ),
        boxes=dataclasses.replace(boxes, boxes=real(boxes.boxes)) if boxes and boxes.is_file else boxes,
    )


def _planning_request(request: ExtractRequest) -> ExtractRequest:
    """Return the request for this process, which only plans and may lack the actors' device."""
    device = "auto" if request.precision == "tf32" else "cpu"
    return dataclasses.replace(request, run=dataclasses.replace(request.run, device=device))
