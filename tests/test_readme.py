"""What README promises works as it is printed, in an empty folder."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
FIRST = "pip install -c constraints.txt . && astrodeblend demo"
SECOND = "pip install tox && tox -e test"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def run(command, cwd):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def console_script():
    """Return the path of the installed command, beside the interpreter that runs the tests."""
    return str(Path(sys.executable).parent / "astrodeblend")


def test_the_two_commands_are_printed():
    commands = [line for block in blocks("bash") for line in block.splitlines() if "&&" in line]
    assert commands[:2] == [FIRST, SECOND]


def test_the_first_command(console_script, tmp_path):
    _, words = (shlex.split(part) for part in FIRST.split("&&"))
    printed = run([console_script, *words[1:]], tmp_path)
    assert printed.strip()
    written = {path.suffix for path in (tmp_path / "astrodeblend-demo").iterdir()}
    assert {".png", ".fits", ".ecsv"} <= written


def test_the_lines_of_python(tmp_path, monkeypatch):
    code, *_ = blocks("python")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert any(tmp_path.iterdir()), "the lines write a file"


def test_the_picture_is_there():
    (picture,) = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    assert (Path(__file__).parents[1] / picture).is_file()
