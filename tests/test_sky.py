"""The sky of an image, against fields whose sky is known."""

import re
from contextlib import nullcontext

import numpy as np
import pytest
from astropy.nddata import NDData, StdDevUncertainty
from astropy.utils.exceptions import AstropyUserWarning
from scipy import ndimage

from astrodeblend.sky import estimate_sky

PICTURE = {"astrodeblend": {"kind": "picture", "full_scale": 255}}


def galaxies(shape, *, number=10, seed=3, bands=1, top=2000.0):
    """Exponential discs blurred by a PSF: light (bands, y, x) without sky and noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(shape)
    light = np.zeros((bands, *shape))
    for _ in range(number):
        y, x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        scale, flux = rng.uniform(1, 2.5), rng.uniform(0.05, 1, (bands, 1, 1)) * top
        axis = rng.uniform(0.4, 1)
        radius = np.hypot((rows - y) / axis, columns - x)
        light += flux * np.exp(-radius / scale) / (2 * np.pi * scale**2 * axis)
    return ndimage.gaussian_filter(light, (0, 1.7, 1.7))


def disc(side, radius, flux, centre=None):
    """One disc of half-light radius ``radius``."""
    y, x = centre or ((side - 1) / 2, (side - 1) / 2)
    rows, columns = np.indices((side, side))
    scale = radius / 1.678
    return flux / (2 * np.pi * scale**2) * np.exp(-np.hypot(rows - y, columns - x) / scale)[None]


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape)


def sky_of_image(data, **known):
    return estimate_sky(NDData(data, **known))


# level and noise


@pytest.mark.parametrize("sky", [0.0, 11.0, -3.0])
@pytest.mark.parametrize("unit", [1.0, 1e-30, 1e5])
def test_level_and_noise_of_a_flat_sky(sky, unit):
    found = sky_of_image(unit * (sky + 2 * noise((2, 90, 100))))
    assert found.level.shape == found.noise.shape == (2, 1, 1)
    np.testing.assert_allclose(found.level, sky * unit, atol=0.1 * unit)
    np.testing.assert_allclose(found.noise, 2 * unit, rtol=0.05)
    assert not found.hidden.any()
    assert (found.correlation == 1).all()
    assert found.noise_from == "image"
    assert len(found.words) == 2


def test_scale_and_offset_go_through():
    data = galaxies((150, 170), bands=2) + noise((2, 150, 170))
    plain, other = sky_of_image(data + 20), sky_of_image(1e-25 * (data - 30))
    np.testing.assert_allclose(1e25 * other.level + 50, plain.level, atol=1e-6)
    np.testing.assert_allclose(1e25 * other.noise, plain.noise, rtol=1e-6)


@pytest.mark.parametrize("number", [0, 10, 60])
def test_level_is_right_to_a_part_of_the_noise(number):
    data = galaxies((250, 260), number=number, bands=3) + 0.3 + noise((3, 250, 260))
    found = sky_of_image(data)
    np.testing.assert_allclose(found.level, 0.3, atol=0.05)
    np.testing.assert_allclose(found.noise, 1, rtol=0.03)


@pytest.mark.parametrize("side", [16, 40, 64, 150, 300])
def test_a_slope_is_found_on_any_size(side):
    slope = 6 * np.add.outer(np.arange(side), 0.5 * np.arange(side)) / side
    light = galaxies((side, side), number=side**2 // 5000)
    found = sky_of_image(light + slope + noise(light.shape, 5))
    assert found.level.shape == light.shape
    assert np.sqrt(np.mean((found.level - slope) ** 2)) < 0.05 + 3 / side
    assert found.noise.item() == pytest.approx(1, rel=0.04 + 3 / side)


@pytest.mark.parametrize("number", [0, 30])
@pytest.mark.parametrize(
    ("rise", "side", "curve", "within"),
    [(5, 400, 0, 0.1), (0, 400, 4, 0.2), (3, 64, 0, 0.2), (200, 400, 0, 0.1)],
)
def test_an_uneven_sky_is_a_map(rise, side, curve, within, number):
    """``rise`` along x, and ``curve`` from the middle to a corner, in noises."""
    y, x = np.indices((side, side)) / side
    sky = rise * x + curve * ((x - 0.5) ** 2 + (y - 0.5) ** 2) * 2
    light = galaxies(sky.shape, number=round(number * side**2 / 400**2), bands=3)
    found = sky_of_image(light + sky + noise((3, side, side), 7))
    assert found.level.shape == light.shape
    assert np.abs(found.level - sky).max() < within
    np.testing.assert_allclose(found.noise, 1, rtol=0.04)


@pytest.mark.parametrize("sky", [0, 10])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_crowded_stamp(sky, seed):
    light = galaxies((80, 80), number=20, seed=seed, bands=3)
    found = sky_of_image(light + sky + noise(light.shape, seed))
    assert found.level.shape == (3, 1, 1)
    np.testing.assert_allclose(found.level, sky, atol=0.3)
    np.testing.assert_allclose(found.noise, 1, rtol=0.1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("side", [64, 200, 400])
def test_nothing_is_found_in_nothing(side, seed):
    found = sky_of_image(noise((2, side, side), seed))
    assert found.level.shape == (2, 1, 1)
    np.testing.assert_allclose(found.level, 0, atol=3 / side)
    assert (found.correlation == 1).all()


@pytest.mark.parametrize("shape", [(312, 350), (313, 351)])
def test_maps_turn_with_the_image(shape):
    rows, columns = np.indices(shape)
    data = (rows / 100 + columns / 60 + 4 * (rows / 150 - 1) ** 2 + noise(shape))[None]
    found = sky_of_image(data)
    for turned in (lambda a: a[:, ::-1], lambda a: a[:, :, ::-1], lambda a: a.swapaxes(1, 2)):
        other = sky_of_image(turned(data))
        np.testing.assert_allclose(other.level, turned(found.level), atol=0.1)
        np.testing.assert_allclose(other.noise, found.noise, rtol=0.02)


@pytest.mark.parametrize("sky", [0, 10])
@pytest.mark.parametrize(("side", "radius"), [(400, 30), (300, 20), (200, 15), (100, 10)])
def test_the_level_does_not_eat_a_large_galaxy(side, radius, sky):
    data = disc(side, radius, 280 * radius**2) + sky + noise((1, side, side))
    found = sky_of_image(data)
    assert np.ptp(found.level) == 0
    assert np.abs(found.level - sky).max() < 0.05


def test_a_galaxy_off_the_middle_is_no_slope():
    data = disc(200, 20, 1e5, centre=(60, 140)) + noise((1, 200, 200))
    assert np.abs(sky_of_image(data).level).max() < 0.1


def test_a_galaxy_that_fills_the_stamp():
    light = disc(100, 30, 251_000)  # 2.4 in the corners, 7.6 at the edges, 125 in the middle
    found = sky_of_image(light + noise(light.shape))
    assert found.level.max() < 6
    assert found.noise.max() < 1.3


# what noise is not


@pytest.mark.parametrize("wild", [1e6, -1e6, 1e12])
@pytest.mark.parametrize("number", [1, 5, 150])
def test_wild_pixels_change_nothing(wild, number):
    data = galaxies((160, 200), bands=2) + noise((2, 160, 200))
    places = np.random.default_rng(4).integers(0, 160, (2, number))
    plain = sky_of_image(data)
    data[:, *places] = wild
    # so many pixels of one value are no chance; fewer are sharper than a star
    with nullcontext() if number > 8 else pytest.warns(AstropyUserWarning, match="sharper than"):
        found = sky_of_image(data)
    np.testing.assert_allclose(found.noise, plain.noise, rtol=0.03)
    np.testing.assert_allclose(found.level, plain.level, atol=0.05)
    expected = np.zeros(data.shape, bool)
    expected[:, *places] = True
    np.testing.assert_array_equal(found.hidden, expected)


def stars(fwhm, shape=(120, 130), seed=2):
    """Stars on all parts of pixels, of a Moffat profile before the pixels, with photons' noise."""
    rng = np.random.default_rng(seed)
    fine = 7
    image = np.zeros((fine * shape[0], fine * shape[1]))
    rows, columns = np.indices((25 * fine, 25 * fine)) - 12 * fine
    alpha = fine * fwhm / 2 / np.sqrt(2 ** (1 / 2.5) - 1)
    star = (1 + (rows**2 + columns**2) / alpha**2) ** -2.5
    for flux in 10 ** rng.uniform(2, 5.5, 50):
        y, x = (rng.integers(0, side - 25 * fine) for side in image.shape)
        image[y : y + len(star), x : x + len(star)] += flux * star / star.sum()
    image = image.reshape(shape[0], fine, shape[1], fine).sum(axis=(1, 3))
    return rng.poisson(image + 30).astype(float)[None]


