"""docs/from-raven.md shows code of programs that other tests here run, to the letter."""

import importlib.util
import re
import subprocess
import sys
import textwrap

import pytest

from tests.support.bugsink import ROOT

PAGE = (ROOT / "docs" / "from-raven.md").read_text()
BLOCK = re.compile(r"(?:<!-- (\S+) -->\n)?```(\w*)\n(.*?)```\n", re.DOTALL)
BLOCKS = BLOCK.findall(PAGE)
RUN_BY = {"examples": "test_examples.py", "tests": "test_frameworks.py"}
GONE = ["raven.contrib.django.celery", "raven.contrib.django.urls"]
INTEGRATIONS = [
    *(
        f"raven.contrib.{name}"
        for name in ("awslambda", "celery", "flask", "tornado", "zconfig", "zope")
    ),
    *(f"raven.contrib.django.{name}" for name in ("client", "handlers", "middleware", "models")),
]
IMPORT_EACH = """
import importlib, sys
from django.conf import settings
settings.configure()
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
        print(name, "imports")
    except ImportError as error:
        print(name, error.name)
"""


def indented_parts(source: str, lines: int) -> set[str]:
    """Each run of so many lines, as it would stand by itself."""
    all_lines = source.splitlines(keepends=True)
    runs = (all_lines[start : start + lines] for start in range(len(all_lines)))
    return {textwrap.dedent("".join(run)) for run in runs}


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block_is_a_part_of_the_program_it_names(number: int) -> None:
    path, _, text = BLOCKS[number]
    assert path, f"no program is named above:\n{text}"
    source = (ROOT / path).read_text()
    assert text in indented_parts(source, len(text.splitlines()))


@pytest.mark.parametrize("path", sorted({path for path, _, _ in BLOCKS}))
def test_program_is_run_by_a_test(path: str) -> None:
    tests = (ROOT / "tests" / "e2e" / RUN_BY[path.partition("/")[0]]).read_text()
    name = path.rpartition("/")[2].removesuffix(".py")
    assert f'"{name}"' in tests


def test_page_has_blocks_and_its_links_lead_somewhere() -> None:
    assert len(BLOCKS) >= 15
    assert PAGE.count("```") == 2 * len(BLOCKS)
    for link in re.findall(r"\]\(([^)#:]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link


def test_transports_of_the_table_exist_in_both_packages() -> None:
    named = re.findall(r"^\| `(\w+)\.(\w+)`", PAGE, flags=re.MULTILINE)
    assert len(named) >= 6
    for module, name in named:
        for package in ("raven", "raven_spool"):
            found = importlib.import_module(f"{package}.transport.{module}")
            assert hasattr(found, name), f"{package}.transport.{module}.{name}"


def test_integrations_that_import_are_those_the_page_says() -> None:
    assert importlib.util.find_spec("django.conf")
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORT_EACH, *INTEGRATIONS, *GONE],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines() == [
        *(f"{name} imports" for name in INTEGRATIONS),
        "raven.contrib.django.celery celery.decorators",
        "raven.contrib.django.urls django.conf.urls.defaults",
    ]
    assert all(name in PAGE for name in GONE)
