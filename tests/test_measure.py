"""From light to a catalogue, against analytic galaxies and photutils itself."""

from dataclasses import replace

import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import NDData
from astropy.table import QTable
from astropy.wcs import WCS
from photutils.segmentation import SegmentationImage, SourceCatalog

from astrodeblend.calibration import Calibration
from astrodeblend.flags import Flag
from astrodeblend.light import Component
from astrodeblend.measure import measure
from astrodeblend.sky import Sky

SHAPE = (100, 110)
COLOURS = np.array([1.0, 0.5])[:, None, None]
NOISE = np.array([1.0, 2.0])[:, None, None]


def gaussian(x, y, flux, major=4.0, minor=4.0, angle=0.0):
    rows, columns = np.indices(SHAPE)
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    along = (columns - x) * cos + (rows - y) * sin
    across = (rows - y) * cos - (columns - x) * sin
    light = np.exp(-0.5 * ((along / major) ** 2 + (across / minor) ** 2))
    return COLOURS * flux * light / (2 * np.pi * major * minor)


def component(light, position, half=30, *, deblending=0.0, flags=Flag(0)):  # noqa: B008
    """A part of the image, and the pixels above a hundredth of the noise as its footprint."""
    box = tuple(
        slice(max(round(at) - half, 0), min(round(at) + half + 1, n))
        for at, n in zip(position[::-1], SHAPE, strict=True)
    )
    part = light[:, *box]
    return Component(
        box, position, 2.0 * half, 1.0, part, 0 * NOISE, np.full(part.shape, deblending**0.5),
        np.broadcast_to(NOISE, part.shape), NOISE, np.zeros(part.shape, bool),
        (part / NOISE).sum(axis=0) > 0.01, flags, position,
    )  # fmt: skip


def sky_of(hidden):
    """A sky without light, whose noise is white."""
    return Sky(0 * NOISE, NOISE, hidden, np.ones(len(NOISE)), "image", ())


def catalogue(
    components,
    *,
    radius=10.0,
    unit=u.nJy,
    wcs=None,
    ndim=3,
    hidden=None,
    calibration=None,
    **options,
):
    calibration = calibration or Calibration()
    total = np.zeros((2, *SHAPE))
    for each in components:
        total[:, *each.box] += each.light
    n = len(components)
    sources = QTable(
        {
            "petrosian_radius": np.full(n, radius) * u.pix,
            "parent": np.arange(n),
            "n_blended": np.ones(n, int),
            "neighbor_distance": np.full(n, np.nan) * u.pix,
        }
    )
    image = NDData(total, unit=unit, wcs=wcs, meta={"astrodeblend": {"ndim": ndim}})
    hidden = np.zeros(total.shape, bool) if hidden is None else hidden
    return measure(image, sky_of(hidden), total, components, sources, calibration, **options)


PLACES = [(50.0, 50.0), (51.3, 48.7), (60.45, 33.11)]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("major", "minor", "angle"), [(4, 4, 0), (5, 3, 30), (6, 2.5, -70)])
def test_places_and_shapes_of_gaussians(place, major, minor, angle):
    light = gaussian(*place, 30000.0, major, minor, angle)
    (row,) = catalogue([component(light, place)])
    assert row["x_centroid"] == pytest.approx(place[0], abs=0.05)
    assert row["y_centroid"] == pytest.approx(place[1], abs=0.05)
    assert row["semimajor_axis"].value == pytest.approx(major, rel=0.03)
    assert row["semiminor_axis"].value == pytest.approx(minor, rel=0.03)
    assert row["ellipticity"] == pytest.approx(1 - minor / major, abs=0.02)
    if major > minor:
        apart = row["orientation"].to_value(u.deg) - angle
        assert abs((apart + 90) % 180 - 90) < 1
    for name in ("segment_flux", "kron_flux"):
        np.testing.assert_allclose(row[name].to_value(u.nJy), [30000, 15000], rtol=0.02)


def test_apertures_hold_the_analytic_flux():
    place = (52.3, 47.6)
    for radius in (4.0, 8.0):
        (row,) = catalogue([component(gaussian(*place, 1e4), place)], radius=radius)
        inside = 1 - np.exp(-(radius**2) / 2 / 4**2)
        expected = inside * 1e4 * COLOURS.ravel()
        np.testing.assert_allclose(row["aperture_flux"].value, expected, rtol=0.01)
        error = NOISE.ravel() * np.sqrt(np.pi) * radius
        np.testing.assert_allclose(row["aperture_flux_err"].value, error, rtol=0.01)
        assert row["aperture_radius"] == radius * u.pix


