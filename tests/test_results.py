"""What a result holds, measures and writes."""

import dataclasses
import re

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData, NDData, StdDevUncertainty
from astropy.table import QTable
from astropy.wcs import WCS
from matplotlib.figure import Figure

from astrodeblend.results import Deblended, Flag, decode_flags, table_to_hdu

SHAPE = (90, 110)  # (y, x)
LEVEL = 5.0
NOISE = 0.5
CENTRAL = {"x": 52.3, "y": 41.6, "major": 5.0, "minor": 3.0, "angle": 30.0, "flux": 4000.0}
COMPANION = {"x": 66.1, "y": 50.2, "major": 4.0, "minor": 4.0, "angle": 0.0, "flux": 1500.0}
COLOURS = np.array([1.0, 0.8, 0.5])


def gaussian(x, y, major, minor, angle, flux):
    """An elliptical Gaussian, in closed form: its moments are its parameters."""
    rows, columns = np.indices(SHAPE)
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    along = (columns - x) * cos + (rows - y) * sin
    across = (rows - y) * cos - (columns - x) * sin
    light = np.exp(-0.5 * ((along / major) ** 2 + (across / minor) ** 2))
    return flux * light / (2 * np.pi * major * minor)


def tan_wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crpix, wcs.wcs.crval = (40.0, 30.0), (150.1, 2.2)
    wcs.wcs.cd = 5e-5 * np.array([[-0.9, 0.3], [0.3, 0.9]])
    return wcs


def result(*, unit=u.nJy, wcs=True, two_dimensional=False, empty=False, mask=None, flags=0):
    rng = np.random.default_rng(5)
    colours = COLOURS[:, None, None]
    wcs = tan_wcs() if wcs else None

    def image(light):
        data = LEVEL + colours * light + rng.normal(0, NOISE, (3, *SHAPE))
        data = data.astype(np.float32)
        uncertainty = np.full(data.shape, NOISE, dtype=np.float32)
        part = 0 if two_dimensional else slice(None)
        return NDData(
            data[part],
            unit=unit,
            wcs=wcs,
            mask=None if mask is None else mask[part],
            uncertainty=StdDevUncertainty(uncertainty[part]),
            meta={"astrodeblend": {"ndim": 2 if two_dimensional else 3}},
        )

    central, companion = gaussian(**CENTRAL), 0 if empty else gaussian(**COMPANION)
    meta = {
        "version": "1.2",
        "model": "tiny",
        "sha256": "0123456789abcdef0123",
        "stretch": {"stretch": "linear", "full_scale": 255},
        "stamp_width": 70.5,
        "stamp_box": [[6, 77], [17, 88]],
        "core": [[9, 74], [20, 85]],
    }
    return Deblended(
        image=image(central + companion),
        central=image(central),
        companion=image(companion),
        position=(52.0, 41.5),
        flags=Flag(flags),
        meta=meta,
    )


def test_a_result_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        result().central = None


def test_its_text_says_what_it_is():
    assert repr(result()) == "<Deblended: 3 x 90 x 110 nJy, at (52.0, 41.5), model tiny>"
    assert "the stamp reaches beyond the image" in repr(result(flags=Flag.EDGE))


def test_flags_in_words():
    assert decode_flags(0) == []
    assert decode_flags(Flag.SINGLE_BAND | Flag.MASKED) == decode_flags(5)
    single, masked = decode_flags(np.int64(5))
    assert "single band" in single
    assert "masked" in masked
    # every flag has words of its own, and they are powers of two
    words = [decode_flags(flag) for flag in Flag]
    assert all(len(w) == 1 for w in words)
    assert len({w[0] for w in words}) == len(words)
    assert [int(flag) for flag in Flag] == [2**i for i in range(len(words))]


@pytest.mark.parametrize("flags", [-1, 1 << 20])
def test_flags_without_meaning_are_refused(flags):
    with pytest.raises(ValueError, match=rf"flags={flags} is no combination of flags"):
        decode_flags(flags)


