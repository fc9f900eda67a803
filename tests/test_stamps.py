"""Stamps: positions, resampling and the way back, WCS."""

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.modeling.models import Gaussian2D
from astropy.nddata import NDData
from astropy.wcs import WCS, DistortionLookupTable, Sip
from hypothesis import given, settings
from hypothesis import strategies as st

from astrodeblend.stamps import cut_stamp, pixel_position, stamp_width

PICTURE = {"astrodeblend": {"full_scale": 255}}


def make_wcs(kind="cd"):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.1, 2.2]
    wcs.wcs.crpix = [71.3, 40.6]
    angle = np.deg2rad(33)
    turn = np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if kind == "pc":
        wcs.wcs.cdelt = [7e-5, 7e-5]
        wcs.wcs.pc = turn
    else:
        wcs.wcs.cd = 7e-5 * turn
    if kind == "sip":
        wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
        a, b = np.zeros((4, 4)), np.zeros((4, 4))
        a[2, 0], a[1, 1], a[0, 3] = 1e-4, -2e-4, 1e-6
        b[0, 2], b[1, 1], b[2, 1] = -1e-4, 3e-4, 2e-6
        wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    if kind == "table":
        y, x = np.mgrid[:20, :20]
        table = (0.3 * np.sin(x / 5) + 0.2 * np.cos(y / 4)).astype(np.float32)
        wcs.cpdis1 = DistortionLookupTable(table, (1, 1), (-5, -5), (9, 9))
        wcs.det2im2 = DistortionLookupTable(table.T.copy(), (1, 1), (-5, -5), (9, 9))
    wcs.wcs.set()
    return wcs


def make_image(shape=(2, 90, 120), *, unit=None, wcs=None, mask=None, meta=None, rng=0):
    data = np.random.default_rng(rng).normal(0, 1, shape).astype(np.float32)
    return NDData(data, unit=unit, wcs=wcs, mask=mask, meta=meta)


def galaxy(shape, x, y, sigma, flux=1000.0):
    rows, columns = np.indices(shape)
    model = Gaussian2D(flux / (2 * np.pi * sigma**2), x, y, sigma, sigma)
    return model(columns, rows)


def centroid(data):
    rows, columns = np.indices(data.shape)
    return (columns * data).sum() / data.sum(), (rows * data).sum() / data.sum()


# positions


def test_position_defaults_to_the_middle():
    assert pixel_position(make_image()) == (59.5, 44.5)


def test_position_on_the_sky_is_converted_with_the_wcs():
    wcs = make_wcs("sip")
    image = make_image(wcs=wcs)
    place = wcs.pixel_to_world(33.25, 60.75)
    assert pixel_position(image, place) == pytest.approx((33.25, 60.75), abs=1e-6)
    assert pixel_position(image, place.galactic) == pytest.approx((33.25, 60.75), abs=1e-6)


def test_position_on_the_sky_needs_a_wcs():
    with pytest.raises(ValueError, match=r"position .* the image has no WCS"):
        pixel_position(make_image(), SkyCoord(150.1, 2.2, unit="deg"))


@pytest.mark.parametrize("position", [(-0.6, 10), (10, 89.6), (120, 3), (np.nan, 4), (3, np.inf)])
def test_position_outside_is_refused(position):
    with pytest.raises(ValueError, match=r"position .* outside the image; x .* 0 and 119"):
        pixel_position(make_image(), position)


def test_position_on_the_sky_outside_is_refused():
    wcs = make_wcs()
    with pytest.raises(ValueError, match=r"position .* outside the image"):
        pixel_position(make_image(wcs=wcs), wcs.pixel_to_world(500, 500))
    opposite = SkyCoord(330.1, -2.2, unit="deg")  # the projection does not reach there
    with pytest.raises(ValueError, match=r"position .* outside the image"):
        pixel_position(make_image(wcs=wcs), opposite)


def test_many_positions_are_refused():
    places = SkyCoord([150, 150.1], [2, 2.1], unit="deg")
    with pytest.raises(ValueError, match="position holds 2 places"):
        pixel_position(make_image(wcs=make_wcs()), places)


@pytest.mark.parametrize("position", [5, "5,6x", (1, 2, 3), (1,), ("a", "b"), (None, 2)])
def test_position_of_another_kind_is_refused(position):
    with pytest.raises(TypeError, match=r"position is .* two numbers"):
        pixel_position(make_image(), position)


# width


