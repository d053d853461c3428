"""The pages under docs/targets and deploy/README.md: commands that exist, links that lead somewhere."""

import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from geal_edge.cli.app import app

ROOT = Path(__file__).parent.parent
PAGES = [*sorted((ROOT / "docs" / "targets").glob("*.md")), ROOT / "deploy" / "README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_on_a_page_exists_with_its_options(page: Path) -> None:
    commands: Any = get_command(app)
    found = re.findall(r"geal-edge(?::\w+)? ([a-z]+)((?: [^\n`#(]*(?:\\\n)?)*)", page.read_text())
    for name, words in found:
        if name not in commands.commands:
            assert not words.lstrip().startswith("-"), f"{name}{words}"
            continue
        options = {option for parameter in commands.commands[name].params for option in parameter.opts}
        asked = {word.split("=")[0] for word in words.split() if word.startswith("--")}
        assert asked <= options, f"{name}{words}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_extra_on_a_page_exists_and_goes_with_the_others(page: Path) -> None:
    project = (ROOT / "pyproject.toml").read_text()
    conflicts = [
        set(re.findall(r'extra = "(\w+)"', line)) for line in project.splitlines() if line.count("extra =") == 2
    ]
    assert {"cpu", "gpu"} in conflicts
    for group in re.findall(r"'geal-edge\[([\w,-]+)\]'", page.read_text()):
        extras = set(group.split(","))
        assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras), group
        assert not any(conflict <= extras for conflict in conflicts), group


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_on_a_page_leads_to_a_file(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / link).exists(), link
