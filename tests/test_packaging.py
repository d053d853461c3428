"""What is installed and what is imported: the wheel's content, the layers, and a runtime that stays light."""

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

import geal_edge

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "geal_edge"

LAYERS = ("cli", "export", "runtime", "models")
"""Each folder may import itself and what stands to its right; errors.py and config.py are below all of them."""

HEAVY = (
    "PIL",
    "cuda",
    "cv2",
    "huggingface_hub",
    "lz4",
    "mcap",
    "onnx",
    "onnxruntime",
    "openvino",
    "safetensors",
    "scipy",
    "sklearn",
    "torch",
    "zstandard",
)
"""Packages that only an extra brings, or that cost a vehicle seconds and memory to import."""


def test_the_wheel_holds_the_files_of_the_package_and_nothing_else(wheel: Path, tracked: list[str]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(name for name in archive.namelist() if ".dist-info/" not in name)

    assert names == [name for name in tracked if name.startswith("geal_edge/")]


def test_the_wheel_says_that_it_is_typed_and_carries_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (licence,) = [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]

        assert "geal_edge/py.typed" in names
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()


def test_the_wheel_has_the_version_that_the_package_tells(metadata: Message) -> None:
    assert metadata["Name"] == "geal-edge"
    assert metadata["Version"] == geal_edge.__version__


def test_the_core_needs_numpy_and_typer_and_before_python_311_tomli(metadata: Message) -> None:
    core = [need for need in metadata.get_all("Requires-Dist", []) if "extra ==" not in need]

    assert sorted(core) == ["numpy>=1.21", "tomli>=2; python_version < '3.11'", "typer>=0.19"]


@pytest.mark.parametrize("layer", ["geal_edge.runtime", "geal_edge.models", "geal_edge.cli"])
def test_a_layer_imports_without_the_extras(layer: str) -> None:
    """Every module of the layer, in a fresh interpreter in which the heavy packages cannot be found."""
    found = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL, layer, *HEAVY], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == [], "asked for while importing"


def test_layers_import_in_one_direction() -> None:
    upward = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for module in _own_imports(path)
        if _height(module) > _height(".".join(path.relative_to(ROOT).with_suffix("").parts))
    ]

    assert upward == []


def test_errors_import_nothing_of_ours_and_config_only_errors() -> None:
    assert list(_own_imports(PACKAGE / "errors.py")) == []
    assert set(_own_imports(PACKAGE / "config.py")) <= {"geal_edge.errors"}


def test_nothing_that_is_read_can_become_code() -> None:
    """No pickle (a checkpoint's is read by models/unpickle.py, which builds nothing), no shell, no text that is run."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {what}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_bytes(), filename=os.fspath(path)))
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Call) and (what := _becomes_code(node))
    ]

    assert found == []


def _becomes_code(node: ast.Import | ast.ImportFrom | ast.Call) -> str | None:
    """What of it may run what it is given.

    >>> [_becomes_code(ast.parse(text).body[0].value) for text in ("np.load(f)", "run(words, shell=True)", "re.compile(text)")]
    ['np.load without allow_pickle=False', 'a shell', None]
    """
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)]
        return next((name for name in names if name.split(".")[0] in _EXECUTING_MODULES), None)
    called = ast.unparse(node.func)
    options = {option.arg: ast.unparse(option.value) for option in node.keywords}
    if called in ("np.load", "numpy.load") and options.get("allow_pickle") != "False":
        return "np.load without allow_pickle=False"
    if options.get("shell", "False") != "False" or called in ("os.system", "os.popen", "subprocess.getoutput"):
        return "a shell"
    return called if called in ("eval", "exec", "compile", "__import__") else None


_EXECUTING_MODULES = ("pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "code", "runpy")


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """The repository's files, as git lists them."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed: there is no list of files to compare with")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = sorted(name for name in listed.stdout.split("\0") if name)
    if "geal_edge/__init__.py" not in names:
        pytest.skip("not a git checkout of geal-edge: there is no list of files to compare with")
    return names


@pytest.fixture(scope="module")
def wheel(tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from exactly the tracked files, by the locked backend, with no network."""
    export = tmp_path_factory.mktemp("export")
    for name in tracked:
        (export / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, export / name)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", "out"],
        cwd=export,
        check=True,
        capture_output=True,
    )
    (built,) = (export / "out").iterdir()
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


_IMPORT_ALL = """
import importlib, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[2:]:
            print(name)
            raise ModuleNotFoundError(f"No module named {name!r} (hidden by the test)", name=name)

sys.meta_path.insert(0, Absent())
layer = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(getattr(layer, "__path__", []), layer.__name__ + "."):
    importlib.import_module(module.name)
"""


def _own_imports(path: Path) -> Iterator[str]:
    """Modules of geal_edge that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_bytes(), filename=os.fspath(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("geal_edge."))
        elif isinstance(node, ast.ImportFrom) and node.module == "geal_edge":
            yield from (f"geal_edge.{alias.name}" for alias in node.names if alias.name != "__version__")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("geal_edge."):
            yield str(node.module)


def _height(module: str) -> int:
    """How high a module stands: cli above export above runtime above models above the rest.

    >>> _height("geal_edge.cli.app") > _height("geal_edge.runtime.spool") > _height("geal_edge.errors")
    True
    """
    folder = module.split(".")[1].replace("__main__", "cli")  # `python -m geal_edge` is the command line's other door
    return len(LAYERS) - LAYERS.index(folder) if folder in LAYERS else 0
