"""The fields of each command's JSON, with the texts that the types of the results give them.

A dataclass, NamedTuple or TypedDict describes each of its fields once, in the section Attributes of its docstring.
"""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Union

from sppfeat.analysis.export import ExportResult
from sppfeat.analysis.file_info import FileInfo
from sppfeat.analysis.inspection import Verification
from sppfeat.analysis.probe.validation import ProbeResult
from sppfeat.analysis.reduce import ReduceReport
from sppfeat.analysis.search import Hit, Query
from sppfeat.analysis.show.image_numbers import ImageNumbers
from sppfeat.bench.pooling import PoolingBench
from sppfeat.bench.regions import RegionsBench
from sppfeat.bench.runs import ExtractBench
from sppfeat.bench.timing import Conditions
from sppfeat.extraction.extract import ExtractResult
from sppfeat.extraction.recompute import RowComparison
from sppfeat.extraction.report import PlanSummary
from sppfeat.networks.named_weights import FetchedWeights
from sppfeat.networks.zoo import BackboneEntry, BackboneLayers
from sppfeat.store.merge import MergeSummary
from sppfeat.training.run import TrainPlan, TrainResult

__all__ = ["COMMANDS", "JsonField", "json_fields", "record_fields"]


class JsonField(NamedTuple):
    """A field of a command's JSON.

    Attributes:
        path: the field's place: ``a.b`` for field b of the object a, ``a[].b`` in a list, ``a.*`` for any key.
        kind: the kind of its values, in words.
        text: their meaning.
    """

    path: str
    kind: str
    text: str


class _Part(NamedTuple):
    """A value in a command's JSON with its text; with an empty text, only the fields of the value."""

    path: str
    type: Any
    text: str = ""
    without: Iterable[str] = ()  # fields of the type that the command does not print


_RESULTS = {
    "extract": [
        _Part("plan", PlanSummary, "The run before it starts."),
        _Part("result", ExtractResult, "The outcome; missing with `--dry-run`.", without=("plan",)),
    ],
    "backbones PATTERN": [_Part("", list[BackboneEntry])],
    "backbones NAME": [_Part("", BackboneLayers)],
    "backbones NAME --download": [_Part("", list[FetchedWeights])],
    "info": [_Part("", FileInfo)],
    "verify": [_Part("", Verification)],
    "show image": [_Part("", ImageNumbers)],
    "probe": [
        _Part("path", str, "The feature file."),
        _Part("folds", int, "Number of folds."),
        _Part("repeats", int, "Number of shuffles of the rows into folds."),
        _Part("seed", int, "Seed of the first shuffle."),
        _Part("C", float, "Inverse regularization strength."),
        _Part("class_weight", str, "`balanced` or `none`."),
        _Part("min_per_class", int, "Smallest number of rows of a class; of images if rows are boxes."),
        _Part("", ProbeResult),
        _Part("model", str | None, "File that `--save` wrote; null without it."),
    ],
    "search": [
        _Part("[].query", str, "The query as it was given."),
        _Part("[]", Query, without=("text",)),
        _Part("[].hits", list[Hit], "The rows found, nearest first."),
    ],
    "export": [_Part("", ExportResult, without=("stored_dtype", "unknown_names"))],
    "reduce": [
        _Part("file", str, "The feature file that was reduced."),
        _Part("from", str | None, "The file whose reduction was applied; null if one was fitted."),
        _Part("output", str, "The feature file that was written."),
        _Part("", ReduceReport),
    ],
    "merge": [_Part("", MergeSummary)],
    "train": [
        _Part("plan", TrainPlan, "The training before its first step."),
        _Part("result", TrainResult, "The outcome; missing with `--dry-run`."),
    ],
    "bench regions": [_Part("", Conditions), _Part("", RegionsBench, without=Conditions.__annotations__)],
    "bench pooling": [_Part("", PoolingBench)],
    "bench extract": [_Part("", Conditions), _Part("", ExtractBench, without=Conditions.__annotations__)],
}

