"""One report for everything that is scored: its files, its card, and how numbers are written."""

import json

import numpy as np
import pytest
from astropy.table import QTable
from matplotlib.figure import Figure
from PIL import Image

from astrodeblend.score import Report
from astrodeblend.score.report import (
    Measure,
    aligned,
    limits_text,
    mean,
    measured,
    median,
    number_text,
    quantile,
    ratio_of_sums,
    standard_error,
    table_lines,
    within,
)
from astrodeblend.weights import Card

TABLE = QTable({"name": ["one", "other"], "a": [1.25, np.nan], "b": [3, 4]}, meta={"seed": 2})


def draw():
    figure = Figure(figsize=(2, 1), dpi=100)
    figure.subplots().plot([1, 2])
    return figure


@pytest.fixture
def report():
    return Report(
        text="in words",
        tables={"second": TABLE, "first": TABLE[:1]},
        numbers={"value": np.float32(0.5), "none": np.inf, "rows": np.arange(2)},
        figures={"drawn": draw},
        json="numbers",
        card_scores={"01234567": {"hsc on val": {"blends": 3}}},
    )


class TestReport:
    def test_files(self, report, tmp_path):
        report.write(tmp_path / "out")
        files = {path.name for path in (tmp_path / "out").iterdir()}
        assert files == set(report.files)
        assert report.files == ("second.ecsv", "first.ecsv", "numbers.json", "drawn.png")
        table = QTable.read(tmp_path / "out" / "second.ecsv")
        assert (len(table), table.meta["seed"]) == (2, 2)
        assert len(QTable.read(tmp_path / "out" / "first.ecsv")) == 1
        content = json.loads((tmp_path / "out" / "numbers.json").read_text())
        assert content == report.to_dict() == {"value": 0.5, "none": None, "rows": [0, 1]}
        with Image.open(tmp_path / "out" / "drawn.png") as image:
            assert image.size == (200, 100)
        assert str(report) == "in words"

    def test_nothing_is_replaced_unasked(self, report, tmp_path):
        report.write(tmp_path)
        (tmp_path / "drawn.png").write_bytes(b"")
        with pytest.raises(FileExistsError, match="overwrite"):
            report.write(tmp_path)
        assert not (tmp_path / "drawn.png").stat().st_size
        report.write(tmp_path, overwrite=True)
        assert (tmp_path / "drawn.png").stat().st_size

    @pytest.mark.parametrize("part", ["tables", "numbers", "figures"])
    def test_all_files_or_none(self, report, part, tmp_path):
        broken = {"tables": {"t": None}, "numbers": {"n": object()}, "figures": {"f": lambda: 1}}
        getattr(report, part).update(broken[part])
        with pytest.raises((AttributeError, TypeError)):
            report.write(tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_without_numbers_there_is_no_file_of_them(self, tmp_path):
        report = Report(text="", tables={"only": TABLE}, numbers={"a": 1})
        report.write(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["only.ecsv"]

    def test_a_card(self, report):
        old = {"hsc on val": {"blends": 1}, "lsst on val": {"blends": 2}}
        card = Card("mine", "made for a test", {}, sha256="0123456789ab", scores=old)
        assert report.to_card(card).scores == old | {"hsc on val": {"blends": 3}}
        assert card.scores == old
        other = Card("other", "made for a test", {}, sha256="9" * 64)
        with pytest.raises(ValueError, match="'other', which has no scores here"):
            report.to_card(other)


class TestWords:
    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ((1.234, 2), "1.23"),
            ((1.234, 1, 0.06), "1.2 ± 0.1"),
            ((np.nan, 1), "-"),
            ((1.0, 1, np.nan), "1.0"),
        ],
    )
    def test_numbers(self, arguments, text):
        assert number_text(*arguments) == text

    def test_limits(self):
        assert limits_text(-np.inf, 2) == "below 2"
        assert limits_text(0.5, np.inf) == "from 0.5"
        assert limits_text(1, 2.5) == "1 to 2.5"

    def test_rows(self):
        rows = [["", "n", "all"], ["a title that is long"], ["  one", "10", "x"]]
        assert list(aligned(rows)) == ["        n  all", "a title that is long", "  one  10    x"]

    def test_a_table(self):
        measures = {"a": Measure("of", "all", 1), "b": Measure("", "some", 0, 100)}
        measures["missing"] = Measure("", "", 0)
        assert table_lines(TABLE, ("name",), measures) == [
            "        of      ",
            "name   all  some",
            "one    1.2   300",
            "other    -   400",
        ]

    def test_a_measure_is_declared_once(self):
        measures = {
            "number": Measure("", "n", 0, of=len),
            "share": Measure("above", "2 (%)", 1, 100, of=lambda values: mean(values > 2)),
        }
        samples = {"few": np.array([1, 3]), "none": np.array([])}
        table = QTable([measured(measures, sample) for sample in samples.values()])
        assert table_lines(table, {"": list(samples)}, measures) == [
            "         above",
            "      n  2 (%)",
            "few   2   50.0",
            "none  0      -",
        ]

    def test_a_table_with_errors_and_a_heading_of_one_line(self):
        table = QTable({"a": [1.0, 2.0], "a_error": [0.25, np.nan]})
        assert table_lines(table, {"": ["x", "y"]}, {"a": Measure("", "all", 1)}) == [
            "         all",
            "x  1.0 ± 0.2",
            "y        2.0",
        ]


def test_a_bin_includes_its_lower_end():
    values = np.array([np.nan, 0.9, 1, 1.5, 2])
    assert list(within(values, 1, 2)) == [False, False, True, True, False]


def test_standard_errors():
    values = np.random.default_rng(1).normal(3, 2, 400)
    assert standard_error(values) == pytest.approx(0.1, rel=0.2)
    assert np.isnan(standard_error(values[:1]))
    assert ratio_of_sums(np.array([[1, 2], [2, 4]])) == 0.5
    assert np.isnan(ratio_of_sums(np.zeros((3, 2))))
    assert np.isnan([mean([]), median([]), quantile([], 0.9)]).all()
    assert median([1.0, np.inf, np.inf]) == np.inf
