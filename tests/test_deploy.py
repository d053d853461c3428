"""What lies under deploy/: what can be known of images without building one, and of units without a systemd that runs."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from geal_edge.runtime.live.opened import FORMS
from geal_edge.runtime.settings.sections import KEYS
from scripts.config_reference import PAGES, written_anew

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "deploy" / "docker").glob("Dockerfile.*"))


def instructions(file: Path) -> list[tuple[str, str]]:
    """(instruction, the rest) with continued lines joined and comments left out."""
    text = re.sub(r"^\s*#.*\n", "", file.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def stages(file: Path) -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for word, rest in instructions(file):
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest))
    return found


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `docker build .` would send: the tracked files that .dockerignore lets through."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed: there is no list of files")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"  # everything that is not named stays out, spools and weights above all
    named = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    folder = tmp_path_factory.mktemp("context")
    for name in filter(None, listed.stdout.split("\0")):
        if any(name == rule or name.startswith(f"{rule}/") for rule in named):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    if not (folder / "pyproject.toml").exists():
        pytest.skip("not a git checkout of geal-edge: there is no list of files")
    assert all((folder / name).exists() for name in named)
    return folder


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.suffix)
def test_hadolint_finds_nothing(file: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("needs hadolint, of the extra `dev` on x86_64")
    said = subprocess.run([hadolint, "--no-color", file], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (0, "")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.suffix)
def test_an_image_stands_on_a_named_version_and_does_not_run_as_root(file: Path) -> None:
    for stage in stages(file):
        base = stage[0][1].split()[0]
        assert re.fullmatch(r"[\w./-]+:[\w.-]*\d+\.\d+[\w.-]*", base), base
    last = stages(file)[-1]
    users = [rest for word, rest in last if word == "USER"]
    assert users == ["10001"]
    assert [word for word, _ in last][-3:] == ["WORKDIR", "ENTRYPOINT", "CMD"]
    assert ("ENTRYPOINT", '["geal-edge"]') in last
    assert not any(word == "ADD" for word, _ in instructions(file))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.suffix)
def test_an_image_copies_what_is_there_and_installs_extras_that_exist(file: Path, context: Path) -> None:
    project = (ROOT / "pyproject.toml").read_text()
    installed = [
        extra
        for _, rest in instructions(file)
        for group in re.findall(r"/src\[([\w,]+)\]", rest)
        for extra in group.split(",")
    ]
    assert installed
    for extra in installed:
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra
    for word, rest in instructions(file):
        if word == "COPY" and not rest.startswith("--from="):
            *sources, _ = rest.split()
            assert all((context / source).exists() for source in sources)
    for _, rest in instructions(file):
        for name in re.findall(r"/src/([\w./-]+)", rest):
            assert (context / name).is_file(), name


def test_the_lock_becomes_constraints_that_pip_can_read(context: Path) -> None:
    """The images leave the hashes out with sed; what remains must be one requirement a line."""
    for lock in ("test.txt", "numpy1.txt"):
        found = subprocess.run(
            ["sed", "-e", "/--hash/d", "-e", r"s/ \\$//", context / "requirements" / lock],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        lines = [line for line in found.stdout.splitlines() if line and not line.lstrip().startswith("#")]
        assert len(lines) > 20
        assert all(re.fullmatch(r"[\w.-]+(\[[\w,-]+\])?==[\w.+]+( ; .+)?", line) for line in lines)


def test_the_package_can_be_built_from_what_an_image_gets(context: Path, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path],
        cwd=context,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.iterdir()
    assert wheel.name.startswith("geal_edge-")


UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))


def systemd_analyze(*words: object) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    command = ["systemd-analyze", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_finds_nothing_wrong_with_a_unit(unit: Path, tmp_path: Path) -> None:
    program = "/opt/geal-edge/current/bin/geal-edge"
    assert program in unit.read_text()
    here = tmp_path / unit.name  # where that program is not installed, any other that can be started
    here.write_text(unit.read_text().replace(program, "/bin/true"))
    said = systemd_analyze("verify", "--man=no", "--recursive-errors=no", here)
    assert (said.returncode, [line for line in said.stderr.splitlines() if unit.name in line]) == (0, [])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_is_as_little_exposed_as_the_page_says(unit: Path) -> None:
    said = systemd_analyze("security", "--offline=true", "--no-pager", unit)
    found = re.search(rf"exposure level for {unit.name}: ([\d.]+) OK", said.stdout)
    assert found is not None, said.stdout + said.stderr
    assert f"`{unit.name}` {found[1]}" in (ROOT / "docs" / "service.md").read_text()


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_may_ask_whether_the_clock_is_synchronised_and_not_set_it(unit: Path) -> None:
    """`make test-systemd` asks; here: what systemd.exec(5) says of these lines, in their order."""
    lines = unit.read_text().splitlines()
    filters = [line.partition("=")[2] for line in lines if line.startswith("SystemCallFilter=")]
    assert filters == ["@system-service", "~@privileged", "adjtimex clock_adjtime clock_adjtime64"]
    assert "ProtectClock=yes" not in lines  # it forbids these calls, whatever they are asked
    assert "CapabilityBoundingSet=" in lines  # without CAP_SYS_TIME


def test_the_unit_starts_what_the_page_installs() -> None:
    upload, unit = (unit.read_text() for unit in UNITS)
    page = (ROOT / "docs" / "service.md").read_text()
    for text, word in ((unit, "run"), (upload, "upload")):
        (command,) = re.findall(r"^ExecStart=(.*)$", text, flags=re.MULTILINE)
        assert command == f"/opt/geal-edge/current/bin/geal-edge {word} --config /etc/geal-edge/geal-edge.toml"
    for path in ("/opt/geal-edge/current", "/etc/geal-edge/geal-edge.toml", "/var/lib/geal-edge"):
        assert path in page
    (watchdog,) = re.findall(r"^WatchdogSec=(\d+)$", unit, flags=re.MULTILINE)
    assert f"`WatchdogSec={watchdog}`" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_reference_is_that_of_the_code_behind_it(page: Path) -> None:
    assert page.read_text() == written_anew(page), "run: python scripts/config_reference.py"


def test_every_form_of_a_live_source_stands_where_a_configuration_is_explained() -> None:
    example = " ".join((ROOT / "deploy" / "geal-edge.example.toml").read_text().split()).replace(" # ", " ")
    for form in re.split(r", | and ", FORMS):
        assert form in KEYS["source.uris"].meaning
        assert form in example


def test_no_unit_takes_the_shared_memory_away_through_which_frames_come() -> None:
    for unit in UNITS:  # of one user, which is the sender's as well
        assert "RemoveIPC=no" in unit.read_text().splitlines()
