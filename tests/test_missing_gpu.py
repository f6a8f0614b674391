"""Asking for a GPU where there is none says what is missing, CuPy, a driver or a device, and what to do."""

import sys
from types import SimpleNamespace

import pytest

import lazyflow as lf
from lazyflow import device


class CUDARuntimeError(RuntimeError):
    """As CuPy's."""


def fake_cupy(count, driver, runtime=13000):
    """CuPy as it looks where ``getDeviceCount`` gives ``count``, or raises."""

    def devices():
        if isinstance(count, str):
            raise CUDARuntimeError(count)
        return count

    names = {"driverGetVersion": lambda: driver, "runtimeGetVersion": lambda: runtime}
    found = SimpleNamespace(getDeviceCount=devices, CUDARuntimeError=CUDARuntimeError, **names)
    return SimpleNamespace(cuda=SimpleNamespace(runtime=found), ndarray=type("ndarray", (), {}))


MISSING = {
    "no CuPy": (None, r"needs CuPy, which is not installed; .*pip install 'lazyflow\[cuda13\]'"),
    "no driver": (fake_cupy("cudaErrorNoDevice: none", 0), r"no CUDA driver \(cudaErrorNoDevice: none\).*CUDA 13"),
    "an old driver": (
        fake_cupy("cudaErrorInsufficientDriver: old", 12040),
        r"built; the driver here is for CUDA 12 .*update the driver, or .*lazyflow\[cuda12\]",
    ),
    "no device": (fake_cupy("cudaErrorNoDevice: none", 13000), "this machine shows none .*CUDA_VISIBLE_DEVICES"),
    "an empty list": (fake_cupy(0, 13000), "this machine shows none .*CUDA_VISIBLE_DEVICES"),
}


@pytest.fixture
def forgotten():
    """What was found out about CuPy counts neither in here nor afterwards."""
    device._cupy.cache_clear()
    yield
    device._cupy.cache_clear()


@pytest.mark.host
@pytest.mark.parametrize("name", MISSING)
def test_what_is_missing_is_said(name, monkeypatch, forgotten):
    cupy, message = MISSING[name]
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    for ask in (lambda: lf.using(device="cuda"), lambda: lf.Parameter([1.0]).to("cuda:0")):
        with pytest.raises(lf.DeviceError, match=message):
            ask()
        with pytest.raises(lf.DeviceError, match="or use device='cpu'"):
            ask()


@pytest.mark.host
def test_a_device_too_many(monkeypatch, forgotten):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(1, 13000))
    with pytest.raises(lf.DeviceError, match=r"'cuda:1': this machine has 1 GPU"):
        lf.using(device="cuda:1")


@pytest.mark.host
def test_cupy_that_does_not_load(monkeypatch, forgotten):
    monkeypatch.delitem(sys.modules, "cupy", raising=False)

    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "cupy":
                raise ImportError("libcublas.so.13: cannot open shared object file")

    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(lf.DeviceError, match=r"does not load: libcublas.so.13.*lazyflow\[cuda13\]"):
        lf.using(device="cuda:0")
