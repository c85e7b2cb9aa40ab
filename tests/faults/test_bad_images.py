"""Bad image files among good ones: each gets a failed row with a reason, and no other row moves."""

import os
import re
import struct
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from command_line import run
from conftest import write_image
from extraction_runs import SIZE, assert_same_file, difference, extract, plain_descriptor, plain_network
from image_bytes import PILLOW_MAJOR, exif_block, noise, png, saved, tiff
from PIL import Image, features

import sppfeat
from sppfeat.config.distribution import RunOptions
from sppfeat.config.request import BoxChoice
from sppfeat.config.specs import InputSpec
from sppfeat.decoding.images import probe_image
from sppfeat.errors import ImageError
from sppfeat.files.image_names import IMAGE_SUFFIXES

pytestmark = pytest.mark.slow

MAX_DECODE_PIXELS = 1_000_000
SIZES = [(40, 60), (60, 40), (48, 48)]
PICTURE = noise(*SIZES[0], 3)
HAS_AVIF = bool(features.check("avif")) if "avif" in features.modules else False


# --- files ----------------------------------------------------------------------------------------


def patched(content, *changes):
    """Return a file with bytes replaced, each change ``(offset, bytes)``."""
    edited = bytearray(content)
    for offset, new in changes:
        edited[offset : offset + len(new)] = new
    return bytes(edited)


JPEG, PNG, GIF, BMP = (saved(PICTURE, name) for name in ("JPEG", "PNG", "GIF", "BMP"))
WEBP = saved(PICTURE, "WEBP", lossless=True)
JP2, TGA, SGI, PCX = (saved(PICTURE, name) for name in ("JPEG2000", "TGA", "SGI", "PCX"))
FRAMES = {"save_all": True, "append_images": [PICTURE.rotate(180)]}
GREY_TIFF = {262: (3, [1]), 258: (3, [8])}
LARGEST = 0xFFFFFFFF


def jpeg_of(height, width):
    """Return a JPEG whose header claims another size."""
    return patched(JPEG, (JPEG.index(b"\xff\xc0") + 5, struct.pack(">HH", height, width)))


