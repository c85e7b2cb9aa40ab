"""Opens image files, reads their headers, and finds the reasons why some cannot be opened."""

import errno
import io
import os
import re
import stat
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from sppfeat.config.wording import one_line
from sppfeat.errors import ImageError
from sppfeat.files.places import WHOLE_FILE, PartOfFile, Place, place_of, read_at, unpack

__all__ = [
    "IMAGE_FORMATS",
    "SWAPS_SIDES",
    "check_pixels",
    "open_image",
    "pillow_errors",
    "read_orientation",
]

# fmt: off
# Never EPS and PostScript (Pillow runs Ghostscript on them), PDF, or formats that are not pictures. Weak signatures
# come last; TGA has none.
IMAGE_FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "AVIF", "PPM", "SGI", "DIB", "PCX", "TGA",
)
# fmt: on
"""Formats to open, whatever the name of the file, as Pillow names them. MPO is opened as JPEG."""

_FILE_REASONS = {
    errno.ENOENT: "no such file",
    errno.ENOTDIR: "no such file",
    errno.EISDIR: "is a folder",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
}
_LONGEST_REASON = 200
_own_settings = threading.RLock()

_ORIENTATION_TAG = 0x0112
SWAPS_SIDES = frozenset((5, 6, 7, 8))
_LONGEST_EXIF = 1 << 20

# Formats whose signature Pillow checks, then offsets and signatures of other files often found among images.
_SIGNED_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000")
_OTHER_SIGNATURES = (
    (0, b"\xff\x0a", "no decoder for JPEG XL in this Pillow; convert it to PNG or JPEG"),
    (4, b"JXL ", "no decoder for JPEG XL in this Pillow; convert it to PNG or JPEG"),
    (0, b"%PDF", "a PDF document; only pictures are read"),
    (0, b"%!PS", "a PostScript document; only pictures are read"),
    (0, b"8BPS", "a Photoshop document; convert it to PNG or TIFF"),
    (0, b"<svg", "an SVG drawing; convert it to PNG"),
    (0, b"version https://git-lfs", "a Git LFS pointer; the image itself has not been fetched"),
    (0, b"<!doctype html", "an HTML page, not an image"),
    (0, b"<html", "an HTML page, not an image"),
)
_HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))


@contextmanager
def open_image(
    place: bytes | str | Place, *, exif: str, max_pixels: int
) -> Iterator[tuple[ImageFile.ImageFile, int, tuple[int, int]]]:
    """Opens an image file and reads its header; see :func:`sppfeat.decoding.images.read_image` for the arguments.

    Yields the image, its EXIF orientation, 1 to 8, and its height and width as displayed. Images of more than
    ``max_pixels`` are refused, here and by Pillow while the context lasts.
    """
    with _open_place(place_of(place)) as file, _pillow_settings(max_pixels):
        # Not a path: Pillow would map an uncompressed file into memory, and a mapped file that is cut short meanwhile
        # kills the process with SIGBUS.
        with pillow_errors("its header cannot be read", max_pixels=max_pixels):
            image = _open_with_pillow(file)
            if image.width * image.height > max_pixels:
                n_pixels = image.height * image.width
                found = f"{image.height} x {image.width} (height x width) are {n_pixels}"
                raise _too_many_pixels(found, n_pixels, max_pixels)
            check_pixels(image)
            _check_tiles(image, max_pixels)
            _scale_key_color(image)
            orientation = read_orientation(image, file)
            opened = image, orientation, _displayed_hw(image, orientation, exif)
        yield opened