def test_the_table_measures_what_was_put_in():
    table = result().to_table()
    assert isinstance(table, QTable)
    assert table["label"].tolist() == [1, 2]
    assert table["component"].tolist() == ["central", "companion"]
    for row, truth in zip(table, (CENTRAL, COMPANION), strict=True):
        np.testing.assert_allclose(row["x_centroid"], truth["x"], atol=0.2)
        np.testing.assert_allclose(row["y_centroid"], truth["y"], atol=0.2)
        # Segments end where the noise begins, so a little is missing.
        np.testing.assert_allclose(row["semimajor_axis"].to_value("pix"), truth["major"], rtol=0.1)
        np.testing.assert_allclose(row["semiminor_axis"].to_value("pix"), truth["minor"], rtol=0.1)
        for name, missing in (("segment_flux", 0.1), ("kron_flux", 0.05)):
            flux = row[name].to_value("nJy") / (truth["flux"] * COLOURS)
            assert np.all((flux > 1 - missing) & (flux < 1.03)), name
    assert table["orientation"].unit == u.deg
    np.testing.assert_allclose(table["orientation"][0].to_value("deg"), 30, atol=3)
    np.testing.assert_allclose(table["ellipticity"][0], 0.4, atol=0.04)
    assert table["flags"].tolist() == [0, 0]
    assert table.meta["model"] == "tiny"


def test_errors_of_fluxes_are_those_of_the_pixels_in_quadrature():
    table = result().to_table()
    expected = NOISE * np.sqrt(table["segment_area"].to_value("pix2"))
    error = table["segment_flux_err"].to_value("nJy")
    np.testing.assert_allclose(error, np.tile(expected[:, None], 3), rtol=1e-5)


def test_places_on_the_sky_are_those_of_the_wcs():
    table = result().to_table()
    expected = tan_wcs().pixel_to_world(table["x_centroid"], table["y_centroid"])
    assert isinstance(table["sky_centroid"], SkyCoord)
    assert np.all(table["sky_centroid"].separation(expected) < 1e-6 * u.arcsec)
    assert "sky_centroid" not in result(wcs=False).to_table().colnames


def test_without_a_unit_fluxes_are_plain_numbers():
    table = result(unit=None).to_table()
    assert not isinstance(table["segment_flux"], u.Quantity)
    np.testing.assert_array_equal(
        table["segment_flux"], result().to_table()["segment_flux"].to_value("nJy")
    )


def test_a_two_dimensional_image_has_one_flux_per_source():
    table = result(two_dimensional=True).to_table()
    assert table["kron_flux"].shape == (2,)
    np.testing.assert_allclose(table["kron_flux"][0].to_value("nJy"), CENTRAL["flux"], rtol=0.05)


def test_nothing_in_a_component_is_said_so():
    table = result(empty=True, flags=Flag.EDGE).to_table()
    assert table["flags"].tolist() == [Flag.EDGE, Flag.EDGE | Flag.EMPTY]
    assert np.isfinite(table["x_centroid"][0])
    assert np.isnan(table["x_centroid"][1])
    assert np.all(table["segment_flux"][1] == 0 * u.nJy)
    assert np.isnan(table["segment_flux_err"][1]).all()


def test_masked_pixels_count_for_nothing():
    mask = np.zeros((3, *SHAPE), dtype=bool)
    mask[:, 41:43, 51:55] = True
    full, masked = result().to_table(), result(mask=mask).to_table()
    hidden = gaussian(**CENTRAL)[41:43, 51:55].sum() * COLOURS
    np.testing.assert_allclose(
        (full["segment_flux"] - masked["segment_flux"])[0].to_value("nJy"), hidden, rtol=0.05
    )


