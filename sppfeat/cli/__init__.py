"""The command line: one module per command, which reads its options, calls the library and prints the result.

Arguments, environment variables ``SPPFEAT_...`` and signals go in; results on standard output, everything else on
standard error, and an exit code come out. Nothing is computed here: a command must not know how a file is laid out, how
a network runs or how a picture is drawn. Modules import only click and settings; a command imports the rest when it
runs, so that ``--help`` loads neither torch nor h5py.
"""

import logging
import os

import click

from sppfeat._version import __version__
from sppfeat.cli.command import ENVIRONMENT_PREFIX, SHARED_VARIABLES
from sppfeat.cli.groups import CommandLine
from sppfeat.config.machine import available_cores, visible_cores

__all__ = ["main"]


@click.group(
    cls=CommandLine,
    sections={
        "Extract": "extract backbones",
        "Inspect": "info verify show report",
        "Use": "probe predict search export reduce",
        "Advanced": "merge train bench",
    },
    examples=(
        "sppfeat extract photos -o features.h5  # one descriptor per image",
        "sppfeat probe features.h5              # accuracy of a linear classifier",
        "sppfeat search features.h5 query.jpg   # most similar images",
    ),
    epilog=f"Variables such as {ENVIRONMENT_PREFIX}_EXTRACT_LEVELS=1,2 set options of one command; "
    f"{', '.join(SHARED_VARIABLES.values())} set those of all commands. Exit codes: 0 done; 1 error; 2 wrong usage; "
    "3 finished, but some images failed; 130 interrupted (the same command continues).",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "auto_envvar_prefix": ENVIRONMENT_PREFIX,
    },
)
@click.version_option(__version__, prog_name="sppfeat", allow_from_autoenv=False)
def main() -> None:
    """Extract CNN features of images and boxes, pooled over a spatial pyramid, into one HDF5 file."""
    # Pillow's warnings do not name the file; the status of its row does.
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    # Set before torch is loaded: by default its idle threads spin and take the processor from decoding workers and
    # other processes. With resnet50 on two cores and another busy process, this gives 5.1 instead of 3.5 images/s;
    # without another process, 3 to 5 % less (with 1000, 10 % less).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # By default torch starts a thread for every core of the machine, even in a container that may use only a few.
    if (n_cores := available_cores()) < visible_cores():
        os.environ.setdefault("OMP_NUM_THREADS", str(n_cores))
