"""Networks that turn images into feature maps, and what has to be known of them.

In goes the name of a torchvision model, or a module of the caller's own, with weights and layers; out comes a
:class:`~sppfeat.networks.backbones.Backbone`: the network cut at those layers, its parameters, the channels of each
map, the smallest input, and the stride and offset of each map's cells. The room also finds and downloads weights,
makes networks faster, and chooses the device that they run on. It must not know how images are read, which boxes are
asked for, how maps are pooled, or that there is a feature file.
"""
