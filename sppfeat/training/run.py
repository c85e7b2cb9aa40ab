"""A run of a training, from inputs to weights."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

import torch

from sppfeat.config.machine import available_cores
from sppfeat.config.request import BackboneChoice
from sppfeat.errors import SppfeatError
from sppfeat.extraction.run import load_chosen_backbone
from sppfeat.files.downloads import OnDownload
from sppfeat.networks.backbones import Backbone
from sppfeat.networks.devices import bfloat16_note, choose_device, device_name
from sppfeat.training.checkpoints import TrainFolder, describe_training
from sppfeat.training.examples import ImageSets, read_image_sets
from sppfeat.training.learners import (
    Body,
    ClassLearner,
    Learner,
    PyramidClassifier,
    TeacherAdapter,
    TeacherLearner,
    Teachers,
)
from sppfeat.training.settings import TrainRequest, TrainSettings
from sppfeat.training.trainer import EpochEntry, Progress, Trainer

__all__ = ["TrainPlan", "TrainResult", "Training", "prepare_training", "train"]

_MAX_AUTO_WORKERS = 8


class TrainPlan(TypedDict):
    """The plan of a training.

    Attributes:
        output: the folder.
        images: number of images to train on.
        validation_images: number of images to validate on.
        left_out: number of images that cannot be read or run.
        classes: number of classes; 0 with teachers.
        backbone: name of the network.
        weights: name or path of its initial weights.
        layer: layer that the pyramid pools.
        teachers: the teachers.
        parameters: number of parameters to train.
        epochs: number of epochs.
        epochs_done: epochs done by earlier runs.
        steps: number of steps.
        steps_done: steps done by earlier runs.
        device: device that the network runs on.
        precision: precision of the network.
        notes: remarks for the user.
    """

    output: str
    images: int
    validation_images: int
    left_out: int
    classes: int
    backbone: str
    weights: str
    layer: str
    teachers: list[str]
    parameters: int
    epochs: int
    epochs_done: int
    steps: int
    steps_done: int
    device: str
    precision: str
    notes: list[str]


class TrainResult(TypedDict):
    """The outcome of a training.

    Attributes:
        finished: false if it was interrupted.
        epochs: number of finished epochs.
        seconds: duration of this run.
        weights: path of the weights file; None before the end of the first epoch.
        left_out: images that could not be read or run, with the reasons.
        last: the last epoch, as in ``log.jsonl``; None before the end of the first one.
    """

    finished: bool
    epochs: int
    seconds: float
    weights: str | None
    left_out: list[str]
    last: EpochEntry | None


def train(
    request: TrainRequest,
    *,
    on_probe: Callable[[int, int], None] = lambda done, total: None,
    on_download: OnDownload = lambda name, done, total: None,
    on_plan: Callable[[TrainPlan], None] = lambda plan: None,
    on_step: Callable[[int, float], None] = lambda done, loss: None,
    on_epoch: Callable[[EpochEntry], None] = lambda entry: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Trains a network with a spatial pyramid; ``resume`` continues an interrupted training.

    Args:
        request: images, settings and output folder.
        on_probe: called with the number of image headers read, and the total.
        on_download: called during a download with file name, bytes done, and bytes in total (None if unknown).
        on_plan: called with the plan before the first step.
        on_step: called after each step with the number of steps done and the mean loss of the epoch so far.
        on_epoch: called with the log entry of each epoch.
        should_stop: called after each step; True ends the training early, with a checkpoint to resume from.

    Returns:
        ``plan``, a :class:`TrainPlan`; and unless it is a dry run ``result``, a :class:`TrainResult`.

    Raises:
        ConfigError: settings contradict each other, or do not fit the images or this machine.
        WeightsError: weights cannot be loaded.
        StoreError: the folder holds a training that is not to be resumed, or a different one, or cannot be written to.
        SppfeatError: no image can be read, or the loss is not finite.
    """
    with prepare_training(request, on_probe=on_probe, on_download=on_download) as training:
        plan = training.summary()
        on_plan(plan)
        if request.run.dry_run:
            return {"plan": plan}
        started, trainer = time.monotonic(), training.trainer
        finished = training.run(
            on_step=lambda progress: on_step(trainer.n_steps_done, progress.loss / max(1, progress.images)),
            on_epoch=on_epoch,
            should_stop=should_stop,
        )
    history = trainer.progress.history
    left_out = [f"{path!r}: {reason}" for path, reason in training.sets.left_out.items()]
    result: TrainResult = {
        "finished": finished,
        "epochs": trainer.progress.epoch,
        "seconds": round(time.monotonic() - started, 1),
        "weights": str(training.folder.weights) if history else None,
        "left_out": left_out + trainer.progress.failures,
        "last": history[-1] if history else None,
    }
    return {"plan": plan, "result": result}


