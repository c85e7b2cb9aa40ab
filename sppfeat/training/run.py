"""A run of a training, from inputs to weights: prepares it, begins or resumes it, and trains."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from sppfeat.config.machine import available_cores
from sppfeat.config.request import BackboneChoice
from sppfeat.errors import SppfeatError
from sppfeat.extraction.setup import load_chosen_backbone
from sppfeat.files.downloads import OnDownload
from sppfeat.networks.acceleration import bfloat16_note
from sppfeat.networks.backbones import Backbone
from sppfeat.networks.devices import choose_device, device_name
from sppfeat.training.checkpoints import TrainFolder
from sppfeat.training.classification import ClassLearner, ClassTargets, PyramidClassifier
from sppfeat.training.distillation import TeacherAdapter, TeacherLearner, TeacherTargets
from sppfeat.training.evaluation import check_smallest_batch
from sppfeat.training.image_sets import ImageSets, read_image_sets
from sppfeat.training.learner import Body, Learner, TrainingTask
from sppfeat.training.provenance import check_same, describe_training
from sppfeat.training.settings import TrainRequest, TrainSettings
from sppfeat.training.trainer import Progress, Trainer

__all__ = ["Training", "prepare_training"]

_SAMPLES = 512  # number of images to estimate the teachers' means and deviations from
_MAX_AUTO_WORKERS = 8
_DTYPES = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class Training:
    """A training that is ready to run; :func:`prepare_training` makes it.

    Attributes:
        request: the request.
        folder: the folder of its files.
        trainer: the training loop.
        task: learner, targets and images.
        backbone: backbone of the student with its initial weights.
        provenance: record of everything that the weights depend on, saved with them.
        device: the device to train on.
        notes: lines for the user.
        left_out: reasons why images are left out, by path.
    """

    request: TrainRequest
    folder: TrainFolder
    trainer: Trainer
    task: TrainingTask
    backbone: Backbone
    provenance: dict[str, Any]
    device: torch.device
    notes: list[str]
    left_out: dict[str, str]

    def summary(self) -> dict[str, Any]:
        """The plan of the training, as plain values."""
        task, settings = self.task, self.request.settings
        n_parameters = sum(p.numel() for p in task.learner.parameters() if p.requires_grad)
        return {
            "output": str(self.folder.folder),
            "images": len(task.train),
            "validation_images": len(task.validation) if task.validation else 0,
            "left_out": len(self.left_out),
            "classes": 0 if settings.teachers else len(task.train.classes),
            "backbone": settings.backbone.name,
            "weights": self.backbone.weights_path or self.backbone.spec.weights,
            "layer": self.backbone.spec.layers[0],
            "teachers": [teacher.text for teacher in settings.teachers],
            "parameters": n_parameters,
            "epochs": settings.recipe.epochs,
            "epochs_done": self.trainer.progress.epoch,
            "steps": self.trainer.n_steps,
            "steps_done": self.trainer.n_steps_done,
            "device": device_name(self.device),
            "precision": settings.recipe.precision,
            "notes": self.notes,
        }

    def run(
        self,
        *,
        on_step: Callable[[Progress], None] = lambda progress: None,
        should_stop: Callable[[], bool] = lambda: False,
        seconds: Callable[[], float],
    ) -> bool:
        """Trains; writes checkpoints every few minutes and after each epoch, weights and log after each epoch.

        Args:
            on_step: called after each step.
            should_stop: called after each step; True ends the run early, with a checkpoint to resume from.
            seconds: a clock that returns seconds, for the time between checkpoints.

        Returns:
            True if the training is finished, False if it was stopped.

        Raises:
            SppfeatError: a file cannot be written, no image can be read, or the loss is no longer a number.
        """
        if not self.request.run.resume:
            # Written before the old files are removed, so that from now on there is always something to resume.
            self._write_checkpoint()
            self.folder.clear()
            validation = {"validation": self.task.validation} if self.task.validation else {}
            self.folder.write_images({"train": self.task.train, **validation})
        every = 60 * self.request.run.checkpoint_minutes
        last = seconds()

        def after_step(progress: Progress) -> None:
            nonlocal last
            on_step(progress)
            if seconds() - last >= every:
                self._write_checkpoint()
                last = seconds()

        while self.trainer.progress.epoch < self.request.settings.recipe.epochs:
            is_whole = self.trainer.run_epoch(on_step=after_step, should_stop=should_stop)
            if is_whole:
                self.write_weights()  # before the checkpoint, because a resumed run does not write them again
                self.folder.write_log(self.trainer.progress.history)
            self._write_checkpoint()
            last = seconds()
            if not is_whole:
                return False
            if should_stop() and self.trainer.progress.epoch < self.request.settings.recipe.epochs:
                return False
        return True

    def write_weights(self) -> None:
        """Writes the weights file with the student's backbone and the layers after it."""
        dtype = _DTYPES[self.request.run.weights_dtype]
        result = self.trainer.result
        content: dict[str, Any] = {"state_dict": _stored(result.body.network, dtype)}
        if isinstance(result, ClassLearner):
            content["head"] = _stored(result.classifier, dtype)
            content["classes"] = list(self.task.train.classes)
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
    """Prepares a training, and keeps its folder locked until the context ends.

    Args:
        request: the request.
        on_probe: called with the number of image headers read and the total number of headers.
        on_download: called during a download with the name of a weights file, the bytes done, and the total (None if
            unknown).

    Raises:
        ConfigError: settings contradict each other, or do not fit the images or this machine.
        WeightsError: weights cannot be loaded.
        StoreError: the folder already holds a training, or another one than the one to resume, or cannot be written to.
    """
    settings, run = request.settings, request.run
    folder = TrainFolder(request.output)
    with contextlib.nullcontext() if run.dry_run else folder.hold():
        folder.check(resume=run.resume, overwrite=run.overwrite)
        device = choose_device(run.device, settings.recipe.precision)
        backbone, teachers = _load_networks(request, on_download)
        n_workers = min(_MAX_AUTO_WORKERS, available_cores()) if run.workers is None else run.workers
        sets = read_image_sets(
            request,
            min_side=max(network.min_side for network in (backbone, *teachers.values())),
            n_workers=n_workers,
            on_probe=on_probe,
        )
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(settings.recipe.seed)
            task = _make_task(settings, backbone, teachers, sets, device)
            provenance = describe_training(settings, backbone, teachers, sets.train, sets.validation)
            yield Training(
                request=request,
                folder=folder,
                trainer=_trainer(request, folder, task, provenance, device=device, n_workers=n_workers),
                task=task,
                backbone=backbone,
                provenance=provenance,
                device=device,
                notes=[*_notes(settings, device), *sets.notes],
                left_out=sets.left_out,
            )