def test_photutils_says_the_same_of_an_isolated_source():
    place = (52.3, 47.6)
    each = component(gaussian(*place, 1e4, 5, 3, 20), place)
    (row,) = catalogue([each])
    segment = SegmentationImage((each.footprint & (each.light > 0).any(axis=0)).astype(np.int32))
    for band in range(2):
        light = each.seen[band]
        spread = np.where(light != 0, NOISE[band], 0) + np.zeros(light.shape)
        theirs = SourceCatalog((each.seen / NOISE).sum(axis=0), segment)
        own = SourceCatalog(light, segment, error=spread)
        assert row["segment_flux"][band].value == pytest.approx(own.segment_flux[0], rel=1e-6)
        assert row["segment_flux_err"][band].value == pytest.approx(own.segment_flux_err[0])
        flux, error = theirs.kron_aperture[0].do_photometry(light, error=spread)
        assert row["kron_flux"][band].value == pytest.approx(flux[0], rel=1e-6)
        assert row["kron_flux_err"][band].value == pytest.approx(error[0], rel=1e-6)
    corner = np.array([each.box[1].start, each.box[0].start])
    np.testing.assert_allclose(
        (row["x_centroid"], row["y_centroid"]), theirs.centroid_win[0] + corner
    )
    for name in ("semimajor_axis", "orientation", "segment_area"):
        assert row[name].value == pytest.approx(getattr(theirs, name)[0].value)


def test_neighbours_on_the_sheet_do_not_touch():
    """Measured side by side, each is as if measured alone, in any order."""
    places = [(20.0, 25.0), (80.0, 30.0), (45.0, 80.0), (48.0, 78.0)]
    each = [component(gaussian(*place, 1e4 * (k + 1)), place) for k, place in enumerate(places)]
    together = catalogue(each)
    backwards = catalogue(each[::-1])[::-1]
    for name in ("x_centroid", "semimajor_axis", "segment_flux", "kron_flux", "segment_flux_err"):
        np.testing.assert_allclose(backwards[name], together[name], rtol=1e-9)
        for k, one in enumerate(each):
            np.testing.assert_allclose(catalogue([one])[name][0], together[name][k], rtol=1e-9)


def test_blendedness_is_that_of_the_definition():
    places = [(45.0, 50.0), (53.0, 50.0)]
    lights = [gaussian(*place, flux) for place, flux in zip(places, (9000, 3000), strict=True)]
    each = [component(light, place) for light, place in zip(lights, places, strict=True)]
    table = catalogue(each)
    # of Gaussians: S_1.S_2 / S_1.S_1 = f_2 / f_1 exp(-d^2 / 4 sigma^2)
    overlap = np.exp(-(8**2) / (4 * 4**2))
    for k, ratio in enumerate((1 / 3, 3)):
        expected = 1 - 1 / (1 + ratio * overlap)
        assert table["blendedness"][k] == pytest.approx(expected, abs=0.01)
    assert table["flux_overlap_fraction"][0] < 0.1 < table["flux_overlap_fraction"][1]
    # light of none of them is another one
    unclaimed = lights[1]
    alone = catalogue(each[:1], unclaimed=unclaimed)
    assert alone["blendedness"][0] == pytest.approx(table["blendedness"][0], rel=1e-3)


def test_light_of_others_is_no_light_of_an_aperture():
    places = [(45.0, 50.0), (53.0, 50.0)]
    each = [component(gaussian(*place, 1e4), place) for place in places]
    one = catalogue(each[:1])["aperture_flux"][0]
    np.testing.assert_allclose(catalogue(each)["aperture_flux"][0], one, rtol=1e-5)
    rest = np.zeros((2, *SHAPE))
    rest[:, *each[1].box] = each[1].seen
    (row,) = catalogue_of_image(each[0], rest)
    np.testing.assert_allclose(row["aperture_flux"], one, rtol=1e-5)


def catalogue_of_image(own, rest):
    """Measure a component of an image with light of none."""
    image = NDData(rest, unit=u.nJy, meta={"astrodeblend": {"ndim": 3}})
    above = rest.copy()
    above[:, *own.box] += own.seen
    sources = catalogue([own])[["parent", "n_blended", "neighbor_distance"]]
    sources["petrosian_radius"] = 10.0 * u.pix
    hidden = np.zeros(above.shape, bool)
    return measure(image, sky_of(hidden), above, [own], sources, Calibration(), unclaimed=rest)


def test_errors_of_deblending_add_to_those_of_noise():
    place = (50.0, 50.0)
    quiet, unsure = (
        catalogue([component(gaussian(*place, 1e4), place, deblending=d)])[0] for d in (0, 9.0)
    )
    area = quiet["segment_area"].value
    plain = NOISE.ravel() * np.sqrt(area)
    np.testing.assert_allclose(quiet["segment_flux_err"].value, plain, rtol=1e-6)
    more = np.sqrt(plain**2 + 9 * area)
    assert (unsure["segment_flux_err"].value > 0.99 * more).all()
    assert (unsure["aperture_flux_err"] > quiet["aperture_flux_err"]).all()


