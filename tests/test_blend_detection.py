"""How well blends are told from single galaxies: numbers that are known beforehand."""

import json

import numpy as np
import pytest
from astropy.table import QTable
from click.testing import CliRunner

from astrodeblend import Deblender
from astrodeblend.cli import main
from astrodeblend.score import FILES, detection, score_detection
from astrodeblend.score.detection import _report


def known(score, second, blended, separation):
    number = len(score)
    stamps = QTable(
        {
            "blended": blended,
            "separation": separation,
            "flux_ratio": np.where(blended, 0.5, np.nan),
            "plain": np.arange(number) % 4 < 2,
            "score": score,
            "second": second,
        }
    )
    meta = {"model": "tiny", "sha256": "0" * 64, "arithmetic": "float32", "stamps": number}
    meta |= {"split": "all", "seed": 1}
    of = {"folder": "FOLDER", "galaxies": 10, "threshold": 0.9}
    return _report(stamps, meta, of)


@pytest.fixture(scope="module")
def perfect():
    """Scores that are right, and a photutils that sees what is 5 pixels apart, and 3 % ghosts."""
    rng = np.random.default_rng(1)
    blended = np.arange(2000) % 2 == 0
    separation = np.where(blended, rng.uniform(0, 17, 2000), np.nan)
    score = np.where(blended, rng.uniform(0.92, 1, 2000), rng.uniform(0, 0.2, 2000))
    second = np.where(separation > 5, rng.uniform(0.3, 1, 2000), 0)
    second[1:61:2] = np.linspace(0.01, 0.2, 30)
    return known(score, second, blended, separation)


class TestTables:
    def test_completeness_and_purity(self, perfect):
        table = perfect.tables["table"]
        whole = {(r["point"], r["method"]): r for r in table if (r["low"], r["high"]) == (0, 17)}
        for point in ("photutils", "1 %", "threshold", "threshold, plain"):
            assert whole[point, "score"]["completeness"] == 1
        own = whole["photutils", "photutils"]
        assert own["false_alarms"] == pytest.approx(0.03)
        assert whole["photutils", "score"]["false_alarms"] == pytest.approx(0.03)
        assert own["completeness"] == pytest.approx(12 / 17, abs=0.04)
        assert own["purity"] == pytest.approx(own["completeness"] / (own["completeness"] + 0.03))
        assert own["number"] == 1000
        for row in table[(table["method"] == "photutils") & (table["high"] <= 5)]:
            assert row["completeness"] == 0
        # Ghosts are fainter than companions: 1 % of false alarms cost none of these.
        strict = whole["1 %", "photutils"]
        assert strict["false_alarms"] == pytest.approx(0.01)
        assert strict["completeness"] == own["completeness"]
        assert whole["threshold", "score"]["false_alarms"] == 0

    def test_as_many_false_alarms_as_photutils(self):
        """Of 100 single galaxies 29: their share times 100 is 28.999..."""
        blended = np.arange(200) >= 100
        second = np.where(np.arange(200) < 29, 0.1, 0.0)
        table = known(np.linspace(1, 0, 200), second, blended, np.where(blended, 4.0, np.nan))
        rows = table.tables["table"]
        rows = rows[(rows["point"] == "photutils") & (rows["low"] == 0) & (rows["high"] == 17)]
        assert list(rows["false_alarms"]) == [0.29, 0.29]

    def test_an_empty_bin_is_a_dash(self):
        blended = np.arange(200) >= 100
        report = known(blended * 0.95, blended * 0.5, blended, np.where(blended, 4.0, np.nan))
        assert "nan" not in str(report)
        (line,) = (line for line in str(report).splitlines() if line.startswith("  blends"))
        assert line.split() == ["blends", "0", "0", "0", "100", "0", "0", "0", "100"]

    def test_areas(self, perfect):
        areas = perfect.numbers["area"]
        assert areas["score"]["area"] == 1
        second, blended = (np.asarray(perfect.tables["stamps"][n]) for n in ("second", "blended"))
        pairs = np.sign(second[blended][:, None] - second[~blended]) / 2 + 0.5
        area, error = areas["photutils"].values()
        assert area == pytest.approx(pairs.mean())
        assert 0.005 < error < 0.02

    def test_a_calibrated_score_is_reliable(self):
        rng = np.random.default_rng(2)
        score = rng.uniform(0, 1, 4_000)
        blended = rng.uniform(0, 1, 4_000) < score
        separation = np.where(blended, 1.0, np.nan)
        table = known(score, score, blended, separation).tables["reliability"]
        assert table["number"].sum() == 4_000
        assert (np.abs(table["blended"] - table["score"]) < 4 * table["error"]).all()

    def test_files_appear_and_say_the_same(self, perfect, tmp_path):
        perfect.write(tmp_path / "scores")
        assert {path.name for path in (tmp_path / "scores").iterdir()} == set(FILES["detection"])
        content = json.loads((tmp_path / "scores" / "scores.json").read_text())
        assert content["area"]["score"]["area"] == 1
        again = QTable.read(tmp_path / "scores" / "table.ecsv")
        assert len(again) == len(perfect.tables["table"]) == len(content["table"])
        with pytest.raises(FileExistsError):
            perfect.write(tmp_path / "scores")

    def test_in_words(self, perfect):
        text = str(perfect)
        assert "2000 stamps of 10 isolated galaxies" in text
        assert "false alarms as photutils has them" in text


def test_a_model_without_a_score_is_refused(tiny_model, galaxies):
    deblender = Deblender.load(tiny_model, device="cpu")
    with pytest.raises(ValueError, match=r"'tiny' has no blend score; .*add_blend_score adds it"):
        score_detection(deblender, galaxies)


def test_the_command(scoring_model, galaxies, tmp_path, monkeypatch):
    out = tmp_path / "scores"
    command = ["evaluate", "--task", "detection", "--model", str(scoring_model), "--data"]
    few = CliRunner().invoke(main, [*command, str(galaxies), "-n", "32"])
    assert "give at least 200, to see a false alarm" in few.stderr
    monkeypatch.setattr(detection, "_RATE", 0.1)
    command += [str(galaxies), "-n", "32", "-o", str(out)]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0
    assert "blend score" in done.output
    assert {path.name for path in out.iterdir()} == set(FILES["detection"])
    stamps = QTable.read(out / "stamps.ecsv")
    assert stamps["blended"].sum() == len(stamps) / 2
    assert np.nanmax(stamps["separation"]) <= 17
    refused = CliRunner().invoke(main, [*command, "--recipe", "sum"])
    assert refused.exit_code == 2
    assert "--task detection takes no --recipe" in refused.output
