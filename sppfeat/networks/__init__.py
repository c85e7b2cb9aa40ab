"""Networks that turn images into feature maps.

The name of a torchvision model or the caller's own module goes in, with weights and layers. A
:class:`~sppfeat.networks.backbones.Backbone` comes out: the network cut at those layers, with its parameters, the
channels of each map, the smallest input, and the stride and offset of each map's cells. The room also finds and
downloads weights, makes networks faster, and chooses the device. It must not know how images are read, which boxes a
user wants, how maps are pooled, or that there is a feature file.
"""
