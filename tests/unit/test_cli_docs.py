"""docs/cli.md and --help say the same."""

import re
from pathlib import Path

import click
import pytest

from raven_spool.cli.app import tool
from raven_spool.cli.exits import Exit

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = sorted(tool.commands)
COMMON = {"--spool", "--help", "-h"}


def read_options(name: str) -> list[click.Option]:
    return [one for one in tool.commands[name].params if isinstance(one, click.Option)]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name: str) -> None:
    assert tool.commands[name].help
    assert [option.name for option in read_options(name) if not option.help] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_stands_in_the_docs(name: str) -> None:
    names = {name for option in read_options(name) for name in option.opts} - COMMON
    assert {option for option in names if f"`{option}" not in SECTIONS[name]} == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_docs_name_no_other_option(name: str) -> None:
    documented = set(re.findall(r"(?<=`)--?[a-z][a-z-]*", SECTIONS[name]))
    assert documented - COMMON - {o for option in read_options(name) for o in option.opts} == set()


def test_the_docs_name_every_command_and_no_other() -> None:
    assert sorted(set(SECTIONS) - {"Exit codes"}) == COMMANDS
    assert "`--spool" in PAGE


def test_the_docs_name_every_exit_code() -> None:
    documented = re.findall(r"^\| (\d+) \|", SECTIONS["Exit codes"], re.MULTILINE)
    assert [int(code) for code in documented] == sorted(Exit)