@pytest.mark.parametrize("two_dimensional", [False, True])
@pytest.mark.parametrize("name", ["central", "companion"])
def test_written_components_open_in_ccddata(tmp_path, name, two_dimensional):
    mask = np.zeros((3, *SHAPE), dtype=bool)
    mask[:, 3, 4] = True
    written = result(mask=mask, two_dimensional=two_dimensional)
    path = tmp_path / "deblended.fits"
    written.write(path)
    expected = getattr(written, name)
    key = name.upper()
    ccd = CCDData.read(path, hdu=key, hdu_mask=f"{key}_MASK", hdu_uncertainty=f"{key}_UNCERT")
    assert ccd.unit == u.nJy
    np.testing.assert_array_equal(ccd.data, expected.data)
    np.testing.assert_array_equal(ccd.mask, expected.mask)
    np.testing.assert_array_equal(ccd.uncertainty.array, expected.uncertainty.array)
    grid = np.mgrid[-5:120:25, -5:100:20].reshape(2, -1)
    there = ccd.wcs.celestial.world_to_pixel(tan_wcs().pixel_to_world(*grid))
    np.testing.assert_allclose(there, grid, rtol=0, atol=1e-6)


def test_the_file_says_how_it_was_made(tmp_path):
    result(flags=Flag.MASKED).write(tmp_path / "r.fits")
    with fits.open(tmp_path / "r.fits") as hdus:
        names = [hdu.name for hdu in hdus]
        header = hdus[0].header
    assert names == [
        "PRIMARY", "CENTRAL", "CENTRAL_UNCERT", "COMPANION", "COMPANION_UNCERT", "SOURCES",
    ]  # fmt: skip
    assert header["CREATOR"] == "astrodeblend 1.2"
    assert (header["MODEL"], header["MODELSHA"]) == ("tiny", "0123456789abcdef")
    assert (header["XPOS"], header["YPOS"], header["STAMPWID"]) == (52.0, 41.5, 70.5)
    assert (header["STRETCH"], header["FLAGS"]) == ("linear", 4)
    assert "masked" in str(header["HISTORY"])


def test_the_table_in_the_file_is_the_table(tmp_path):
    written = result(empty=True)
    written.write(tmp_path / "r.fits")
    table, read = written.to_table(), QTable.read(tmp_path / "r.fits", hdu="SOURCES")
    assert read.colnames == table.colnames
    for name in set(table.colnames) - {"component", "sky_centroid"}:
        np.testing.assert_array_equal(u.Quantity(read[name]), u.Quantity(table[name]))
    assert read["component"].tolist() == table["component"].tolist()
    assert read["sky_centroid"][0].separation(table["sky_centroid"][0]) < 1e-6 * u.arcsec


@pytest.mark.parametrize("unit", [u.Unit("nmgy"), u.MJy / u.sr, None])
def test_the_unit_survives_the_file(tmp_path, unit):
    result(unit=unit).write(tmp_path / "r.fits")
    table = QTable.read(tmp_path / "r.fits", hdu="SOURCES")
    assert getattr(table["segment_flux"], "unit", None) == unit
    ccd = CCDData.read(tmp_path / "r.fits", hdu="CENTRAL")
    assert ccd.unit == (u.dimensionless_unscaled if unit is None else unit)


def test_writing_refuses_to_overwrite(tmp_path):
    path = tmp_path / "r.fits"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=re.escape(str(path))):
        result().write(path)
    assert path.read_bytes() == b"mine"
    result().write(path, overwrite=True)
    assert fits.getheader(path)["MODEL"] == "tiny"
    assert [p.name for p in tmp_path.iterdir()] == ["r.fits"]


def test_writing_needs_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the folder .*missing' does not exist"):
        result().write(tmp_path / "missing" / "r.fits")


def test_any_table_becomes_an_extension(tmp_path):
    table = QTable({"a": [1, 2] * u.Jy, "sky": SkyCoord([1, 2], [3, 4], unit="deg")})
    table.meta["nested"] = {"is": ["left", "out"]}
    hdu = table_to_hdu(table, "MINE")
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "t.fits")
    read = QTable.read(tmp_path / "t.fits", hdu="MINE")
    np.testing.assert_array_equal(read["a"], table["a"])
    assert np.all(read["sky"].separation(table["sky"]) < 1e-9 * u.deg)
    assert table.meta == {"nested": {"is": ["left", "out"]}}


@pytest.mark.parametrize("two_dimensional", [False, True])
def test_a_figure(tmp_path, two_dimensional):
    figure = result(two_dimensional=two_dimensional).plot()
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "r.png")
    assert (tmp_path / "r.png").stat().st_size > 1000
