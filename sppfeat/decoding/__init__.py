"""Decoders that turn image files into batches of pixels, in this process or in worker processes.

In go places of images in files, the sizes that a plan expects, and the sizes to resize to; out come heights and widths,
upright 8-bit RGB pixels in the order asked for, or for each image the reason why it could not be read. A worker that an
image kills or hangs costs that image and nothing else. The room imports Pillow and numpy only, so that workers start in
a tenth of a second; it must not know networks, boxes, plans or feature files.
"""

from sppfeat.decoding.decoder import Decoded, Decoder, DecodeSettings, DecodeTask, InlineDecoder
from sppfeat.decoding.pool import DecoderPool

__all__ = ["DecodeSettings", "DecodeTask", "Decoded", "Decoder", "DecoderPool", "InlineDecoder"]