def test_no_light_and_no_data():
    place = (50.0, 50.0)
    each = component(0 * gaussian(*place, 1.0), place, flags=Flag.EMPTY)
    other = component(gaussian(20, 20, 1e4), (20.0, 20.0))
    hidden = np.zeros((2, *SHAPE), bool)
    hidden[1, 10:90, 10:90] = True
    each.hidden[1] = True
    table = catalogue([each, other], hidden=hidden)
    assert (table["x_centroid"][0], table["y_centroid"][0]) == place
    assert table["segment_flux"][0][0] == 0
    assert np.isnan(table["segment_flux_err"][0]).all()
    for name in ("segment_flux", "kron_flux", "aperture_flux"):
        assert np.isnan(table[name][0][1])
        assert np.isfinite(table[name][1][0])
    assert np.isnan(table["semimajor_axis"][0])
    assert np.isnan(table["masked_fraction"][0]).all()
    assert table["flag_names"].tolist() == ["EMPTY", ""]


@pytest.mark.parametrize("place", PLACES)
def test_the_share_of_light_without_data_is_told(place):
    light = gaussian(*place, 30000.0, 5, 3, 30)
    each = component(light, place)
    x, y = (round(at) for at in place)
    hidden = np.zeros(light.shape, bool)
    hidden[0, :, x : x + 2] = hidden[1, y - 1 : y + 2, x - 1 : x + 2] = True
    expected = (light * hidden).sum(axis=(1, 2)) / light.sum(axis=(1, 2))
    (row,) = catalogue([replace(each, hidden=hidden[:, *each.box])])
    np.testing.assert_allclose(row["masked_fraction"], expected, atol=0.02)
    whole = row["segment_flux"] / (1 - row["masked_fraction"])
    np.testing.assert_allclose(whole.value, [30000, 15000], rtol=0.03)
    (flat,) = catalogue([replace(each, hidden=hidden[:, *each.box])], ndim=2)
    assert flat["masked_fraction"] == row["masked_fraction"][0]
    assert not catalogue([each])["masked_fraction"].any()


def test_noise_alone_is_no_missing_data():
    """Its sum may be negative."""
    light = -np.abs(np.random.default_rng(1).normal(size=(2, *SHAPE)))
    each = component(light, (50.0, 50.0))
    each.footprint[:] = True
    (row,) = catalogue([each])
    np.testing.assert_allclose(row["segment_flux"].value, each.light.sum(axis=(1, 2)))
    assert np.isfinite(row["segment_flux_err"]).all()


def test_units_shapes_and_sky():
    place = (50.0, 50.0)
    each = [component(gaussian(*place, 1e4), place)]
    plain = catalogue(each, unit=None)
    assert not isinstance(plain["segment_flux"], u.Quantity)
    assert "sky_centroid" not in plain.colnames
    assert plain["segment_flux"].shape == (1, 2)
    assert catalogue(each, ndim=2)["segment_flux"].shape == (1,)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cdelt = ["RA---TAN", "DEC--TAN"], [-1e-4, 1e-4]
    table = catalogue(each, wcs=wcs)
    expected = wcs.pixel_to_world(table["x_centroid"], table["y_centroid"])
    assert (table["sky_centroid"].separation(expected) < 1e-6 * u.arcsec).all()
    none = catalogue([], wcs=wcs)
    assert none.colnames == table.colnames
    assert none["segment_flux"].shape == none["masked_fraction"].shape == (0, 2)


def test_the_error_of_a_flux_adds_up_as_its_light_does():
    """A component whose flux is known to 30 and 20 is so in its segment, and in part of it less."""
    light = gaussian(50.0, 50.0, 30000.0)
    part = replace(component(light, (50.0, 50.0)), flux_std=np.array([30.0, 20.0]))
    part = replace(part, noise=np.zeros_like(part.light))
    (row,) = catalogue([part], calibration=Calibration(coherent=1.5, independent=7.0))
    np.testing.assert_allclose(row["segment_flux_err"].value, [45, 30], rtol=1e-3)
    share = row["kron_flux"] / row["segment_flux"]
    np.testing.assert_allclose(row["kron_flux_err"].value, share * [45, 30], rtol=1e-3)
    (row,) = catalogue([part], calibration=Calibration(coherent=1.5), radius=4.0)
    within = 1 - np.exp(-0.5)  # of a Gaussian of 4 pixels
    sky = NOISE.ravel() ** 2 * np.pi * 4.0**2
    expected = np.sqrt((within * np.array([45, 30])) ** 2 + sky)
    np.testing.assert_allclose(row["aperture_flux_err"].value, expected, rtol=0.02)