def _load_networks(request: TrainRequest, on_download: OnDownload) -> tuple[Backbone, dict[str, Backbone]]:
    """Loads the student, and the teachers by name."""
    folder = request.run.weights_dir
    chosen = dataclasses.replace(request.settings.backbone, weights_dir=folder)
    backbone = load_chosen_backbone(chosen, fold=False, on_download=on_download)
    teachers = {
        choice.name: load_chosen_backbone(
            BackboneChoice(
                name=choice.name, weights=choice.weights, layers=choice.layers, weights_dir=folder
            ),
            on_download=on_download,
        )
        for choice in request.settings.teachers
    }
    return backbone, teachers


def _trainer(
    request: TrainRequest,
    folder: TrainFolder,
    task: TrainingTask,
    provenance: dict[str, Any],
    *,
    device: torch.device,
    n_workers: int,
) -> Trainer:
    """Makes the trainer, at the beginning or in the state of the last checkpoint."""
    settings, run = request.settings, request.run
    check_smallest_batch(settings, task, device)
    if run.resume:
        state = folder.read_checkpoint()
        check_same(json.loads(state["provenance"]), provenance, source=str(folder.checkpoint))
        trainer = Trainer(settings, task, device=device, n_workers=n_workers)
        trainer.restore(state)
        return trainer
    if isinstance(task.targets, TeacherTargets) and not run.dry_run:
        n_batches = -(-_SAMPLES // settings.recipe.batch_size)
        trainer = Trainer(settings, task, device=device, n_workers=n_workers)
        task.targets.standardize(trainer.samples(n_batches))
    return Trainer(settings, task, device=device, n_workers=n_workers)


def _notes(settings: TrainSettings, device: torch.device) -> list[str]:
    """Lines for the user about the settings."""
    notes = []
    if settings.recipe.precision == "bf16" and (note := bfloat16_note(device, "bf16")):
        notes.append(note)
    if settings.network.freeze and settings.backbone.weights == "none":
        notes.append("--freeze with --weights none: the backbone that is kept as it is has random values")
    return notes


def _make_task(
    settings: TrainSettings,
    backbone: Backbone,
    teachers: dict[str, Backbone],
    sets: ImageSets,
    device: torch.device,
) -> TrainingTask:
    """Makes the student, the layers after it, and its targets, on the device."""
    body, n_channels = Body(backbone), backbone.channels[0]
    train, validation = sets.train, sets.validation
    held_out = train if validation is None else validation
    learner: Learner
    if teachers:
        adapters = [
            TeacherAdapter(n_channels, width, settings.network, settings.recipe.distill)
            for teacher in teachers.values()
            for width in teacher.channels
        ]
        learner = TeacherLearner(body, adapters)
        bodies = [Body(teacher).eval().requires_grad_(False) for teacher in teachers.values()]
        for teacher in bodies:
            teacher.to(device).to(memory_format=torch.channels_last)
        names = [f"{name}:{layer}" for name, teacher in teachers.items() for layer in teacher.spec.layers]
        targets: Any = TeacherTargets(bodies, adapters, names)
        on_validation = targets
    else:
        classifier = PyramidClassifier(n_channels, settings.network, len(train.classes))
        recipe = settings.recipe
        learner = ClassLearner(
            body, classifier, label_smoothing=recipe.label_smoothing, freeze=settings.network.freeze
        )
        targets, on_validation = (ClassTargets(e.labels, device) for e in (train, held_out))
    return TrainingTask(
        learner=learner.to(device).to(memory_format=torch.channels_last),
        targets=targets,
        validation_targets=on_validation,
        train=train,
        validation=validation,
        resample=backbone.spec.interpolation,
        min_side=max(network.min_side for network in (backbone, *teachers.values())),
    )


def _stored(module: torch.nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Copies a module's state for a file: on the CPU, contiguous, floating-point numbers as ``dtype``.

    Raises:
        SppfeatError: a value is not finite, or too large for ``dtype``.
    """
    state = {
        name: (value.to(dtype) if value.is_floating_point() else value).cpu().contiguous()
        for name, value in module.state_dict().items()
    }
    for name, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise SppfeatError(f"the weights {name!r} have values that are not finite as {str(dtype)[6:]}")
    return state
