"""Coverage-guided fuzzing of what reads box files.

Run it with atheris (``pip install atheris``), a target and, behind it, options of libFuzzer::

    python tests/fuzz/fuzz_boxes.py voc -max_total_time=180 -max_len=4096

``any`` takes the target from the first byte of each input. A crash, and what libFuzzer saved of it, is run again by
naming the saved file. The corpus lives in a temporary folder, unless another is named behind the options.

A finding is any exception but :class:`sppfeat.errors.SppfeatError` ("Uncaught Python exception"), more than
2 seconds, memory that grows by 100 MB for an input below 10 kB, a table that contradicts itself, or the end of the
process ("deadly signal": a parser in C underneath, which the stack behind it names). MATLAB files are not a target:
scipy reads them, and its reader is not hardened.
"""

import csv
import io
import os
import resource
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

_MOST_SECONDS = 2.0
_SMALL_BYTES = 10_000
_MOST_GROWTH = 100 * 2**20

_FILE_MARK = b"\n=== "  # in front of the name of a file, for a folder

_PATHS = [b"a.jpg", b"b/2.jpg", b"b/000000000042.png", b"c d/\xff.jpg", b"etc/passwd"]


class _Target(NamedTuple):
    box_format: str | None
    seeds: Callable[[], list[bytes]]
    tokens: tuple[bytes, ...] = ()
    wrap: Callable[[bytes], bytes] = bytes


# ---- small valid files


def _rows(dialect: str) -> list[bytes]:
    texts = []
    for header in ("path,xmin,ymin,xmax,ymax,label,score,id,source", "image,x,y,w,h", "file,cx,cy,w,h,class"):
        text = io.StringIO()
        writer = csv.writer(text, dialect)
        names = header.split(",")
        writer.writerows(
            [
                names,
                ["a.jpg", *range(1, len(names))],
                ["b/2.jpg", "", "nan", "-1e3"] + [""] * (len(names) - 4),
            ]
        )
        texts.append(text.getvalue().encode())
    return [*texts, b"\xef\xbb\xbf" + texts[0], texts[0].replace(b"a.jpg", b'"a ""1""\r\n.jpg"')]


def _jsonl() -> list[bytes]:
    return [
        b"""{"image": "b/2.jpg", "bbox": [1, 2, 3.5, 40], "class": "cat", "score": 0.5, "id": 7, "source": "hand"}

{"image": "a.jpg", "bbox": [-1, null, Infinity, NaN], "class": 3, "score": null, "flags": {"a": [1]}}
""",
        b'{"path": "a.jpg", "x0": 1, "y0": 2, "x1": 3, "y1": "4", "box_id": "x"}\n',
    ]


def _coco() -> list[bytes]:
    return [
        b"""{"images": [{"id": 9, "file_name": "b/2.jpg", "height": 480, "width": 640},
{"id": "x", "file_name": "a.jpg"}],
"annotations": [{"id": 70, "image_id": 9, "bbox": [1, 2, 3, 4.5], "category_id": 1, "iscrowd": 0,
"segmentation": [[1]]},
{"image_id": "x", "bbox": [0, 0, 1, 1], "score": 0.25}],
"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}""",
        b"""[{"image_id": 42, "bbox": [1, 2, 3, 4], "category_id": 18, "score": 0.5},
{"image_id": "000042", "bbox": [5, 6, 7, 8]}]""",
        b'[{"file_name": "a.jpg", "bbox": [1, 2, 3, 4], "id": 1}]',
    ]


def _voc() -> list[bytes]:
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3.5</xmax><ymax>4</ymax></bndbox>"
    text = (
        "<annotation><filename>a.jpg</filename><size><width>500</width><height>375</height></size><object><name>dog"
        f"</name><pose>Left</pose><difficult>0</difficult><score>.5</score>{box}</object><object>{box}</object>"
        "</annotation>"
    )
    declared = f'<?xml version="1.0" encoding="ISO-8859-1"?>\n<!-- a -->{text}'
    entities = (
        f'<!DOCTYPE annotation [<!ENTITY a "b"><!ENTITY c SYSTEM "/etc/passwd">]>{text.replace("dog", "&a;")}'
    )
    return [text.encode(), declared.encode(), entities.encode(), text.encode("utf-16")]