def _displayed_hw(image: Image.Image, orientation: int, exif: str) -> tuple[int, int]:
    """Height and width of an opened image in pixels, after its EXIF orientation unless ``exif`` is ``"ignore"``."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # From the tags, because Pillow 11.2 and later swap the size of a TIFF when opening it.
        height, width = int(image.tag_v2[257]), int(image.tag_v2[256])
    else:
        height, width = image.height, image.width
    return (width, height) if exif == "apply" and orientation in SWAPS_SIDES else (height, width)


def read_orientation(image: Image.Image, file: BinaryIO | None = None) -> int:
    """The EXIF orientation of an image, 1 to 8; 1 if it is missing or invalid.

    ``file`` is the open file of a PNG, which may store its orientation after the pixels.
    """
    try:
        if image.format == "PNG" and file is not None and "exif" not in image.info:
            # PngImageFile.getexif decodes the picture to find a chunk after the pixels.
            late_exif = _late_png_exif(file)
            if late_exif is not None:
                image.info["exif"] = b"Exif\x00\x00" + late_exif
        orientation = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
        return int(orientation) if orientation in range(1, 9) else 1
    except Exception:  # Pillow's parser raises nearly every type on a damaged block, as in pillow_errors
        return 1


def _late_png_exif(file: BinaryIO) -> bytes | None:
    """The eXIf chunk of a PNG, also after the pixels, where exiftool puts it."""
    position = 8
    while True:
        header = read_at(file, 8, position)
        if len(header) < 8 or header[4:] == b"IEND":
            return None
        length, kind = struct.unpack(">I4s", header)
        if kind == b"eXIf":
            return read_at(file, min(length, _LONGEST_EXIF), position + 8)
        position += 12 + length


def check_pixels(image: Image.Image) -> None:
    """Refuses pixels without a defined black and white: floats, and signed or 32-bit integers."""
    if image.mode == "F":
        raise ImageError("32-bit float pixels have no defined range; convert it to 8 or 16 bits")
    if image.mode == "I" and image.format != "PPM":  # Pillow scales PPM to 0..65535
        raise ImageError("signed or 32-bit integer pixels have no defined range; convert it to 8 or 16 bits")


def _scale_key_color(image: ImageFile.ImageFile) -> None:
    """Scales the transparent color of a PNG to 8 bits; Pillow leaves it at the file's own depth."""
    key = image.info.get("transparency")
    if image.format != "PNG" or key is None:
        return
    raw_mode = image.tile[0][3]
    if raw_mode == "1" and key == 1:  # Pillow before 11
        image.info["transparency"] = 255
    elif raw_mode in ("L;2", "L;4"):
        image.info["transparency"] = key * (85 if raw_mode == "L;2" else 17)
    elif raw_mode == "RGB;16B":
        image.info["transparency"] = tuple(sample >> 8 for sample in key)


@contextmanager
def _pillow_settings(max_pixels: int) -> Iterator[None]:
    """Makes Pillow refuse larger images, frames and tiles, and truncated files, while the context lasts.

    These settings and the warning filters belong to the whole process, so one thread reads at a time.
    """
    with _own_settings:
        before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        try:
            Image.MAX_IMAGE_PIXELS = (max_pixels + 1) // 2  # Pillow allows twice its limit
            ImageFile.LOAD_TRUNCATED_IMAGES = False
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def _check_tiles(image: ImageFile.ImageFile, max_pixels: int) -> None:
    """Refuses a TIFF with huge tiles, or with missing strips or tiles, which Pillow leaves black."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return
    width, height, tile_width, tile_height = (int(image.tag_v2.get(tag, 0)) for tag in (256, 257, 322, 323))
    if tile_width * tile_height > max(max_pixels, 4 * width * height):  # libtiff allocates a whole tile
        n_pixels = tile_height * tile_width
        found = f"tiles of {tile_height} x {tile_width} for an image of {height} x {width} are {n_pixels}"
        raise _too_many_pixels(found, n_pixels, max_pixels)
    if image.tile[0][0] == "libtiff":  # libtiff checks these itself
        return
    n_rows = max(tile[1][3] if tile[1] else height for tile in image.tile)
    if n_rows < height:
        raise ImageError(f"damaged TIFF file: it has pixels for {n_rows} of its {height} rows")
    extents = [tile[1] or (0, 0, width, height) for tile in image.tile]
    n_pixels = sum((min(x1, width) - x0) * (min(y1, height) - y0) for x0, y0, x1, y1 in extents)
    n_planes = len(image.getbands()) if image.tag_v2.get(284) == 2 else 1  # PlanarConfiguration
    if n_pixels < n_planes * width * height:
        raise ImageError(
            f"damaged TIFF file: its strips or tiles hold {n_pixels} of {n_planes * width * height} samples"
        )


def _too_many_pixels(found: str, n_pixels: int | str, max_pixels: int) -> ImageError:
    return ImageError(
        f"too many pixels: {found}, more than --max-decode-pixels {max_pixels}; "
        f"--max-decode-pixels {n_pixels} --retry-failed lets it in"
    )


@contextmanager
def pillow_errors(what: str, *, max_pixels: int | None = None) -> Iterator[None]:
    """Converts any error from Pillow to an ImageError, and silences its warnings.

    Wrap only calls of Pillow: on hostile files it raises nearly every type (SyntaxError, struct.error, zlib.error,
    MemoryError, KeyError, ...), so this catches ``Exception``. Its warnings (suspicious size, corrupt EXIF) would be
    printed once per line of Pillow's source, without the name of the file. ``max_pixels`` is the limit to name in
    errors; None outside of :func:`open_image`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        numbers = re.findall(r"[0-9]+", str(error))
        if max_pixels is None or not numbers:
            raise ImageError(f"{what}: more pixels than Pillow's Image.MAX_IMAGE_PIXELS allows") from error
        raise _too_many_pixels(numbers[0], numbers[0], max_pixels) from error
    except MemoryError as error:
        raise ImageError(f"{what}: not enough memory") from error
    except Exception as error:
        reason = _one_line(error.strerror if isinstance(error, OSError) and error.strerror else error)
        if reason.lstrip("-").isdigit():  # TIFF, before Pillow 11
            reason = f"decoder error {reason}"
        raise ImageError(f"{what}: {reason or type(error).__name__}") from error


