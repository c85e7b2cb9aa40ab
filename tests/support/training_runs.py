"""Small training runs on two classes that are easy to separate."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stopping import stop_at

from sppfeat.config.request import BackboneChoice
from sppfeat.networks import compact
from sppfeat.training.run import prepare_training
from sppfeat.training.settings import (
    DataSettings,
    NetworkSettings,
    Recipe,
    TrainRequest,
    TrainRun,
    TrainSettings,
)

SIDE = 32
SEED = 5


@pytest.fixture
def tiny_network(monkeypatch):
    """Shrinks ``spp_s16`` to a few channels; use it with the seed of :func:`settings`."""
    monkeypatch.setattr(compact, "_STEM", (4, 6))
    monkeypatch.setattr(compact, "_STAGES", ((8, 1), (12, 1)))
    monkeypatch.setattr(compact, "_WIDTH", 16)


def write_classes(folder: Path, *, n: int = 8, side: int = 40) -> Path:
    """Writes striped images, blue and red, in a folder each."""
    generator = np.random.default_rng(0)
    for name, channel in (("blue", 2), ("red", 0)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            wave = (np.indices((side, side + 8 * (i % 3))).sum(0) + i) % 8 < 4
            shades = generator.integers(0, 100, (2, 3), dtype=np.uint8)
            shades[:, channel] += 150
            Image.fromarray(shades[wave.astype(int)]).save(folder / name / f"{i}.png")
    return folder


def settings(*, teachers=(), network=None, backbone=None, **changes) -> TrainSettings:
    data = {"sizes": (SIDE,), "color": 0.1}
    recipe = {"epochs": 2, "batch_size": 4, "seed": SEED}
    for name, value in changes.items():
        (data if name in DataSettings.__dataclass_fields__ else recipe)[name] = value
    return TrainSettings(
        backbone=backbone or BackboneChoice(name="spp_s16", weights="none", seed=SEED),
        data=DataSettings(**data),
        network=network or NetworkSettings(levels=(1, 2), hidden=(16,), dropout=0.0),
        recipe=Recipe(**recipe),
        teachers=teachers,
    )


def request(
    inputs, output, *, resume=False, overwrite=False, validation=(), run=None, **changes
) -> TrainRequest:
    return TrainRequest(
        inputs=tuple(map(str, inputs)),
        output=Path(output),
        settings=settings(**changes),
        validation=tuple(map(str, validation)),
        run=TrainRun(
            **{"device": "cpu", "workers": 0, "resume": resume, "overwrite": overwrite, **(run or {})}
        ),
    )


def prepared(inputs, output, **changes):
    """A prepared training, as a context manager."""
    return prepare_training(request(inputs, output, **changes))


def train(inputs, output, *, stop_after: int | None = None, **changes):
    """Trains, or stops after some steps; returns the trainer, and True if it has finished."""
    with prepared(inputs, output, **changes) as training:
        return training, training.run(should_stop=stop_at(stop_after), seconds=lambda: 0.0)
