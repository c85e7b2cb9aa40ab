"""Coverage-guided fuzzing of the readers of box files.

Needs atheris (``pip install atheris``). Takes a target, then options of libFuzzer::

    python tests/fuzz/fuzz_boxes.py voc -max_total_time=180 -max_len=4096

``any`` takes the target from the first byte of each input. Name a saved crash file to run it again. The corpus is a
temporary folder unless a folder follows the options.

A finding is an exception other than :class:`sppfeat.errors.SppfeatError` ("Uncaught Python exception"), a run of more
than 2 seconds, growth of memory by 100 MB for an input below 10 kB, an inconsistent table, or a crash of the process
("deadly signal": the fault of a C parser that the stack names). MATLAB files are not a target, since the reader of
scipy is not hardened.
"""

import io
import os
import resource
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

_TESTS = Path(__file__).parent.parent
sys.path += [str(_TESTS / "support"), str(_TESTS / "unit/boxes")]

_MOST_SECONDS = 2.0
_SMALL_BYTES = 10_000
_MOST_GROWTH = 100 * 2**20

_FILE_MARK = b"\n=== "  # precedes the name of each file of a folder

_PATHS = [b"a.jpg", b"b/2.jpg", b"b/000000000042.png", b"c d/\xff.jpg", b"etc/passwd"]


class _Target(NamedTuple):
    box_format: str | None
    seeds: Callable[[], list[bytes]]
    tokens: tuple[bytes, ...] = ()
    wrap: Callable[[bytes], bytes] = bytes


# ---- small files, valid and malformed


def _contents(box_format: str, most: int = 4096) -> list[bytes]:
    """The files of a format in the unit tests of the readers."""
    from test_formats import FILES, MALFORMED  # imported after the readers are instrumented
    from test_tool_formats import TOOL_FILES, parquet

    if box_format == "parquet":
        box = {
            "path": ["a", "b"],
            "x0": [1, 2],
            "y0": [3.5, None],
            "x1": [5, 6],
            "y1": [7, 8],
            "label": ["x", None],
        }
        return [parquet(**box), parquet(file_name=[b"a"], bbox=[[1, 2, 3, 4]])]
    if box_format not in FILES:
        return [content for kind, content in TOOL_FILES.items() if kind.startswith(box_format)]
    malformed = (content for content, _ in MALFORMED[box_format])
    texts = [text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text for text in malformed]
    return [FILES[box_format][1], *(text for text in texts if len(text) <= most)]


def _npy() -> list[bytes]:
    from test_formats import npy

    return [npy(np.ones((2, 4), dtype)) for dtype in ("<f8", ">i2", "u1", "f2", bool)]


def _folder() -> list[bytes]:
    voc = _contents("voc")[0]
    folders = (
        {b"a.txt": b"0 0 0 1 1", b"b/2.txt": b"1 .5 .5 1 1", b"classes.txt": b"cat\ndog"},
        {b"a.xml": voc, b"c.XML": voc.replace(b"b.jpg", b"b/2.jpg")},
        {b"a.npy": _npy()[0], b"b.npy": _npy()[1]},
    )
    return [b"".join(_FILE_MARK + name + b"\n" + text for name, text in files.items()) for files in folders]


def _any_seeds() -> list[bytes]:
    from sppfeat.config.regions import BOX_FORMATS

    return [_contents(box_format)[0] for box_format in BOX_FORMATS if box_format != "mat"]


