"""Reading of images: sizes as displayed, and pixels as upright 8-bit RGB, resized to the network input.

Sizes are ``(height, width)``. :func:`read_image` describes the result for each kind of file.
"""

import struct
from collections.abc import Callable
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, TiffImagePlugin
from PIL.Image import Resampling, Transpose

from sppfeat.config.values import DEFAULT_MAX_DECODE_PIXELS
from sppfeat.decoding.image_files import (
    SWAPS_SIDES,
    check_pixels,
    open_image,
    pillow_errors,
    read_orientation,
)
from sppfeat.errors import ImageError
from sppfeat.files.places import Place, read_at

__all__ = [
    "OnNarrow",
    "decode_image",
    "image_from_array",
    "probe_image",
    "read_image",
    "reduce_jpeg",
    "resize_image",
]

OnNarrow = Callable[[tuple[int, int]], None]
"""Called with the least and greatest sample of a 16-bit image that uses less than a quarter of the range."""

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
# EXIF orientations that put the first stored column last, and the first stored row.
_FLIPPED_X, _FLIPPED_Y = frozenset((2, 3, 6, 7)), frozenset((3, 4, 7, 8))

_FRAMES = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)))
_FRAMES_OF_BLOCKS = frozenset((0xC0, 0xC1, 0xC2, 0xC9, 0xCA))
_NOT_IN_HEADERS = frozenset((0x00, 0x01, *range(0xD0, 0xDB)))

# Formats in which programs write 32 bits per pixel without opacity: viewers show an alpha of 0 everywhere as opaque.
_UNUSED_ALPHA = frozenset(("BMP", "DIB", "TGA"))
_WITH_16_BITS = frozenset(("PNG", "TIFF", "PPM", "SGI", "JPEG2000"))
_QUARTER = 64  # of the values of a high byte


def probe_image(
    place: bytes | str | Place, *, exif: str, max_pixels: int = DEFAULT_MAX_DECODE_PIXELS
) -> tuple[int, int]:
    """Reads ``(height, width)`` in pixels, as displayed, from the header of the file alone.

    Arguments and errors are those of :func:`read_image`.
    """
    with open_image(place, exif=exif, max_pixels=max_pixels) as (_, _, displayed_hw):
        return displayed_hw


def read_image(
    place: bytes | str | Place, *, exif: str, max_pixels: int = DEFAULT_MAX_DECODE_PIXELS
) -> Image.Image:
    """Reads an image at its full size, upright, as 8-bit RGB.

    Pillow converts grayscale, 1-bit, palette, CMYK, YCbCr and LAB pixels; embedded ICC profiles are ignored.
    Transparency is laid over white, but BMP and TGA files whose alpha is 0 everywhere are opaque. 16-bit samples are
    cut to their high byte, in color and gray; 32-bit integers and floats have no defined range and are refused. Only
    the first frame or page is read.

    Args:
        place: the file, or the part of one.
        exif: ``"apply"`` to turn the image by its EXIF orientation, ``"ignore"`` to leave it as stored.
        max_pixels: maximum number of pixels; larger images are refused.

    Raises:
        ImageError: the file cannot be read, is not an image, is damaged or truncated, is too large, or has pixels
            without a defined range.
    """
    return _read(place, exif, max_pixels)[0]


def decode_image(
    place: bytes | str | Place,
    *,
    exif: str,
    image_hw: tuple[int, int],
    input_hw: tuple[int, int],
    resample: str,
    max_pixels: int = DEFAULT_MAX_DECODE_PIXELS,
    decode: str = "exact",
    on_narrow: OnNarrow | None = None,
) -> npt.NDArray[np.uint8]:
    """Decodes an image file and resizes it to the network input.

    Args:
        place, exif, max_pixels: as for :func:`read_image`.
        image_hw: height and width as displayed, in pixels, from :func:`probe_image`.
        input_hw: height and width to resize to, in pixels; equal to ``image_hw``, nothing is resampled.
        resample: name of a Pillow filter in lower case, applied to 8-bit RGB.
        decode: ``"exact"``, or ``"fast"``: a JPEG at least twice as large as ``input_hw`` on both sides is decoded at
            1/2, 1/4 or 1/8 of its size and resized from there. The pixel values differ; the geometry does not.
        on_narrow: called for an image of 16-bit samples that uses little of their range.

    Returns:
        ``(H, W, 3)`` uint8 RGB of size ``input_hw``, C-contiguous, read-only.

    Raises:
        ImageError: as for :func:`read_image`, or the size of the image is not ``image_hw``.
    """
    reduce_to = input_hw if decode == "fast" else None
    image, box = _read(place, exif, max_pixels, image_hw=image_hw, reduce_to=reduce_to, on_narrow=on_narrow)
    return resize_image(image, input_hw=input_hw, resample=resample, box=box)


