import logging

import numpy as np
import pytest
import torch
from torch import nn

from sppfeat.networks.devices import CompiledNetwork, DeviceCopier, bfloat16_hint, bfloat16_note

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NEEDS_CUDA])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("is_writeable", [True, False])
def test_values_are_copied_there_and_back(device, is_writeable):
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    pixels.flags.writeable = is_writeable
    copier = DeviceCopier(torch.device(device))
    on_device = copier.to_device(pixels)
    assert on_device.device.type == device
    values, wait = copier.to_host(on_device.float() * 2)
    wait()
    assert values.dtype == np.float32
    assert np.array_equal(values, 2 * pixels)


@pytest.mark.gpu
@NEEDS_CUDA
def test_pixels_may_change_and_copies_may_be_many_while_cuda_is_busy():
    copier = DeviceCopier(torch.device("cuda"))
    busy = torch.rand(4000, 4000, device="cuda")
    deliveries = []
    pixels = np.empty((64, 1000), dtype=np.uint8)
    for i in range(50):
        pixels[:] = i
        on_device = copier.to_device(pixels)
        busy = busy @ busy / busy.norm()
        deliveries.append(copier.to_host(on_device.float() + i))
    for i, (values, wait) in enumerate(deliveries):
        wait()
        assert (values == 2 * i).all()


PICTURE = torch.arange(48.0).view(1, 3, 4, 4)


class Double(nn.Module):
    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.n_calls = 0
        self.error = error

    def forward(self, batch):
        self.n_calls += 1
        if self.error:
            raise self.error
        return {"layer": 2 * batch}


def compiler(monkeypatch, *, error=None):
    """Replaces torch.compile by a compiler that fails at the first call, or does nothing."""

    def compile_(network):
        def compiled(batch):
            if error:
                raise error
            return network(batch)

        return compiled

    monkeypatch.setattr(torch, "compile", compile_)


def test_without_a_compiler_the_plain_network_runs_and_warns_once(monkeypatch, caplog):
    compiler(monkeypatch, error=RuntimeError("No working C++ compiler found\nSet TORCH_LOGS for more"))
    network = CompiledNetwork(Double())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert torch.equal(network(PICTURE)["layer"], 2 * PICTURE)
    assert [record.getMessage() for record in caplog.records] == [
        "continuing without --compile, which failed: No working C++ compiler found"
    ]


def test_errors_of_the_network_itself_are_not_blamed_on_the_compiler(monkeypatch, caplog):
    compiler(monkeypatch)
    with pytest.raises(ValueError, match="its own"):
        CompiledNetwork(Double(ValueError("its own")))(PICTURE)
    assert not caplog.records


def test_too_little_memory_does_not_stop_compiling(monkeypatch):
    compiler(monkeypatch, error=torch.OutOfMemoryError("too much"))
    network = Double()
    with pytest.raises(torch.OutOfMemoryError):
        CompiledNetwork(network)(PICTURE)
    assert network.n_calls == 0


@pytest.mark.slow
def test_compiled_networks_give_the_same_maps():
    with torch.random.fork_rng():
        torch.manual_seed(0)  # with other values, sums cancel to fewer digits than are compared
        network = nn.Conv2d(3, 4, 3).eval()

    class Maps(nn.Module):
        def forward(self, batch):
            return {"layer": network(batch).relu()}

    compiled = CompiledNetwork(Maps())
    with torch.inference_mode():
        maps, expected = compiled(PICTURE)["layer"], network(PICTURE).relu()
    # Single values may come from sums that nearly cancel, so only their norm is compared.
    assert (maps - expected).norm() <= 1e-5 * expected.norm() + 1e-5


@pytest.mark.parametrize(
    ("capabilities", "precision", "note"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "fp32", "AMX"),
        ({"amx_bf16": False, "avx512_bf16": True}, "fp32", "AVX512-BF16"),
        ({"amx_bf16": True}, "bf16", None),
        ({"amx_bf16": False}, "fp32", None),
        ({}, "fp16", None),
        ({}, "bf16", "fp32 is likely to be faster"),
    ],
)
def test_bf16_is_advised_where_the_machine_has_it(monkeypatch, capabilities, precision, note):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    found = (bfloat16_hint(torch.device("cpu"), precision), bfloat16_note(torch.device("cpu"), precision))
    texts = [text for text in found if text]
    assert (note in texts[0] and len(texts) == 1) if note else not texts


@pytest.mark.parametrize(("capability", "is_advised"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_bf16_is_advised_on_devices_with_tensor_cores_for_it(monkeypatch, capability, is_advised):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert (bfloat16_hint(torch.device("cuda"), "fp32") is not None) == is_advised
