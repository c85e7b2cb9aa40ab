"""Decoders that turn image files into batches of pixels, in this process or in worker processes.

The paths or byte ranges of image files go in, with the size that each image should have and the size to resize it to.
Heights and widths come out, and batches ``(n, H, W, 3)`` of upright uint8 RGB pixels in the order requested; for an
image that cannot be read, the reason comes out instead, and for one that uses little of 16 bits, its range comes out,
too. An image that crashes or hangs its worker costs that image and nothing else. The room imports Pillow and numpy
only, so that workers start in a tenth of a second; it must not know networks, boxes, plans or feature files.
"""

from typing import TypeAlias

from sppfeat.decoding.decoder import Batch, Decoded, DecodeSettings, InlineDecoder
from sppfeat.decoding.pool import DecoderPool

__all__ = ["Batch", "DecodeSettings", "Decoded", "Decoder", "DecoderPool", "InlineDecoder"]

Decoder: TypeAlias = DecoderPool | InlineDecoder
"""Reads headers and decodes batches, in order: in worker processes, or in this one."""
