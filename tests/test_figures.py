"""Figures show what they are given, legibly."""

from types import SimpleNamespace

import numpy as np
import pytest
from astropy.table import QTable

from astrodeblend.metrics import psnr
from astrodeblend.score import figures


def words(figure):
    """Return all texts of a figure."""
    return [text.get_text() for text in figure.findobj(match=lambda a: hasattr(a, "get_text"))]


def examples(number, size=80):
    rng = np.random.default_rng(3)
    isolated = rng.random((number, 2, 3, size, size))
    components = (isolated + rng.normal(0, 0.05, isolated.shape)).clip(0, 1)
    return SimpleNamespace(
        index=np.arange(number) + 100,
        blend=isolated.max(axis=1),
        isolated=isolated,
        components=components,
    )


class TestPanels:
    def test_each_component_has_its_psnr(self):
        given = examples(4)
        figure = figures.panels(given, title="four", across=2)
        shown = words(figure)
        for index, scores in zip(given.index, psnr(given.components, given.isolated), strict=True):
            assert str(index) in shown
            for score in scores:
                assert f"{score:.1f} dB" in shown
        assert shown.count("deblended\ncompanion") == 2

    @pytest.mark.parametrize("number", [1, 5, 24])
    def test_texts_are_apart_and_inside(self, number):
        figure = figures.panels(examples(number), title="galaxyzoo on 3200 blends, worst first")
        figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in figure.axes[0].texts]
        width, height = figure.bbox.size
        for k, box in enumerate(boxes):
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= width
            assert box.y1 <= height
            assert not any(box.overlaps(other) for other in boxes[:k])

    def test_pixels_are_where_the_columns_say(self):
        given = examples(1)
        (picture,) = figures.panels(given, title="one").axes[0].images
        canvas = np.asarray(picture.get_array())
        top = canvas.shape[0] - 80
        for column, expected in enumerate(
            [*given.isolated[0], given.blend[0], *given.components[0]]
        ):
            part = canvas[top:, 82 * column : 82 * column + 80]
            np.testing.assert_array_equal(part, np.moveaxis(expected, 0, -1))


def test_quality_against_time():
    """Doing nothing is a line, others are points, open where all blends are not those of all."""

    class Entry(SimpleNamespace):
        def __len__(self):
            return self.blends

    entries = [
        Entry(name="the blend itself", kind="nothing", milliseconds=np.nan, blends=9),
        Entry(name="fast", kind="peer", milliseconds=2.0, blends=9),
        Entry(name="slow", kind="peer", milliseconds=50.0, blends=3),
    ]
    scored = [(20, 21), (30, 31), (33, 33)]
    figure = figures.quality(entries, scored, 9, "t", {"ylabel": "PSNR"})
    lines = [line.get_xydata().tolist() for line in figure.axes[0].lines]
    assert lines[0] == [[1, 20], [100, 20]]
    assert lines[1:] == [[[2, 30]], [[2, 31]], [[50, 33]], [[50, 33]]]
    assert "slow (3 blends)" in words(figure)


def test_errors_of_scenes_are_where_the_bins_are():
    rows = [
        {"positions": positions, "by": "number", "low": low, "high": low + 1, "number": number}
        | {f"median_{m}": k + low for k, m in enumerate(("apportioned", "network", "photutils"))}
        | {f"median_{m}_error": 0.1 for m in ("apportioned", "network", "photutils")}
        for positions in ("given", "detected")
        for low, number in ((2.0, 5), (3.0, 0), (4.0, 7))
    ]
    figure = figures.scenes(QTable(rows), {"number": "galaxies"}, title="t")
    assert len(figure.axes) == 2
    for axes in figure.axes:
        assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "4"]  # 3 is empty
        for k, bars in enumerate(axes.containers):
            np.testing.assert_array_equal(bars[0].get_ydata(), [k + 2, k + 4])


