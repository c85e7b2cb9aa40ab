"""Decoding images into batches of pixels, in this process or in workers that cost only their image."""

from sppfeat.decoding.decoder import Decoded, Decoder, DecodeSettings, DecodeTask, InlineDecoder
from sppfeat.decoding.pool import DecoderPool

__all__ = ["DecodeSettings", "DecodeTask", "Decoded", "Decoder", "DecoderPool", "InlineDecoder"]
