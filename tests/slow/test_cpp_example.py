"""The C++ example, built and run: its clusters are Python's. `make test-rtx` has OpenVINO, whose wheel has the C++ headers."""

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from geal_edge.export.exporter import ExportOptions, export
from geal_edge.models.preprocess import resize
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.frame import Frame
from geal_edge.runtime.observer import Silent
from geal_edge.runtime.pipeline import clusters_of_image
from geal_edge.runtime.sources import open_source
from tests.tiny import tiny_weights

OPENVINO = find_spec("openvino")
pytestmark = pytest.mark.skipif(OPENVINO is None, reason="needs OpenVINO: pip install 'geal-edge[openvino]'")

SOURCE = Path(__file__).parents[2] / "examples" / "cpp" / "clusters.cpp"
FP16_STEP = 2.0**-11
"""What rounding to fp16 alone may change; OpenVINO on a CPU leaves the rounding of the tokens out."""


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    compiler = shutil.which("g++")
    assert OPENVINO is not None
    (folder,) = map(Path, OPENVINO.submodule_search_locations or [])
    libraries = sorted((folder / "libs").glob("libopenvino.so*"))
    if compiler is None or not libraries or not (folder / "include" / "openvino" / "openvino.hpp").is_file():
        pytest.skip(f"needs g++ ({compiler}), and OpenVINO's C++ headers and library in {folder}")
    built: Path = tmp_path_factory.mktemp("cpp") / "clusters"
    words: list[str | Path] = [compiler, "-O2", "-std=c++17", "-Wall", "-Wextra", "-Werror", SOURCE, "-o", built]
    where: list[str | Path] = ["-isystem", folder / "include", libraries[0], f"-Wl,-rpath,{folder / 'libs'}"]
    subprocess.run([*words, *where], check=True)
    return built


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    options = ExportOptions(width=160, height=96, clusters=True)
    drive = open_source("drawn:0:8")
    return export(tiny_weights(), tmp_path_factory.mktemp("b") / "b", options, check=drive, watch=Silent()).bundle


def ppm(image) -> bytes:
    height, width, _ = image.shape
    pixels: bytes = image.tobytes()
    return b"P6\n# drawn\n%d %d\n255\n" % (width, height) + pixels


def test_the_clusters_of_the_cpp_example_are_pythons(program, bundle, tmp_path):
    frames = [f.image for f in open_source("drawn:3:6").frames() if isinstance(f, Frame)]
    differences = []
    with Encoder(bundle, OrtCpu(bundle.graph, threads=1)) as encoder:
        for frame in frames:
            image = resize(frame, 160, 96, bundle.manifest.resize)
            (tmp_path / "frame.ppm").write_bytes(ppm(image))
            said = subprocess.run(
                [program, bundle.graph, tmp_path / "frame.ppm", tmp_path / "clusters.f32"],
                check=True, capture_output=True, text=True,
            ).stdout  # fmt: skip
            expected = clusters_of_image(image, encoder)
            found = np.fromfile(tmp_path / "clusters.f32", np.float32).reshape(-1, 64)
            sizes = [f"  {row}: {len(expected.patches_of(row))} patches" for row in range(len(expected.rows))]
            assert said.splitlines() == [f"{len(expected.rows)} clusters of 64 numbers", *sizes]
            differences.append(float(np.abs(found - expected.rows.astype(np.float32)).max()))
    print(f"largest difference of one number over {len(frames)} frames: {max(differences):.1e}")
    assert max(differences) <= FP16_STEP


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"P5\n1 1\n255\n0", "no binary PPM"), (b"P6\n2 2\n255\n0", "cut off"), (b"P6\n1 1\n255\n012", "size")],
)
def test_a_frame_that_is_none_is_refused_in_one_line(program, bundle, tmp_path, data, words):
    (tmp_path / "frame.ppm").write_bytes(data)
    ended = subprocess.run([program, bundle.graph, tmp_path / "frame.ppm"], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert words in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
