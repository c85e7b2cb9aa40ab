"""The training loop: batches, steps and validation. Interruptions do not change the result."""

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypedDict, cast

import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sppfeat.decoding import Batch
from sppfeat.errors import ConfigError, DecoderError, SppfeatError
from sppfeat.networks.devices import device_memory, float32_arithmetic
from sppfeat.training.batches import (
    PixelBatch,
    epoch_batches,
    load_batches,
    whole_image_batches,
)
from sppfeat.training.examples import Examples, ImageSets
from sppfeat.training.learners import BatchResult, Learner, Teachers, evaluate
from sppfeat.training.settings import TrainSettings

__all__ = ["EpochEntry", "Progress", "Trainer"]

_LOWEST_RATE = 0.01  # share of the peak learning rate at which the warm-up begins
_EVALUATION_BATCH = 16
_SAMPLES = 512  # number of images to estimate the teachers' means and deviations from


class EpochEntry(TypedDict, total=False):
    """A finished epoch, as a line of ``log.jsonl``.

    Attributes:
        epoch: number of the epoch, from 1.
        size: size of the network input, in pixels.
        learning_rate: learning rate after the last step.
        images: number of images.
        loss: mean loss of the images.
        seconds: duration of the epoch without validation.
        validation: scores at each short side, if this epoch was validated: ``images``, ``loss``, and ``top1`` and
            ``mean_class``, or with teachers ``explained_TEACHER:LAYER``.
    """

    epoch: int
    size: int
    learning_rate: float
    images: int
    loss: float
    seconds: float
    validation: dict[str, dict[str, float]]


@dataclass
class Progress:
    """The progress of a training.

    Attributes:
        epoch: number of the current epoch, from 0.
        batch: number of its finished batches.
        images: number of images in these batches.
        loss: sum of the losses of these images.
        seconds: time that these batches took.
        failures: lines about images that could not be read.
        history: log entries of finished epochs.
    """

    epoch: int = 0
    batch: int = 0
    images: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    history: list[EpochEntry] = field(default_factory=list)


class _StopError(Exception):
    """The caller wants to stop after the current batch."""


