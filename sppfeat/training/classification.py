"""The network that is trained: a backbone, and behind it the pyramid with fully connected layers, or adapters."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sppfeat.networks.backbones import Backbone
from sppfeat.pyramid import SpatialPyramidPool2d, pool_levels
from sppfeat.training.settings import NetworkSettings

__all__ = ["Body", "PyramidClassifier", "TeacherAdapter"]

_LEAST_STD = 0.1  # of a channel, as a share of the root mean square over the channels


class Body(nn.Module):
    """A backbone as a module from pixels to the feature maps of its layers.

    Args:
        backbone: its normalisations not folded where it is to be trained.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.network = backbone.network
        self._layers = backbone.spec.layers
        for name, values in (("mean", backbone.spec.mean), ("std", backbone.spec.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return the feature maps of ``(N, 3, H, W)`` uint8 pixels, in the order of the layers."""
        batch = pixels.to(self.mean.dtype).div_(255).sub_(self.mean).div_(self.std)
        maps = self.network(batch.contiguous(memory_format=torch.channels_last))
        return [maps[layer] for layer in self._layers]


class PyramidClassifier(nn.Module):
    """Class scores from a feature map of any size: the pyramid, then fully connected layers.

    He et al., TPAMI 2015, section 2.2: the levels side by side are the input of fc6. Unlike there, the descriptor and
    what each hidden layer makes of it are normalised (Ba et al.: *Layer Normalization*, 2016).

    Args:
        n_channels: of the feature map.
        settings: levels, pooling, widths, dropout.
        n_classes: number of scores.
    """

    def __init__(self, n_channels: int, settings: NetworkSettings, n_classes: int) -> None:
        super().__init__()
        self.pyramid = SpatialPyramidPool2d(settings.levels, settings.pool)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        width = n_channels * sum(n * n for n in settings.levels)
        # Maxima of many channels are large and never negative: without norms a few steps silence all units for good.
        layers["norm5"] = nn.LayerNorm(width, elementwise_affine=False)
        for i, hidden in enumerate(settings.hidden):
            layers[f"fc{i + 6}"] = nn.Linear(width, hidden)
            layers[f"norm{i + 6}"] = nn.LayerNorm(hidden)
            layers[f"relu{i + 6}"] = nn.ReLU(inplace=True)
            layers[f"drop{i + 6}"] = nn.Dropout(settings.dropout)
            width = hidden
        layers["classifier"] = nn.Linear(width, n_classes)
        self.layers = nn.Sequential(layers)

    def forward(self, feature_map: Tensor) -> Tensor:
        """Return ``(N, n_classes)`` scores of an ``(N, C, H, W)`` map."""
        scores: Tensor = self.layers(self.pyramid(feature_map))
        return scores


class TeacherAdapter(nn.Module):
    """A linear map, cell by cell, from what the student has to what a teacher has, standardised by channel.

    Args:
        n_channels: of the student's map.
        n_teacher_channels: of the teacher's.
        settings: levels and pooling, for descriptors.
        distill: ``map``: of the map; the student's is averaged where it is the finer one. ``descriptor``: of each bin.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, n_channels: int, n_teacher_channels: int, settings: NetworkSettings, distill: str
    ) -> None:
        super().__init__()
        self.linear = nn.Conv2d(n_channels, n_teacher_channels, 1)
        self.register_buffer("mean", torch.zeros(1, n_teacher_channels, 1, 1))
        self.register_buffer("scale", torch.ones(1, n_teacher_channels, 1, 1))
        self._levels, self._pool, self._distill = settings.levels, settings.pool, distill

    def moments(self, teacher_map: Tensor) -> Tensor:
        """Of each channel of one of the teacher's maps: number of values, their sum, sum of squares; ``(3, C)``."""
        values = self._taken(teacher_map).transpose(0, 1).flatten(1).cpu().double()
        return torch.stack(
            [torch.full((len(values),), values.shape[1]), values.sum(1), values.square().sum(1)]
        )

    def standardize_by(self, moments: Sequence[Tensor]) -> None:
        """Take the mean and the standard deviation of each channel from the moments of some of the teacher's maps."""
        n, total, squares = torch.stack(list(moments)).sum(0)
        mean = total / n
        self.mean.copy_(mean[None, :, None, None])
        std = (squares / n - mean.square()).clamp_min(0).sqrt()
        # A channel that is hardly ever active in the sample would count for thousands of others where it is.
        std = std.clamp_min(_LEAST_STD * std.square().mean().sqrt())
        self.scale.copy_(torch.where(std > 0, 1 / std, 0)[None, :, None, None])

    def target(self, teacher_map: Tensor) -> Tensor:
        """What the student is to give: ``(N, C, H, W)``, standardised."""
        return (self._taken(teacher_map) - self.mean) * self.scale

    def forward(self, feature_map: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the student makes of its map, and the target: ``(N, C, H, W)``, at the coarser grid of both."""
        taken = self._taken(feature_map)
        cells = min(taken.shape[2], target.shape[2]), min(taken.shape[3], target.shape[3])
        return self.linear(_averaged(taken, cells)), _averaged(target, cells)

    def _taken(self, feature_map: Tensor) -> Tensor:
        if self._distill == "map":
            return feature_map
        pooled = pool_levels(feature_map, self._levels, self._pool)
        return torch.cat([pooled[n].flatten(2) for n in self._levels], 2)[..., None]


def _averaged(feature_map: Tensor, cells: tuple[int, int]) -> Tensor:
    """A map averaged down to so many cells along each axis."""
    if feature_map.shape[-2:] == cells:
        return feature_map
    return nn.functional.adaptive_avg_pool2d(feature_map, cells)