def webp_of(height, width):
    """Return an animated WebP whose canvas has another size than its one frame of 4 x 4."""
    frame = saved(Image.new("RGB", (4, 4)), "WEBP", lossless=True)[12:]
    frame = bytes(6) + b"\3\0\0" * 2 + bytes(4) + frame
    sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = (
        b"WEBPVP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + sides + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    )
    return b"RIFF" + struct.pack("<I", LARGEST) + body + b"ANMF" + struct.pack("<I", len(frame)) + frame


def jp2_of(height, width):
    """Return a JPEG 2000 file whose box, code stream and tile claim another size."""
    box, stream = JP2.index(b"ihdr") + 4, JP2.index(b"\xff\x4f\xff\x51") + 8
    sides = struct.pack(">II", width, height)
    return patched(JP2, (box, struct.pack(">II", height, width)), (stream, sides), (stream + 16, sides))


def tiff_in_a_tile(height, width):
    """Return a TIFF of 1 x 1 in one large tile that is compressed to a few bytes."""
    tags = GREY_TIFF | {259: (3, [8]), 322: (4, [width]), 323: (4, [height]), 324: (4, [8]), 325: (4, [20])}
    return tiff(1, 1, zlib.compress(bytes(1000)), tags)


def tiff_without_a_tile():
    """Return an uncompressed TIFF of 32 x 32 that lists three of its four tiles."""
    tags = {322: (4, [16]), 323: (4, [16]), 324: (4, [8] * 3), 325: (4, [256] * 3)}
    return tiff(32, 32, bytes(256), GREY_TIFF | tags)


def tiff_that_refers_to_itself():
    """Return a TIFF whose directory names itself as the next, and as its EXIF directory."""
    content = tiff(4, 3, bytes(range(12)), GREY_TIFF | {0x8769: (4, [20])})
    n_tags = struct.unpack_from("<H", content, 20)[0]
    return patched(content, (22 + 12 * n_tags, struct.pack("<I", 20)))


class Case(NamedTuple):
    """A file, and the reason why it fails; None if its row equals that of plain torch."""

    content: bytes
    reason: str | None


MANY = "too many pixels"
DAMAGED = "begins like {}, but Pillow cannot read its header: damaged, cut short"
LIES = {
    "jpeg.jpg": Case(jpeg_of(65_500, 65_500), MANY),
    "jpeg-65535.jpg": Case(jpeg_of(65_535, 65_535), MANY),
    "png.png": Case(png(2**31 - 1, 2**31 - 1, depth=8, color=2, rows=[b""]), MANY),
    "png-bomb.png": Case(
        png(1001, 1000, depth=8, color=0, rows=[bytes(1001)] * 1000),
        "1001000, more than --max-decode-pixels 1000000; --max-decode-pixels 1001000 --retry-failed lets it in",
    ),
    "png-empty.png": Case(png(1000, 1000, depth=8, color=2, rows=[b""]), "cannot be decoded as PNG: "),
    "tiff.tif": Case(tiff(LARGEST, LARGEST, b"x", GREY_TIFF), MANY),
    "tiff-strip.tif": Case(tiff(1000, 1000, b"x", GREY_TIFF), "cannot be decoded as TIFF: .*truncated"),
    "tiff-rows.tif": Case(tiff(9, 9, bytes(81), GREY_TIFF | {278: (4, [1])}), "pixels for 1 of its 9 rows"),
    "tiff-tile.tif": Case(tiff_in_a_tile(65_520, 16_384), "too many pixels: tiles of 65520 x 16384"),
    "tiff-tiles.tif": Case(tiff_without_a_tile(), "its strips or tiles hold 768 of 1024 samples"),
    "tiff-samples.tif": Case(tiff(4, 4, bytes(16), GREY_TIFF | {277: (3, [65_535])}), DAMAGED.format("TIFF")),
    "tiff-offset.tif": Case(
        patched(tiff(4, 4, bytes(16), GREY_TIFF), (4, b"\xff" * 4)), DAMAGED.format("TIFF")
    ),
    "bmp.bmp": Case(patched(BMP, (18, struct.pack("<ii", 2**31 - 1, 2**31 - 1))), MANY),
    "bmp-offset.bmp": Case(patched(BMP, (10, b"\xff" * 4)), "cannot be decoded as BMP: "),
    "bmp-colors.bmp": Case(
        patched(saved(PICTURE.quantize(16), "BMP"), (46, b"\xff" * 4)), DAMAGED.format("BMP")
    ),
    "gif.gif": Case(patched(GIF, (6, b"\xff" * 4)), MANY),
    "webp.webp": Case(webp_of(60_000, 60_000), f"{MANY}|begins like WEBP"),  # before Pillow 13
    "jp2.jp2": Case(jp2_of(2**31 - 1, 2**31 - 1), MANY),
    "ppm.ppm": Case(b"P6 99999 99999 255\n\0", MANY),
    "ppm-long.ppm": Case(b"P6 99999999999999 1 255\n\0", "not an image"),
    "ppm-empty.ppm": Case(b"P6 1000 1000 255\n\0", "cannot be decoded as PPM: .*truncated"),
    "ppm-comment.ppm": Case(b"P6 #" + b"x" * 250_100, "Reached EOF|not an image"),
    "tga.tga": Case(patched(TGA, (12, b"\xff" * 4)), MANY),
    "sgi.sgi": Case(patched(SGI, (6, b"\xff" * 4)), MANY),
    "pcx.pcx": Case(patched(PCX, (8, b"\xfe\xff" * 2)), MANY),
}
"""Tiny files whose header claims gigabytes."""

HARMLESS = {
    "png-named.jpg": PNG,
    "jpeg-named.tif": JPEG,
    "upper.JPEG": JPEG,
    "one-pixel.png": saved(Image.new("RGB", (1, 1), (9, 200, 77)), "PNG"),
    "exif.jpg": saved(PICTURE, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"),
    "exif-cut.webp": saved(PICTURE, "WEBP", lossless=True, exif=exif_block(6)[:-12]),
    "profile.jpg": saved(PICTURE, "JPEG", icc_profile=b"no profile"),
    "profile.png": saved(PICTURE, "PNG", icc_profile=b"\0" * 99),
    "animated.gif": saved(PICTURE, "GIF", **FRAMES),
    "animated.apng": saved(PICTURE, "PNG", **FRAMES),
    "animated.webp": saved(PICTURE, "WEBP", lossless=True, **FRAMES),
    "pages.tif": saved(PICTURE, "TIFF", **FRAMES),
    "two.mpo": saved(PICTURE, "MPO", **FRAMES),
    "itself.tif": tiff_that_refers_to_itself(),
    "huge-tag.tif": tiff(4, 3, bytes(range(12)), GREY_TIFF | {270: (1, list(b"about"))}).replace(
        struct.pack("<HHI", 270, 1, 5), struct.pack("<HHI", 270, 1, LARGEST)
    ),
    "line\nbreak.png": PNG,
    "\U0001f600\t\x1b[31m.png": PNG,
    os.fsdecode(b"caf\xe9.jpg"): JPEG,
}
"""Odd files with an intact picture."""
NEED_PILLOW_13 = {"huge-tag.tif"}  # older ones fail, with a reason

CASES = {
    **LIES,
    **{
        name: Case(content, "begins like" if name in NEED_PILLOW_13 and PILLOW_MAJOR < 13 else None)
        for name, content in HARMLESS.items()
    },
    "empty.jpg": Case(b"", "^empty file$"),
    "text.jpg": Case(b"no picture\n", "^not an image, or in a format"),
    "page.jpg": Case(b"<!DOCTYPE html><html>", "an HTML page"),
    "cut.jpg": Case(JPEG[:-60], "cannot be decoded as JPEG: .*truncated"),
    "cut.png": Case(PNG[: len(PNG) // 2], "cannot be decoded as PNG: .*truncated"),
    "cut.gif": Case(GIF[: len(GIF) // 2], "cannot be decoded as GIF: .*truncated"),
    "cut.webp": Case(WEBP[: len(WEBP) // 2], "WEBP"),
    "cut.jp2": Case(JP2[: len(JP2) // 2], "cannot be decoded as JPEG2000"),
    "header.png": Case(PNG[:20], DAMAGED.format("PNG")),
    "flat.png": Case(png(20_000, 1, depth=8, color=0, rows=[bytes(20_000)]), "^too elongated: 1 x 20000"),
    "tall.png": Case(png(1, 20_000, depth=8, color=0, rows=[b"\0"] * 20_000), "^too elongated: 20000 x 1"),
    "long.png": Case(png(65_535, 1, depth=8, color=0, rows=[bytes(65_535)]), "^too elongated: 1 x 65535"),
    "profile-bomb.png": Case(
        png(1, 1, depth=8, color=0, rows=[b"x"], before=[(b"iCCP", b"n\0\0" + zlib.compress(bytes(2**21)))]),
        "begins like PNG.*(?i:decompressed data too large)",
    ),
    "float.tif": Case(saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "no defined range"),
    "photo.heic": Case(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "no decoder for HEIC"),
    "photo.jxl": Case(b"\xff\x0a" + bytes(20), "no decoder for JPEG XL"),
    "boxed.jxl": Case(b"\0\0\0\x0cJXL \r\n\x87\n", "no decoder for JPEG XL"),
    "document.jpg": Case(b"%PDF-1.4\n", "^a PDF document"),
    "layers.png": Case(b"8BPS\0\1" + bytes(30), "^a Photoshop document"),
    "drawing.png": Case(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "^an SVG drawing"),
    "pointer.png": Case(b"version https://git-lfs.github.com/spec/v1\n", "^a Git LFS pointer"),
    "photo.avif": (
        Case(saved(PICTURE, "AVIF"), None) if HAS_AVIF
        else Case(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", "no decoder for AVIF")
    ),
    "drawing.jpg": Case(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript document"),
}  # fmt: skip

SPECIAL: dict[str, tuple[Callable[[Path], None], str]] = {
    "dangling.jpg": (lambda path: path.symlink_to("nowhere"), "^no such file$"),
    "cycle.jpg": (lambda path: path.symlink_to(path.name), "^Too many levels of symbolic links$"),
    "pipe.jpg": (os.mkfifo, "^is not a regular file$"),
}
"""Paths that are not regular files."""
if os.geteuid() != 0:  # root may read everything
    SPECIAL["locked.jpg"] = (lambda path: (path.write_bytes(JPEG), path.chmod(0)), "^permission denied$")


class Mixture(NamedTuple):
    """A folder, the reason of each failing file by its path in the folder, and the paths of the other images."""

    top: Path
    reasons: dict[str, str]
    good: list[str]


@pytest.fixture(scope="module")
def mixture(tmp_path_factory) -> Mixture:
    """Every case, each after a good image, in two class folders."""
    top = tmp_path_factory.mktemp("mixture")
    reasons, good = {}, []
    for i, name in enumerate([*CASES, *SPECIAL]):
        folder = "first" if i % 3 else "second"
        picture, path = f"{folder}/{i:03}.png", f"{folder}/{i:03}-{name}"
        write_image(top / picture, *SIZES[i % len(SIZES)], seed=i)
        good.append(picture)
        try:
            reason = make(top / path, name)
        except OSError:  # a name that this file system does not take
            continue
        if reason is None:
            good.append(path)
        else:
            reasons[path] = reason
    write_image(top / "first" / "folder.jpg" / "inside.png", *SIZES[0], seed=99)
    (top / "first" / "folder.jpg" / "above").symlink_to("..")
    (top / "second" / "link.png").symlink_to("000.png")
    return Mixture(top, reasons, [*good, "first/folder.jpg/inside.png", "second/link.png"])


def make(path, name):
    if name in SPECIAL:
        create, reason = SPECIAL[name]
        create(path)
        return reason
    path.write_bytes(CASES[name].content)
    return CASES[name].reason


# --- the whole ------------------------------------------------------------------------------------

RUN = RunOptions(workers=0, device="cpu", max_decode_pixels=MAX_DECODE_PIXELS)
RUN_2 = RunOptions(workers=2, device="cpu", max_decode_pixels=MAX_DECODE_PIXELS)


@pytest.fixture(scope="module")
def in_process(mixture, tmp_path_factory):
    output = tmp_path_factory.mktemp("in_process") / "f.h5"
    extract([mixture.top], output, run=RUN)
    return output


def image_files(top):
    """The relative path of every image in a folder."""
    return {
        os.path.relpath(os.path.join(folder, name), top)
        for folder, _, names in os.walk(top)
        for name in names
        if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
    }


def assert_failed_as_expected(file, mixture):
    failed = {file.paths[i]: reason for i, reason in file.errors.items()}
    assert set(failed) == set(mixture.reasons)
    wrong = {
        path: (failed[path], said)
        for path, said in mixture.reasons.items()
        if not re.search(said, failed[path])
    }
    assert wrong == {}
    assert all(reason.isprintable() for reason in failed.values())


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # when plain torch's images are opened
def test_each_file_has_its_row_or_its_reason(mixture, in_process, tmp_path):
    network = plain_network()
    with sppfeat.open(in_process) as file:
        assert len(file.paths) == len(set(file.paths))
        assert set(file.paths) == image_files(mixture.top) == {*mixture.reasons, *mixture.good}
        assert_failed_as_expected(file, mixture)
        for path, row, label in zip(file.paths, file.features, file.labels, strict=True):
            assert file.classes[label] == path.split("/")[0]
            if path in mixture.reasons:
                assert np.isnan(row).all()
            else:
                with Image.open(mixture.top / path) as image:
                    image.convert("RGB").save(tmp_path / "first_frame.png")
                expected = plain_descriptor(network, tmp_path / "first_frame.png")
                assert difference(row, expected) <= 1e-5, path


def test_two_workers_make_the_same_file(mixture, in_process, tmp_path):
    extract([mixture.top], tmp_path / "f.h5", run=RUN_2)
    assert_same_file(in_process, tmp_path / "f.h5")


def test_boxes_of_bad_images_are_rows_of_nan_and_others_keep_their_rows(mixture, tmp_path):
    grid = {"boxes": BoxChoice(boxes="grid:2x2"), "input": InputSpec(size=SIZE)}
    extract([mixture.top], tmp_path / "all.h5", run=RUN_2, **grid)
    extract([mixture.top / path for path in mixture.good], tmp_path / "good.h5", run=RUN, **grid)
    with sppfeat.open(tmp_path / "all.h5") as file, sppfeat.open(tmp_path / "good.h5") as good:
        assert_failed_as_expected(file, mixture)
        assert good.errors == {}
        rows = rows_by_path(file)
        for path, expected in rows_by_path(good).items():
            assert len(expected) == 4
            assert all(difference(a, b) <= 1e-5 for a, b in zip(rows.pop(path), expected, strict=True)), path
        assert set(rows) == set(mixture.reasons)
        assert all(np.isnan(row).all() for own in rows.values() for row in own)
        assert sum(map(len, rows.values())) == 4 * len(rows)


def rows_by_path(file):
    rows = {}
    for image, row in zip(file.image_index, file.features, strict=True):
        rows.setdefault(file.paths[image], []).append(row)
    return rows


def test_the_command_reports_bad_images_and_exits_with_3(mixture, tmp_path):
    output = str(tmp_path / "f.h5")
    settings = ["--backbone", "squeezenet1_1", "--weights", "none", "--size", "48", "--levels", "1,2"]
    settings += ["--device", "cpu", "--workers", "0", "--max-decode-pixels", str(MAX_DECODE_PIXELS)]
    result = run("extract", mixture.top, "-o", output, *settings, code=3)
    assert f"{len(mixture.reasons)} " in result.stderr
    assert "\x1b[31m" not in result.stderr  # of a file's name
    with sppfeat.open(output) as file:
        assert_failed_as_expected(file, mixture)
    run("info", output, code=0)
    run("verify", output, code=0)


# --- one at a time --------------------------------------------------------------------------------


def test_an_unreadable_file_says_permission_denied(tmp_path, monkeypatch):
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # the folders above may be closed to others
    Path("locked.jpg").write_bytes(JPEG)
    Path("locked.jpg").chmod(0)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65_534)
    except OSError:
        pytest.skip("cannot become another user")
    try:
        with pytest.raises(ImageError, match=r"^permission denied$"):
            probe_image("locked.jpg", exif="apply")
    finally:
        os.seteuid(user)


MEASURE = """
    import resource, sys
    from pathlib import Path
    from sppfeat.errors import ImageError
    from sppfeat.decoding.images import probe_image, read_image

    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    before = peak()
    for path in sorted(Path(sys.argv[1]).iterdir()):
        for read in (probe_image, read_image):
            try:
                read(str(path), exif="apply", max_pixels=1_000_000)
            except ImageError:
                pass
        print(path.name, (peak() - before) // (1024 if sys.platform != "darwin" else 1024**2))
"""


def run_python(code, *arguments):
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_false_sizes_in_headers_cost_neither_memory_nor_time(tmp_path):
    for name, case in LIES.items():
        (tmp_path / name).write_bytes(case.content)
    grown = dict(line.split() for line in run_python(MEASURE, tmp_path).splitlines())
    assert set(grown) == set(LIES)
    assert max(map(int, grown.values())) < 150, grown  # MiB; the most that 1,000,000 pixels take is 20


LIMITED = """
    import os, resource, sys
    from sppfeat.errors import ImageError
    from sppfeat.decoding.images import read_image

    small, large = ([os.path.join(folder, kind) for kind in sys.argv[3:]] for folder in sys.argv[1:3])
    for path in small:
        read_image(path, exif="apply")
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (16 << 20),) * 2)
    for small_path, large_path in zip(small, large):
        try:
            reason = read_image(large_path, exif="apply")
        except ImageError as error:
            reason = str(error)
        print(reason, read_image(small_path, exif="apply").size)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are Linux's")
def test_an_image_larger_than_the_memory_fails_and_the_next_is_read(tmp_path):
    kinds = ["PNG", "JPEG", "GIF", "TIFF", "BMP", "PPM", "JPEG2000"]
    for folder, image in (("small", PICTURE), ("large", Image.new("RGB", (3000, 2000)))):
        (tmp_path / folder).mkdir()
        for kind in kinds:
            image.save(tmp_path / folder / kind, kind)
    lines = run_python(LIMITED, tmp_path / "small", tmp_path / "large", *kinds).splitlines()
    for kind, line in zip(kinds, lines, strict=True):
        assert re.fullmatch(rf"cannot be decoded as {kind}: not enough memory \(60, 40\)", line)
