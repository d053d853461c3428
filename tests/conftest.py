"""What several tests need."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from geal_edge.cli.start import main
from geal_edge.export.exporter import ExportOptions, export_bundle
from geal_edge.models.bundle import Bundle
from geal_edge.runtime.backends.ort import OrtCpu
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.observer import Silent
from tests.tiny import tiny_weights


@pytest.fixture
def shared() -> Path:
    """The folder of sample data and trained weights beside the checkout; where it is absent, the test is skipped."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the shared sample data in {folder}")
    return folder


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What commands find out about this machine stays in the test's own folder."""
    monkeypatch.setenv("GEAL_EDGE_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)  # nor do runs leave a pulse where this login has its own
    return tmp_path / "state"


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A real bundle of a two-block ViT, 160 wide x 160 high, 100 patches: enough for K-Means to have something to do."""
    options = ExportOptions(width=160, height=160)
    bundle, _ = export_bundle(tiny_weights(), tmp_path_factory.mktemp("tiny") / "bundle", options, watch=Silent())
    return bundle


@pytest.fixture
def encoder(tiny_bundle: Bundle) -> Iterator[Encoder]:
    """The tiny bundle on the CPU, entered."""
    with Encoder(tiny_bundle, OrtCpu(tiny_bundle.graph, threads=1)) as ready:
        yield ready


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, str, str]]:
    """`cli("run", ...)` -> (exit code, stdout, stderr), through the same `main` as the console script."""

    def call(*words: object) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["geal-edge", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return call
