"""Extraction on a Ray cluster: actors take the parts of a plan, and their files are merged into the output.

A request goes in; parts come out that are ready to be filled, with the interface of
:class:`sppfeat.extraction.part.Parts`. Only this package imports Ray, and it must not know how rows are computed or
stored. Ray imports it in each actor before the environment is set up, so modules that load torch are imported inside
functions.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sppfeat.config.request import Request
from sppfeat.config.wording import counted
from sppfeat.errors import ConfigError, StoreError
from sppfeat.files.downloads import OnDownload

if TYPE_CHECKING:
    from sppfeat.extraction.part import Parts

__all__ = ["open_parts_on_ray"]


@contextlib.contextmanager
def open_parts_on_ray(
    request: Request,
    *,
    on_probe: Callable[[int, int], None] = lambda done, total: None,
    on_download: OnDownload = lambda name, done, total: None,
    verbose: bool = False,
) -> "Iterator[Parts]":
    """Plan an extraction on a Ray cluster, and connect to the cluster or start one.

    Args:
        request: the user's request.
        on_probe, on_download: see :func:`sppfeat.extraction.run.open_run`.
        verbose: True to print the messages of Ray and its workers.

    Yields:
        The parts. Nothing has been written yet. If the output is complete already and was not made of parts, a single
        part with nothing to do.

    Raises:
        SppfeatError: see :func:`sppfeat.extraction.extract.extract`.
        EngineError: the cluster cannot be reached or started.
    """
    from sppfeat.extraction.output import open_output
    from sppfeat.extraction.parts import find_part
    from sppfeat.extraction.ray.cluster import connect
    from sppfeat.extraction.ray.parts import PartsOnRay, is_made_of_parts
    from sppfeat.extraction.run import open_run
    from sppfeat.extraction.shard_plan import PLACEHOLDER
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
    request = _make_absolute(request)
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(contextlib.ExitStack())
        output = lock.enter_context(open_output(request, request.output))
        listing = list_images(request.inputs, labels=request.labels)
        run = stack.enter_context(
            open_run(_planning_request(request), listing, on_probe=on_probe, on_download=on_download)
        )
        run = dataclasses.replace(run, request=request)
        if output.path.exists() and not is_made_of_parts(output.path):
            part = find_part(run, output)
            if len(part.to_do):
                raise StoreError(
                    f"{str(output.path)!r} has {counted(len(part.to_do), 'image')} to do, and --engine ray did not "
                    "begin it: --engine local continues it"
                )
            yield part
            return
        parts = PartsOnRay(run, lock)
        if not request.dry_run and parts.unfinished():
            address = request.ray.ray_address if request.ray else None
            parts.use_cluster(stack.enter_context(connect(address, verbose=verbose)))
        yield parts


def _make_absolute(request: Request) -> Request:
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


def _planning_request(request: Request) -> Request:
    """Return the request for this process, which only plans and may lack the actors' device."""
    device = "auto" if request.precision == "tf32" else "cpu"
    return dataclasses.replace(request, run=dataclasses.replace(request.run, device=device))
