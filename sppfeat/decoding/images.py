"""Reading of images: their size as displayed, and their pixels as upright 8-bit RGB, resized to the network input.

Sizes are ``(height, width)``. :func:`read_image` describes the result for each kind of file.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, TiffImagePlugin
from PIL.Image import Resampling

from sppfeat.config.values import DEFAULT_MAX_DECODE_PIXELS
from sppfeat.decoding.image_files import open_image, pillow_errors
from sppfeat.decoding.pixels import (
    SWAPS_SIDES,
    check_pixels,
    picture_box,
    read_orientation,
    reduce_jpeg,
    to_rgb,
    turn_upright,
)
from sppfeat.errors import ImageError
from sppfeat.files.places import Place

__all__ = ["decode_image", "image_from_array", "probe_image", "read_image", "resize_image"]


def probe_image(
    place: bytes | str | Place, *, exif: str, max_pixels: int = DEFAULT_MAX_DECODE_PIXELS
) -> tuple[int, int]:
    """Reads ``(height, width)`` of the result of :func:`read_image`, in pixels, from the header of the file alone.

    Takes and raises what :func:`read_image` does.
    """
    with open_image(place, exif=exif, max_pixels=max_pixels) as opened:
        return opened.displayed_hw


def read_image(
    place: bytes | str | Place, *, exif: str, max_pixels: int = DEFAULT_MAX_DECODE_PIXELS
) -> Image.Image:
    """Reads an image at its full size, upright, as 8-bit RGB.

    Pillow converts grayscale, 1-bit, palette, CMYK, YCbCr and LAB pixels, without regard to an
    embedded ICC profile. Transparency is laid over white. 16-bit samples are cut to their high byte, in
    color and gray alike; 32-bit integers and floats have no defined range and are refused. Only the first of
    several frames or pages is read.

    Args:
        place: The file, or the part of one.
        exif: ``"apply"`` to turn the image by its EXIF orientation, ``"ignore"`` to leave it as stored.
        max_pixels: A larger image is refused.

    Raises:
        ImageError: The file cannot be read, is not an image, is damaged or cut short, is too large, or has pixels
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
) -> npt.NDArray[np.uint8]:
    """Decodes an image file and resizes it to the network input.

    Args:
        place, exif, max_pixels: As for :func:`read_image`.
        image_hw: Height and width as displayed, in pixels, as :func:`probe_image` returned them for this file.
        input_hw: Height and width to resize to, in pixels. At ``image_hw`` nothing is resampled.
        resample: name of a Pillow filter in lower case, applied to 8-bit RGB of the full size.
        decode: ``"exact"``, or ``"fast"``: a JPEG at least twice as large as ``input_hw`` on both sides is decoded at
            1/2, 1/4 or 1/8 of its size and resized from there. The pixel values differ; the geometry does not.

    Returns:
        ``(H, W, 3)`` uint8 RGB of size ``input_hw``, C-contiguous, read-only.

    Raises:
        ImageError: As for :func:`read_image`; or the file's size is no longer ``image_hw``.
    """
    reduce_to = input_hw if decode == "fast" else None
    image, box = _read(place, exif, max_pixels, image_hw=image_hw, reduce_to=reduce_to)
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
    for the whole image. ImageError is raised if there is not enough memory.
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
        exif: As for :func:`read_image`, for a Pillow image just as ``Image.open`` returned it. Any other image is not
            turned, since it may have been turned already.

    Raises:
        ImageError: The type, shape or dtype is not one of these; there are no pixels; or the file of a Pillow image
            is damaged.

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
        return turn_upright(to_rgb(image), image, orientation, exif)


def _read(
    place: bytes | str | Place,
    exif: str,
    max_pixels: int,
    *,
    image_hw: tuple[int, int] | None = None,
    reduce_to: tuple[int, int] | None = None,
) -> tuple[Image.Image, tuple[float, float, float, float] | None]:
    """Decodes a file as upright 8-bit RGB, and returns the box of the picture in it if that is not all of it.

    The size of the file is checked against ``image_hw``, and a JPEG is reduced as far as ``reduce_to`` allows.
    """
    with open_image(place, exif=exif, max_pixels=max_pixels) as (image, orientation, displayed_hw):
        if image_hw is not None and displayed_hw != tuple(image_hw):
            was, now = (f"{height} x {width}" for height, width in (image_hw, displayed_hw))
            raise ImageError(f"changed since it was planned: was {was} (height x width), is {now}")
        with pillow_errors(f"cannot be decoded as {image.format}"):
            turned = orientation if exif == "apply" else 1
            factor = 1
            if reduce_to is not None:
                factor = reduce_jpeg(image, reduce_to[::-1] if turned in SWAPS_SIDES else reduce_to)
            rgb = turn_upright(to_rgb(image), image, orientation, exif)
        if (rgb.height, rgb.width) != tuple(-(-side // factor) for side in displayed_hw):
            declared = f"{displayed_hw[0]} x {displayed_hw[1]}"
            reduced = f" at 1/{factor} of it" if factor > 1 else ""
            raise ImageError(
                f"its header says {declared}, its pixels are {rgb.height} x {rgb.width}{reduced}"
            )
        return rgb, picture_box(displayed_hw, factor, turned) if factor > 1 else None


def _check_array(image: object) -> None:
    allowed = "allowed are uint8 arrays (H, W, 3) in RGB order or (H, W) grey, and Pillow images"
    if not isinstance(image, np.ndarray):
        raise ImageError(f"not an image but {type(image).__name__}; {allowed}")
    grey_or_rgb = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if image.dtype != np.uint8 or not grey_or_rgb:
        raise ImageError(f"an array of shape {image.shape} and dtype {image.dtype}; {allowed}")
    if image.size == 0:
        raise ImageError(f"an array of shape {image.shape} has no pixels")
