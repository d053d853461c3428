import inspect
import re
from pathlib import Path

from geal_edge import errors
from geal_edge.errors import GealEdgeError

LEAVES = [e for _, e in inspect.getmembers(errors, inspect.isclass) if issubclass(e, GealEdgeError)]


def test_every_exception_has_an_exit_code_of_its_own():
    codes = [error.exit_code for error in LEAVES]
    assert len(set(codes)) == len(codes)
    assert all(1 <= code <= 130 for code in codes)


def test_the_tree_at_the_top_of_the_file_names_all_of_them_with_their_codes():
    drawn = dict(re.findall(r"(\w+) +(\d+)  ", errors.__doc__ or ""))
    expected = {e.__name__: str(e.exit_code) for e in LEAVES if e is not errors.Interrupted}
    assert drawn == expected


def test_the_documented_exit_codes_are_the_real_ones():
    page = (Path(__file__).parents[1] / "docs" / "formats.md").read_text()
    table = page[page.index("## Exit codes") :]
    documented = {int(code) for code in re.findall(r"\| (\d+) \|", table)}
    # 1, 11 and 20 never end a command: the root is not raised, and a lost or gated frame is counted.
    assert documented == {0} | {e.exit_code for e in LEAVES} - {1, 11, 20}


def test_a_missing_library_is_told_with_what_brings_it_to_this_kind_of_machine(tmp_path, monkeypatch):
    absent = ModuleNotFoundError("No module named 'cv2'")
    monkeypatch.setattr(errors, "JETSON", str(tmp_path / "nv_tegra_release"))
    said = str(errors.missing_library("Video files are read with OpenCV", "OpenCV", absent))
    assert (
        said
        == "Video files are read with OpenCV, which is not installed. Install it with: pip install 'geal-edge[cpu]'"
    )
    broken = ImportError("libGL.so.1: cannot open shared object file")
    assert "which cannot be loaded (libGL.so.1: " in str(errors.missing_library("Read with OpenCV", "OpenCV", broken))

    (tmp_path / "nv_tegra_release").write_text("# R36 (release), REVISION: 4.3")
    ways: dict[errors.Library, str] = {
        "Pillow": "[jetpack6]",
        "OpenCV": "python3-opencv",
        "ONNX Runtime": "NVIDIA's own",
    }
    for library, way in ways.items():
        told = str(errors.missing_library("It needs it", library, absent))
        assert way in told
        assert "[cpu]" not in told