class Trainer:
    """Trains a learner; its state after each of the ``n_steps`` steps depends only on settings and images.

    Args:
        teachers: the networks to learn from; None for class labels.
        resample: name of the Pillow filter for resizing.
        min_side: smallest side of an input that the networks accept, in pixels.
    """

    def __init__(
        self,
        settings: TrainSettings,
        learner: Learner,
        teachers: Teachers | None,
        sets: ImageSets,
        *,
        resample: str,
        min_side: int,
        device: torch.device,
        n_workers: int,
    ) -> None:
        self.progress = Progress()
        self.learner = learner.to(device).to(memory_format=torch.channels_last)
        self._teachers = teachers and teachers.to(device).to(memory_format=torch.channels_last)
        self._settings, self._sets, self.device = settings, sets, device
        self._resample, self._min_side, self._n_workers = resample, min_side, n_workers
        recipe = settings.recipe
        self._optimizer = _optimizer(self.learner, settings)
        sizes = settings.data.sizes
        counts = [len(self._plan_epoch(i)) for i in range(len(sizes))]
        self._n_batches = [counts[epoch % len(sizes)] for epoch in range(recipe.epochs)]
        self.n_steps = sum(self._n_batches)
        warmup = round(self.n_steps * recipe.warmup_epochs / recipe.epochs)
        self._schedule = _schedule(self._optimizer, warmup, self.n_steps)
        self._average = self._new_average()

    def _new_average(self) -> AveragedModel | None:
        decay = self._settings.recipe.ema
        update = partial(_average, decay)
        return AveragedModel(self.learner, multi_avg_fn=update, use_buffers=True) if decay else None

    @property
    def result(self) -> Learner:
        """The learner to validate and save: the moving average of the parameters, or without one the learner itself."""
        return self.learner if self._average is None else cast(Learner, self._average.module)

    @property
    def n_steps_done(self) -> int:
        """Number of steps done so far, out of ``n_steps``."""
        return sum(self._n_batches[: self.progress.epoch]) + self.progress.batch

    def state(self) -> dict[str, Any]:
        """The state of the training as tensors and plain values."""
        return {
            "progress": dataclasses.asdict(self.progress),
            "learner": self.learner.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": _without_functions(self._schedule.state_dict()),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a state that :meth:`state` returned."""
        self.progress = Progress(**state["progress"])
        self.learner.load_state_dict(state["learner"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["rng"].cpu())
        if state["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.device)

    def run_epoch(self, *, on_step: Callable[["Progress"], None], should_stop: Callable[[], bool]) -> bool:
        """Runs the remaining steps of the current epoch and validates; returns False if it was stopped."""
        progress = self.progress
        try:
            self._run_batches(on_step, should_stop)
            entry = self._entry(should_stop)
        except _StopError:
            return False
        except DecoderError:
            if should_stop():  # the signal may have killed the workers, too
                return False
            raise
        self.progress = Progress(
            progress.epoch + 1, failures=progress.failures, history=[*progress.history, entry]
        )
        return True

    def _run_batches(self, on_step: Callable[["Progress"], None], should_stop: Callable[[], bool]) -> None:
        """Runs the remaining batches of an epoch."""
        progress, recipe = self.progress, self._settings.recipe
        self.learner.train()
        started = time.monotonic()
        for batch in self._collect_failures(self._load_epoch(), should_stop):
            if len(batch.images):
                progress.loss += self._step(batch) * len(batch.images)
                progress.images += len(batch.images)
            self._schedule.step()
            progress.batch += 1
            now = time.monotonic()
            progress.seconds += now - started
            started = now
            on_step(progress)
        if not progress.images:
            raise SppfeatError(
                f"none of the images of epoch {progress.epoch + 1} of {recipe.epochs} could be read"
            )

    def standardize_teachers(self) -> None:
        """Sets the means and deviations of the teachers' channels from the first images of the training."""
        if self._teachers is not None:
            n_batches = -(-_SAMPLES // self._settings.recipe.batch_size)
            batches = itertools.islice(self._load_epoch(n_workers=0), n_batches)
            self._teachers.standardize(self._to_device(b.pixels) for b in batches if len(b.images))
            self._average = self._new_average()  # the old one has a copy of the adapters

    def _validate(self, images: Examples, size: int, should_stop: Callable[[], bool]) -> dict[str, float]:
        """Evaluates the result on whole images with a short side of ``size`` pixels."""
        data = self._settings.data
        batches = whole_image_batches(
            images, data, size=size, batch_size=_EVALUATION_BATCH, min_side=self._min_side
        )
        plain = dataclasses.replace(data, views="full", flip=False, color=0.0)
        loaded = load_batches(
            batches, images, plain, resample=self._resample, seed=(0,), n_workers=self._n_workers
        )
        with self._computing():
            return evaluate(self.result, self._collect_failures(loaded, should_stop), run=self._run)

    def _run(self, learner: Learner, batch: PixelBatch) -> BatchResult:
        pixels, teachers = self._to_device(batch.pixels), self._teachers
        is_half = self._settings.recipe.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_half):
            targets = self._to_device(batch.labels) if teachers is None else teachers.targets(pixels)
            result: BatchResult = learner(pixels, targets)
        return result

    def _collect_failures(
        self, batches: Iterable[PixelBatch], should_stop: Callable[[], bool]
    ) -> Iterator[PixelBatch]:
        """Yields the batches and records their failures; stops after a batch on request."""
        for batch in batches:
            self.progress.failures += sorted(set(batch.failures.values()) - set(self.progress.failures))
            yield batch
            if should_stop():
                raise _StopError

    def _step(self, batch: PixelBatch) -> float:
        self._optimizer.zero_grad(set_to_none=True)
        with self._computing():
            try:
                result = self._run(self.learner, batch)
            # Batch normalization cannot normalize a single cell of a single image.
            except ValueError as error:
                n, _, height, width = batch.pixels.shape
                raise ConfigError(
                    f"{self._settings.backbone.name} cannot be trained on a batch of size {n} with {height} x {width} "
                    f"pixels: {error}"
                ) from error
            loss = float(result.loss.detach())
            if not math.isfinite(loss):
                raise SppfeatError(
                    f"the loss is {loss} in epoch {self.progress.epoch + 1}, batch {self.progress.batch + 1}; "
                    "try a lower --lr"
                )
            result.loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self.learner)
        return loss

    def _entry(self, should_stop: Callable[[], bool]) -> EpochEntry:
        """Makes the log entry of the finished epoch, with its validation if one is due."""
        progress, data = self.progress, self._settings.data
        entry: EpochEntry = {
            "epoch": progress.epoch + 1,
            "size": data.sizes[progress.epoch % len(data.sizes)],
            "learning_rate": float(self._schedule.get_last_lr()[0]),
            "images": progress.images,
            "loss": progress.loss / progress.images,
            "seconds": round(progress.seconds, 1),
        }
        is_last = progress.epoch + 1 == self._settings.recipe.epochs
        is_due = is_last or (progress.epoch + 1) % data.val_every == 0
        if (images := self._sets.validation) is not None and is_due:
            entry["validation"] = {
                str(size): self._validate(images, size, should_stop) for size in data.val_sizes
            }
        return entry

    def _plan_epoch(self, epoch: int) -> list[Batch]:
        recipe = self._settings.recipe
        return epoch_batches(
            self._sets.train,
            self._settings.data,
            epoch=epoch,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            min_side=self._min_side,
        )

    def _load_epoch(self, n_workers: int | None = None) -> Iterator[PixelBatch]:
        """Yields the remaining batches of this epoch."""
        epoch = self.progress.epoch
        return load_batches(
            self._plan_epoch(epoch),
            self._sets.train,
            self._settings.data,
            first=self.progress.batch,
            resample=self._resample,
            seed=(self._settings.recipe.seed, 2, epoch),
            n_workers=self._n_workers if n_workers is None else n_workers,
            pin_memory=self.device.type == "cuda",
        )

    def _to_device(self, pixels: Tensor) -> Tensor:
        return pixels.to(self.device, non_blocking=True)

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        with device_memory(self.device), float32_arithmetic(self._settings.recipe.precision):
            yield


def _optimizer(learner: Learner, settings: TrainSettings) -> torch.optim.Optimizer:
    recipe, rate = settings.recipe, settings.learning_rate
    trained = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    # No weight decay for biases, and for scales and shifts of normalizations.
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=rate)


def _schedule(optimizer: torch.optim.Optimizer, warmup: int, n_steps: int) -> LRScheduler:
    """The learning rate: a linear rise from a hundredth of the peak, then half a cosine down to 0."""
    falling = CosineAnnealingLR(optimizer, max(1, n_steps - warmup))
    if not warmup:
        return falling
    rising = LinearLR(optimizer, start_factor=_LOWEST_RATE, total_iters=warmup)
    return SequentialLR(optimizer, [rising, falling], milestones=[warmup])


def _average(decay: float, averaged: Any, current: Any, n: Any) -> None:
    """Updates moving averages of parameters; a smaller decay in the first steps forgets the initial values sooner."""
    step = min(decay, (1 + int(n)) / (10 + int(n)))
    get_ema_multi_avg_fn(step)(averaged, current, n)  # type: ignore[no-untyped-call]


def _without_functions(state: dict[str, Any]) -> dict[str, Any]:
    """Removes functions, which a checkpoint cannot hold, from the state of a schedule."""
    plain = {name: value for name, value in state.items() if not callable(value)}
    if "_schedulers" in plain:
        plain["_schedulers"] = [_without_functions(inner) for inner in plain["_schedulers"]]
    return plain
