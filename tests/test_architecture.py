import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "rewarddance"
TORCH_FREE = {"core", "config", "data", "metrics", "reports"}
FORMULAS = {"objectives", "metrics"}
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def existing(names: set[str]) -> set[str]:
    return {f"rewarddance.{name}" for name in names if (PACKAGE / name / "__init__.py").exists()}


def modules_of(package: str) -> list[str]:
    paths = sorted((PACKAGE / package).rglob("*.py"))
    return [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in paths]


def test_every_package_that_must_not_import_torch_is_watched():
    assert set(CONTRACTS[1]["source_modules"]) == existing(TORCH_FREE)


def test_every_package_of_formulas_is_watched():
    assert set(CONTRACTS[2]["source_modules"]) == existing(FORMULAS)


def test_the_table_of_the_architecture_page_is_the_one_that_is_checked():
    rows = re.findall(r"^\| \d \| (.+?) \|", (ROOT / "ARCHITECTURE.md").read_text(), flags=re.MULTILINE)
    checked = [re.findall(r"\w+", layer) for layer in CONTRACTS[0]["layers"]]

    assert [re.findall(r"\w+", row) for row in rows] == checked


@pytest.mark.parametrize("package", sorted(TORCH_FREE))
def test_a_package_without_torch_imports_without_it(package: str):
    # What import-linter sees is source; this also sees what other libraries pull in.
    modules = [module for module in modules_of(package) if module != "rewarddance"]
    if not modules:
        pytest.skip("no file yet")
    program = f"import sys, importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
    program += "print([name for name in ('torch', 'transformers', 'diffusers') if name in sys.modules])"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert finished.stdout.strip() == "[]"


def test_no_file_is_a_dumping_ground():
    names = {path.stem for path in PACKAGE.rglob("*") if path.suffix in ("", ".py")}

    assert names.isdisjoint({"utils", "util", "common", "helpers", "helper", "misc"})


def test_no_file_is_longer_than_400_lines():
    long = {path.name: lines for path in PACKAGE.rglob("*.py") if (lines := len(path.read_text().splitlines())) > 400}

    assert long == {}