def test_fields_show_each_class_and_the_first_field():
    entry = SimpleNamespace(name="mine")

    def numbers(entry, limits):
        return {"error_median": limits[0], "error_90": limits[1], "complete": 0.5, "within_1": 0.7}

    places = np.array([[3.0, 4.0], [5.0, 1.0]])
    pictures = {"image": np.zeros((3, 8, 9)), "truth": places[:1], "mine": places}
    figure = figures.fields([entry], numbers, pictures, "r")
    errors = figure.axes[0].lines
    np.testing.assert_array_equal(errors[0].get_ydata(), [5, 7, 10, 15, 20, 30, 50, 100])
    np.testing.assert_array_equal(errors[1].get_ydata(), [7, 10, 15, 20, 30, 50, 100, 1000])
    true, found = figure.axes[3].lines
    np.testing.assert_array_equal(true.get_xydata(), places[:1])
    np.testing.assert_array_equal(found.get_xydata(), places)


def test_distributions_count_everything():
    rng = np.random.default_rng(1)
    scores = {"psnr": rng.normal(34, 2, (50, 2)), "ssim": rng.uniform(0.6, 1, (50, 2))}
    figure = figures.distributions(scores, {"psnr": 34.61}, title="t")
    for axes, values in zip(figure.axes, scores.values(), strict=True):
        for line, branch in zip(axes.patches, values.T, strict=True):
            steps = line.get_xy()[:, 1]
            assert steps.max() == np.histogram(branch, np.linspace(
                values.min(), values.max() + 1e-9, 41
            ))[0].max()  # fmt: skip
    assert "the paper's mean 34.61" in words(figure)
    assert not any("paper" in text for text in words(figure.axes[1]))


def test_bins_have_their_errors():
    rows = [
        {"quantity": "separation", "metric": metric, "of": of, "middle": x, "mean": 30.0 + x,
         "error": 0.5 if x < 2 else np.nan}
        for metric in ("psnr", "ssim") for of in ("central", "companion", "blend itself")
        for x in (1.0, 2.0)
    ]  # fmt: skip
    figure = figures.bins(QTable(rows), {"separation": "in pixels"}, title="t")
    (axes,) = figure.axes
    assert axes.get_xlabel() == "in pixels"
    assert len(axes.containers) == 3
    line, _, (bars,) = axes.containers[0]
    np.testing.assert_array_equal(line.get_xydata(), [[1, 31], [2, 32]])
    np.testing.assert_allclose(bars.get_segments()[0][:, 1], [30.5, 31.5])


def test_power_against_frequency():
    table = QTable(
        [
            {"of": of, "power_ratio": [1.0, 0.8], "median_power_ratio": [0.9, 0.5]}
            for of in ("components", "central", "companion")
        ],
        meta={"frequencies": [0.1, 0.3]},
    )
    summed, median = figures.power(table, title="t").axes
    np.testing.assert_array_equal(summed.lines[1].get_xydata(), [[0.1, 1.0], [0.3, 0.8]])
    np.testing.assert_array_equal(median.lines[3].get_ydata(), [0.9, 0.5])


def test_calibration_shows_shares_and_errors():
    multiple = np.array([1.0, 2.0])
    curve = {"multiple": multiple, "normal": np.array([0.68, 0.95])}
    curve |= {"pixels": np.array([0.6, 0.9]), "fluxes": np.array([0.7, 0.8])}
    binned = {
        "pixels": {"std": np.array([0.01, 0.1]), "error": np.array([0.02, 0.1])},
        "fluxes": {"std": np.array([]), "error": np.array([])},
    }
    left, pixels, fluxes = figures.calibration(curve, binned, title="t").axes
    for line, name in zip(left.lines, ("normal", "pixels", "fluxes"), strict=True):
        assert line.get_label() == name
        np.testing.assert_array_equal(line.get_xydata(), np.stack([multiple, curve[name]], axis=1))
    points, expected = pixels.lines
    np.testing.assert_array_equal(points.get_xydata(), [[0.01, 0.02], [0.1, 0.1]])
    np.testing.assert_array_equal(expected.get_xydata(), [[0.01, 0.01], [0.1, 0.1]])
    assert fluxes.get_xlabel() == "standard deviation, fluxes"