@pytest.mark.parametrize("fwhm", [0.7, 1, 2, 4])
@pytest.mark.parametrize("top", [np.inf, 3000])
def test_stars_are_no_cosmic_rays(fwhm, top):
    found = sky_of_image(np.minimum(stars(fwhm), top))
    assert not found.hidden[stars(fwhm) < top].any()
    assert not any("sharper" in text for text in found.words)


def test_cosmic_rays_are_no_data():
    """A hot pixel, a track, and one in the wings of a star."""
    data = stars(2.0)
    plain, bad = sky_of_image(data), np.zeros(data.shape, bool)
    star = np.unravel_index(data.argmax(), data.shape)
    bad[0, 70, 70] = bad[0, 6, 15:27] = bad[0, star[1] - 4, star[2] + 5] = True
    data[bad] += 20_000
    with pytest.warns(AstropyUserWarning, match="sharper than any PSF .* 14 in band 0;"):
        found = sky_of_image(data)
    np.testing.assert_array_equal(found.hidden, bad)
    np.testing.assert_allclose(found.noise, plain.noise, rtol=0.01)
    sharp = {"astrodeblend": {"kind": "flux", "psf": np.array([0.5])}}
    assert not sky_of_image(data, meta=sharp).hidden.any()


@pytest.mark.parametrize("value", [60000, -9999, 30])
@pytest.mark.parametrize("counts", [False, True])
def test_a_value_that_single_pixels_share_is_no_data(value, counts):
    rng = np.random.default_rng(8)
    light = galaxies((160, 200), bands=2)
    data = light + noise((2, 160, 200), 4)
    if counts:
        data = rng.poisson(light + 0.3).astype(float)
    plain = sky_of_image(data)
    bad = rng.random(data.shape) < np.array([0.01, 0.1])[:, None, None]
    data[bad] = value
    found = sky_of_image(data)
    assert not plain.hidden.any()
    assert found.hidden[bad].all()
    assert found.hidden[~bad].mean() < 1e-3
    np.testing.assert_allclose(found.noise, plain.noise, rtol=0.03)
    np.testing.assert_allclose(found.level, plain.level, atol=0.05)