COMMANDS = tuple(_RESULTS)
"""Commands with ``--json`` and the words that choose its form, in the order of --help."""

_KINDS = {str: "string", Path: "string", int: "integer", float: "number", bool: "boolean", Any: "any value"}
_LITERALS = {"None": "null", "True": "true", "False": "false"}
_ONLY_TYPED = {"RowComparison": RowComparison}  # imported by their modules for the type checker alone


def json_fields(command: str) -> list[JsonField]:
    """The fields of one of :data:`COMMANDS`, in order; ValueError if a type does not describe each of its fields."""
    fields: list[JsonField] = []
    for path, kind, text, without in _RESULTS[command]:
        if text:
            fields.append(JsonField(path, _kind(kind), text))
        fields += record_fields(kind, path=path, without=without)
    return fields


def record_fields(kind: Any, *, path: str = "", without: Iterable[str] = ()) -> Iterator[JsonField]:
    """Yields the fields of the objects in values of a type, and of the objects in these; none for other values."""
    for part in _union(kind):
        if typing.get_origin(part) in (list, tuple):
            yield from record_fields(typing.get_args(part)[0], path=f"{path}[]", without=without)
        elif dataclasses.is_dataclass(part) or typing.is_typeddict(part) or hasattr(part, "_fields"):
            hints = typing.get_type_hints(part, localns=_ONLY_TYPED, include_extras=True)
            texts, names = _texts(part), [name for name in hints if name not in without]
            if not set(names) <= set(texts) <= set(hints):
                raise ValueError(
                    f"{part.__name__} has the fields {names}; its docstring describes {list(texts)}"
                )
            for name in names:
                here, hint = f"{path}.{name}".removeprefix("."), hints[name]
                while (value := _value_of_mapping(hint)) is not None:
                    here, hint = f"{here}.*", value
                yield JsonField(here, _kind(hint), texts[name])
                yield from record_fields(hint, path=here)


def _texts(record: type) -> dict[str, str]:
    """The text of each field, from the docstrings of a type and its bases."""
    texts: dict[str, str] = {}
    for kind in reversed(record.__mro__):
        section = re.search(
            r"^Attributes:\n((?: .*\n?|\n)+)", inspect.cleandoc(kind.__doc__ or ""), re.MULTILINE
        )
        for entry in re.split(r"^    (?=\S)", section[1], flags=re.MULTILINE)[1:] if section else ():
            name, colon, text = entry.partition(": ")
            if not colon or not name.isidentifier():
                raise ValueError(f"{kind.__name__}: {entry!r} is not a field and its text")
            texts[name] = " ".join(text.split()).replace("``", "`")
            texts[name] = re.sub(r"\b(None|True|False)\b", lambda word: _LITERALS[word[0]], texts[name])
    return texts


def _value_of_mapping(kind: Any) -> Any:
    """The type of the values of a mapping; None for another type."""
    for part in _union(kind):
        if typing.get_origin(part) in (dict, Mapping):
            return typing.get_args(part)[1]
    return None


def _union(kind: Any) -> list[Any]:
    """The types that a union consists of; the one that an annotation names replaces the annotated type."""
    parts = typing.get_args(kind) if typing.get_origin(kind) in (Union, types.UnionType) else (kind,)
    return [typing.get_args(part)[1] if typing.get_origin(part) is Annotated else part for part in parts]


def _kind(kind: Any, *, plural: bool = False) -> str:
    """Names a type in the words of JSON."""
    names = []
    for part in _union(kind):
        origin, arguments = typing.get_origin(part), typing.get_args(part)
        if part is types.NoneType:
            names.append("null")
        elif origin in (list, tuple):
            count = f"{len(arguments)} " if origin is tuple and ... not in arguments else ""
            names.append(f"{'lists' if plural else 'list'} of {count}{_kind(arguments[0], plural=True)}")
        else:
            names.append(_KINDS.get(part, "object") + "s" * plural)
    return " or ".join([*filter(None, [", ".join(names[:-1])]), names[-1]])
