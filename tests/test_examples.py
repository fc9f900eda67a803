"""The examples run from start to end."""

import ast
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from PIL import Image
from skimage.data import hubble_deep_field

EXAMPLES = Path(__file__).parents[1] / "examples"
OPTIONS = {
    "after_the_network.py": ["GALAXIES", "", "4"],
    "blends_per_second.py": ["--batch", "2"],
    "compare_marks.py": ["GALAXIES", "galaxyzoo", "--blends", "1", "--pairs", "1"],
    "fewer_bands.py": ["", "2"],
    "galaxy_kinds.py": ["", "smaller disk", "edge-on"],
    "isolated_galaxies.py": ["HUBBLE", "cut", "--number", "2", "--plot", "sheet.png"],
    "isolated_stamps.py": ["", "3"],
    "pinned_set.py": ["GALAXIES", "--few"],
    "train_fields.py": [
        "run", "out", "--blocks", "1", "--batch", "1", "--sizes", "32", "--spirals", "2",
    ],
    "real_blends.py": ["GALAXIES", "--number", "1"],
    "three_branches.py": ["GALAXIES", "--steps", "1", "--batch", "2", "--blends", "2"],
}  # fmt: skip


@pytest.mark.parametrize(
    "name", sorted({path.name for path in EXAMPLES.glob("*.py")} - {"train_packed.py"})
)
def test_example(name, galaxies, tmp_path, monkeypatch, capsys):
    given = {"GALAXIES": str(galaxies), "HUBBLE": "hubble.png"}
    options = [given.get(option, option) for option in OPTIONS.get(name, [])]
    monkeypatch.chdir(tmp_path)
    Image.fromarray(hubble_deep_field()[:400, :400]).save("hubble.png")
    monkeypatch.setattr(sys, "argv", [name, *options])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert capsys.readouterr().out.strip(), "an example prints what it found"


def test_real_blends_are_those_that_the_table_says(galaxies, tmp_path):
    folder = shutil.copytree(galaxies, tmp_path / "all")
    candidates = runpy.run_path(str(EXAMPLES / "real_blends.py"))["candidates"]
    assert len(candidates(folder)) == 8
    rows = ["file,split,blend_candidate", "galaxy0.jpg,test,1", "galaxy1.jpg,train,1"]
    rows += ["galaxy2.jpg,test,0", "galaxy3.jpg,test,1", "galaxy4.jpg,val,0"]
    (folder / "splits.csv").write_text("\n".join(rows))
    assert [path.stem for path in candidates(folder, "test")] == ["galaxy0", "galaxy3"]
    assert [path.stem for path in candidates(folder)] == ["galaxy0", "galaxy1", "galaxy3"]
    with pytest.raises(ValueError, match="no picture with blend_candidate = 1"):
        candidates(folder, "val")


def test_packed_pictures_are_trained_on_without_astropy(galaxies, tiny_model, tmp_path):
    names = sorted(path.name for path in shutil.copytree(galaxies, tmp_path / "all").iterdir())
    rows = [f"{name},{'val' if k < 2 else 'train'}" for k, name in enumerate(names)]
    (tmp_path / "all/splits.csv").write_text("\n".join(["file,split", *rows]))
    example = str(EXAMPLES / "train_packed.py")
    commands = (
        ["pack", "data.npz", "all", "--limit", "0.25"],
        ["run", "out", "--data", "data.npz", "--start", str(tiny_model), "--steps", "4",
         "--batch", "2", "--mirrored", "--burn-in", "0.5", "--minutes", "5", "--state", "state"],
    )  # fmt: skip
    code = (
        "import runpy, sys\n"
        "sys.modules |= dict.fromkeys(('astropy', 'photutils', 'matplotlib'))\n"
        f"for options in {commands!r}:\n"
        f"    sys.argv = [{example!r}, *options]\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(",") > 10  # names and values of the log
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "log.csv", "model.json", "model.safetensors", "validation.png",
    ]  # fmt: skip


TUTORIALS = sorted((EXAMPLES / "tutorials").glob("plot_*.py"))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_compiles_and_begins_with_a_title(path):
    """The documentation runs them all."""
    tree = ast.parse(path.read_text("utf-8"))
    title, line = ast.get_docstring(tree).splitlines()[:2]
    assert line == "=" * len(title)


def test_the_first_tutorial_runs(tmp_path, monkeypatch, capsys):
    """The documentation runs them all."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    runpy.run_path(str(TUTORIALS[0]))
    plt.close("all")
    assert capsys.readouterr().out.strip()
    assert list(tmp_path.rglob("*.fits")), "it keeps what it found"
