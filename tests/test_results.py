"""What a result holds, measures and writes."""

import base64
import dataclasses
import doctest
import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData, NDData, StdDevUncertainty
from astropy.table import QTable
from astropy.wcs import WCS
from matplotlib.figure import Figure
from PIL import Image

from astrodeblend import Flag, deblender, decode_flags, results
from astrodeblend.flags import count_flags
from astrodeblend.results import _table_to_hdu, brief

SHAPE = (90, 110)  # (y, x)
LEVEL = 5.0
NOISE = 0.5
CENTRAL, COMPANION = (52.3, 41.6, 4000.0), (67.1, 45.2, 2500.0)
COLOURS = np.array([1.0, 0.8, 0.5])


def gaussian(x, y, flux, sigma=2.0):
    rows, columns = np.indices(SHAPE)
    light = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return flux * light / (2 * np.pi * sigma**2)


def tan_wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crpix, wcs.wcs.crval = (40.0, 30.0), (150.1, 2.2)
    wcs.wcs.cd = 5e-5 * np.array([[-0.9, 0.3], [0.3, 0.9]])
    return wcs


@pytest.fixture
def made(splitting):
    """Return what takes the central of two galaxies out of an image."""

    def result(*, unit=u.nJy, wcs=True, flat=False, empty=False, mask=None):
        light = gaussian(*CENTRAL) + (0 if empty else gaussian(*COMPANION))
        data = LEVEL + COLOURS[:, None, None] * light
        data = data + np.random.default_rng(5).normal(0, NOISE, data.shape)
        part = 0 if flat else slice(None)
        image = NDData(
            data.astype(np.float32)[part],
            unit=unit,
            wcs=tan_wcs() if wcs else None,
            mask=None if mask is None else mask[part],
            uncertainty=StdDevUncertainty(np.full(data.shape, NOISE, np.float32)[part]),
        )
        return splitting["flux"](image, CENTRAL[:2])

    return result


def test_a_result_does_not_change(made):
    result = made()
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.meta = None
    with pytest.raises(AttributeError):
        result.position = (1, 2)
    assert result.central is result.central
    assert repr(result) == "<Deblended: 3 x 90 x 110 nJy, at (52.3, 41.6), model split>"


def test_both_components_have_the_sky_under_them(made):
    result = made()
    level = np.reshape(result.meta["background"], (3, 1, 1))
    np.testing.assert_allclose(level, LEVEL, atol=0.1)
    (top, bottom), (left, right) = result.meta["stamp_box"]
    outside = np.ones(SHAPE, bool)
    outside[top:bottom, left:right] = False
    for part in (result.central, result.companion):
        np.testing.assert_allclose((part.data - level)[:, outside], 0, atol=1e-5)
        assert part.unit == u.nJy
        assert part.data.dtype == np.float32
        assert (part.uncertainty.array > 0).all()
        np.testing.assert_allclose(part.uncertainty.array[:, outside], NOISE)
    total = result.central.data + result.companion.data - level
    near = gaussian(*CENTRAL) > 20 * NOISE
    np.testing.assert_allclose(total[:, near], result.image.data[:, near], rtol=0.02)


def test_the_table_has_two_rows(made):
    table = made().to_table()
    assert isinstance(table, QTable)
    assert table.colnames[:2] == ["label", "component"]
    assert table["label"].tolist() == [1, 2]
    assert table["component"].tolist() == ["central", "companion"]
    assert table["x_centroid"][0] == pytest.approx(CENTRAL[0], abs=0.1)
    assert table["y_centroid"][0] == pytest.approx(CENTRAL[1], abs=0.1)
    expected = tan_wcs().pixel_to_world(table["x_centroid"], table["y_centroid"])
    assert isinstance(table["sky_centroid"], SkyCoord)
    assert (table["sky_centroid"].separation(expected) < 1e-6 * u.arcsec).all()
    assert table.meta["model"] == "split"
    apart = np.hypot(*np.subtract(CENTRAL, COMPANION)[:2])
    np.testing.assert_allclose(table["neighbor_distance"].value, apart, rtol=0.1)
    assert "sky_centroid" not in made(wcs=False).to_table().colnames


def test_without_a_unit_fluxes_are_plain_numbers(made):
    table = made(unit=None).to_table()
    assert not isinstance(table["segment_flux"], u.Quantity)
    expected = made().to_table()["segment_flux"].to_value("nJy")
    np.testing.assert_allclose(table["segment_flux"], expected)


def test_nothing_in_a_component_is_said_so(made):
    table = made(empty=True).to_table()
    central, companion = table["flags"]
    assert not central & Flag.EMPTY
    assert companion & Flag.EMPTY
    assert np.isfinite(table["semimajor_axis"][0])
    assert np.isnan(table["semimajor_axis"][1])
    assert (table["segment_flux"][1] == 0 * u.nJy).all()
    assert np.isnan(table["segment_flux_err"][1]).all()


