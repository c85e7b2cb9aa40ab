"""Options that several commands share, as decorators, with the types and the shell completions of their values."""

import importlib.util
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from sppfeat.analysis.choices import DEFAULT_METRIC, METRICS
from sppfeat.cli.command import Option
from sppfeat.cli.option_types import ANY_PATH, AUTO_OR_INT, LEVELS, OUTPUT_FILE, PATH, SIZE, Parsed
from sppfeat.cli.output import joined_numbers
from sppfeat.config.distribution import RunOptions, parse_device
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.request import BackboneChoice
from sppfeat.config.specs import COMPACT_NAME, DEFAULT_BACKBONE, DescriptorSpec, InputSpec
from sppfeat.config.values import CHOICES, EncodedPath
from sppfeat.networks.zoo import choose_names

__all__ = [
    "RECORDED_GROUP",
    "SELECTION_GROUP",
    "SIZE_HELP",
    "auto_or_int",
    "backbone",
    "backbone_name",
    "batch_size",
    "columns",
    "complete_backbones",
    "count",
    "device",
    "dtype",
    "encoding",
    "exif",
    "feature_file",
    "flag",
    "given_options",
    "json",
    "labels",
    "levels",
    "metric",
    "neighbors",
    "option",
    "output",
    "overwrite",
    "path",
    "pool",
    "precision",
    "quiet",
    "recorded_weights",
    "root",
    "rows",
    "selection",
    "setting",
    "size",
    "together",
    "verbosity",
    "weights",
    "weights_dir",
    "workers",
]

_F = TypeVar("_F", bound=Callable[..., Any])

