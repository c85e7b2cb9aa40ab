"""What is trained, as one module from pixels and targets to a loss; and where the targets come from."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sppfeat.errors import SppfeatError
from sppfeat.training.classification import Body, PyramidClassifier, TeacherAdapter

__all__ = [
    "Answer",
    "ClassLearner",
    "ClassTargets",
    "Learner",
    "TargetSource",
    "TeacherLearner",
    "TeacherTargets",
]


class Answer(NamedTuple):
    """What a learner says of a batch.

    Attributes:
        loss: to be lowered, mean over the batch.
        scores: ``(N, K)``: of each class; or, of each teacher's layer, the share of the variance that is explained.
    """

    loss: Tensor
    scores: Tensor


class Learner(nn.Module):
    """A body and what is trained with it."""

    body: Body

    def forward(self, pixels: Tensor, targets: Sequence[Tensor]) -> Answer:
        """Return loss and scores for ``(N, 3, H, W)`` uint8 pixels."""
        raise NotImplementedError


class TargetSource(Protocol):
    """What a learner shall give for some images."""

    def __call__(self, images: Tensor, pixels: Tensor) -> list[Tensor]:
        """Return the targets for ``(n,)`` images of a listing, as ``(n, 3, H, W)`` uint8 pixels on the device."""
        ...

    def judge(self, images: Tensor, scores: Tensor) -> dict[str, float]:
        """Return measures, by name, of the ``(n, K)`` scores that a learner gave for ``(n,)`` images."""
        ...


class ClassLearner(Learner):
    """Learns class labels through the pyramid: cross-entropy.

    Args:
        body: the backbone.
        classifier: what is behind it.
        label_smoothing: see :class:`torch.nn.CrossEntropyLoss`; in training only.
        freeze: leave the body as it is, normalisations included.
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
        """Switch to training or evaluation; a frozen body stays in evaluation."""
        super().train(mode)
        if self._freeze:
            self.body.eval()
        return self

    def forward(self, pixels: Tensor, targets: Sequence[Tensor]) -> Answer:
        """Return loss and class scores; the one target is ``(N,)`` int64 labels."""
        scores = self.classifier(self.body(pixels)[0]).float()
        smoothing = self._label_smoothing if self.training else 0.0
        return Answer(F.cross_entropy(scores, targets[0], label_smoothing=smoothing), scores)


class TeacherLearner(Learner):
    """Learns what teachers have for the same pixels: mean squared error of standardised values.

    Args:
        body: the student.
        adapters: one for each layer of each teacher.
    """

    def __init__(self, body: Body, adapters: Sequence[TeacherAdapter]) -> None:
        super().__init__()
        self.body, self.adapters = body, nn.ModuleList(adapters)

    def forward(self, pixels: Tensor, targets: Sequence[Tensor]) -> Answer:
        """Return loss and explained variance; each target is what an adapter made of a teacher's map."""
        feature_map = self.body(pixels)[0]
        errors = []
        for adapter, target in zip(self.adapters, targets, strict=True):
            given, wanted = adapter(feature_map, target)
            errors.append((given.float() - wanted.float()).square().mean((1, 2, 3)))
        error = torch.stack(errors, 1)
        return Answer(error.mean(0).sum(), 1 - error.detach())


class ClassTargets:
    """Labels.

    Args:
        labels: ``(N,)`` int64, of every image of the listing.
        device: where they are wanted.
    """

    def __init__(self, labels: npt.NDArray[np.int64], device: torch.device) -> None:
        self._labels, self._device = torch.from_numpy(labels), device

    def __call__(self, images: Tensor, pixels: Tensor) -> list[Tensor]:  # noqa: ARG002
        """Return the labels of images."""
        return [self._labels[images].to(self._device)]

    def judge(self, images: Tensor, scores: Tensor) -> dict[str, float]:
        """Return ``top1``, the share of images that are classed right, and ``mean_class``, its mean over classes."""
        wanted = self._labels[images]
        right = (scores.argmax(1) == wanted).double()
        per_class = [float(right[wanted == label].mean()) for label in torch.unique(wanted)]
        return {"top1": float(right.mean()), "mean_class": sum(per_class) / len(per_class)}


class TeacherTargets:
    """What teachers have for pixels.

    Args:
        teachers: in evaluation mode, on the device.
        adapters: of the learner, one for each layer of each teacher; they know how it is standardised.
        names: of the layers of all teachers, to speak of them.
    """

    def __init__(
        self, teachers: Sequence[Body], adapters: Sequence[TeacherAdapter], names: Sequence[str]
    ) -> None:
        self._teachers, self._adapters, self._names = teachers, adapters, names

    def __call__(self, images: Tensor, pixels: Tensor) -> list[Tensor]:  # noqa: ARG002
        """Return the adapted maps of all layers."""
        with torch.no_grad():
            return [
                adapter.target(feature_map)
                for adapter, feature_map in zip(self._adapters, self._maps(pixels), strict=True)
            ]

    def judge(self, images: Tensor, scores: Tensor) -> dict[str, float]:  # noqa: ARG002
        """Return, for each layer, the share of the variance of what the teacher has that is explained."""
        explained = scores.double().mean(0).tolist()
        return {f"explained_{name}": share for name, share in zip(self._names, explained, strict=True)}

    def standardize(self, samples: Iterable[Tensor]) -> None:
        """Take means and deviations of the teachers' channels from some batches of pixels.

        Raises:
            SppfeatError: there is no batch.
        """
        moments = []
        with torch.no_grad():
            for pixels in samples:
                maps = zip(self._adapters, self._maps(pixels), strict=True)
                moments.append([adapter.moments(feature_map) for adapter, feature_map in maps])
        if not moments:
            raise SppfeatError(
                "no image could be read of those that the teachers' channels are standardised by"
            )
        for adapter, of_layer in zip(self._adapters, zip(*moments, strict=True), strict=True):
            adapter.standardize_by(of_layer)

    def _maps(self, pixels: Tensor) -> list[Tensor]:
        return [feature_map for teacher in self._teachers for feature_map in teacher(pixels)]