def _open_with_pillow(file: BinaryIO) -> ImageFile.ImageFile:
    try:
        return Image.open(file, formats=_formats_of_this_pillow())
    except ImageError:
        raise
    except Exception as error:  # nearly every type, see pillow_errors
        # EINVAL: Pillow followed an offset in the file to an impossible position.
        errno_ = getattr(error, "errno", None)
        about_this_machine = isinstance(error, MemoryError) or errno_ not in (None, errno.EINVAL)
        if about_this_machine or isinstance(error, Image.DecompressionBombError):
            raise
        reason = _why_unidentified(file, has_avif="AVIF" in _formats_of_this_pillow())
        if not isinstance(error, UnidentifiedImageError) and (detail := _one_line(error)):
            reason = one_line(f"{reason} ({detail})", longest=_LONGEST_REASON)
        raise ImageError(reason) from error


def _open_place(place: Place) -> BinaryIO:
    path, offset, nbytes = place[:3]
    try:
        status = os.stat(path)  # the path may be bytes
        if stat.S_ISDIR(status.st_mode):
            raise ImageError("is a folder")
        if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait forever
            raise ImageError("is not a regular file")
        if nbytes == WHOLE_FILE:
            nbytes = status.st_size
        if nbytes == 0:
            raise ImageError("empty file")
        if place.unpacked_nbytes is not None:
            with open(path, "rb") as archive:
                return io.BytesIO(unpack(read_at(archive, nbytes, offset), place.unpacked_nbytes))
        file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed with what reads it
        raw = file if nbytes == status.st_size else PartOfFile(file, offset, nbytes)
        return io.BufferedReader(raw)
    except OSError as error:
        raise ImageError(_FILE_REASONS.get(error.errno or 0) or _one_line(error.strerror)) from error
    except ValueError as error:  # a zero byte in the name
        raise ImageError(_one_line(error)) from error


def _one_line(text: object) -> str:
    """A text on one line, escaped, and short enough for a report."""
    return one_line(" ".join(str(text).split()), longest=_LONGEST_REASON)


def _formats_of_this_pillow() -> tuple[str, ...]:
    # Image.open fails with KeyError on a format that this build lacks (AVIF before Pillow 11.3).
    Image.init()
    return tuple(name for name in IMAGE_FORMATS if name in Image.OPEN)


def _why_unidentified(file: BinaryIO, *, has_avif: bool) -> str:
    """The reason why Pillow did not recognize an image, from the first bytes of the file."""
    n_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(64)
    if head[4:8] == b"ftyp":
        brands = {head[i : i + 4] for i in range(8, min(len(head), max(12, head[3])), 4)}
        if brands & {b"avif", b"avis"}:
            if not has_avif:
                return "no decoder for AVIF in this Pillow; convert it to PNG or JPEG"
            return _damaged_header("AVIF", n_bytes)
        if brands & _HEIF_BRANDS:
            return "no decoder for HEIC in this Pillow; convert it to JPEG or PNG"
    for name in _SIGNED_FORMATS:
        accepts = Image.OPEN[name][1] if name in Image.OPEN else None
        if accepts is not None and accepts(head[:16]):
            return _damaged_header(name, n_bytes)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for offset, magic, reason in _OTHER_SIGNATURES:
        if head.startswith(magic, offset) or text.startswith(magic, offset):
            return reason
    return "not an image, or in a format that Pillow cannot read"


def _damaged_header(name: str, n_bytes: int) -> str:
    return (
        f"begins like {name}, but Pillow cannot read its header: "
        f"damaged, cut short ({n_bytes} bytes) or of an unsupported kind"
    )