def _deflated(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg.npy", content)
    return file.getvalue()


_NUMBERS = (
    *(b"nan", b"inf", b"-0", b"1e400", b"1_0", b"9223372036854775808", b"1" * 401),
    *(b"\xc2\xa0", b"\xef\xbb\xbf"),
)
_JSON = (
    *_NUMBERS,
    *(b"null", b"true", b"NaN", b"-Infinity", b"[[[[", b'{"":'),
    *(b'"\\ud800"', b'"\\u0000"', b'"id"', b'"bbox"'),
)
_NAMES = (b"../../etc/passwd", b"/etc/passwd", b"C:\\x", b"\xff\xfe", b"\0")
_ROWS = (*_NUMBERS, *_NAMES, b'""', b'"\n', b"\r", b"x0,y0,x1,y1", b"path")
_XML = (
    *(b"<![CDATA[", b"<!--", b"&#0;", b"&#55296;", b"<bndbox>", b"<object>"),
    *(b"encoding='utf-16'", b"<!DOCTYPE a>"),
)
_CVAT = (b"<annotations>", b"<image name='a'>", b"<box ", b"rotation='1'", b"<track>")
_LABELME = (b'"shapes"', b'"points"', b'"imagePath"', b'"rectangle"', b'"polygon"')
_VIA = (b'"regions"', b'"shape_attributes"', b'"region_attributes"', b'"rect"', b'"_via_img_metadata"')
_DESCRS = (
    *(b"'descr': '|O'", b"'descr': '<f8'", b"'shape': (0, 999999999999999999)", b"True"),
    *(b"PK\1\2", b"PK\5\6"),
)

_TARGETS: Mapping[str, _Target] = {
    "csv": _Target("csv", partial(_contents, "csv"), _ROWS),
    "tsv": _Target("tsv", partial(_contents, "tsv"), _ROWS),
    "jsonl": _Target("jsonl", partial(_contents, "jsonl"), _JSON + _NAMES),
    "coco": _Target("coco", partial(_contents, "coco"), _JSON + _NAMES),
    "voc": _Target("voc", partial(_contents, "voc"), _XML + _NUMBERS),
    "yolo": _Target("yolo", partial(_contents, "yolo"), _NUMBERS),
    "cvat": _Target("cvat", partial(_contents, "cvat"), (*_XML, *_NUMBERS, *_CVAT)),
    "labelme": _Target("labelme", partial(_contents, "labelme"), _JSON + _LABELME),
    "via": _Target("via", partial(_contents, "via"), _JSON + _VIA),
    "parquet": _Target("parquet", partial(_contents, "parquet"), (b"PAR1",)),
    "numpy": _Target("numpy", partial(_contents, "numpy"), _DESCRS),
    "npz": _Target("numpy", _npy, _DESCRS, _deflated),
    "folder": _Target(None, _folder, (_FILE_MARK, b"a.txt\n", b"a.xml\n", b"a.npy\n", *_NUMBERS)),
    "recognised": _Target(
        None,
        _any_seeds,
        (
            *_NUMBERS,
            *_DESCRS,
            b"MATLAB 5.0",
            b"\x93NUMPY",
            b"\xff\xfe",
            b"[{",
            b"PAR1",
            b"PK\3\4",
            *_CVAT,
            *_LABELME,
            *_VIA,
        ),
    ),
}


# ---- running


def _put(folder: Path, name: str, content: bytes) -> Path:
    """Writes a box file, or a folder of box files, with this content; returns its path."""
    if name != "folder":
        path = folder / "boxes"
        path.write_bytes(content)
        return path
    path = folder / "labels"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    for part in content.split(_FILE_MARK)[1:9]:
        title, _, text = part.partition(b"\n")
        parts = [piece for piece in title.split(b"/") if piece.strip(b".")]
        try:
            file = os.path.join(os.fsencode(path), *parts)
            os.makedirs(os.path.dirname(file), exist_ok=True)
            Path(os.fsdecode(file)).write_bytes(text)
        except (OSError, ValueError):  # not a valid file name
            continue
    return path


def _check_table(table) -> None:
    from test_formats import rows_of

    assert len(rows_of(table)) == len(table)
    assert not len(table) or (table.image.min() >= 0 and table.image.max() < len(table.images))
    assert not len(table) or (table.label.min() >= -1 and table.label.max() < len(table.classes))


def _run(folder: Path, name: str, content: bytes) -> None:
    from sppfeat.boxes.formats import read_boxes
    from sppfeat.errors import SppfeatError
    from sppfeat.files.image_names import match_images

    target = _TARGETS[name]
    path = _put(folder, name, target.wrap(content))
    before, start = _peak_bytes(), time.monotonic()
    try:
        table = read_boxes(path, box_format=target.box_format).table
        _check_table(table)
        match_images(table.images, b"/photos", _PATHS, kind=table.names)
    except SppfeatError as error:
        str(error).encode()  # a message that can be printed
    seconds, growth = time.monotonic() - start, _peak_bytes() - before
    if seconds > _MOST_SECONDS:
        raise AssertionError(f"{seconds:.1f} s for {len(content)} bytes of {name}")
    if growth > _MOST_GROWTH and len(content) < _SMALL_BYTES:
        raise AssertionError(f"{growth} bytes of memory for {len(content)} bytes of {name}")


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _write_corpus(folder: Path, name: str) -> None:
    names = list(_TARGETS)
    for target in names if name == "any" else [name]:
        first = bytes([names.index(target)]) if name == "any" else b""
        for i, seed in enumerate(_TARGETS[target].seeds()):
            (folder / f"{target}-{i}").write_bytes(first + seed)


def _write_dictionary(path: Path, name: str) -> None:
    tokens = {
        token for target in (_TARGETS if name == "any" else [name]) for token in _TARGETS[target].tokens
    }
    lines = ['"' + "".join(f"\\x{byte:02x}" for byte in token) + '"\n' for token in sorted(tokens) if token]
    path.write_text("".join(lines))


def main(arguments: list[str]) -> None:
    """Fuzzes a target until the process ends."""
    import atheris

    name, *options = arguments or ["any"]
    if name not in (*_TARGETS, "any"):
        sys.exit(f"found the target {name!r}; allowed: any, {', '.join(_TARGETS)}")
    with atheris.instrument_imports(
        include=[
            "sppfeat.boxes.formats",
            "sppfeat.boxes.table",
            "sppfeat.files.image_names",
            "sppfeat.inputs",
        ]
    ):
        import sppfeat.boxes.formats
        import sppfeat.files.image_names  # noqa: F401

    folder = Path(tempfile.mkdtemp(prefix="fuzz_boxes_"))
    names = list(_TARGETS)

    def run(content: bytes) -> None:
        if name != "any":
            _run(folder, name, content)
        elif content:
            _run(folder, names[content[0] % len(names)], content[1:])

    corpus, dictionary = folder / "corpus", folder / "dictionary"
    corpus.mkdir()
    _write_corpus(corpus, name)
    _write_dictionary(dictionary, name)
    inputs = [option for option in options if not option.startswith("-")]
    atheris.Setup([sys.argv[0], f"-dict={dictionary}", *options, *([] if inputs else [str(corpus)])], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
