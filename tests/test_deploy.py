"""The images under deploy/docker: what can be known of them without building one."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
