"""The architecture holds: imports point down, and torch and astropy stay where they belong."""

import ast
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import astrodeblend

PACKAGE = Path(astrodeblend.__file__).parent

# Top to bottom: a module imports only from those below it. docs/architecture.rst draws it.
LAYERS = [
    "cli",
    "demo",
    "page",
    "finish",
    "cards",
    "btk",
    "export",
    "score",
    "blends",
    "training",
    "deblender",
    "walk",
    "results",
    "plot",
    "measure",
    "light",
    "detect",
    "stamps",
    "weights",
    "field_inference",
    "inference",
    "calibration",
    "images",
    "sky",
    "scaling",
    "flags",
    "simulate",
    "networks",
    "texture",
    "metrics",
    "files",
]
WITHOUT_TORCH = [
    "calibration",
    "detect",
    "files",
    "flags",
    "images",
    "light",
    "measure",
    "metrics",
    "page",
    "plot",
    "results",
    "scaling",
    "sky",
    "stamps",
    "texture",
]
WITHOUT_ASTROPY = [
    "calibration",
    "export",
    "files",
    "flags",
    "inference",
    "light",
    "metrics",
    "networks",
    "scaling",
    "simulate",
    "stamps",
    "texture",
    "training",
    "weights",
]
ASTROPY_FAMILY = ["astropy", "photutils", "reproject"]

MODULES = sorted(
    path.relative_to(PACKAGE).with_suffix("")
    for path in PACKAGE.rglob("*.py")
    if path.relative_to(PACKAGE).parts[0] not in ("__init__.py", "__main__.py", "_version.py")
)


def imports_of(module):
    """Yield the dotted name of everything a module imports, functions included."""
    path = (PACKAGE / module).with_suffix(".py")
    package = ("astrodeblend", *module.parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            dotted = ".".join([*base, *([node.module] if node.module else [])])
            # "from astrodeblend import images" names a module, "from .images import x" does too.
            yield from (f"{dotted}.{alias.name}" for alias in node.names)


def layers_used(module):
    """Return the layers that a module imports from, its own aside."""
    names = [name.split(".") for name in imports_of(module)]
    used = {parts[1] for parts in names if parts[0] == "astrodeblend" and len(parts) > 1}
    # "from astrodeblend import Deblender" is an import of deblender.
    return {astrodeblend._HOME.get(name, name) for name in used} & set(LAYERS) - {module.parts[0]}


def roots(module):
    return {name.partition(".")[0] for name in imports_of(module)}


def run(code, cwd):
    """Run Python code in a fresh interpreter and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_module_has_a_layer():
    assert {module.parts[0] for module in MODULES} == set(LAYERS), "LAYERS names each, in its place"


def test_the_documentation_draws_the_layers():
    docs = Path(__file__).parents[1] / "docs"
    page = (docs / "architecture.rst").read_text(encoding="utf-8")
    assert re.findall(r"^   \* - ``(\w+)``$", page, flags=re.MULTILINE) == LAYERS
    drawing = (docs / "_static" / "layers.svg").read_text(encoding="utf-8")
    assert set(re.findall(r'font-weight="bold">(\w+)<', drawing)) == set(LAYERS)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_point_down(module):
    layer = LAYERS.index(module.parts[0])
    upward = [used for used in layers_used(module) if LAYERS.index(used) < layer]
    assert not upward, f"{module} imports {upward} from above itself"


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_torch_and_astropy_stay_apart(module):
    used = roots(module)
    if module.parts[0] in WITHOUT_TORCH:
        assert "torch" not in used
    if module.parts[0] in WITHOUT_ASTROPY:
        assert used.isdisjoint(ASTROPY_FAMILY)


def test_the_check_sees_imports():
    """The tests above would pass on an empty list: make sure the parser finds what is there."""
    assert "torch" in roots(Path("networks/unet"))
    assert "numpy" in roots(Path("metrics"))
    assert "images" in layers_used(Path("deblender"))


def test_import_of_the_package_is_bare(tmp_path):
    code = (
        "import sys, astrodeblend, astrodeblend as a; a.__version__;"
        "print(*({'torch', 'astropy', 'numpy', 'skimage', 'matplotlib'} & set(sys.modules)))"
    )
    assert run(code, tmp_path) == ""


def test_no_torch_behind_an_import(tmp_path):
    code = (
        "import sys, importlib\n"
        f"for name in {WITHOUT_TORCH}:\n"
        "    importlib.import_module('astrodeblend.' + name)\n"
        "    if 'torch' in sys.modules: raise SystemExit(f'{name} imports torch')\n"
    )
    run(code, tmp_path)


def test_training_works_without_astropy(tmp_path):
    """A bare GPU machine has torch, numpy and scikit-image, and no astropy."""
    code = (
        "import sys, importlib\n"
        f"sys.modules.update(dict.fromkeys({ASTROPY_FAMILY}))\n"  # None makes their import fail
        f"for name in {WITHOUT_ASTROPY}: importlib.import_module('astrodeblend.' + name)\n"
    )
    run(code, tmp_path)


def test_help_imports_no_torch(tmp_path):
    code = (
        "import sys; from astrodeblend.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as stop: code = stop.code\n"
        "print(code, 'torch' in sys.modules)"
    )
    *text, last = run(code, tmp_path).splitlines()
    assert last == "0 False"
    assert any("deblend" in line for line in text)


def test_import_is_quick(tmp_path):
    """At most half a second on top of astropy.nddata, in the median of several runs."""

    def seconds(module):
        code = (
            f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
        )
        return float(run(code, tmp_path))

    run("import astropy.nddata, astrodeblend", tmp_path)  # the first one fills the disk's cache
    pairs = [(seconds("astrodeblend"), seconds("astropy.nddata")) for _ in range(3)]
    ours, astropys = (statistics.median(column) for column in zip(*pairs, strict=True))
    assert ours < astropys + 0.5


# What depends on the kind of an image is in scaling alone. Reading decides the kind, and files,
# cards and figures may name it.
KIND_ASKED = re.compile(r"isinstance\([^)]*\b(Picture|Flux)\b|\bnative\b|full_scale\"?\]? is ")


@pytest.mark.parametrize("module", [m for m in MODULES if m.parts[0] != "images"], ids=str)
def test_nobody_asks_for_the_kind_of_an_image(module):
    lines = (PACKAGE / module).with_suffix(".py").read_text(encoding="utf-8").splitlines()
    asked = [line.strip() for line in lines if KIND_ASKED.search(line)]
    assert module.parts[0] in ("scaling", "sky", "plot") or not asked
