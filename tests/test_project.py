"""The files that name versions agree with each other."""

import ast
import configparser
import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import astrodeblend

ROOT = Path(__file__).parents[1]
OPTIONAL = {"btk", "galsim", "jax", "numpyro", "regions", "scarlet2", "sep", "tensorboard"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def lines(text):
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def pins(text):
    """Return {name: version} of the lines ``name==version``."""
    found = [line.split("==") for line in lines(text) if "==" in line]
    return {canonicalize_name(name): version for name, version in found}


CONSTRAINTS = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))


def test_constraints_pin_every_dependency_within_its_range():
    extras = PROJECT["optional-dependencies"].values()
    for text in [*PROJECT["dependencies"], *(text for extra in extras for text in extra)]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(CONSTRAINTS[canonicalize_name(requirement.name)])


def test_what_the_package_imports_is_declared():
    imported = set()
    for path in Path(astrodeblend.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.partition(".")[0])
    distributions = {"PIL": "pillow", "skimage": "scikit-image", "yaml": "pyyaml"}
    distributions |= {"lazy_loader": "lazy-loader", "mpl_toolkits": "matplotlib"}
    needed = imported - sys.stdlib_module_names - {"astrodeblend", *OPTIONAL}
    declared = {Requirement(text).name for text in PROJECT["dependencies"]}
    assert {distributions.get(name, name) for name in needed} == declared


def test_oldestdeps_are_the_lower_bounds():
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    tested = pins(tox["testenv:oldestdeps"]["deps"])
    for text in PROJECT["dependencies"]:
        requirement = Requirement(text)
        (bound,) = requirement.specifier
        assert bound.operator == ">="
        if requirement.name == "torch":
            assert tested["torch"] == CONSTRAINTS["torch"]
        else:
            assert re.fullmatch(rf"{re.escape(bound.version)}(\.0)*", tested[requirement.name])


def test_pre_commit_runs_the_tested_ruff():
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"ruff==([\d.]+)", text)) == {CONSTRAINTS["ruff"]}