def resize_image(
    image: Image.Image,
    *,
    input_hw: tuple[int, int],
    resample: str,
    box: tuple[float, float, float, float] | None = None,
) -> npt.NDArray[np.uint8]:
    """Resizes an image of 8-bit RGB to the network input; see :func:`decode_image` for the arguments and the result.

    ``box`` is the part of the image to resize: ``x0, y0, x1, y1`` in its pixels, half-open, fractions allowed; None
    for the whole image. Raises ImageError without enough memory.
    """
    height, width = input_hw
    with pillow_errors(f"cannot be resized to {height} x {width} (height x width)"):
        if image.size != (width, height) or box is not None:
            image = image.resize((width, height), Resampling[resample.upper()], box)
        return np.asarray(image)


def image_from_array(image: npt.NDArray[np.uint8] | Image.Image, *, exif: str = "apply") -> Image.Image:
    """Converts an image in memory to 8-bit RGB, by the rules of :func:`read_image`.

    Args:
        image: ``(H, W, 3)`` uint8 in RGB order, ``(H, W)`` uint8 gray, or a Pillow image of any mode.
        exif: as for :func:`read_image`, for a Pillow image as ``Image.open`` returned it. Other images may have been
            turned already and are not turned.

    Raises:
        ImageError: the type, shape or dtype is not one of these, the image is empty, or the file of a Pillow image is
            damaged.

    Example:
        >>> image_from_array(np.zeros((2, 3), np.uint8)).getpixel((0, 0))
        (0, 0, 0)
    """
    if not isinstance(image, Image.Image):
        _check_array(image)
        with pillow_errors("the array cannot be converted"):
            return Image.fromarray(image).convert("RGB")
    with pillow_errors("the image cannot be converted"):
        check_pixels(image)
        if 0 in image.size:
            raise ImageError(f"an image of {image.height} x {image.width} (height x width) has no pixels")
        if not isinstance(image, TiffImagePlugin.TiffImageFile):  # which forgets it while it decodes
            image.load()
        orientation = read_orientation(image) if isinstance(image, ImageFile.ImageFile) else 1
        return _turn_upright(_to_rgb(image), image, orientation, exif)


