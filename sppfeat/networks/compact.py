"""The bundled backbone ``spp_s16``: a compact network of plain convolutions with stride 16.

It has four 3 x 3 convolutions that halve the map, residual blocks (He et al.: *Deep Residual Learning*, CVPR 2016,
figure 2) where the map has few cells, and a last 1 x 1 convolution that widens it. The stride is 16 rather than the
usual 32, so that small images still have a map worth pooling.
"""

from torch import Tensor, nn

__all__ = ["CompactNetwork"]

_STEM = (32, 48)  # channels at strides 2 and 4
_STAGES = ((96, 1), (192, 2))  # channels and residual blocks at strides 8 and 16
_WIDTH = 512  # channels of the map


class CompactNetwork(nn.Module):
    """The network without a classifier; the values of its feature map are 0 or more.

    It maps ``(N, 3, H, W)`` to ``(N, 512, ceil(H / 16), ceil(W / 16))``.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for channels in _STEM:
            layers.append(_convolution(width, channels, 3, stride=2))
            width = channels
        for channels, n_blocks in _STAGES:
            layers.append(_convolution(width, channels, 3, stride=2))
            layers += [_Residual(channels) for _ in range(n_blocks)]
            width = channels
        layers.append(_convolution(width, _WIDTH, 1))
        self.features = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, batch: Tensor) -> Tensor:
        """Computes the feature map ``(N, 512, ceil(H / 16), ceil(W / 16))`` of ``(N, 3, H, W)`` images."""
        feature_map: Tensor = self.features(batch)
        return feature_map


class _Residual(nn.Module):
    """Two 3 x 3 convolutions, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels, 3)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, cells: Tensor) -> Tensor:
        added: Tensor = self.relu(cells + self.norm(self.second(self.first(cells))))
        return added


def _convolution(n_in: int, n_out: int, size: int, *, stride: int = 1) -> nn.Sequential:
    """A convolution with batch normalization and ReLU."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(inplace=True),
    )