def test_photons_in_single_pixels_share_no_value():
    """As many pixels of 9 and 10 as of 11 photons."""
    data = np.random.default_rng(3).poisson(0.05, (1, 200, 200)).astype(float)
    data[0, 5::9, 5::9] = 9 + np.arange(22) % 3
    assert not sky_of_image(data).hidden.any()


def test_the_plateau_of_clipped_galaxies_is_data():
    data = np.minimum(9 * galaxies((160, 200), bands=1) + noise((1, 160, 200)), 25)
    assert (data == 25).sum() > 50
    assert not sky_of_image(data).hidden.any()


# doubts


def uneven():
    return np.where(np.arange(200) < 100, 0, 50) + noise((1, 160, 200))


def gaps(data):
    data[:, ::2, ::2] = np.nan
    return data


def uncertain(times):
    return {"uncertainty": StdDevUncertainty(np.full((1, 160, 200), times))}


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (uneven, {}, "band 0: the sky is uneven by 1., more than a surface of second order"),
        (lambda: -9 * galaxies((160, 200)) + noise((1, 160, 200)), {}, "below the sky, .*negative"),
        (lambda: noise((1, 160, 200)).clip(0), {}, "band 0 is cut off at 0: level and noise come"),
        (
            lambda: noise((1, 160, 200)),
            uncertain(9.0),
            "the uncertainty is [89].* times the scatter",
        ),
        (lambda: noise((1, 160, 200)), uncertain(0.1), "the uncertainty is 0.1.* or a weight"),
        (lambda: noise((1, 160, 200)) * np.where(np.arange(200) < 70, 1, 4), {}, "noise varies"),
        (lambda: (noise((1, 160, 200)) + 3e7).astype("f4"), {}, "float32 rounds .* to steps of 2"),
        (lambda: gaps(noise((1, 160, 200))), {}, "band 0: 25% of the pixels in between others"),
        (lambda: 230 + noise((3, 90, 90)), {"meta": PICTURE}, r"half of white \(255\): a negative"),
    ],
)
def test_what_is_warned_of(data, options, message):
    with pytest.warns(AstropyUserWarning, match=message):
        found = sky_of_image(data(), **options)
    assert any(re.search(message, text) for text in found.words)