_MODEL = re.compile(r"^@register_model\((?:name=\"(\w+)\")?\)\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)


def _complete_weights(context: Any, parameter: Any, incomplete: str) -> list[CompletionItem]:
    """Completes ``DEFAULT`` and ``none``, or paths."""
    words = [word for word in ("DEFAULT", "none") if incomplete and word.startswith(incomplete)]
    return [*map(CompletionItem, words)] or ANY_PATH.shell_complete(context, parameter, incomplete)


def complete_backbones(_context: Any, _parameter: Any, incomplete: str) -> list[CompletionItem]:
    """Completes names of networks from torchvision's sources, because importing torchvision takes seconds."""
    return [CompletionItem(name) for name in choose_names(_declared_models()) if name.startswith(incomplete)]


def _declared_models() -> list[str]:
    found = importlib.util.find_spec("torchvision")
    if found is None or not found.origin:
        return []
    sources = (Path(found.origin).parent / "models").glob("*.py")
    matches = (match for source in sources for match in _MODEL.finditer(source.read_text(encoding="utf-8")))
    return [match[1] or match[2] for match in matches]


def option(*names: str, **more: Any) -> Callable[[_F], _F]:
    """Declares an option that shows its default.

    An option named after a setting in :data:`sppfeat.config.values.CHOICES` accepts its choices.
    """
    long_name = next(name for name in names if name.startswith("--")).split("/")[0]
    name = long_name.removeprefix("--").replace("-", "_")
    if name in CHOICES:
        more.setdefault("type", click.Choice(CHOICES[name]))
    more.setdefault("show_default", True)
    return click.option(*names, cls=Option, **more)


def flag(names: str, text: str, **more: Any) -> Callable[[_F], _F]:
    """Declares an option without value, by its names, such as ``--quiet -q``, and its help text."""
    return option(*names.split(), is_flag=True, help=text, **more)


def count(
    names: str, text: str, *, least: int = 1, most: int | None = None, **more: Any
) -> Callable[[_F], _F]:
    """Declares an option whose value is a whole number, by its names and its help text."""
    return option(*names.split(), type=click.IntRange(least, most), help=text, **more)


def path(names: str, metavar: str, text: str, kind: click.Path = PATH) -> Callable[[_F], _F]:
    """Declares an option whose value is a path, by its names, such as ``--from origin``, and its help text."""
    return option(*names.split(), type=kind, metavar=metavar, help=text)


def setting(kind: type[Any], name: str, text: str, **more: Any) -> Callable[[_F], _F]:
    """Declares an option with the name, default and type of a field of a settings dataclass, and its help text."""
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


def given_options(names: Iterable[str]) -> list[str]:
    """Names of options given on the command line for these parameters, such as ``--layer`` for ``layers``.

    Values from defaults and environment variables do not count.
    """
    context = click.get_current_context()
    parameters = {parameter.name: parameter for parameter in context.command.params}
    return [
        next(text for text in parameters[name].opts if text.startswith("--"))
        for name in names
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]


# The network and its input.
weights_dir = option(
    "--weights-dir",
    type=ANY_PATH,  # files in a folder that cannot be listed may still be readable
    metavar="FOLDER",
    help="Folder to search for weight files before torch's hub cache.",
)


def backbone_name(text: str) -> Callable[[_F], _F]:
    """Declares ``--backbone`` with this help text."""
    return option(
        "--backbone",
        default=DEFAULT_BACKBONE,
        shell_complete=complete_backbones,
        metavar="NAME",
        help=f"{text}; see 'sppfeat backbones'.",
    )


def weights(default: str | None, text: str) -> Callable[[_F], _F]:
    """Declares ``--weights`` with this default and help text."""
    return option(
        "--weights", default=default, shell_complete=_complete_weights, metavar="NAME|FILE", help=text
    )


backbone = together(
    backbone_name(f"Network: {COMPACT_NAME} (bundled) or a torchvision model"),
    weights(BackboneChoice.weights, "Weights: a name, a file (.pth, .safetensors) or none (random)."),
    weights_dir,
    setting(BackboneChoice, "seed", "Random seed of the network with --weights none."),
    option(
        "--layer",
        "layers",
        multiple=True,
        metavar="NODE",
        help="Layer to pool; repeat to concatenate several. [default: last feature map]",
    ),
)
SIZE_HELP = "Short side of the network input."


def size(default: str) -> Callable[[_F], _F]:
    """Declares ``--size``; ``default`` is the text that describes its default."""
    return option("--size", type=SIZE, metavar="PIXELS|native", help=f"{SIZE_HELP} [default: {default}]")


exif = setting(InputSpec, "exif", "Apply or ignore the EXIF orientation.")


# The descriptor.
def levels(default: Sequence[int]) -> Callable[[_F], _F]:
    """Declares ``--levels``, whose value is None if not given; its help shows ``default``."""
    return option(
        "--levels",
        type=LEVELS,
        metavar="N,N,...",
        help=f"Pyramid levels of N x N bins. [default: {joined_numbers(default)}]",
    )


pool = setting(DescriptorSpec, "pool", "Pooling operator within each bin.")


def dtype(text: str) -> Callable[[_F], _F]:
    """Declares ``--dtype`` with this help text."""
    return setting(DescriptorSpec, "dtype", text)


# The machine.
precision = setting(
    ExtractConfig,
    "precision",
    "Compute precision: fp32, tf32, bf16 or fp16; bf16 is faster where supported.",
    metavar="TYPE",
)
device = option(
    "--device",
    type=Parsed("device", parse_device),
    metavar="DEVICE",
    default=RunOptions.device,
    help="Device: cpu, cuda[:N], mps or auto (CUDA if available).",
)


def auto_or_int(name: str, text: str) -> Callable[[_F], _F]:
    """Declares an option that is a whole number, or None for ``auto``."""
    return option(name, type=AUTO_OR_INT, metavar="auto|N", default="auto", help=text)


batch_size = auto_or_int("--batch-size", "Images per batch.")
workers = auto_or_int("--workers", "Image-decoding processes; 0 for none.")


# Feature files.
def feature_file(name: str = "file") -> Callable[[_F], _F]:
    """Declares an argument that is the path of a feature file."""
    return click.argument(name, type=click.Path(path_type=Path))


def _values_or_none(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> Any:
    """The values of a repeatable option; None if it is empty."""
    return values or None


# Parameters have the names of the arguments of FeatureFile.select, and are None if not given.
rows = option(
    "--rows",
    multiple=True,
    callback=_values_or_none,
    metavar="CONDITION",
    help="Rows: label=GLOB, image=GLOB, START:STOP, N,N,..., flag=NAME or status=any; repeatable: OR within a kind, "
    "AND between kinds. [default: all with a descriptor]",
)
columns = together(
    option("--levels", type=LEVELS, metavar="N,N,...", help="Use only these levels. [default: all]"),
    option(
        "--layer",
        "layers",
        multiple=True,
        callback=_values_or_none,
        metavar="NODE",
        help="Use only this layer; repeatable. [default: all]",
    ),
)


def encoding(text: str, **more: Any) -> Callable[[_F], _F]:
    """Declares ``--encoding`` of these files."""
    return option(
        "--encoding",
        metavar="NAME",
        help=f"Encoding of {text} without a byte order mark, such as cp1252. [default: utf-8]",
        **more,
    )


def _remember_encoding(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    context.meta["encoding"] = value


def _with_encoding(context: click.Context, _parameter: click.Parameter, value: str | None) -> Any:
    """The path of a label table with the value of ``--encoding``, which click reads first."""
    chosen = context.meta.get("encoding")
    if chosen is None or value is None or value in ("box", "image"):
        return value
    return EncodedPath(value, chosen)


_LABELS = option(
    "--labels",
    type=ANY_PATH,
    callback=_with_encoding,
    metavar="FILE|box|image",
    former="--labels-from",
    help="Labels: a .csv or .tsv file with columns label and path or row; or box or image for the labels of "
    "boxes or images. [default: as in the file]",
)
labels = together(
    _LABELS, encoding("a table of labels", is_eager=True, expose_value=False, callback=_remember_encoding)
)
selection = together(rows, columns, labels)
SELECTION_GROUP = {"Rows and labels": "--rows --levels --layer --labels | --encoding"}

root = option("--root", type=click.Path(), help="Folder that holds the images now. [default: as recorded]")

# For running the network of a feature file again.
RECORDED_GROUP = {"Image and weights": "--root --weights --device | --weights-dir"}
recorded_weights = together(
    weights(None, "Weights of the network, if they moved. [default: as recorded]"),
    weights_dir,
    device,
)

metric = option(
    "--metric",
    type=click.Choice(METRICS),
    default=DEFAULT_METRIC,
    help="Distance: cosine (1 minus the cosine of the angle) or l2 (Euclidean).",
)


def neighbors(default: int, most: int | None = None) -> Callable[[_F], _F]:
    """Declares the number of neighbors per query, ``k``."""
    return count(
        "--neighbors -k k",
        "Number of neighbors per query.",
        most=most,
        default=default,
        metavar="K",
        former="--neighbours",
    )


# The output.
def output(text: str, kind: click.Path = OUTPUT_FILE) -> Callable[[_F], _F]:
    """Declares the required option ``--output`` with this help text."""
    return option("-o", "--output", type=kind, required=True, help=text)


overwrite = flag("--overwrite", "Replace an existing output when the new one is complete.")
json = flag("--json as_json", "Print the result as JSON on standard output.")
quiet = flag("--quiet -q", "Hide progress bars.")
verbosity = together(
    flag("--verbose -v", "List every failure and setting."),
    flag("--quiet -q", "Print only errors."),
)
