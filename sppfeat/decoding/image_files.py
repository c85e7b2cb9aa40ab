"""What kind of file it is that Pillow took for no image, from the bytes that it begins with."""

import os
from typing import BinaryIO

__all__ = ["why_unidentified"]

# (offset, bytes, name): first those that Pillow decodes, then those that are met where an image was expected.
_READ_SIGNATURES = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (8, b"WEBP", "WebP"),
    (0, b"GIF8", "GIF"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "BigTIFF"),
    (0, b"MM\0+", "BigTIFF"),
    (0, b"BM", "BMP"),
    (4, b"jP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
)
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


def why_unidentified(file: BinaryIO, *, has_avif: bool) -> str:
    """Return why Pillow took a file for no image.

    Args:
        file: The file.
        has_avif: Whether this Pillow has a decoder for AVIF.
    """
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
    for offset, magic, name in _READ_SIGNATURES:
        if head.startswith(magic, offset):
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
