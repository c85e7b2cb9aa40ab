"""An extraction by actors on a Ray cluster.

Ray imports this package in each actor before anything else is set there: what needs torch is imported when it runs.
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
    from sppfeat.extraction.parts import Work
    from sppfeat.extraction.ray.extraction import RayExtraction
    from sppfeat.extraction.resources import Means
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
    """Plan an extraction by actors, and reach or start the Ray cluster that they will be on.

    Args:
        request: what is asked; without settings of Ray, these are the usual ones.
        on_probe: called with the number of image headers read, and of all.
        on_download: called with the name of a weights file, bytes done and total (None if unknown), while it comes.
        verbose: print what Ray and its workers say.

    Yields:
        The extraction, ready to run. Nothing has been written yet. Of an output that is complete already, and not
        made of parts, one that does nothing.

    Raises:
        SppfeatError: see :func:`sppfeat.extraction.run.prepare`.
        EngineError: there is no cluster.
    """
    from sppfeat.extraction.output import lock_output
    from sppfeat.extraction.parts import plan_inputs
    from sppfeat.extraction.ray.cluster import connected
    from sppfeat.extraction.ray.extraction import RayExtraction
    from sppfeat.extraction.ray.part_files import PartFiles, cut_for_actors, part_pattern
    from sppfeat.extraction.report import plan_notes
    from sppfeat.extraction.resources import gather_means
    from sppfeat.extraction.run import planned
    from sppfeat.extraction.sharding import PLACEHOLDER
    from sppfeat.files.outputs import check_output
    from sppfeat.files.remote.output import url_of
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
    request = _absolute(request)
    listing = list_images(request.inputs, labels=request.labels)
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(contextlib.ExitStack())
        held = lock.enter_context(lock_output(request))
        means = stack.enter_context(
            gather_means(_for_planning(request), listing, on_probe, on_download=on_download)
        )
        means = means._replace(task=dataclasses.replace(means.task, request=request))
        if request.output.exists():
            finished = _finished(means)
            if finished is not None:
                yield planned(means, finished, held)
                return
        plan = plan_inputs(means.task)
        means.notes.extend(plan_notes(plan, means.equipment, is_new=True))
        bounds = cut_for_actors(plan)
        files = PartFiles(part_pattern(request.output), bounds)
        extraction = RayExtraction(means, plan, bounds, files, lock)
        if not request.dry_run and extraction.unfinished:
            address = request.ray.address if request.ray else None
            extraction.use(stack.enter_context(connected(address, verbose=verbose)))
        yield extraction


def _finished(means: "Means") -> "Work | None":
    """The work on an output that there is already, if nothing is left of it to be done.

    Raises:
        StoreError: something is left, and it is not of parts.
    """
    from sppfeat.extraction.parts import find_work
    from sppfeat.extraction.ray.part_files import leads_to_parts

    task = means.task
    output, options = task.request.output, task.request.ray or RayOptions()
    if leads_to_parts(output):
        if options.merge != "virtual":
            return None
        try:
            work = find_work(task, means.notes)
        except StoreError:  # parts have changed since; whether they can be continued is asked of them
            return None
        return None if len(work.to_do) else work
    work = find_work(task, means.notes)
    if len(work.to_do):
        raise StoreError(
            f"{str(output)!r} has {counted(len(work.to_do), 'image')} to do, and --engine ray did not begin it: "
            "--engine local continues it"
        )
    return work


def _absolute(request: ExtractRequest) -> ExtractRequest:
    """The request with paths that are the same in whatever folder an actor runs."""

    def real(path: Any) -> Any:
        return path if path is None else type(path)(os.path.abspath(path))

    backbone, boxes = request.backbone, request.boxes
    is_file = os.path.exists(backbone.weights) and backbone.weights not in ("DEFAULT", "none")
    return dataclasses.replace(
        request,
        # Where it is a link: what it leads to.
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


def _for_planning(request: ExtractRequest) -> ExtractRequest:
    """The request for this process, which runs no network and need not have the device of the actors."""
    device = "auto" if request.precision == "tf32" else "cpu"
    return dataclasses.replace(request, run=dataclasses.replace(request.run, device=device))