@dataclass(frozen=True)
class Training:
    """A training that is ready to run. ``backbone`` has the initial weights; ``provenance`` goes into its files."""

    request: TrainRequest
    folder: TrainFolder
    trainer: Trainer
    backbone: Backbone
    provenance: dict[str, Any]
    sets: ImageSets

    def summary(self) -> TrainPlan:
        """The plan of the training."""
        sets, settings = self.sets, self.request.settings
        n_parameters = sum(p.numel() for p in self.trainer.learner.parameters() if p.requires_grad)
        notes = []
        if settings.recipe.precision == "bf16" and (note := bfloat16_note(self.trainer.device, "bf16")):
            notes.append(note)
        if settings.network.freeze and settings.backbone.weights == "none":
            notes.append("--freeze with --weights none keeps the random weights of the backbone")
        return {
            "output": str(self.folder.folder),
            "images": len(sets.train),
            "validation_images": len(sets.validation) if sets.validation else 0,
            "left_out": len(sets.left_out),
            "classes": 0 if settings.teachers else len(sets.train.classes),
            "backbone": settings.backbone.name,
            "weights": self.backbone.weights_path or self.backbone.spec.weights,
            "layer": self.backbone.spec.layers[0],
            "teachers": [teacher.text for teacher in settings.teachers],
            "parameters": n_parameters,
            "epochs": settings.recipe.epochs,
            "epochs_done": self.trainer.progress.epoch,
            "steps": self.trainer.n_steps,
            "steps_done": self.trainer.n_steps_done,
            "device": device_name(self.trainer.device),
            "precision": settings.recipe.precision,
            "notes": notes + sets.notes,
        }

    def run(
        self,
        *,
        on_step: Callable[[Progress], None] = lambda progress: None,
        on_epoch: Callable[[EpochEntry], None] = lambda entry: None,
        should_stop: Callable[[], bool] = lambda: False,
        seconds: Callable[[], float] = time.monotonic,
    ) -> bool:
        """Trains; writes checkpoints every few minutes, and checkpoint, weights and log after each epoch.

        Returns True unless it was stopped. ``seconds`` is the clock for the time between checkpoints.
        """
        if not self.request.run.resume:
            # Written before the old files are removed, so that the folder always has a training to resume.
            self._write_checkpoint()
            self.folder.clear()
            self.folder.write_images(self.sets)
        interval = 60 * self.request.run.checkpoint_minutes
        last = seconds()

        def after_step(progress: Progress) -> None:
            nonlocal last
            on_step(progress)
            if seconds() - last >= interval:
                self._write_checkpoint()
                last = seconds()

        while self.trainer.progress.epoch < self.request.settings.recipe.epochs:
            is_whole = self.trainer.run_epoch(on_step=after_step, should_stop=should_stop)
            if is_whole:
                self.write_weights()  # before the checkpoint: a resumed run does not write them again
                self.folder.write_log(self.trainer.progress.history)
            self._write_checkpoint()
            last = seconds()
            if not is_whole:
                return False
            on_epoch(self.trainer.progress.history[-1])
            if should_stop():
                return self.trainer.progress.epoch == self.request.settings.recipe.epochs
        return True

    def write_weights(self) -> None:
        """Writes the weights file: the trained backbone and, with classes, the layers after it."""
        dtype = getattr(torch, self.request.run.weights_dtype)
        result = self.trainer.result
        content: dict[str, Any] = {"state_dict": _state_for_file(result.body.network, dtype)}
        if isinstance(result, ClassLearner):
            content["head"] = _state_for_file(result.classifier, dtype)
            content["classes"] = list(self.sets.train.classes)
        history = self.trainer.progress.history
        content["provenance"] = json.dumps({**self.provenance, "history": history}, indent=1)
        self.folder.write_weights(content)

    def _write_checkpoint(self) -> None:
        self.folder.write_checkpoint({"provenance": json.dumps(self.provenance), **self.trainer.state()})