def _read(
    place: bytes | str | Place,
    exif: str,
    max_pixels: int,
    *,
    image_hw: tuple[int, int] | None = None,
    reduce_to: tuple[int, int] | None = None,
    on_narrow: OnNarrow | None = None,
) -> tuple[Image.Image, tuple[float, float, float, float] | None]:
    """Decodes a file as upright 8-bit RGB; the second value is the box of the picture if the image was reduced."""
    with open_image(place, exif=exif, max_pixels=max_pixels) as (image, orientation, displayed_hw):
        if image_hw is not None and displayed_hw != tuple(image_hw):
            was, now = (f"{height} x {width}" for height, width in (image_hw, displayed_hw))
            raise ImageError(f"changed since it was planned: was {was} (height x width), is {now}")
        with pillow_errors(f"cannot be decoded as {image.format}", max_pixels=max_pixels):
            turned = orientation if exif == "apply" else 1
            factor = 1
            if reduce_to is not None:
                factor = reduce_jpeg(image, reduce_to[::-1] if turned in SWAPS_SIDES else reduce_to)
            rgb = _turn_upright(_to_rgb(image, on_narrow), image, orientation, exif)
        if (rgb.height, rgb.width) != tuple(-(-side // factor) for side in displayed_hw):
            declared = f"{displayed_hw[0]} x {displayed_hw[1]}"
            reduced = f" at 1/{factor} of it" if factor > 1 else ""
            raise ImageError(
                f"its header says {declared}, its pixels are {rgb.height} x {rgb.width}{reduced}"
            )
        return rgb, _picture_box(displayed_hw, factor, turned) if factor > 1 else None


def _check_array(image: object) -> None:
    allowed = "allowed are uint8 arrays (H, W, 3) in RGB order or (H, W) gray, and Pillow images"
    if not isinstance(image, np.ndarray):
        shape = getattr(image, "shape", None)
        found = type(image).__name__ if shape is None else f"{type(image).__name__} of shape {tuple(shape)}"
        raise ImageError(f"not an image but {found}; {allowed}")
    is_gray_or_rgb = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if image.dtype != np.uint8 or not is_gray_or_rgb:
        raise ImageError(f"an array of shape {image.shape} and dtype {image.dtype}; {allowed}")
    if image.size == 0:
        raise ImageError(f"an array of shape {image.shape} has no pixels")


def _turn_upright(rgb: Image.Image, image: Image.Image, orientation: int, exif: str) -> Image.Image:
    """Turns pixels decoded from an opened image by its EXIF orientation, unless ``exif`` is ``"ignore"``."""
    turned_by_pillow = isinstance(image, TiffImagePlugin.TiffImageFile)  # while it decodes
    if turned_by_pillow == (exif == "apply") or orientation == 1:
        return rgb
    return rgb.transpose((_UPRIGHT if exif == "apply" else _AS_STORED)[orientation])


def _to_rgb(image: Image.Image, on_narrow: OnNarrow | None = None) -> Image.Image:
    """Decodes an image as 8-bit RGB, not turned (Pillow itself turns TIFF)."""
    is_deep_color = on_narrow is not None and _has_deep_color(image)  # which loading forgets
    image.load()
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _high_bytes(image, on_narrow)
    if is_deep_color:
        extrema = np.reshape(image.getextrema(), (-1, 2))[: 1 if image.mode[0] == "L" else 3]
        low, high = 256 * int(extrema.min()), 256 * int(extrema.max())
        if low < high or not high:  # the low bytes of a black image may differ
            _report_narrow(low, high + 255, on_narrow)
    if image.mode == "La":  # the only conversion that Pillow has
        image = image.convert("LA")
    if image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")  # which copies
        if image.format in _UNUSED_ALPHA and rgba.getchannel("A").getbbox() is None:
            return rgba.convert("RGB")
        canvas = Image.new("RGB", rgba.size, "white")
        canvas.paste(rgba, (0, 0), rgba)
        return canvas
    return image if image.mode == "RGB" else image.convert("RGB")


def _has_deep_color(image: Image.Image) -> bool:
    """True if Pillow cuts 16-bit color samples to 8 bits when it decodes them."""
    if not isinstance(image, ImageFile.ImageFile) or image.format not in _WITH_16_BITS:
        return False
    return any(
        ";16" in str(args)
        or codec == "SGI16"
        or (codec == "ppm" and isinstance(args, tuple) and args[-1] > 255)
        for codec, _, _, args in image.tile
    )


def _report_narrow(low: int, high: int, on_narrow: OnNarrow | None) -> None:
    if on_narrow is not None and low < high and high // 256 - low // 256 < _QUARTER:
        on_narrow((low, high))


def _high_bytes(image: Image.Image, on_narrow: OnNarrow | None = None) -> Image.Image:
    """16-bit gray as RGB: ``sample >> 8``; Pillow's own conversion would turn all samples above 255 white."""
    samples = np.asarray(image)
    shift = 8
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    if tags.get(258) == (12,):  # BitsPerSample: Pillow unpacks 12 bits to 0..4095
        shift = 4
    gray = (samples >> shift).astype(np.uint8)
    if shift == 8:
        _report_narrow(int(samples.min()), int(samples.max()), on_narrow)
    if tags.get(262) == 0:  # PhotometricInterpretation: 0 is white
        gray = 255 - gray
    if "transparency" in image.info:
        gray[samples == image.info["transparency"]] = 255
    return Image.fromarray(gray).convert("RGB")


def reduce_jpeg(image: ImageFile.ImageFile, least_hw: tuple[int, int]) -> int:
    """Makes Pillow decode a JPEG at ``ceil(side / factor)``, at least ``least_hw`` as stored; returns the factor.

    The factor is 2, 4 or 8, or 1 if the image is not a JPEG, is too small, or has no reduced sizes.
    """
    height, width = least_hw
    before = image.width
    is_large = min(image.height // height, before // width) >= 2
    if image.format not in ("JPEG", "MPO") or not is_large or not _is_of_blocks(image):
        return 1
    drafted = image.draft(None, (width, height))
    return 1 if drafted is None else round(before / drafted[1][2])


def _is_of_blocks(image: ImageFile.ImageFile) -> bool:
    """True if a JPEG consists of frequency blocks, according to an unambiguous header.

    A lossless JPEG does not: libjpeg-turbo 3 decodes it at full width whatever size is requested, and Pillow (10.4 to
    12.0 at least) writes past the end of its reduced row, which crashes the process.
    """
    file, position = cast(BinaryIO, image.fp), 2
    while len(header := read_at(file, 4, position)) == 4:
        start, marker, length = struct.unpack(">BBH", header)
        if start != 0xFF or marker in _NOT_IN_HEADERS:
            return False
        if marker in _FRAMES:  # the only one: decoders refuse a second
            return marker in _FRAMES_OF_BLOCKS
        position += 1 if marker == 0xFF else 2 + length  # 0xFF is a fill byte
    return False


def _picture_box(
    image_hw: tuple[int, int], factor: int, orientation: int
) -> tuple[float, float, float, float]:
    """The box ``x0, y0, x1, y1`` of the picture in its upright pixels at reduced size.

    As stored, its right and lower edges may fall inside the last pixel. ``image_hw`` is upright, at full size.

    Example:
        >>> _picture_box((40, 61), 2, 1), _picture_box((40, 61), 2, 3)
        ((0.0, 0.0, 30.5, 20.0), (0.5, 0.0, 31.0, 20.0))
    """
    height, width = (side / factor for side in image_hw)
    rows, columns = (-(-side // factor) for side in image_hw)
    x0 = columns - width if orientation in _FLIPPED_X else 0.0
    y0 = rows - height if orientation in _FLIPPED_Y else 0.0
    return x0, y0, x0 + width, y0 + height
