"""Stride and offset of a feature map, by receptive-field arithmetic through the network.

The network runs once without values: the input is a tensor that has a shape and knows, for
each of its axes, whether it is the image's y, its x, or neither. Every operator that the
network calls arrives here as one of PyTorch's own elementary operators, whether it was
written as a module, a function or a method, and has a rule or is refused. So the arithmetic
never guesses: what it does not know is an error that names node and operator.

Along one spatial axis, cell ``i`` of a window operator (convolution, pooling) with kernel
``k``, stride ``s``, padding ``p`` and dilation ``d`` is centred at cell ``s * i - p + d * (k - 1) / 2``
of the operator's input. Composing these gives a map's stride and offset in pixels.
"""

from sppfeat.networks.receptive_field.layers import (
    FeatureGeometry,
    LayerGeometry,
    layer_geometries,
    receptive_field,
)

__all__ = ["FeatureGeometry", "LayerGeometry", "layer_geometries", "receptive_field"]