@contextlib.contextmanager
def prepare_training(
    request: TrainRequest,
    *,
    on_probe: Callable[[int, int], None] = lambda done, total: None,
    on_download: OnDownload = lambda name, done, total: None,
) -> Iterator[Training]:
    """Prepares a training and locks its folder until the context ends; see :func:`train`."""
    settings, run = request.settings, request.run
    folder = TrainFolder(request.output)
    with contextlib.nullcontext() if run.dry_run else folder.hold():
        folder.check(resume=run.resume, overwrite=run.overwrite)
        device = choose_device(run.device, settings.recipe.precision)
        chosen = dataclasses.replace(settings.backbone, weights_dir=run.weights_dir)
        backbone = load_chosen_backbone(chosen, fold=False, on_download=on_download)
        teachers = {
            choice.name: load_chosen_backbone(
                BackboneChoice(**vars(choice), weights_dir=run.weights_dir), on_download=on_download
            )
            for choice in settings.teachers
        }
        n_workers = min(_MAX_AUTO_WORKERS, available_cores()) if run.workers is None else run.workers
        min_side = max(network.min_side for network in (backbone, *teachers.values()))
        sets = read_image_sets(request, min_side=min_side, n_workers=n_workers, on_probe=on_probe)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(settings.recipe.seed)
            learner, teacher_networks = _make_learner(settings, backbone, teachers, len(sets.train.classes))
            provenance = describe_training(settings, backbone, teachers, sets)
            trainer = Trainer(
                settings,
                learner,
                teacher_networks,
                sets,
                resample=backbone.spec.interpolation,
                min_side=min_side,
                device=device,
                n_workers=n_workers,
            )
            if run.resume:
                trainer.restore(folder.read_checkpoint(provenance))
            elif not run.dry_run:
                trainer.standardize_teachers()
            yield Training(request, folder, trainer, backbone, provenance, sets)


def _make_learner(
    settings: TrainSettings, backbone: Backbone, teachers: dict[str, Backbone], n_classes: int
) -> tuple[Learner, Teachers | None]:
    """Makes the student with the layers after it, and its teachers, if any."""
    body, n_channels, network = Body(backbone), backbone.channels[0], settings.network
    if not teachers:
        classifier = PyramidClassifier(n_channels, network, n_classes)
        smoothing = settings.recipe.label_smoothing
        return ClassLearner(body, classifier, label_smoothing=smoothing, freeze=network.freeze), None
    widths = [width for teacher in teachers.values() for width in teacher.channels]
    adapters = [TeacherAdapter(n_channels, width, network, settings.recipe.distill) for width in widths]
    names = [f"{name}:{layer}" for name, teacher in teachers.items() for layer in teacher.spec.layers]
    return TeacherLearner(body, adapters, names), Teachers(list(map(Body, teachers.values())), adapters)


def _state_for_file(module: torch.nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Copies a module's state for a file, with floating-point numbers as ``dtype``."""
    state = {
        name: (value.to(dtype) if value.is_floating_point() else value).cpu().contiguous()
        for name, value in module.state_dict().items()
    }
    for name, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise SppfeatError(f"the weights {name!r} are not finite as {str(dtype)[6:]}")
    return state
