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