def _yolo() -> list[bytes]:
    return [
        b"15 0.5 0.5 0.25 1\r\n\r\n3 0.1\t0.2 0.3 0.4 0.75\n",
        b"0 0 0 1 1",
        b"0 .1 .2 .3 .4 .5 .6 .1 .2\n",
    ]


def _npy() -> list[bytes]:
    arrays = [np.ones((2, 4), dtype) for dtype in ("<f8", ">i2", "u1", "f2")]
    arrays += [np.asfortranarray(np.ones((3, 5))), np.empty((0, 4)), np.empty(0), np.ones((2, 4), bool)]
    contents = []
    for array in arrays:
        file = io.BytesIO()
        np.save(file, array)
        contents.append(file.getvalue())
    return contents


def _npz() -> list[bytes]:
    contents = []
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, **{"a.jpg": np.ones((2, 4)), "b/2": np.ones((1, 5), dtype="u1"), "none": np.empty((0, 4))})
        contents.append(file.getvalue())
    return contents


def _folder() -> list[bytes]:
    return [
        _FILE_MARK
        + b"a.txt\n0 0 0 1 1\n"
        + _FILE_MARK
        + b"b/2.txt\n1 .5 .5 1 1\n"
        + _FILE_MARK
        + b"classes.txt\ncat\ndog\n",
        _FILE_MARK
        + b"a.xml\n"
        + _voc()[0]
        + _FILE_MARK
        + b"c.XML\n"
        + _voc()[0].replace(b"a.jpg", b"b/2.jpg"),
        _FILE_MARK + b"a.npy\n" + _npy()[0] + _FILE_MARK + b"b.npy\n" + _npy()[1],
    ]


def _any_seeds() -> list[bytes]:
    return [*_rows("excel"), *_jsonl(), *_coco(), *_voc(), *_yolo(), *_npz()]


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
_DESCRS = (
    *(b"'descr': '|O'", b"'descr': '<f8'", b"'shape': (0, 999999999999999999)", b"True"),
    *(b"PK\1\2", b"PK\5\6"),
)

_TARGETS: Mapping[str, _Target] = {
    "csv": _Target("csv", lambda: _rows("excel"), _ROWS),
    "tsv": _Target("tsv", lambda: _rows("excel-tab"), _ROWS),
    "jsonl": _Target("jsonl", _jsonl, _JSON + _NAMES),
    "coco": _Target("coco", _coco, _JSON + _NAMES),
    "voc": _Target("voc", _voc, _XML + _NUMBERS),
    "yolo": _Target("yolo", _yolo, _NUMBERS),
    "numpy": _Target("numpy", lambda: _npy() + _npz(), _DESCRS),
    "npz": _Target("numpy", _npy, _DESCRS, _deflated),
    "folder": _Target(None, _folder, (_FILE_MARK, b"a.txt\n", b"a.xml\n", b"a.npy\n", *_NUMBERS)),
    "recognised": _Target(
        None, _any_seeds, (*_NUMBERS, *_DESCRS, b"MATLAB 5.0", b"\x93NUMPY", b"\xff\xfe", b"[{")
    ),
}


# ---- running


def _put(folder: Path, name: str, content: bytes) -> Path:
    """Return the path of a box file, or of a folder of such, with that content."""
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
        except (OSError, ValueError):  # no name of a file
            continue
    return path


def _check_table(table) -> None:
    assert table.boxes.shape == (len(table), 4)
    assert table.image_hw.shape == (len(table.images), 2)
    assert len(set(table.images)) == len(table.images)
    assert all(len(c) == len(table) for c in (table.label, table.score, table.ids, *table.extra))
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
    """Fuzz a target; ends with the process."""
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
