"""Image files: which are taken, their size as displayed, and their pixels as upright 8-bit RGB.

Runs in worker processes, so it imports Pillow and numpy only. Sizes are ``(height, width)``.

Pillow's own conversions are departed from where they lose the picture: 16-bit greyscale is scaled, not
clipped to white, and transparency is laid over white instead of being dropped. What each kind of file
gives is written at :func:`read_image`.
"""

import errno
import io
import os
import stat
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError
from PIL.Image import Resampling, Transpose

from sppfeat.config.values import DEFAULT_MAX_DECODE_PIXELS
from sppfeat.config.wording import one_line
from sppfeat.decoding.image_files import why_unidentified
from sppfeat.decoding.image_guards import PILLOW, HeaderReader, check_precincts, check_scans, check_tiles
from sppfeat.decoding.jpeg_reduction import picture_box, reduce_jpeg
from sppfeat.errors import ConfigError, ImageError
from sppfeat.files.byte_ranges import DEFLATED, WHOLE_FILE, PartOfFile, Place, place_of, read_at, unpack

__all__ = [
    "IMAGE_FORMATS",
    "decode_image",
    "image_from_array",
    "probe_image",
    "read_image",
    "resize_image",
]

_Value = TypeVar("_Value")

# fmt: off
# Never EPS and PostScript (Pillow runs Ghostscript on them), PDF, or formats that are not pictures. The
# weak signatures come last: TGA has none.
IMAGE_FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "AVIF", "PPM", "SGI", "DIB", "PCX", "TGA",
)
# fmt: on
"""The formats, by Pillow's names, that are opened whatever a file is called. MPO is opened as JPEG."""

_RESAMPLING = {
    "nearest": Resampling.NEAREST,
    "bilinear": Resampling.BILINEAR,
    "bicubic": Resampling.BICUBIC,
    "lanczos": Resampling.LANCZOS,
    "box": Resampling.BOX,
    "hamming": Resampling.HAMMING,
}

_ORIENTATION_TAG = 0x0112
_EXIF_POLICIES = {"apply": "apply", "ignore": "ignore"}
_IS_REDUCED = {"exact": False, "fast": True}
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_AS_STORED = _UPRIGHT | {6: Transpose.ROTATE_90, 8: Transpose.ROTATE_270}
_SWAPS_SIDES = frozenset((5, 6, 7, 8))

_FILE_REASONS = {
    errno.ENOENT: "no such file",
    errno.ENOTDIR: "no such file",
    errno.EISDIR: "is a folder",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
}

_LONGEST_REASON = 200
_LONGEST_EXIF = 1 << 20
_SMALL_FILE_NBYTES = 4 << 20  # of which no header can take longer than some two seconds


def probe_image(
    place: bytes | str | Place, *, exif: str, max_pixels: int = DEFAULT_MAX_DECODE_PIXELS
) -> tuple[int, int]:
    """Return the height and width of an image as displayed, from its header, decoding no pixel.

    Args:
        place: The file, or the part of one.
        exif: ``"apply"``: as the EXIF orientation turns it. ``"ignore"``: as stored.
        max_pixels: A larger image is refused.

    Returns:
        ``(height, width)`` in pixels, equal to the size of what :func:`read_image` returns.

    Raises:
        ImageError: The file cannot be read, is no image, is too large, or has pixels without a defined range.
    """
    with _opened(place, exif, max_pixels) as opened:
        return opened.displayed_hw


def read_image(
    place: bytes | str | Place, *, exif: str, max_pixels: int = DEFAULT_MAX_DECODE_PIXELS
) -> Image.Image:
    """Return an image at its full size, upright, as 8-bit RGB.

    Greyscale, 1-bit, palette, CMYK, YCbCr and LAB pixels are converted by Pillow, without regard to an
    embedded ICC profile. Transparency is laid over white. Of 16-bit samples the high byte counts, in
    colour and grey alike; 32-bit integers and floats have no defined range and are refused. Of several
    frames or pages the first counts.

    Args:
        place: The file, or the part of one.
        exif: ``"apply"``: turned as its EXIF orientation says. ``"ignore"``: as stored.
        max_pixels: A larger image is refused.

    Returns:
        A Pillow image of mode ``"RGB"``.

    Raises:
        ImageError: The file cannot be read, is no image, is damaged or cut short, is too large, or has pixels
            without a defined range.
    """
    return _read(place, exif, max_pixels).image


