"""Options that several commands share, and settings made from options."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from sppfeat.analysis.choices import DEFAULT_METRIC, METRICS
from sppfeat.cli.output import joined_numbers
from sppfeat.cli.values import (
    AUTO_OR_INT,
    DEVICE,
    LEVELS,
    SIZE,
    complete_backbones,
    complete_files,
    complete_weights,
)
from sppfeat.config.distribution import RunOptions
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.request import BackboneChoice
from sppfeat.config.specs import COMPACT_NAME, DEFAULT_BACKBONE, DescriptorSpec, InputSpec
from sppfeat.config.values import CHOICES

__all__ = [
    "SIZE_HELP",
    "backbone_options",
    "batch_size_option",
    "columns_options",
    "device_option",
    "dtype_option",
    "exif_option",
    "feature_file_argument",
    "given_options",
    "is_given",
    "json_option",
    "labels_from_option",
    "levels_option",
    "metric_option",
    "option",
    "output_option",
    "overwrite_output_option",
    "pool_option",
    "precision_option",
    "quiet_option",
    "recorded_weights_options",
    "root_option",
    "rows_option",
    "selection_options",
    "setting_option",
    "size_option",
    "together",
    "verbosity_options",
    "weights_dir_option",
    "workers_option",
]

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")


def option(*names: str, **settings: Any) -> Callable[[_F], _F]:
    """Declares an option that shows its default and can be set by the environment variable ``SPPFEAT_<OPTION>``.

    An option with the name of a setting of :data:`sppfeat.config.values.CHOICES` takes these.
    """
    long_name = next(name for name in names if name.startswith("--")).split("/")[0]
    name = long_name.removeprefix("--").replace("-", "_")
    settings.setdefault("envvar", f"SPPFEAT_{name.upper()}")
    if name in CHOICES:
        settings.setdefault("type", click.Choice(CHOICES[name]))
    settings.setdefault("show_default", True)
    return click.option(*names, **settings)


def setting_option(kind: type[Any], name: str, text: str, **more: Any) -> Callable[[_F], _F]:
    """Declares an option with the name, default and type of a field of a settings dataclass.

    Args:
        kind: the dataclass.
        name: name of the field.
        text: help text.
        **more: see ``click.option``.
    """
    default = getattr(kind, name)
    if name not in CHOICES:
        more.setdefault("type", type(default))
    return option(f"--{name.replace('_', '-')}", default=default, help=text, **more)


def together(*options: Callable[[Any], Any]) -> Callable[[_F], _F]:
    """Joins several options into one decorator; --help shows them in this order."""

    def decorate(function: _F) -> _F:
        for add in reversed(options):
            function = add(function)
        return function

    return decorate


def feature_file_argument(name: str = "file") -> Callable[[_F], _F]:
    """Declares an argument that is the path of a feature file."""
    return click.argument(name, type=click.Path(path_type=Path))


weights_dir_option = option(
    "--weights-dir",
    type=click.Path(readable=False),  # files in a folder that cannot be listed may still be readable
    metavar="FOLDER",
    help="Look here for the file of named weights, before torch's hub cache and the network.",
)

# The network.
backbone_options = together(
    option(
        "--backbone",
        default=DEFAULT_BACKBONE,
        shell_complete=complete_backbones,
        help=f"Network: {COMPACT_NAME}, which comes with sppfeat, or torchvision's, by name; see 'sppfeat backbones'.",
    ),
    option(
        "--weights",
        default=BackboneChoice.weights,
        shell_complete=complete_weights,
        metavar="NAME|FILE|none",
        help="Weights by name, a local file (.pth, .safetensors), or none: untrained.",
    ),
    weights_dir_option,
    option(
        "--seed",
        type=int,
        default=BackboneChoice.seed,
        help="Seed of the untrained network of --weights none.",
    ),
    option(
        "--layer",
        "layers",
        multiple=True,
        metavar="NODE",
        help="Layer to pool, see 'sppfeat backbones NAME'; repeatable: side by side. [default: the last feature map]",
    ),
)


SIZE_HELP = "Short side of the network input; the aspect ratio is kept."


def size_option(default: str) -> Callable[[_F], _F]:
    """Declares ``--size``; ``default`` is the text that describes its default."""
    return option("--size", type=SIZE, metavar="PIXELS|native", help=f"{SIZE_HELP} [default: {default}]")


def levels_option(default: Sequence[int], note: str = "") -> Callable[[_F], _F]:
    """Declares ``--levels``, whose value is None if not given; ``default`` and ``note`` are shown in its help."""
    return option(
        "--levels",
        type=LEVELS,
        metavar="N,N,...",
        help=f"The pyramid: n stands for n x n bins. [default: {joined_numbers(default)}{note}]",
    )


pool_option = setting_option(DescriptorSpec, "pool", "What is taken of each bin.")

exif_option = setting_option(InputSpec, "exif", "What to do with the EXIF orientation.")


def dtype_option(text: str) -> Callable[[_F], _F]:
    """Declares ``--dtype`` with this help text."""
    return setting_option(DescriptorSpec, "dtype", text)


precision_option = setting_option(
    ExtractConfig,
    "precision",
    "Of the network; fp32 is exact, bf16 fast where the machine has it, tf32 for CUDA.",
)

batch_size_option = option(
    "--batch-size", type=AUTO_OR_INT, metavar="auto|N", default="auto", help="Images per batch."
)

workers_option = option(
    "--workers",
    type=AUTO_OR_INT,
    metavar="auto|N",
    default="auto",
    help="Processes that decode images; 0: none.",
)

quiet_option = option("--quiet", "-q", is_flag=True, help="No progress bar.")


device_option = option(
    "--device",
    type=DEVICE,
    metavar="auto|cpu|cuda|cuda:N|mps",
    default=RunOptions.device,
    help="Where to compute; auto takes CUDA if there is one.",
)

metric_option = option(
    "--metric",
    type=click.Choice(METRICS),
    default=DEFAULT_METRIC,
    help="Distance: one minus the cosine of the angle, 0 to 2; or the Euclidean distance.",
)

root_option = option("--root", type=click.Path(), help="Folder of the images now. [default: as recorded]")

# Weights, device and so on for running the network of a feature file again.
recorded_weights_options = together(
    option("--weights", metavar="NAME|FILE", help="Where the weights are now. [default: as recorded]"),
    weights_dir_option,
    device_option,
)


def output_option(text: str) -> Callable[[_F], _F]:
    """Declares the required option ``--output`` with this help text."""
    return option("-o", "--output", type=click.Path(path_type=Path), required=True, help=text)


overwrite_output_option = option(
    "--overwrite", is_flag=True, help="Replace the output once the new one is complete."
)

json_option = option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")


def verbosity_options(function: _F) -> _F:
    """Declares ``--quiet`` and ``--verbose``."""
    function = option("--quiet", "-q", is_flag=True, help="Say nothing but errors.")(function)
    return option("--verbose", "-v", is_flag=True, help="Say more: all failures, all settings.")(function)


def is_given(name: str) -> bool:
    """True if a parameter of the running command comes from the command line, not from a default or the environment."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def given_options(names: Iterable[str]) -> list[str]:
    """Flags of those parameters that were given on the command line, such as ``--layer`` for ``layers``."""
    parameters = {parameter.name: parameter for parameter in click.get_current_context().command.params}
    return [
        next(flag for flag in parameters[name].opts if flag.startswith("--"))
        for name in names
        if is_given(name)
    ]


def _given(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> Any:  # noqa: ARG001
    """The values of a repeatable option; None if it is not given."""
    return values or None


# The rows, columns and labels of a feature file. The parameters are called rows, layers, levels and labels, like the
# arguments of FeatureFile.select; an option that is not given is None.
rows_option = option(
    "--rows",
    multiple=True,
    callback=_given,
    metavar="CONDITION",
    help="Which rows: label=NAME, image=PATH (* and ? stand for anything), A:B, N,N,..., flag=ok|clipped|..., or "
    "status=any for those without descriptor, too; repeatable. [default: all that have a descriptor]",
)

labels_from_option = option(
    "--labels-from",
    "labels",
    shell_complete=complete_files,
    metavar="FILE|box|image",
    help="Labels: a .csv or .tsv with columns label, and path or row; or those of boxes or images. "
    "[default: as in the file]",
)

columns_options = together(
    option("--levels", type=LEVELS, metavar="N,N,...", help="Only these levels. [default: all of the file]"),
    option(
        "--layer",
        "layers",
        multiple=True,
        callback=_given,
        metavar="NODE",
        help="Only this layer; repeatable. [default: all of the file]",
    ),
)


selection_options = together(rows_option, columns_options, labels_from_option)