def test_width_follows_the_rule():
    assert stamp_width(10) == pytest.approx(58)
    assert stamp_width(10 * u.pix, petrosian_radii=4) == pytest.approx(40)


def test_width_has_limits():
    assert stamp_width(0.5) == 16
    assert stamp_width(100, shape=(90, 120)) == 120
    assert stamp_width(100, shape=(5, 9)) == 16


@pytest.mark.parametrize("radius", [np.nan, 0, -3, np.inf])
def test_width_of_no_galaxy_is_refused(radius):
    with pytest.raises(ValueError, match="radius is"):
        stamp_width(radius)


@pytest.mark.parametrize("width", [0, -5, np.nan, np.inf, 0.5])
def test_a_width_below_a_pixel_is_refused(width):
    with pytest.raises(ValueError, match="width is"):
        cut_stamp(make_image(), width=width)


# cutting


def test_aligned_stamp_is_a_copy():
    image = make_image()
    stamp = cut_stamp(image, (49.5, 39.5), width=80, background=0)
    np.testing.assert_array_equal(stamp.image.data, image.data[:, :80, 10:90])
    assert not stamp.image.mask.any()
    assert stamp.slices == (slice(0, 80), slice(10, 90))
    odd = cut_stamp(image, (40, 30), width=31, pixels=31, background=0)
    np.testing.assert_array_equal(odd.image.data, image.data[:, 15:46, 25:56])
    np.testing.assert_array_equal(odd.to_image(odd.image.data, cutout=True), odd.image.data)


def test_whole_image_of_the_networks_size_is_a_copy_by_default():
    image = make_image((3, 80, 80))
    stamp = cut_stamp(image, width=80, background=0)
    np.testing.assert_array_equal(stamp.image.data, image.data)
    np.testing.assert_array_equal(stamp.to_image(stamp.image.data), image.data)