def decode_image(
    place: bytes | str | Place,
    *,
    exif: str,
    image_hw: tuple[int, int],
    input_hw: tuple[int, int],
    resample: str,
    max_pixels: int = DEFAULT_MAX_DECODE_PIXELS,
    decode: str = "exact",
) -> npt.NDArray[np.uint8]:
    """Return the pixels of an image at the size of the network input.

    Args:
        place: The file, or the part of one.
        exif: As for :func:`read_image`.
        image_hw: Height and width as displayed that :func:`probe_image` gave for this file.
        input_hw: Height and width to resize to. At ``image_hw`` nothing is resampled.
        resample: Pillow's filter, applied to 8-bit RGB of the full size.
        max_pixels: As for :func:`read_image`.
        decode: ``"exact"``, or ``"fast"``: a JPEG at least twice as large as ``input_hw``, on both sides, is
            decoded at 1/2, 1/4 or 1/8 of its size, and resized from there. Other pixels, in the same places.

    Returns:
        ``(h, w, 3)`` uint8, C-contiguous, read-only.

    Raises:
        ImageError: As for :func:`read_image`; or the file has another size than ``image_hw`` by now.
        ConfigError: ``resample`` or ``decode`` is unknown.
    """
    _choose("resample", resample, _RESAMPLING)
    reduce_to = input_hw if _choose("decode", decode, _IS_REDUCED) else None
    image, box = _read(place, exif, max_pixels, image_hw=image_hw, reduce_to=reduce_to)
    return resize_image(image, input_hw=input_hw, resample=resample, box=box)


def resize_image(
    image: Image.Image,
    *,
    input_hw: tuple[int, int],
    resample: str,
    box: tuple[float, float, float, float] | None = None,
) -> npt.NDArray[np.uint8]:
    """Return the pixels of an image in memory at the size of the network input.

    Args:
        image: 8-bit RGB.
        input_hw: Height and width to resize to. At the image's own size nothing is resampled.
        resample: Pillow's filter.
        box: What of the image is resized: ``x0, y0, x1, y1`` in its pixels, edges, fractions allowed; all of it
            where None.

    Returns:
        ``(h, w, 3)`` uint8, C-contiguous, read-only.

    Raises:
        ImageError: There is not the memory for it.
        ConfigError: ``resample`` is unknown.
    """
    filter_ = _choose("resample", resample, _RESAMPLING)
    height, width = input_hw
    with _pillow_errors(f"cannot be resized to {height} x {width} (height x width)"):
        if image.size != (width, height) or box is not None:
            image = image.resize((width, height), filter_, box)
        return np.asarray(image)


def image_from_array(image: npt.NDArray[np.uint8] | Image.Image, *, exif: str = "apply") -> Image.Image:
    """Return an image in memory as 8-bit RGB, by the rules of :func:`read_image`.

    Args:
        image: ``(H, W, 3)`` uint8 in RGB order, ``(H, W)`` uint8 grey, or a Pillow image of any mode.
        exif: For a Pillow image as ``Image.open`` returned it: as for :func:`read_image`. Any other
            image is taken as it is, since whoever made it may have turned it already.

    Returns:
        A Pillow image of mode ``"RGB"``.

    Raises:
        ImageError: Another type, shape or dtype; no pixels; or a file behind it that is damaged.

    Example:
        >>> image_from_array(np.zeros((2, 3), np.uint8)).getpixel((0, 0))
        (0, 0, 0)
    """
    _choose("exif", exif, _EXIF_POLICIES)
    if not isinstance(image, Image.Image):
        _check_array(image)
        with _pillow_errors("the array cannot be converted"):
            return Image.fromarray(image).convert("RGB")
    with _pillow_errors("the image cannot be converted"):
        _check_pixels(image)
        if 0 in image.size:
            raise ImageError(f"an image of {image.height} x {image.width} (height x width) has no pixels")
        if not isinstance(image, TiffImagePlugin.TiffImageFile):  # which forgets it while it decodes
            image.load()
        orientation = _orientation(image) if isinstance(image, ImageFile.ImageFile) else 1
        return _upright(_to_rgb(image), image, orientation, exif)


