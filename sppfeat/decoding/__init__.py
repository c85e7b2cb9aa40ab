"""Decoders that turn image files into batches of pixels, in this process or in worker processes.

Paths or byte ranges of image files go in, each with its expected size and the size to resize to. Heights and widths
come out, and batches ``(n, H, W, 3)`` of upright uint8 RGB pixels in the order requested. For an unreadable image, the
reason comes out instead; for an image that uses little of its 16 bits, the range comes out as well. An image that
crashes or hangs its worker costs only itself. The room imports only Pillow and numpy, so workers start in a tenth of a
second. It must not know networks, boxes, plans or feature files.
"""

from typing import TypeAlias

from sppfeat.decoding.decoder import Batch, Decoded, DecodeSettings, InlineDecoder
from sppfeat.decoding.pool import DecoderPool

__all__ = ["Batch", "DecodeSettings", "Decoded", "Decoder", "DecoderPool", "InlineDecoder"]

Decoder: TypeAlias = DecoderPool | InlineDecoder
"""Reads headers and decodes batches, in order: in worker processes, or in this one."""