@pytest.mark.parametrize("mean", [0.1, 0.5, 4, 100])
def test_counts(mean):
    light = galaxies((200, 220), top=5000 * np.sqrt(mean))
    found = sky_of_image(np.random.default_rng(1).poisson(light + mean).astype(np.int32))
    assert not found.hidden.any()
    assert np.median(found.noise) == pytest.approx(max(np.sqrt(mean), 12**-0.5), rel=0.06)
    np.testing.assert_allclose(found.level, mean, atol=0.15 * np.sqrt(mean))


@pytest.mark.parametrize("step", [0.1, 0.25, 0.5, 1, 3])
def test_rounded_values(step):
    data = np.round((0.3 + noise((1, 200, 200))) / step) * step
    found = sky_of_image(data)
    np.testing.assert_allclose(found.noise, data.std(), rtol=0.05)


@pytest.mark.parametrize("sigma", [0, 0.7, 1, 1.5])
def test_noise_that_pixels_share(sigma):
    """White noise blurred by a Gaussian: means scatter as before, pixels by less."""
    shared = noise((1, 300, 300))
    light = 30 * galaxies((300, 300), top=100)
    if sigma:
        shared = ndimage.gaussian_filter(shared, (0, sigma, sigma), mode="wrap")
    expected = 1 / shared.std()
    found = sky_of_image(light + shared / shared.std())
    assert found.correlation.item() == pytest.approx(expected, rel=0.1 if sigma else 0.02)
    assert (found.correlation.item() == 1) == (sigma == 0)
    assert np.median(found.noise) == pytest.approx(1, rel=0.05)


# a noise that is stated


def test_stated_noise_is_taken():
    data = 5 * galaxies((120, 120), bands=2) + noise((2, 120, 120))
    stated = np.sqrt(4 + np.clip(data, 0, None))  # with the noise of sources
    found = sky_of_image(data, uncertainty=StdDevUncertainty(stated))
    np.testing.assert_allclose(found.noise, 2, rtol=0.02)
    assert found.noise_from == "uncertainty"


def test_stated_noise_that_varies_is_a_map():
    columns = np.arange(320)
    spread = np.broadcast_to(1 + columns / 160, (1, 300, 320))
    found = sky_of_image(spread * noise((1, 300, 320)), uncertainty=StdDevUncertainty(spread))
    np.testing.assert_allclose(found.noise, spread, rtol=0.1)


def test_no_uncertainty_is_no_data():
    stated = np.ones((1, 90, 90))
    stated[0, :20] = 0
    stated[0, 50, 50:53] = 0, np.inf, np.nan
    found = sky_of_image(noise((1, 90, 90)), uncertainty=StdDevUncertainty(stated))
    np.testing.assert_array_equal(found.hidden, ~((stated > 0) & np.isfinite(stated)))
    np.testing.assert_allclose(found.noise, 1)