def test_shrinking_by_a_whole_number_averages_cells():
    image = make_image((1, 240, 240), meta=PICTURE)
    stamp = cut_stamp(image, width=240, background=0)
    cells = image.data.reshape(1, 80, 3, 80, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(stamp.image.data, cells, atol=1e-6)


@pytest.mark.parametrize("width", [37.3, 60, 80, 101.7, 200])
def test_a_galaxy_keeps_place_shape_and_flux(width):
    x, y = 99.2, 107.9
    image = NDData(galaxy((220, 200), x, y, 4)[None])
    stamp = cut_stamp(image, (97.3, 105.1), width=width, background=0)
    data = stamp.image.data[0]
    assert data.sum() == pytest.approx(1000, rel=2e-3)
    place = np.array([x - 97.3, y - 105.1]) * 80 / width + 39.5
    np.testing.assert_allclose(centroid(data), place, atol=0.02)
    sigma = np.hypot(4, width / 80 / 12**0.5) * 80 / width
    middle = galaxy((80, 80), *place, sigma)
    np.testing.assert_allclose(data, middle, atol=0.012 * middle.max())


centres = st.floats(35, 65)
widths = st.floats(16, 60)
grids = st.integers(16, 96)


@settings(max_examples=30, deadline=None)
@given(low=st.integers(0, 40), width=st.integers(16, 60), pixels=grids, seed=st.integers(0, 99))
def test_cutting_between_pixels_keeps_the_flux(low, width, pixels, seed):
    data = np.random.default_rng(seed).normal(size=(1, 101, 101))
    centre = (low + (width - 1) / 2, 50 - (width % 2 == 0) / 2)
    stamp = cut_stamp(NDData(data), centre, width=width, pixels=pixels, background=0)
    rows = slice(round(centre[1] - (width - 1) / 2), round(centre[1] + (width + 1) / 2))
    flux = data[0, rows, low : low + width].sum()
    assert stamp.image.data.sum() == pytest.approx(flux, abs=1e-9)
    assert not stamp.image.mask.any()


@settings(max_examples=30, deadline=None)
@given(x=centres, y=centres, width=widths, pixels=grids, seed=st.integers(0, 99))
def test_the_way_back_keeps_the_flux(x, y, width, pixels, seed):
    stamp = cut_stamp(NDData(np.zeros((1, 101, 101))), (x, y), width=width, pixels=pixels)
    values = np.random.default_rng(seed).normal(size=(2, pixels, pixels))
    back = stamp.to_image(values)
    assert back.shape == (2, 101, 101)
    np.testing.assert_allclose(back.sum(axis=(1, 2)), values.sum(axis=(1, 2)), atol=1e-8)
    np.testing.assert_array_equal(back[:, *stamp.slices], stamp.to_image(values, cutout=True))
    back[:, *stamp.slices] = 0
    assert not back.any()


@settings(max_examples=30, deadline=None)
@given(x=centres, y=centres, width=st.floats(16, 400), pixels=grids, level=st.floats(-1e3, 1e3))
def test_brightness_of_an_even_sky_stays(x, y, width, pixels, level):
    image = NDData(np.full((1, 101, 101), level), unit=u.MJy / u.sr)
    stamp = cut_stamp(image, (x, y), width=width, pixels=pixels)
    assert stamp.brightness
    # numbers with fewer digits than most are no flux
    np.testing.assert_allclose(stamp.image.data, level, rtol=1e-9, atol=1e-300)


@settings(max_examples=30, deadline=None)
@given(x=st.floats(0, 100), y=st.floats(0, 100), width=st.floats(16, 400), seed=st.integers(0, 99))
def test_fractions_stay_fractions(x, y, width, seed):
    stamp = cut_stamp(NDData(np.ones((1, 101, 101))), (x, y), width=width, background=0)
    first = np.random.default_rng(seed).uniform(size=(3, 80, 80))
    first[0] = 0.25
    fractions = stamp.fractions_to_image(np.stack([first, 1 - first]))
    assert fractions.shape == (2, 3, 101, 101)
    assert fractions.min() >= 0
    assert fractions.max() <= 1
    inside = fractions[..., *stamp.slices]
    np.testing.assert_allclose(inside.sum(axis=0), 1, rtol=1e-6)
    np.testing.assert_allclose(inside[0, 0], 0.25, rtol=1e-6)
    outside = np.ones((101, 101), dtype=bool)
    outside[stamp.slices] = False
    assert not fractions[..., outside].any()


@pytest.mark.parametrize("width", [40, 80, 150.5])
def test_fractions_take_galaxies_apart_on_the_images_own_grid(width):
    shape = (160, 170)
    one, two = galaxy(shape, 80.3, 76.1, 5), galaxy(shape, 88.9, 80.4, 4, flux=600)
    sky = 1.0
    image = NDData((one + two + sky)[None], unit=u.nJy)
    stamp = cut_stamp(image, (80.3, 76.1), width=width, background=sky)
    parts = [
        cut_stamp(NDData(g[None]), (80.3, 76.1), width=width, background=0) for g in (one, two)
    ]
    blend = stamp.image.data - sky * stamp.scale**2
    fractions = np.stack([part.image.data / np.maximum(blend, 1e-6) for part in parts])
    back = stamp.fractions_to_image(fractions.clip(0, 1)) * (image.data - sky)
    for found, true in zip(back[:, 0], (one, two), strict=True):
        seen = np.zeros(shape, dtype=bool)
        seen[stamp.slices] = True
        seen &= true > 0.01 * true.max()
        np.testing.assert_allclose(found[seen], true[seen], atol=0.01 * true.max())


@pytest.mark.parametrize(
    ("unit", "brightness"),
    [
        (u.nJy, False),
        (u.MJy / u.sr, True),
        (u.Unit("1e-9 Jy / arcsec2"), True),
        (u.dimensionless_unscaled, False),
        (u.Unit("counts of mine", parse_strict="silent"), False),
        (u.ABmag, False),
        (None, False),
    ],
)
def test_unit_tells_flux_from_brightness(unit, brightness):
    image = NDData(np.ones((1, 60, 60)), unit=unit)
    stamp = cut_stamp(image, width=40, background=1)
    assert stamp.brightness is brightness
    assert stamp.image.unit == unit
    np.testing.assert_allclose(stamp.image.data, 1 if brightness else 0.25)
    np.testing.assert_allclose(stamp.to_image(stamp.image.data, cutout=True), 1)


def test_pictures_keep_their_brightness_and_their_meta():
    image = NDData(np.full((3, 60, 60), 17, np.float32), meta=PICTURE)
    stamp = cut_stamp(image, width=33.3, background=17)
    np.testing.assert_allclose(stamp.image.data, 17, rtol=1e-6)
    assert stamp.image.meta == PICTURE
    assert stamp.image.data.dtype == np.float32


def test_what_is_missing_is_filled_and_flagged():
    image = make_image((2, 60, 60), mask=np.zeros((2, 60, 60), dtype=bool))
    image.mask[1, 30:32, 20:24] = True
    image.data[1, 30:32, 20:24] = 1e30
    image.data[0, 5, 6] = np.nan
    stamp = cut_stamp(image, (29.5, 19.5), width=80, background=[5, 7])
    data, mask = stamp.image.data, stamp.image.mask
    assert np.isfinite(data).all()
    assert mask[:, :20].all()  # below the image
    assert mask[:, :, :10].all()
    assert mask[:, :, 70:].all()
    inside = np.zeros((2, 60, 60), dtype=bool)
    inside[1, 30:32, 20:24] = True
    inside[0, 5, 6] = True
    np.testing.assert_array_equal(mask[:, 20:, 10:70], inside[:, :60])
    assert (data[0][mask[0]] == 5).all()
    assert (data[1][mask[1]] == 7).all()
    assert stamp.slices == (slice(0, 60), slice(0, 60))


def test_fill_is_the_background_at_the_position():
    data = np.random.default_rng(1).normal(12, 1, (1, 60, 60))
    data[0] += galaxy((60, 60), 30, 30, 4, flux=20000)
    stamp = cut_stamp(NDData(data), (30, 30), width=100)
    area = stamp.scale**2
    assert stamp.image.data[0, 0, 0] == pytest.approx(12 * area, rel=0.02)


def test_flags_follow_the_resampling():
    mask = np.zeros((1, 60, 60), dtype=bool)
    mask[0, 30, 20] = True
    stamp = cut_stamp(NDData(np.ones((1, 60, 60)), mask=mask), (29.5, 29.5), width=30, background=1)
    rows, columns = np.nonzero(stamp.image.mask[0])
    centres = 29.5 + (np.array([columns, rows]) - 39.5) * stamp.scale
    reach = 0.5 + stamp.scale / 2
    assert (np.abs(centres - [[20], [30]]) < reach + 1e-6).all()
    assert len(rows) == pytest.approx((2 * reach / stamp.scale) ** 2, rel=0.6)


def test_a_stamp_at_the_corner_has_its_way_back():
    image = make_image((1, 50, 70))
    stamp = cut_stamp(image, (0, 49), width=30.7, background=0)
    back = stamp.to_image(stamp.image.data)
    assert back.shape == (1, 50, 70)
    assert stamp.slices[0].stop == 50
    assert stamp.slices[1].start == 0


def test_cutting_copies():
    image = make_image((1, 80, 80))
    stamp = cut_stamp(image, width=80, background=0)
    stamp.image.data[:] = 0
    assert image.data.any()


# WCS


@pytest.mark.filterwarnings("ignore:.*cdfix.*")
@pytest.mark.parametrize("kind", ["cd", "pc", "sip", "table"])
@pytest.mark.parametrize(("width", "pixels"), [(80, 80), (37.31, 80), (211.7, 80), (50, 33)])
def test_wcs_follows_the_stamp(kind, width, pixels):
    wcs = make_wcs(kind)
    stamp = cut_stamp(make_image(wcs=wcs), (51.3, 47.8), width=width, pixels=pixels, background=0)
    assert stamp.image.wcs.array_shape == (pixels, pixels)
    i, j = np.meshgrid(*2 * [np.linspace(0, pixels - 1, 7)])
    x = 51.3 + (i - (pixels - 1) / 2) * width / pixels
    y = 47.8 + (j - (pixels - 1) / 2) * width / pixels
    sky = wcs.pixel_to_world(x, y)
    apart = stamp.image.wcs.pixel_to_world(i, j).separation(sky).deg / 7e-5
    assert apart.max() < 1e-6  # pixels of the image
    if kind != "table":
        # astropy inverts distortions step by step, to 1e-6 or a little more
        back = stamp.image.wcs.world_to_pixel(sky)
        np.testing.assert_allclose(back, (i, j), atol=3e-6)


def test_wcs_of_the_image_is_left_alone():
    wcs = make_wcs("sip")
    before = wcs.to_header_string(relax=True)
    cut_stamp(make_image(wcs=wcs), width=30, background=0)
    assert wcs.to_header_string(relax=True) == before


def test_light_lies_where_the_wcs_says():
    wcs = make_wcs("sip")
    image = NDData(galaxy((90, 120), 63.4, 41.7, 3)[None], wcs=wcs)
    stamp = cut_stamp(image, (60.1, 43.2), width=55.5, background=0)
    sky = wcs.pixel_to_world(63.4, 41.7)
    there = stamp.image.wcs.world_to_pixel(sky)
    np.testing.assert_allclose(centroid(stamp.image.data[0]), there, atol=0.02)
