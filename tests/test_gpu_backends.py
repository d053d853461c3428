"""What the NVIDIA backends say where they cannot run."""

import shutil
import subprocess
import warnings

import pytest

from geal_edge.errors import BackendError
from geal_edge.runtime.backends.driver import LIBRARY, Driver, probe, require_cuda
from geal_edge.runtime.backends.ort import onnxruntime
from geal_edge.runtime.backends.ortgpu import OrtCuda, OrtTensorRt, require_one_wheel

DRIVER = Driver(cuda=(12, 6), gpu="a GPU", compute_capability=(8, 7))


def has_gpu():
    try:
        probe()
    except BackendError:
        return False
    return True


no_gpu = pytest.mark.skipif(has_gpu(), reason="says what is said without a GPU")
cpu_wheel = pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime().get_available_providers(), reason="needs the ONNX Runtime for CPUs"
)


@cpu_wheel
@pytest.mark.parametrize("name", ["ort-cuda", "ort-tensorrt"])
def test_the_onnx_runtime_for_cpus_has_no_such_provider_and_the_command_is_named(tiny_bundle, tmp_path, name):
    backend = OrtCuda(tiny_bundle.graph) if name == "ort-cuda" else OrtTensorRt(tiny_bundle.graph, cache=tmp_path)
    with pytest.raises(BackendError, match=rf"{name}.*is built without .*pip install 'geal-edge\[gpu\]'"):
        backend.__enter__()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
@no_gpu
def test_a_provider_that_onnx_runtime_leaves_out_in_silence_is_an_error(tiny_bundle, capfd, provider):
    class Asking(OrtCuda):
        def _providers(self, ort):
            return [(provider, {})]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BackendError, match=f"fell back from {provider} to CPUExecutionProvider"):
            Asking(tiny_bundle.graph).__enter__()
    assert capfd.readouterr().out == ""  # `--json` may be going there


def test_both_wheels_of_onnx_runtime_at_once_are_named_with_the_way_out(tmp_path, monkeypatch):
    for name in ("onnxruntime", "onnxruntime_gpu"):
        folder = tmp_path / f"{name}-1.31.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.31.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendError, match="each overwrites files of the other") as said:
        require_one_wheel()
    assert "both onnxruntime 1.31.0 and onnxruntime-gpu 1.31.0" in str(said.value)
    assert "pip uninstall -y onnxruntime onnxruntime-gpu; pip install 'geal-edge[gpu]'" in str(said.value)


def test_one_wheel_is_as_it_should_be():
    require_one_wheel()


def test_a_driver_that_is_missing_is_told_before_anything_of_cuda_is_touched():
    with pytest.raises(BackendError, match="no NVIDIA driver on this machine"):
        probe("libcuda-that-nobody-has.so.1")


@no_gpu
def test_this_machine_has_no_gpu_and_the_probe_says_so():
    with pytest.raises(BackendError, match=f"driver|{LIBRARY}"):
        probe()


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler for a library that answers as a driver does")
@pytest.mark.parametrize(
    ("init", "count", "words"), [(100, 1, "cuInit says 100"), (0, 0, "shows no GPU"), (0, 1, None)]
)
def test_the_probe_believes_what_the_driver_answers(tmp_path, init, count, words):
    library = tmp_path / "libfake.so"
    (tmp_path / "fake.c").write_text(
        f"""
        #include <string.h>
        int cuInit(unsigned flags) {{ return {init}; }}
        int cuDeviceGetCount(int *n) {{ *n = {count}; return 0; }}
        int cuDriverGetVersion(int *v) {{ *v = 12060; return 0; }}
        int cuDeviceGet(int *d, int i) {{ *d = i; return 0; }}
        int cuDeviceGetName(char *name, int n, int d) {{ strncpy(name, "a GPU", n); return 0; }}
        int cuDeviceGetAttribute(int *v, int a, int d) {{ *v = a == 75 ? 8 : 7; return 0; }}
        """
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "fake.c"], check=True)
    if words is None:
        assert probe(str(library)) == DRIVER
        return
    with pytest.raises(BackendError, match=words):
        probe(str(library))


def test_a_driver_that_is_too_old_for_the_wheel_is_named_with_both_versions():
    with pytest.raises(BackendError, match="built for CUDA 13, this driver runs CUDA 12 at most"):
        require_cuda(DRIVER, "13.0", "ONNX Runtime 1.31.1")
    for fits in ("12.8", "11.8", None):
        require_cuda(DRIVER, fits, "ONNX Runtime")


def test_a_driver_says_what_an_engine_depends_on():
    assert str(DRIVER) == "a GPU (compute capability 8.7, driver for CUDA 12.6)"
