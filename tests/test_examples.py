"""The examples run from start to end."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
OPTIONS = {
    "train_on_your_galaxies.py": ["--steps", "2"],
    "after_the_network.py": ["GALAXIES", "", "4"],
    "blends_per_second.py": ["--batch", "2"],
    "compare_marks.py": ["GALAXIES", "galaxyzoo", "--blends", "1", "--pairs", "1"],
    "error_bars.py": ["GALAXIES", "", "4"],
    "fewer_bands.py": ["", "3"],
    "isolated_stamps.py": ["", "3"],
    "pinned_set.py": ["GALAXIES", "--few"],
    "train_fields.py": [
        "run",
        "out",
        "--blocks",
        "1",
        "--batch",
        "1",
        "--sizes",
        "32",
        "--judge",
        "0",
    ],
    "three_branches.py": ["GALAXIES", "--steps", "1", "--batch", "2", "--blends", "2"],
}


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_example(name, galaxies, tmp_path):
    options = [str(galaxies) if o == "GALAXIES" else o for o in OPTIONS.get(name, [])]
    command = [sys.executable, str(EXAMPLES / name), *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "an example prints what it found"