# no data


def borders(shape):
    inside = np.zeros(shape, bool)
    inside[25:-30, 40:-20] = True
    return ~inside


def turned_chip(shape):
    rows, columns = np.indices(shape) - np.array(shape)[:, None, None] / 2
    along, across = columns * 0.9 + rows * 0.436, rows * 0.9 - columns * 0.436
    return (np.abs(along) > 60) | (np.abs(across) > 55) | (np.abs(across) < 3)


def half(shape):
    return np.indices(shape)[1] < shape[1] // 2


def block(shape):
    return ((np.indices(shape) - 60) // 25 == 0).all(axis=0)


@pytest.mark.parametrize("value", [0.0, -999, 1e30, 0.25, -0.4])
@pytest.mark.parametrize("fill", [borders, turned_chip, half, block])
def test_a_value_that_fills_blocks_is_no_data(value, fill):
    data = galaxies((160, 180), bands=2) + noise((2, 160, 180))
    plain = sky_of_image(data)
    where = np.stack([fill((160, 180)), np.zeros((160, 180), bool)])  # in one band
    data[where] = value
    found = sky_of_image(data)
    np.testing.assert_array_equal(found.hidden, where)
    np.testing.assert_allclose(found.noise, plain.noise, rtol=0.06)
    np.testing.assert_allclose(found.level, 0, atol=0.1)
    assert any("no data" in words for words in found.words)


@pytest.mark.parametrize(("mean", "reach"), [(4, 0), (0.3, 5)])
def test_borders_around_counts(mean, reach):
    data = np.random.default_rng(1).poisson(mean, (1, 300, 300)).astype(float)
    where = np.zeros(data.shape, bool)
    where[:, :, :90] = True
    data[where] = 0
    hidden = sky_of_image(data).hidden
    assert hidden[where].mean() > 0.97
    # zeros next to the border may be taken for part of it
    assert hidden[:, :, 90 + reach :].mean() < 0.01


@pytest.mark.parametrize("correlated", [False, True])
def test_a_sky_cut_off_at_zero_is_data(correlated):
    data = noise((1, 200, 200), 2)
    if correlated:
        data = ndimage.gaussian_filter(data, (0, 1, 1)) * 3
    with pytest.warns(AstropyUserWarning, match="band 0 is cut off at 0"):
        found = sky_of_image(data.clip(0))
    assert not found.hidden.any()
    np.testing.assert_allclose(found.noise, data.std(), rtol=0.06)


def test_a_saturated_star_is_data():
    rows, columns = np.indices((150, 150)) - 75
    star = 1e6 / (1 + (rows**2 + columns**2) / 9) ** 2
    data = np.minimum(star + noise((150, 150)), 5000)[None]
    assert (data == 5000).sum() > 100
    assert not sky_of_image(data).hidden.any()


def test_an_image_without_noise_is_data():
    light = np.where(disc(120, 5, 1e4) > 0.1, disc(120, 5, 1e4), 0)
    found = sky_of_image(light)
    assert not found.hidden.any()
    assert found.noise.item() > 0
    assert found.level.item() == pytest.approx(0, abs=0.2)


def test_a_mask_hides():
    data = 3 + noise((1, 60, 60))
    mask = np.zeros(data.shape, bool)
    mask[:, :40] = True
    data[mask] = 1e30
    data[0, 50, 50] = np.nan
    found = sky_of_image(data, mask=mask)
    assert found.level.item() == pytest.approx(3, abs=0.2)
    assert found.noise.item() == pytest.approx(1, rel=0.1)
    assert found.hidden.sum() == 40 * 60 + 1


@pytest.mark.parametrize("missing", [np.nan, 0.0, 7.5])
@pytest.mark.parametrize("told", [False, True])
def test_a_band_without_data_is_left_out(missing, told):
    data = galaxies((90, 100), bands=3) + 4 + noise((3, 90, 100))
    known = {"uncertainty": StdDevUncertainty(np.full((3, 90, 100), 1.1))} if told else {}
    alone = sky_of_image(data[1:], **{k: v[1:] for k, v in known.items()})
    data[0] = missing
    with pytest.warns(AstropyUserWarning, match="band 0 has no data, or one value: it is left out"):
        found = sky_of_image(data, **known)
    assert found.hidden[0].all()
    assert not found.hidden[1:].any()
    np.testing.assert_array_equal(found.level[1:], alone.level)
    np.testing.assert_array_equal(found.noise[1:], alone.noise)
    assert found.words[1:] == tuple(
        re.sub("band (.)", lambda name: f"band {int(name[1]) + 1}", text) for text in alone.words
    )


def test_one_value_is_told():
    for kind, values in (("flux", (7.0, 7.0)), ("flux", (0.0,)), ("picture", (0.0, 0.0, 9.0))):
        data = np.broadcast_to(np.reshape(values, (-1, 1, 1)), (len(values), 30, 30))
        told = ", ".join(f"{value:g}" for value in values)
        said = rf"one value in every pixel with data \({told}\): it has no sources"
        with pytest.warns(AstropyUserWarning, match=said):
            assert not sky_of_image(data, meta={"astrodeblend": {"kind": kind}}).hidden.any()


def test_too_few_pixels_are_refused():
    data = noise((2, 30, 30))
    data[:, 2:] = np.nan
    with pytest.raises(ValueError, match="every band has fewer than 64 pixels with data"):
        sky_of_image(data)


def test_what_is_taken_for_no_data_is_named():
    """As of a map of weights, given in place of the image; bands by their names."""
    weight = np.full((1, 60, 60), 0.44)
    weight[..., 3:5] = 0
    known = {"kind": "flux", "bands": ("r",)}
    with pytest.raises(ValueError, match=r"fewer than 64 .*; band r: 3480 pixels are 0.44"):
        estimate_sky(NDData(weight, meta={"astrodeblend": known}))
    known = {"kind": "flux", "bands": ("g", "r")}
    image = NDData(np.concatenate([noise((1, 60, 60)), weight]), meta={"astrodeblend": known})
    with pytest.warns(AstropyUserWarning, match="band r has no data"):
        words = estimate_sky(image).words
    assert "band r: 3480 pixels are 0.44: no data" in words


def test_wrong_number_of_dimensions_is_refused():
    with pytest.raises(ValueError, match=r"image has shape \(30, 30\)"):
        sky_of_image(np.ones((30, 30)))


# pictures


@pytest.mark.parametrize("side", [200, 600])
@pytest.mark.parametrize("middle", [3, 0.2, -0.2, -3])
def test_noise_of_a_sky_that_is_cut_off(middle, side):
    """From a fifth to four fifths of it."""
    sky = np.random.default_rng(6).normal(middle, 4, (1, side, side)).clip(0)
    np.testing.assert_allclose(sky_of_image(sky, meta=PICTURE).noise, 4, rtol=0.05)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (9, 90, 128)])
def test_the_frame_of_a_picture_is_no_data(colour):
    sky = np.random.default_rng(6).normal(20, 4, (3, 100, 120)).round()
    picture = np.broadcast_to(np.reshape(colour, (3, 1, 1)), (3, 160, 151)).astype(float)
    picture[:, 30:130, 1:121] = sky
    found = sky_of_image(picture, meta=PICTURE)
    expected = np.ones(picture.shape, bool)
    expected[:, 30:130, 1:121] = False
    np.testing.assert_array_equal(found.hidden, expected)
    np.testing.assert_allclose(found.level, 20, atol=1)


def test_a_black_sky_is_data():
    picture = np.floor(np.clip(galaxies((200, 200), bands=3) - 3 + noise((3, 200, 200)), 0, 255))
    found = sky_of_image(picture, meta=PICTURE)
    assert not found.hidden.any()
    assert (found.level == 0).all()
    assert found.noise.min() >= 12**-0.5
