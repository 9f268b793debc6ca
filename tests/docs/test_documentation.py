import ast
import importlib
import inspect
import pkgutil
import re
import shlex
from pathlib import Path

import pytest
import typer

import rewarddance
from rewarddance.cli.config import markdown_table
from rewarddance.cli.main import app
from rewarddance.config.fields import describe_fields
from rewarddance.config.kinds import CONFIG_KINDS

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def blocks_of(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def verbs() -> dict[str, list[str]]:
    """Every command of the program with its options."""
    found: dict[str, list[str]] = {}

    def collect(command, words: tuple[str, ...]) -> None:
        for name, child in getattr(command, "commands", {}).items():
            collect(child, (*words, name))
        if not getattr(command, "commands", {}):
            found[" ".join(words)] = [option for parameter in command.params for option in parameter.opts]

    collect(typer.main.get_command(app), ())
    return found


def commands_shown() -> list[tuple[str, str]]:
    shown = []
    for page in PAGES:
        for block in blocks_of(page, "bash"):
            lines = (line.split("  #")[0].strip() for line in block.splitlines())
            shown += [(page.name, line) for line in lines if "rewarddance " in line]
    return shown


def public_metrics() -> list[str]:
    package = importlib.import_module("rewarddance.metrics")
    names = []
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"rewarddance.metrics.{info.name}")
        functions = inspect.getmembers(module, inspect.isfunction)
        names += [name for name, value in functions if not name.startswith("_") and value.__module__ == module.__name__]
    return sorted(set(names))


@pytest.mark.parametrize("verb", verbs())
def test_a_command_is_documented(verb: str):
    assert re.search(rf"^## `rewarddance {verb}[` ]", (ROOT / "docs" / "commands.md").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("kind", CONFIG_KINDS)
def test_the_keys_of_a_config_are_documented_as_they_are(kind: str):
    table = markdown_table(describe_fields(CONFIG_KINDS[kind]))

    assert table in (ROOT / "docs" / "configuration.md").read_text(), f"paste `config show {kind} --markdown`"


@pytest.mark.parametrize("name", public_metrics())
def test_a_metric_is_documented(name: str):
    # By its bare name or with its module: `metrics.agreement.win_rate`.
    assert re.search(rf"`(\w+\.)*{name}`", (ROOT / "docs" / "metrics.md").read_text())


@pytest.mark.parametrize(("page", "line"), commands_shown())
def test_a_command_in_the_docs_exists_with_its_options(page: str, line: str):
    words = shlex.split(line[line.index("rewarddance ") :])[1:]
    known = verbs()
    verb = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]

    assert verb in known, f"{page}: {line}"
    unknown = [word for word in words if word.startswith("--") and word not in known[verb]]
    assert unknown == [], f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_that_are_mentioned_exist(page: Path):
    missing = [name for name in re.findall(r"recipes/[\w.]+\.yaml", page.read_text()) if not (ROOT / name).exists()]

    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path):
    targets = re.findall(r"\]\(([^)#\s]+)\)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]

    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_docs_compiles_and_names_what_exists(page: Path):
    for block in blocks_of(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rewarddance"):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), block
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "rewarddance":
                assert node.attr in rewarddance.__all__, block


@pytest.mark.parametrize("block", [one for one in blocks_of(ROOT / "docs/python.md", "python") if "runs/" not in one])
def test_python_that_needs_no_trained_model_runs_as_written(block: str):
    exec(block, {"__name__": "as_written"})


def test_the_first_screen_shows_the_two_commands():
    first_screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:20])

    assert "make demo" in first_screen
    assert "make test" in first_screen