def test_masked_pixels_are_unknown(made):
    mask = np.zeros((3, *SHAPE), bool)
    mask[1, 41:43, 51:55] = True
    full, result = made().to_table(), made(mask=mask)
    for part in (result.central, result.companion):
        np.testing.assert_array_equal(np.isnan(part.data), mask)
        np.testing.assert_array_equal(part.mask, mask)
        assert np.isfinite(part.uncertainty.array).all()
    assert decode_flags(Flag.MASKED)[0] in repr(result)
    lost = (full["segment_flux"] - result.to_table()["segment_flux"])[0].to_value("nJy")
    hidden = COLOURS[1] * gaussian(*CENTRAL)[41:43, 51:55].sum()
    np.testing.assert_allclose(lost, [0, hidden, 0], atol=0.1 * hidden)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("name", ["central", "companion"])
def test_written_components_open_in_ccddata(made, tmp_path, name, flat):
    mask = np.zeros((3, *SHAPE), bool)
    mask[:, 3, 4] = True
    written, path, key = made(mask=mask, flat=flat), tmp_path / "deblended.fits", name.upper()
    written.write(path)
    expected = getattr(written, name)
    assert expected.data.shape == (SHAPE if flat else (3, *SHAPE))
    ccd = CCDData.read(path, hdu=key, hdu_mask=f"{key}_MASK", hdu_uncertainty=f"{key}_UNCERT")
    assert ccd.unit == u.nJy
    np.testing.assert_array_equal(ccd.data, expected.data)
    np.testing.assert_array_equal(ccd.mask, expected.mask)
    np.testing.assert_array_equal(ccd.uncertainty.array, expected.uncertainty.array)
    grid = np.mgrid[-5:120:25, -5:100:20].reshape(2, -1)
    there = ccd.wcs.celestial.world_to_pixel(tan_wcs().pixel_to_world(*grid))
    np.testing.assert_allclose(there, grid, rtol=0, atol=1e-6)


def test_the_file_says_how_it_was_made(made, tmp_path):
    mask = np.zeros((3, *SHAPE), bool)
    mask[:, 40, 44] = True
    written = made(mask=mask)
    written.write(tmp_path / "r.fits")
    with fits.open(tmp_path / "r.fits") as hdus:
        names, header = [hdu.name for hdu in hdus], hdus[0].header
    parts = [
        f"{name}{end}" for name in ("CENTRAL", "COMPANION") for end in ("", "_MASK", "_UNCERT")
    ]
    assert sorted(names) == sorted(["PRIMARY", *parts, "IMAGE", "IMAGE_MASK", "SOURCES"])
    assert header["CREATOR"].startswith("astrodeblend ")
    assert (header["MODEL"], header["KIND"]) == ("split", "flux")
    assert (header["XPOS"], header["YPOS"]) == CENTRAL[:2]
    assert header["STAMPWID"] == written.meta["stamp_width"]
    assert header["FLAGS"] == int(written.flags)
    assert header.comments["FLAGS"].startswith("MASKED")
    assert "no data" in str(header["HISTORY"])


@pytest.mark.parametrize("empty", [False, True])
def test_the_table_in_the_file_is_the_table(made, tmp_path, empty):
    written = made(empty=empty)
    written.write(tmp_path / "r.fits")
    table, read = written.to_table(), QTable.read(tmp_path / "r.fits", hdu="SOURCES")
    assert read.colnames == table.colnames
    for name in set(table.colnames) - {"sky_centroid"}:
        expected = np.asarray(table[name])
        found = np.asarray(read[name]).astype(expected.dtype)  # FITS has bytes for text
        np.testing.assert_array_equal(found, expected)
        assert read[name].info.unit == table[name].info.unit
    assert read["sky_centroid"][0].separation(table["sky_centroid"][0]) < 1e-6 * u.arcsec


@pytest.mark.parametrize("unit", [u.Unit("nmgy"), u.MJy / u.sr, None])
def test_the_unit_survives_the_file(made, tmp_path, unit):
    made(unit=unit).write(tmp_path / "r.fits")
    table = QTable.read(tmp_path / "r.fits", hdu="SOURCES")
    assert getattr(table["segment_flux"], "unit", None) == unit
    ccd = CCDData.read(tmp_path / "r.fits", hdu="CENTRAL")
    assert ccd.unit == (u.dimensionless_unscaled if unit is None else unit)