class _Opened(NamedTuple):
    """An image whose header has been read."""

    image: ImageFile.ImageFile
    orientation: int  # of EXIF, 1 to 8
    displayed_hw: tuple[int, int]


class _Decoded(NamedTuple):
    """Pixels of a file, upright, as 8-bit RGB."""

    image: Image.Image
    box: tuple[float, float, float, float] | None  # where in it the picture is, where that is not all of it


def _read(
    place: bytes | str | Place,
    exif: str,
    max_pixels: int,
    *,
    image_hw: tuple[int, int] | None = None,
    reduce_to: tuple[int, int] | None = None,
) -> _Decoded:
    """Decode a file that has to be of ``image_hw``, if that is given; no larger than for ``reduce_to``, if it can."""
    with _opened(place, exif, max_pixels) as (image, orientation, displayed_hw):
        if image_hw is not None and displayed_hw != tuple(image_hw):
            was, now = (f"{height} x {width}" for height, width in (image_hw, displayed_hw))
            raise ImageError(f"changed since it was planned: was {was} (height x width), is {now}")
        with _pillow_errors(f"cannot be decoded as {image.format}"):
            check_scans(image)
            check_precincts(image)
            turned = orientation if exif == "apply" else 1
            factor = 1
            if reduce_to is not None:
                factor = reduce_jpeg(image, reduce_to[::-1] if turned in _SWAPS_SIDES else reduce_to)
            rgb = _upright(_to_rgb(image), image, orientation, exif)
        if (rgb.height, rgb.width) != tuple(-(-side // factor) for side in displayed_hw):
            declared = f"{displayed_hw[0]} x {displayed_hw[1]}"
            reduced = f" at 1/{factor} of it" if factor > 1 else ""
            raise ImageError(
                f"its header says {declared}, its pixels are {rgb.height} x {rgb.width}{reduced}"
            )
        return _Decoded(rgb, picture_box(displayed_hw, factor, turned) if factor > 1 else None)


@contextmanager
def _opened(place: bytes | str | Place, exif: str, max_pixels: int) -> Iterator[_Opened]:
    _choose("exif", exif, _EXIF_POLICIES)
    with _open_place(place_of(place)) as file, PILLOW.refusing_more_than(max_pixels):
        # A file object and no path: Pillow would map an uncompressed file into memory, where a file
        # that is cut short meanwhile kills the process with SIGBUS.
        with _pillow_errors("its header cannot be read"):
            image = _open_image(file)
            if image.width * image.height > max_pixels:
                raise ImageError(
                    f"too many pixels: {image.height} x {image.width} (height x width) are "
                    f"{image.height * image.width}, more than max-decode-pixels {max_pixels}"
                )
            _check_pixels(image)
            check_tiles(image, max_pixels)
            _scale_key_colour(image)
            orientation = _orientation(image, file)
            if isinstance(file, HeaderReader):
                file.n_reads_left = None
            opened = _Opened(image, orientation, _displayed_hw(image, orientation, exif))
        yield opened


def _open_image(file: BinaryIO) -> ImageFile.ImageFile:
    try:
        return Image.open(file, formats=_formats_of_this_pillow())
    except ImageError:
        raise
    except Exception as error:  # of nearly every type, see _pillow_errors
        # EINVAL: Pillow followed an offset in the file to a place that no file has.
        errno_ = getattr(error, "errno", None)
        about_this_machine = isinstance(error, MemoryError) or errno_ not in (None, errno.EINVAL)
        if about_this_machine or isinstance(error, Image.DecompressionBombError):
            raise
        reason = why_unidentified(file, has_avif="AVIF" in _formats_of_this_pillow())
        if not isinstance(error, UnidentifiedImageError) and (detail := _one_line(error)):
            reason = one_line(f"{reason} ({detail})", longest=_LONGEST_REASON)
        raise ImageError(reason) from error


def _choose(name: str, value: str, choices: Mapping[str, _Value]) -> _Value:
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    return choices[value]


def _open_place(place: Place) -> BinaryIO:
    path, offset, nbytes = place[:3]
    try:
        status = os.stat(path)  # the path may be bytes
        if stat.S_ISDIR(status.st_mode):
            raise ImageError("is a folder")
        if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for ever
            raise ImageError("is not a regular file")
        if nbytes == WHOLE_FILE:
            nbytes = status.st_size
        if nbytes == 0:
            raise ImageError("empty file")
        if place.packing == DEFLATED:
            with open(path, "rb") as archive:
                return io.BytesIO(unpack(read_at(archive, nbytes, offset), place))
        file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed with what reads it
        raw = file if nbytes == status.st_size else PartOfFile(file, offset, nbytes)
        return cast(BinaryIO, (io.BufferedReader if nbytes <= _SMALL_FILE_NBYTES else HeaderReader)(raw))
    except OSError as error:
        raise ImageError(_FILE_REASONS.get(error.errno or 0) or _one_line(error.strerror)) from error
    except ValueError as error:  # a zero byte in the name
        raise ImageError(_one_line(error)) from error


@contextmanager
def _pillow_errors(what: str) -> Iterator[None]:
    """Turn whatever Pillow raises into an ImageError, and keep its warnings quiet.

    Pillow raises, on hostile files, nearly every type there is (SyntaxError, struct.error, zlib.error,
    MemoryError, KeyError, ...), so that only ``Exception`` catches them all: hence the narrow use, around
    Pillow alone. Its warnings (suspicious size, corrupt EXIF) would be printed once per place in Pillow's
    source, without the file's name.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"too many pixels for max-decode-pixels: {_one_line(error)}") from error
    except MemoryError as error:
        raise ImageError(f"{what}: not enough memory") from error
    except Exception as error:
        reason = _one_line(error.strerror if isinstance(error, OSError) and error.strerror else error)
        if reason.lstrip("-").isdigit():  # TIFF, before Pillow 11
            reason = f"decoder error {reason}"
        raise ImageError(f"{what}: {reason or type(error).__name__}") from error


def _one_line(text: object) -> str:
    """Return a text with what cannot be printed escaped, cut to a length that fits a report."""
    return one_line(" ".join(str(text).split()), longest=_LONGEST_REASON)


def _formats_of_this_pillow() -> tuple[str, ...]:
    # Image.open fails with KeyError on a format that this build lacks (AVIF before Pillow 11.3).
    Image.init()
    return tuple(name for name in IMAGE_FORMATS if name in Image.OPEN)


def _displayed_hw(image: Image.Image, orientation: int, exif: str) -> tuple[int, int]:
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # From the tags: Pillow 11.2 and later swap a TIFF's size already when they open it.
        height, width = int(image.tag_v2[257]), int(image.tag_v2[256])
    else:
        height, width = image.height, image.width
    return (width, height) if exif == "apply" and orientation in _SWAPS_SIDES else (height, width)


def _orientation(image: Image.Image, file: BinaryIO | None = None) -> int:
    """Return the EXIF orientation, 2 to 8, or 1 where there is none or it cannot be understood."""
    try:
        if image.format == "PNG" and file is not None and "exif" not in image.info:
            # PngImageFile.getexif decodes the picture to find a chunk behind the pixels.
            late_exif = _late_png_exif(file)
            if late_exif is not None:
                image.info["exif"] = b"Exif\x00\x00" + late_exif
        orientation = Image.Image.getexif(image).get(_ORIENTATION_TAG)
        return int(orientation) if orientation in _UPRIGHT else 1
    except Exception:  # Pillow's parser raises nearly every type on a damaged block, as in _pillow_errors
        return 1


def _late_png_exif(file: BinaryIO) -> bytes | None:
    """Return a PNG's eXIf chunk wherever it is; exiftool puts it behind the pixels."""
    position = 8
    while True:
        header = read_at(file, 8, position)
        if len(header) < 8 or header[4:] == b"IEND":
            return None
        length, kind = struct.unpack(">I4s", header)
        if kind == b"eXIf":
            return read_at(file, min(length, _LONGEST_EXIF), position + 8)
        position += 12 + length


def _upright(rgb: Image.Image, image: Image.Image, orientation: int, exif: str) -> Image.Image:
    """Return the pixels turned as ``exif`` asks; ``image`` is where they were decoded from."""
    turned_by_pillow = isinstance(image, TiffImagePlugin.TiffImageFile)  # while it decodes
    if turned_by_pillow == (exif == "apply") or orientation == 1:
        return rgb
    return rgb.transpose((_UPRIGHT if exif == "apply" else _AS_STORED)[orientation])


def _check_pixels(image: Image.Image) -> None:
    """Refuse pixels of which nobody can say which value is black and which is white."""
    if image.mode == "F":
        raise ImageError("32-bit float pixels have no defined range; convert it to 8 or 16 bits")
    if image.mode == "I" and image.format != "PPM":  # which Pillow scales to 0..65535
        raise ImageError("signed or 32-bit integer pixels have no defined range; convert it to 8 or 16 bits")


def _scale_key_colour(image: ImageFile.ImageFile) -> None:
    """Bring a PNG's transparent colour to 8 bits, as its pixels will be.

    Pillow leaves the colour at the file's own depth, where it matches other pixels or none.
    """
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


def _to_rgb(image: Image.Image) -> Image.Image:
    """Decode the pixels and return them as RGB, not turned (except by Pillow itself, for TIFF)."""
    image.load()
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _high_bytes(image)
    if image.mode == "La":  # to which no other conversion leads
        image = image.convert("LA")
    if image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")  # which copies
        canvas = Image.new("RGB", rgba.size, "white")
        canvas.paste(rgba, (0, 0), rgba)
        return canvas
    return image if image.mode == "RGB" else image.convert("RGB")


def _high_bytes(image: Image.Image) -> Image.Image:
    """Return 16-bit greyscale as RGB: ``sample >> 8``, as Pillow does for 16-bit colour.

    Pillow's own conversion clips, so that every sample above 255 becomes white.
    """
    samples = np.asarray(image)
    shift = 8
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    if tags.get(258) == (12,):  # BitsPerSample: Pillow unpacks 12 bits to 0..4095
        shift = 4
    grey = (samples >> shift).astype(np.uint8)
    if tags.get(262) == 0:  # PhotometricInterpretation: 0 is white
        grey = 255 - grey
    if "transparency" in image.info:
        grey[samples == image.info["transparency"]] = 255
    return Image.fromarray(grey).convert("RGB")


def _check_array(image: object) -> None:
    allowed = "allowed are uint8 arrays (H, W, 3) in RGB order or (H, W) grey, and Pillow images"
    if not isinstance(image, np.ndarray):
        raise ImageError(f"not an image but {type(image).__name__}; {allowed}")
    grey_or_rgb = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if image.dtype != np.uint8 or not grey_or_rgb:
        raise ImageError(f"an array of shape {image.shape} and dtype {image.dtype}; {allowed}")
    if image.size == 0:
        raise ImageError(f"an array of shape {image.shape} has no pixels")
