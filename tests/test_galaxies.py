"""Galaxies cut out of a picture, against a picture whose galaxies are known."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import NDData
from astropy.table import QTable
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.optimize import brentq

from astrodeblend.blends import draw_blends
from astrodeblend.detect import find_sources, stamp_widths
from astrodeblend.images import read_image

EXAMPLE = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "isolated_galaxies.py"))
find_galaxies = EXAMPLE["find_galaxies"]
SIDE = 420
SKY, NOISE = 20.0, 3.0
# x, y, scale length and axis ratio of exponential discs, in pixels
ALONE = [(120.0, 130.0, 6.0, 0.8), (300.0, 115.0, 4.0, 0.6)]
TOUCHING = [(130.0, 300.0, 5.0, 0.9), (146.0, 306.0, 5.0, 0.7)]
AT_THE_EDGE = [(412.0, 260.0, 6.0, 0.9)]
SMALL = [(176.0, 70.0, 0.7, 1.0), (250.0, 140.0, 0.6, 1.0), (330.0, 80.0, 0.7, 1.0)]


def light_of(galaxies, peak=25.0):
    """Exponential discs in light, as a stretch of sinh(6.5 value) undoes pictures."""
    y, x = np.mgrid[:SIDE, :SIDE]
    light = np.zeros((SIDE, SIDE))
    for x0, y0, length, ratio in galaxies:
        light += peak * np.exp(-np.hypot(x - x0, (y - y0) / ratio) / length)
    return light


@pytest.fixture(scope="module")
def picture():
    """A colour picture (y, x, 3) with noise whose neighbouring pixels go together."""
    rng = np.random.default_rng(3)
    light = light_of(ALONE + TOUCHING + AT_THE_EDGE + SMALL)
    light = light[..., None] * [1.0, 0.8, 0.6] + np.sinh(6.5 * SKY / 255)
    noise = gaussian_filter(rng.standard_normal((SIDE, SIDE, 3)), (0.7, 0.7, 0))
    picture = np.arcsinh(light) / 6.5 * 255 + NOISE * noise / noise.std()
    return picture.clip(0, 255).round().astype(np.uint8)


@pytest.fixture(scope="module")
def found(picture):
    return SimpleNamespace(**dict(zip(("pictures", "table"), find_galaxies(picture), strict=True)))


def petrosian_radius_of_a_disc():
    """In scale lengths: where the mean from 0.8 r to 1.25 r is 0.2 of that within r."""

    def excess(r):
        inner, within, outer = (1 - (1 + k * r) * np.exp(-k * r) for k in (0.8, 1, 1.25))
        return (outer - inner) / (1.25**2 - 0.8**2) / within - 0.2

    return brentq(excess, 1, 20)


def test_isolated_galaxies_are_found_and_no_others(found):
    places = np.array([found.table["x_centroid"], found.table["y_centroid"]]).T
    np.testing.assert_allclose(places, [place[:2] for place in ALONE], atol=0.5)
    assert len(found.table) == len(ALONE)
    assert found.pictures.shape == (2, 424, 424, 3)
    assert found.pictures.dtype == np.uint8


def test_the_middle_240_pixels_are_5_8_petrosian_radii_wide(found):
    for row, (_, _, length, ratio) in zip(found.table, ALONE, strict=True):
        # in circles around a disc seen at an angle the radius is about that of a round one of
        # the same area
        expected = petrosian_radius_of_a_disc() * length * np.sqrt(ratio)
        assert row["petrosian_radius"].to_value(u.pix) == pytest.approx(expected, rel=0.12)
        assert row["enlargement"] == pytest.approx(240 / 5.8 / row["petrosian_radius"].value)


def test_galaxies_are_in_the_middle_at_that_scale(found, picture):
    for pixels, row in zip(found.pictures, found.table, strict=True):
        light = np.clip(pixels.sum(axis=-1) - 3 * SKY - 30.0, 0, None)
        y, x = np.mgrid[:424, :424] - 211.5
        assert abs((light * x).sum() / light.sum()) < 2
        assert abs((light * y).sum() / light.sum()) < 2
        peak = picture[round(row["y_centroid"]), round(row["x_centroid"])]
        np.testing.assert_allclose(pixels[200:224, 200:224].max(axis=(0, 1)), peak, atol=12)


def test_the_deblender_measures_the_same_size(found):
    """A cut galaxy, read again, is shown to a model as its middle 240 pixels."""
    for pixels in found.pictures:
        rule = {"petrosian_radii": 5.8, "pixels": 80}
        sources, _ = find_sources(read_image(pixels), positions=[(211.5, 211.5)], rest=True)
        width = stamp_widths(sources, rule, pixels.shape[:2])[0]
        assert width == pytest.approx(240, rel=0.1)


def test_nothing_but_sky_is_around_them(found):
    for pixels, row, (_, _, length, ratio) in zip(found.pictures, found.table, ALONE, strict=True):
        y, x = (np.mgrid[:424, :424] - 211.5) / row["enlargement"]
        sky = np.hypot(x, y / ratio) > 9 * length  # light there is below 0.4 of a step
        values = pixels[sky].astype(float)
        assert np.median(values) == pytest.approx(SKY, abs=0.7)
        # smaller sources had peaks of more than 50 above the sky
        assert values.max() < SKY + 7 * NOISE
        assert values.min() > SKY - 7 * NOISE


def test_noise_of_what_was_replaced_is_that_of_the_sky(picture):
    field = EXAMPLE["_Field"](read_image(picture))
    row = np.argmin(
        np.abs(field.sources["x_centroid"] - 300) + np.abs(field.sources["y_centroid"] - 115)
    )
    start, side = (-30, 170), 290  # beyond the edge there is nothing: all sky is from elsewhere
    alone, hidden, lost, _ = field._alone(field.sources[row], start, side, np.random.default_rng(1))
    kept = ~hidden[30:, :250]
    part = np.moveaxis(picture, -1, 0)[:, :260, 170:]
    np.testing.assert_array_equal(alone[:, 30:, :250][:, kept], part[:, kept])
    assert lost.sum() > 10_000
    filled, sky = alone[:, lost], field.data[:, field.owner == 0]
    assert filled.std() == pytest.approx(sky.std(), rel=0.15)
    assert filled.mean() == pytest.approx(sky.mean(), abs=0.5)

    def together(values, where):
        """Correlation of neighbours along x that are both there."""
        pairs = where[:, 1:] & where[:, :-1]
        return np.corrcoef(values[0, :, 1:][pairs], values[0, :, :-1][pairs])[0, 1]

    assert together(alone, lost) == pytest.approx(together(field.data, field.owner == 0), abs=0.1)


def test_number_takes_those_that_are_enlarged_least(found, picture):
    pictures, table = find_galaxies(picture, number=1)
    assert len(table) == 1
    assert table["petrosian_radius"][0] == max(found.table["petrosian_radius"])
    np.testing.assert_array_equal(pictures[0], found.pictures[0])  # and the same again


def test_the_folder_is_one_for_blends(picture, tmp_path, monkeypatch):
    Image.fromarray(picture).save(tmp_path / "picture.png")
    folder = tmp_path / "galaxies"
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "picture.png"), str(folder)])
    EXAMPLE["main"]()
    table = QTable.read(folder / "galaxies.ecsv")
    assert list(table["file"]) == ["galaxy1.png", "galaxy2.png"]
    assert {path.name for path in folder.iterdir()} == {"galaxies.ecsv", *table["file"]}
    blend, isolated = next(iter(draw_blends(folder, number=2).batches()))
    assert blend.shape == (2, 3, 80, 80)
    assert isolated.max() > 0.4
    with pytest.raises(SystemExit):  # the folder is there
        EXAMPLE["main"]()


def test_the_sheet_shows_all(found):
    sheet = EXAMPLE["sheet"](found.pictures, side=53, across=5)
    assert sheet.size == (106, 53)
    small = found.pictures[1].reshape(53, 8, 53, 8, 3).mean(axis=(1, 3))
    below = np.asarray(sheet)[20:, 53:].astype(float)  # the number is above
    np.testing.assert_allclose(below, small[20:], atol=1)


def test_wrong_input_is_named(picture):
    with pytest.raises(ValueError, match="number=0"):
        find_galaxies(picture, number=0)
    with pytest.raises(ValueError, match="image has 1 bands"):
        find_galaxies(picture[..., 0])
    with pytest.raises(ValueError, match="image has 3 bands and is flux"):
        find_galaxies(NDData(np.moveaxis(picture, -1, 0), unit="adu"))
    sky = np.random.default_rng(1).integers(10, 30, (100, 100, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="no galaxy that is isolated, bright and well resolved"):
        find_galaxies(sky)
