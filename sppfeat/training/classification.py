"""Learning from class labels: the classifier with its pyramid, its loss, and the labels as targets."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sppfeat.pyramid import SpatialPyramidPool2d
from sppfeat.training.learner import BatchResult, Body, Learner
from sppfeat.training.settings import NetworkSettings

__all__ = ["ClassLearner", "ClassTargets", "PyramidClassifier"]


class PyramidClassifier(nn.Module):
    """A classifier for feature maps of any size: the pyramid, then fully connected layers.

    As in He et al., TPAMI 2015, section 2.2, the concatenated levels are the input of fc6. Unlike there, the descriptor
    and the output of each hidden layer are normalized (Ba et al.: *Layer Normalization*, 2016).

    Args:
        n_channels: number of channels of the feature map.
        settings: levels, pooling, widths, dropout.
        n_classes: number of classes.
    """

    def __init__(self, n_channels: int, settings: NetworkSettings, n_classes: int) -> None:
        super().__init__()
        self.pyramid = SpatialPyramidPool2d(settings.levels, settings.pool)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        width = n_channels * sum(n * n for n in settings.levels)
        # Maxima over many channels are large and never negative: without normalization all units die in a few steps.
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
        """Computes class scores ``(N, n_classes)`` of a map ``(N, C, H, W)``."""
        scores: Tensor = self.layers(self.pyramid(feature_map))
        return scores


class ClassLearner(Learner):
    """Learns class labels by cross-entropy, with the pyramid between backbone and classifier.

    ``label_smoothing`` applies only in training; ``freeze`` keeps the body, and the statistics of its normalizations.
    """

    def __init__(
        self, body: Body, classifier: PyramidClassifier, *, label_smoothing: float, freeze: bool
    ) -> None:
        super().__init__()
        self.body, self.classifier = body, classifier
        self._label_smoothing, self._freeze = label_smoothing, freeze
        if freeze:
            body.requires_grad_(False)

    def train(self, mode: bool = True) -> "ClassLearner":
        """Switches to training or evaluation; a frozen body stays in evaluation."""
        super().train(mode)
        if self._freeze:
            self.body.eval()
        return self

    def forward(self, pixels: Tensor, targets: Sequence[Tensor]) -> BatchResult:
        """Computes loss and class scores of ``(N, 3, H, W)`` uint8 pixels; the only target is ``(N,)`` int64 labels."""
        scores = self.classifier(self.body(pixels)[0]).float()
        smoothing = self._label_smoothing if self.training else 0.0
        return BatchResult(F.cross_entropy(scores, targets[0], label_smoothing=smoothing), scores)


class ClassTargets:
    """Class labels, ``(N,)`` int64 for all images of the listing, as targets on a device."""

    def __init__(self, labels: npt.NDArray[np.int64], device: torch.device) -> None:
        self._labels, self._device = torch.from_numpy(labels), device

    def __call__(self, images: Tensor, pixels: Tensor) -> list[Tensor]:  # noqa: ARG002
        """Looks up the labels of images, ``(n,)`` int64."""
        return [self._labels[images].to(self._device)]

    def judge(self, images: Tensor, scores: Tensor) -> dict[str, float]:
        """Computes ``top1``, the share of correctly classified images, and ``mean_class``, its mean over classes."""
        wanted = self._labels[images]
        right = (scores.argmax(1) == wanted).double()
        per_class = [float(right[wanted == label].mean()) for label in torch.unique(wanted)]
        return {"top1": float(right.mean()), "mean_class": sum(per_class) / len(per_class)}
