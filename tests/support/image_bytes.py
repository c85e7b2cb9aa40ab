"""Image files as bytes, made with Pillow or by hand where Pillow cannot write them."""

import io
import struct
import zlib

import numpy as np
import PIL
from PIL import Image

ORIENTATION = 0x0112


PILLOW_MAJOR = int(PIL.__version__.split(".")[0])


def saved(image, image_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_right_checksums(content):
    """Return a PNG with the checksums of its chunks corrected."""
    parts, place = [content[:8]], 8
    while place + 12 <= len(content):
        end = place + 8 + int.from_bytes(content[place : place + 4], "big")
        parts += [content[place : place + 4], content[place + 4 : end]]
        parts.append(struct.pack(">I", zlib.crc32(content[place + 4 : end])))
        place = end + 4
    return b"".join([*parts, content[place:]])


def png(width, height, *, depth, color, rows, before=(), after=()):
    """Return a PNG file of raw rows, with chunks before and behind the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    chunks = [(b"IHDR", header), *before, (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))]
    chunks += [*after, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def tiff(width, height, pixels, tags):
    """Return a little-endian uncompressed TIFF with one strip, unless ``tags``, tag to (type, values), has tiles."""
    tags = {256: (4, [width]), 257: (4, [height]), 259: (3, [1]), 278: (4, [height]), **tags}
    if 324 not in tags:  # TileOffsets
        tags |= {279: (4, [len(pixels)]), 273: (4, [8])}
    directory_at = 8 + len(pixels) + len(pixels) % 2
    extra_at = directory_at + 2 + 12 * len(tags) + 4
    entries, extra = b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}{ {1: 'B', 3: 'H', 4: 'I'}[kind] }", *values)
        if len(packed) > 4:
            packed, extra = struct.pack("<I", extra_at + len(extra)), extra + packed
        entries += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    body = pixels + b"\0" * (len(pixels) % 2)
    return (
        b"II*\0"
        + struct.pack("<I", directory_at)
        + body
        + (struct.pack("<H", len(tags)) + entries + bytes(4) + extra)
    )


def exif_block(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif.tobytes()


def noise(height, width, *bands):
    """Return smooth random pixels, so that lossy formats keep them roughly."""
    rng = np.random.default_rng(height * 1000 + width)
    small = rng.integers(0, 256, (4, 5, *bands), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
