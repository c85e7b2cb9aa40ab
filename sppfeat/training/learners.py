"""Learners: a backbone with the modules after it, and the loss against class labels or other networks' maps."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sppfeat.errors import SppfeatError
from sppfeat.networks.backbones import Backbone
from sppfeat.pyramid import SpatialPyramidPool2d, pool_levels
from sppfeat.training.batches import PixelBatch
from sppfeat.training.settings import NetworkSettings

__all__ = [
    "BatchResult",
    "Body",
    "ClassLearner",
    "Learner",
    "PyramidClassifier",
    "TeacherAdapter",
    "TeacherLearner",
    "Teachers",
    "evaluate",
]

# Smallest standard deviation of a channel of a teacher, as a share of the root mean square over all channels.
_LEAST_STD = 0.1


class Body(nn.Module):
    """A backbone as a module from pixels to the feature maps of its layers; it must not be folded, to be trained."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.network = backbone.network
        self._layers = backbone.spec.layers
        for name, values in (("mean", backbone.spec.mean), ("std", backbone.spec.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Computes the feature maps ``(N, C, H', W')`` of ``(N, 3, H, W)`` uint8 pixels, one per layer."""
        batch = pixels.to(self.mean.dtype).div_(255).sub_(self.mean).div_(self.std)
        maps = self.network(batch.contiguous(memory_format=torch.channels_last))
        return [maps[layer] for layer in self._layers]


class BatchResult(NamedTuple):
    """The mean loss of a batch, and scores ``(N, K)`` per class, or explained variance per layer of the teachers."""

    loss: Tensor
    scores: Tensor


class PyramidClassifier(nn.Module):
    """A classifier for feature maps of any size: the pyramid, then fully connected layers.

    The concatenated levels are the input of fc6 (He et al., TPAMI 2015, section 2.2). Unlike in the paper, the
    descriptor and the output of each hidden layer are normalized (Ba et al.: *Layer Normalization*, 2016).
    """

    def __init__(self, n_channels: int, settings: NetworkSettings, n_classes: int) -> None:
        super().__init__()
        self.pyramid = SpatialPyramidPool2d(settings.levels, settings.pool)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        width = n_channels * sum(n * n for n in settings.levels)
        # Maxima over many channels are large and never negative. Without normalization, all units die in a few steps.
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


class ClassLearner(nn.Module):
    """Learns class labels by cross-entropy, with the pyramid between backbone and classifier.

    ``label_smoothing`` applies only in training; ``freeze`` keeps the body and the statistics of its normalizations.
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

    def forward(self, pixels: Tensor, labels: Tensor) -> BatchResult:
        """Computes loss and class scores of ``(N, 3, H, W)`` uint8 pixels with ``(N,)`` int64 labels."""
        scores = self.classifier(self.body(pixels)[0]).float()
        smoothing = self._label_smoothing if self.training else 0.0
        return BatchResult(F.cross_entropy(scores, labels, label_smoothing=smoothing), scores)

    def judge(self, scores: Tensor, labels: Tensor) -> dict[str, float]:
        """Computes ``top1``, the share of correctly classified images, and ``mean_class``, its mean over classes."""
        right = (scores.argmax(1) == labels).double()
        per_class = [float(right[labels == label].mean()) for label in torch.unique(labels)]
        return {"top1": float(right.mean()), "mean_class": sum(per_class) / len(per_class)}


class TeacherAdapter(nn.Module):
    """A linear map from the student's channels to the standardized channels of a teacher, applied cell by cell.

    With ``map``, the finer map is averaged to the grid of the coarser one. With ``descriptor``, the bins of the pyramid
    replace the cells.
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
        """Computes number, sum and sum of squares of each channel of a teacher's map: ``(3, C)`` float64."""
        values = self._cells(teacher_map).transpose(0, 1).flatten(1).cpu().double()
        return torch.stack(
            [torch.full((len(values),), values.shape[1]), values.sum(1), values.square().sum(1)]
        )

    def standardize_by(self, moments: Sequence[Tensor]) -> None:
        """Sets the mean and standard deviation of each channel from the moments of sample maps of the teacher."""
        n, total, squares = torch.stack(list(moments)).sum(0)
        mean = total / n
        self.mean.copy_(mean[None, :, None, None])
        std = (squares / n - mean.square()).clamp_min(0).sqrt()
        # Without a lower bound, a channel that is rarely active in the sample would dominate the loss.
        std = std.clamp_min(_LEAST_STD * std.square().mean().sqrt())
        self.scale.copy_(torch.where(std > 0, 1 / std, 0)[None, :, None, None])

    def target(self, teacher_map: Tensor) -> Tensor:
        """Converts a teacher's map to the student's target, ``(N, C, H, W)`` standardized."""
        return (self._cells(teacher_map) - self.mean) * self.scale

    def forward(self, feature_map: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Computes prediction and target, ``(N, C, H, W)`` each, at the coarser grid of the two."""
        values = self._cells(feature_map)
        grid = min(values.shape[2], target.shape[2]), min(values.shape[3], target.shape[3])
        return self.linear(_average_to(values, grid)), _average_to(target, grid)

    def _cells(self, feature_map: Tensor) -> Tensor:
        """The map itself, or with ``descriptor`` its pooled bins as ``(N, C, bins, 1)``."""
        if self._distill == "map":
            return feature_map
        pooled = pool_levels(feature_map, self._levels, self._pool)
        return torch.cat([pooled[n].flatten(2) for n in self._levels], 2)[..., None]


class TeacherLearner(nn.Module):
    """Learns the maps or descriptors of teachers for the same pixels, by mean squared error of standardized values.

    Each layer of each teacher has an adapter and a name.
    """

    def __init__(self, body: Body, adapters: Sequence[TeacherAdapter], names: Sequence[str]) -> None:
        super().__init__()
        self.body, self.adapters, self._names = body, nn.ModuleList(adapters), names

    def forward(self, pixels: Tensor, targets: Sequence[Tensor]) -> BatchResult:
        """Computes loss and explained variance; each target comes from :meth:`TeacherAdapter.target`."""
        feature_map = self.body(pixels)[0]
        errors = []
        for adapter, target in zip(self.adapters, targets, strict=True):
            predicted, wanted = adapter(feature_map, target)
            errors.append((predicted.float() - wanted.float()).square().mean((1, 2, 3)))
        error = torch.stack(errors, 1)
        return BatchResult(error.mean(0).sum(), 1 - error.detach())

    def judge(self, scores: Tensor, labels: Tensor) -> dict[str, float]:  # noqa: ARG002
        """Computes, for each layer, the share of the teacher's variance that the student explains."""
        explained = scores.double().mean(0).tolist()
        return {f"explained_{name}": share for name, share in zip(self._names, explained, strict=True)}


class Teachers(nn.Module):
    """Networks to learn from, in evaluation mode, with the learner's adapter for each of their layers."""

    def __init__(self, bodies: Sequence[Body], adapters: Sequence[TeacherAdapter]) -> None:
        super().__init__()
        self.bodies = nn.ModuleList(bodies).eval().requires_grad_(False)
        self._adapters = tuple(adapters)  # a tuple, because the learner owns these modules

    @torch.no_grad()
    def targets(self, pixels: Tensor) -> list[Tensor]:
        """Computes the targets for ``(n, 3, H, W)`` uint8 pixels, one for each layer of each teacher."""
        return [adapter.target(feature_map) for adapter, feature_map in self._maps(pixels)]

    @torch.no_grad()
    def standardize(self, samples: Iterable[Tensor]) -> None:
        """Sets the means and deviations of the teachers' channels from sample batches of pixels."""
        moments = [[adapter.moments(fmap) for adapter, fmap in self._maps(pixels)] for pixels in samples]
        if not moments:
            raise SppfeatError(
                "cannot standardize the teachers' channels: none of the sample images could be read"
            )
        for adapter, of_layer in zip(self._adapters, zip(*moments, strict=True), strict=True):
            adapter.standardize_by(of_layer)

    def _maps(self, pixels: Tensor) -> Iterator[tuple[TeacherAdapter, Tensor]]:
        maps = [feature_map for body in self.bodies for feature_map in body(pixels)]
        return zip(self._adapters, maps, strict=True)


Learner: TypeAlias = ClassLearner | TeacherLearner
"""A module that computes loss and scores of ``(N, 3, H, W)`` uint8 pixels, from labels or targets."""


def evaluate(
    learner: Learner,
    batches: Iterable[PixelBatch],
    *,
    run: Callable[[Learner, PixelBatch], BatchResult],
) -> dict[str, float]:
    """Runs a learner on some images in evaluation mode.

    Returns the number of ``images``, their mean ``loss``, and the measures of :meth:`judge`.
    """
    learner.eval()
    labels, scores, loss = [], [], 0.0
    with torch.no_grad():
        for batch in batches:
            if len(batch.labels):
                result = run(learner, batch)
                labels.append(batch.labels)
                scores.append(result.scores.float().cpu())
                loss += float(result.loss) * len(batch.labels)
    if not labels:
        raise SppfeatError("none of the validation images could be read")
    all_labels = torch.cat(labels)
    n = len(all_labels)
    return {"images": n, "loss": loss / n, **learner.judge(torch.cat(scores), all_labels)}


def _average_to(feature_map: Tensor, grid: tuple[int, int]) -> Tensor:
    """Averages a map ``(N, C, H, W)`` down to ``(N, C, *grid)``."""
    has_grid = feature_map.shape[-2:] == grid
    return feature_map if has_grid else nn.functional.adaptive_avg_pool2d(feature_map, grid)
