"""Learning from other networks: adapters from the student's maps to those of teachers, the loss, and the targets."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from sppfeat.errors import SppfeatError
from sppfeat.pyramid import pool_levels
from sppfeat.training.learner import BatchResult, Body, Learner
from sppfeat.training.settings import NetworkSettings

__all__ = ["TeacherAdapter", "TeacherLearner", "TeacherTargets"]

# Smallest standard deviation of a channel, as a share of the root mean square over all channels.
_LEAST_STD = 0.1


class TeacherAdapter(nn.Module):
    """A linear map from the student's channels to the standardized channels of a teacher, applied cell by cell.

    Args:
        n_channels: number of channels of the student's map.
        n_teacher_channels: number of channels of the teacher's map.
        settings: levels and pooling, used only for ``descriptor``.
        distill: ``map`` (cells of the map; the finer of the two maps is averaged to the grid of the coarser one) or
            ``descriptor`` (the bins of the pyramid take the place of cells).
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
        values = self._taken(teacher_map).transpose(0, 1).flatten(1).cpu().double()
        return torch.stack(
            [torch.full((len(values),), values.shape[1]), values.sum(1), values.square().sum(1)]
        )

    def standardize_by(self, moments: Sequence[Tensor]) -> None:
        """Sets the mean and the standard deviation of each channel from the moments of some of the teacher's maps."""
        n, total, squares = torch.stack(list(moments)).sum(0)
        mean = total / n
        self.mean.copy_(mean[None, :, None, None])
        std = (squares / n - mean.square()).clamp_min(0).sqrt()
        # Without a lower bound, a channel that is hardly ever active in the sample would dominate the loss.
        std = std.clamp_min(_LEAST_STD * std.square().mean().sqrt())
        self.scale.copy_(torch.where(std > 0, 1 / std, 0)[None, :, None, None])

    def target(self, teacher_map: Tensor) -> Tensor:
        """Converts a teacher's map to the student's target, ``(N, C, H, W)`` standardized."""
        return (self._taken(teacher_map) - self.mean) * self.scale

    def forward(self, feature_map: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Computes prediction and target, ``(N, C, H, W)`` each, at the coarser grid of the two."""
        taken = self._taken(feature_map)
        cells = min(taken.shape[2], target.shape[2]), min(taken.shape[3], target.shape[3])
        return self.linear(_averaged(taken, cells)), _averaged(target, cells)

    def _taken(self, feature_map: Tensor) -> Tensor:
        if self._distill == "map":
            return feature_map
        pooled = pool_levels(feature_map, self._levels, self._pool)
        return torch.cat([pooled[n].flatten(2) for n in self._levels], 2)[..., None]


class TeacherLearner(Learner):
    """Learns the maps or descriptors of teachers for the same pixels: mean squared error of standardized values."""

    def __init__(self, body: Body, adapters: Sequence[TeacherAdapter]) -> None:
        super().__init__()
        self.body, self.adapters = body, nn.ModuleList(adapters)

    def forward(self, pixels: Tensor, targets: Sequence[Tensor]) -> BatchResult:
        """Computes loss and explained variance; each target comes from :meth:`TeacherAdapter.target`."""
        feature_map = self.body(pixels)[0]
        errors = []
        for adapter, target in zip(self.adapters, targets, strict=True):
            given, wanted = adapter(feature_map, target)
            errors.append((given.float() - wanted.float()).square().mean((1, 2, 3)))
        error = torch.stack(errors, 1)
        return BatchResult(error.mean(0).sum(), 1 - error.detach())


class TeacherTargets:
    """Maps or descriptors of teachers, in evaluation mode on the device, as targets.

    Each layer of each teacher has an adapter of the learner, which holds its means and deviations, and a name.
    """

    def __init__(
        self, teachers: Sequence[Body], adapters: Sequence[TeacherAdapter], names: Sequence[str]
    ) -> None:
        self._teachers, self._adapters, self._names = teachers, adapters, names

    def __call__(self, images: Tensor, pixels: Tensor) -> list[Tensor]:  # noqa: ARG002
        """Computes the targets for ``(n, 3, H, W)`` uint8 pixels, one for each layer of each teacher."""
        with torch.no_grad():
            return [
                adapter.target(feature_map)
                for adapter, feature_map in zip(self._adapters, self._maps(pixels), strict=True)
            ]

    def judge(self, images: Tensor, scores: Tensor) -> dict[str, float]:  # noqa: ARG002
        """Computes, for each layer, the share of the teacher's variance that the student explains."""
        explained = scores.double().mean(0).tolist()
        return {f"explained_{name}": share for name, share in zip(self._names, explained, strict=True)}

    def standardize(self, samples: Iterable[Tensor]) -> None:
        """Sets the means and deviations of the teachers' channels from some batches of pixels.

        Raises:
            SppfeatError: ``samples`` is empty.
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


def _averaged(feature_map: Tensor, cells: tuple[int, int]) -> Tensor:
    """Averages a map ``(N, C, H, W)`` down to a number of cells along each axis."""
    is_there = feature_map.shape[-2:] == cells
    return feature_map if is_there else nn.functional.adaptive_avg_pool2d(feature_map, cells)