def test_writing_refuses_to_overwrite(made, tmp_path):
    path = tmp_path / "r.fits"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=re.escape(str(path))):
        made().write(path)
    assert path.read_bytes() == b"mine"
    made().write(path, overwrite=True)
    assert fits.getheader(path)["MODEL"] == "split"
    assert [p.name for p in tmp_path.iterdir()] == ["r.fits"]
    with pytest.raises(FileNotFoundError, match=r"the folder .*missing' does not exist"):
        made().write(tmp_path / "missing" / "r.fits")
    with pytest.raises(TypeError, match="path=None: give the name of a file to write"):
        made().write(None)


def test_any_table_becomes_an_extension(tmp_path):
    table = QTable({"a": [1, 2] * u.Jy, "sky": SkyCoord([1, 2], [3, 4], unit="deg")})
    table.meta["nested"] = {"is": ["left", "out"]}
    hdu = _table_to_hdu(table, "MINE")
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "t.fits")
    read = QTable.read(tmp_path / "t.fits", hdu="MINE")
    np.testing.assert_array_equal(read["a"], table["a"])
    assert np.all(read["sky"].separation(table["sky"]) < 1e-9 * u.deg)
    assert table.meta == {"nested": {"is": ["left", "out"]}}


@pytest.mark.parametrize("flat", [False, True])
def test_a_figure(made, tmp_path, flat):
    figure = made(flat=flat).plot()
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "r.png")
    assert (tmp_path / "r.png").stat().st_size > 1000


@pytest.mark.parametrize("shape", [(), (2,)])
def test_the_brightest_rows_come_first(shape):
    table = QTable({"label": np.arange(1, 15), "other": np.arange(14)})
    flux = np.array([3.0, np.nan, 7, 1, 14, 13, 12, 11, 10, 9, 8, 6, 5, -4])
    table["segment_flux"] = np.broadcast_to(flux[:, None] if shape else flux, (14, *shape)) * u.nJy
    assert brief(table).colnames == ["label", "segment_flux"]
    assert brief(table)["label"].tolist() == table["label"].tolist()
    assert brief(table, 10)["label"].tolist() == [5, 6, 7, 8, 9, 10, 11, 3, 12, 13]
    assert brief(table, 99)["label"].tolist()[-2:] == [2, 14]
    assert len(brief(table[:0], 10)) == 0


def test_a_band_without_data_hides_no_source():
    flux = [[np.nan, 50.0], [1, 2], [30, 30]]
    assert brief(QTable({"segment_flux": flux, "label": [1, 2, 3]}), 2)["label"].tolist() == [3, 1]


def test_flags_are_counted():
    flags = np.array([Flag.EDGE | Flag.LARGE, Flag.LARGE, 0])
    assert count_flags(flags) == {Flag.EDGE: 1, Flag.LARGE: 2}
    assert count_flags([]) == {}


def pictures_of(html):
    """Return the pictures of HTML by their names, after a look at whether each tag is closed."""
    found, opened = {}, []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag == "img":
                source = dict(attrs)["src"].removeprefix("data:image/png;base64,")
                found[dict(attrs)["alt"]] = Image.open(BytesIO(base64.b64decode(source)))
            elif tag != "br":
                opened.append(tag)

        def handle_endtag(self, tag):
            assert opened.pop() == tag

    Parser().feed(html)
    assert not opened
    return found


def test_a_notebook_shows_pictures_and_a_table(made):
    result = made()
    html = result._repr_html_()
    assert "Deblended: 3 x 90 x 110 nJy, at (52.3, 41.6)" in html
    shown = pictures_of(html)
    assert list(shown) == ["image", "central", "companion"]
    (top, bottom), (left, right) = result.meta["stamp_box"]
    assert {picture.size for picture in shown.values()} == {(right - left, bottom - top)}
    for name, (x, y, _) in (("central", CENTRAL), ("companion", COMPANION)):
        pixels = np.asarray(shown[name])[::-1].sum(axis=-1, dtype=float)  # the first row is below
        peak = np.unravel_index(pixels.argmax(), pixels.shape)
        assert np.hypot(peak[1] + left - x, peak[0] + top - y) < 2
    html = result.scene._repr_html_()
    assert pictures_of(html)["image"].size == SHAPE[::-1]
    assert "1 sources" in html


def test_a_notebook_shows_what_is_flat_and_flagged(made):
    scene = made(flat=True, unit=None, wcs=False).scene
    assert pictures_of(scene._repr_html_())["image"].mode == "L"
    scene.catalog["flags"] |= int(Flag.EDGE)
    assert "1 of 1: EDGE, part of the source" in scene._repr_html_()


@pytest.mark.parametrize("module", [deblender, results])
def test_examples_in_docstrings(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testmod(module)
    assert failed == 0
    assert tried > 5
