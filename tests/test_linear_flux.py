"""`Deblender` with a model of linear flux: any bands, the image's own pixels, units of noise."""

import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.nddata import InverseVariance, NDData, StdDevUncertainty
from astropy.wcs import WCS

from astrodeblend import Deblender
from astrodeblend.networks import build
from astrodeblend.weights import Card

TINY = {"kind": "band_unet", "band_widths": [4, 8], "widths": [8], "attention": 1}
NOISE = np.array([0.5, 2.0, 1.0])[:, None, None]


def card(network=TINY, pixels=32):
    rule = {"petrosian_radii": 4.0, "pixels": pixels}
    return Card(
        "flux", "for tests", network, bands=(), modes=("sum",), scaling="noise", size_rule=rule
    )


@pytest.fixture(scope="module")
def deblender():
    """Return a deblender of random weights, none of which are zero."""
    torch.manual_seed(4)
    network = build(**TINY)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return Deblender(network, card(), device="cpu")


class Echo(torch.nn.Module):
    """A network that gives all light to the central galaxy, and states an error of 1."""

    familiarity = blend_score = None

    def forward(self, blend, positions=None, present=None):
        components = torch.stack([blend, torch.zeros_like(blend)], dim=1)
        return components, torch.ones_like(components)


@pytest.fixture(scope="module")
def echo():
    return Deblender(Echo(), card(), device="cpu")


def galaxy(shape=(90, 100), position=(41.3, 37.8), radius=1.8, flux=4000.0, bands=3):
    y, x = np.indices(shape)
    light = np.exp(-np.hypot(x - position[0], y - position[1]) / radius)
    light *= flux / light.sum()
    rng = np.random.default_rng(2)
    noise = NOISE[:bands] * rng.standard_normal((bands, *shape))
    return (light + noise).astype(np.float32)


def stated(data, factor=1.0, **options):
    deviation = np.broadcast_to(factor * NOISE[: len(data)], data.shape).astype(np.float32)
    return NDData(factor * data, uncertainty=StdDevUncertainty(deviation), **options)


@pytest.mark.parametrize("bands", [1, 2, 6])
def test_any_number_of_bands_in_any_order(deblender, bands):
    batch = np.random.default_rng(bands).normal(0, 5, (2, bands, 33, 40)).astype(np.float32)
    answer = deblender.deblend_arrays(batch)
    assert answer.shape == (2, 2, bands, 33, 40)
    order = np.random.default_rng(0).permutation(bands)
    np.testing.assert_allclose(
        deblender.deblend_arrays(batch[:, order]), answer[:, :, order], rtol=1e-3, atol=1e-3
    )
    assert answer.std() > 0


def test_ten_times_the_flux_and_the_noise_is_ten_times_the_answer(deblender):
    one, ten = (deblender(stated(galaxy(), factor), (41, 38)) for factor in (1.0, 10.0))
    for name in ("central", "companion"):
        values, larger = getattr(one, name), getattr(ten, name)
        np.testing.assert_allclose(larger.data, 10 * values.data, rtol=1e-3, atol=1e-2)
        np.testing.assert_allclose(
            larger.uncertainty.array, 10 * values.uncertainty.array, rtol=1e-3
        )


def test_light_stays_on_the_pixels_it_came_from(echo):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cdelt = [-1e-4, 1e-4]
    image = stated(galaxy(), unit=u.nJy, wcs=wcs)
    result = echo(image, (41.3, 37.8))
    (top, bottom), (left, right) = result.meta["stamp_box"]
    assert (bottom - top, right - left) == (32, 32)
    # The galaxy is within half a pixel of the middle of an even number of pixels.
    assert abs((left + right - 1) / 2 - 41.3) <= 0.5
    assert abs((top + bottom - 1) / 2 - 37.8) <= 0.5
    inside = (slice(None), slice(top, bottom), slice(left, right))
    bright = image.data[inside] > 100  # noise aside, which is made to agree as far as it is smooth
    assert bright.sum() > 10
    found = result.central.data[inside][bright]
    np.testing.assert_allclose(found, image.data[inside][bright], rtol=1e-3)
    outside = np.ones(image.data.shape, bool)
    outside[inside] = False
    assert not result.central.data[outside].any()  # the sky has no level
    assert not result.companion.data.any()
    np.testing.assert_allclose(result.central.uncertainty.array[inside][:, 0, 0], NOISE[:, 0, 0])
    assert result.central.unit == u.nJy
    assert result.central.wcs.wcs.compare(wcs.wcs)
    table = result.to_table()
    assert table["segment_flux"].unit == u.nJy
    np.testing.assert_allclose(table["segment_flux"][0].value, 4000, rtol=0.1)
    assert table["x_centroid"][0] == pytest.approx(41.3, abs=0.3)


def test_a_large_galaxy_is_seen_at_several_pixels_to_one(echo):
    image = stated(galaxy(shape=(200, 200), position=(99, 101), radius=8, flux=2e5))
    result = echo(image, (99, 101))
    assert result.meta["stamp_width"] % 32 == 0
    assert result.meta["stamp_width"] > 32
    (top, bottom), (left, right) = result.meta["stamp_box"]
    inside = (slice(None), slice(top, bottom), slice(left, right))
    light = result.central.data[inside].sum(axis=(1, 2))
    # the noise that larger pixels average away is no light
    np.testing.assert_allclose(light, image.data[inside].sum(axis=(1, 2)), rtol=0.005)


def test_the_noise_is_the_stated_one_or_estimated(echo):
    data = galaxy()
    for uncertainty in (
        StdDevUncertainty(np.broadcast_to(3 * NOISE, data.shape)),
        InverseVariance(np.broadcast_to(1 / (3 * NOISE) ** 2, data.shape)),
    ):
        result = echo(NDData(data, uncertainty=uncertainty), (41, 38))
        np.testing.assert_allclose(result.meta["noise"], 3 * NOISE.ravel(), rtol=1e-5)
        assert result.meta["noise_from"] == "uncertainty"
    result = echo(data, (41, 38))
    np.testing.assert_allclose(result.meta["noise"], NOISE.ravel(), rtol=0.1)
    assert result.meta["noise_from"] == "image"


def test_an_uncertainty_of_zero_says_nothing(echo):
    data = galaxy()
    told = np.ones(data.shape)
    told[..., :40] = 0
    image = NDData(data, uncertainty=StdDevUncertainty(told))
    assert echo(image, (41, 38)).meta["noise"] == [1, 1, 1]
    image = NDData(data, uncertainty=StdDevUncertainty(0 * told))
    for call in (echo, echo.deblend_scene):
        with pytest.raises(ValueError, match="uncertainty of 0 in every valid pixel of a band"):
            call(image)


def test_a_sky_that_was_not_subtracted_is(echo):
    level = np.array([100.0, 250.0, -40.0])[:, None, None]
    result = echo(stated((galaxy() + level).astype(np.float32)), (41, 38))
    np.testing.assert_allclose(result.meta["background"], level.ravel(), atol=0.3)
    flux = result.to_table()["segment_flux"][0]
    np.testing.assert_allclose(flux, 4000, rtol=0.1)


def test_images_smaller_than_a_stamp(echo):
    image = stated(galaxy(shape=(20, 24), position=(12, 9), radius=1.5))
    result = echo(image, (12, 9))
    np.testing.assert_allclose(result.central.data, image.data, rtol=1e-4, atol=1e-4)


def test_images_of_different_bands_together(deblender):
    images = [galaxy(bands=k) for k in (3, 1, 2, 3)] + [galaxy(bands=1)[0]]
    together = deblender.deblend_stamps(images)
    for image, result in zip(images, together, strict=True):
        assert result.central.data.shape == image.shape
        alone = deblender(image)
        np.testing.assert_allclose(result.central.data, alone.central.data, rtol=1e-3, atol=1e-3)
        assert result.flags == alone.flags


def test_what_is_no_flux_is_refused(deblender, galaxies):
    with pytest.raises(ValueError, match=r"takes linear flux.*'galaxyzoo'"):
        deblender(next(iter(sorted(galaxies.iterdir()))))
    batch = np.zeros((1, 2, 32, 32), np.float32)
    batch[0, 1, 3, 4] = np.nan
    with pytest.raises(ValueError, match="takes finite ones"):
        deblender.deblend_arrays(batch)
    with pytest.raises(ValueError, match="any number of bands, y and x of at least 16"):
        deblender.deblend_arrays(np.zeros((1, 2, 8, 32), np.float32))


def test_a_scene_of_flux(echo):
    """Of two galaxies that touch, each stamp of the echo has the light of both."""
    data = galaxy() + galaxy(position=(48, 41))
    scene = echo.deblend_scene(stated(data), positions=[(41.3, 37.8), (48, 41)], light="network")
    assert scene.meta["noise_from"] == "uncertainty"
    assert len(scene.catalog) == 2
    assert (scene.catalog["n_blended"] == 2).all()
    total = sum(scene.component(k).data for k in (1, 2)) + scene.residual.data
    np.testing.assert_allclose(total, data, atol=1e-3)


def test_in_words(deblender):
    assert "any bands" in repr(deblender)


class Dim(Echo):
    """A network that gives all light to the central galaxy, but for a fifth."""

    def forward(self, blend, positions=None, present=None):
        components, std = super().forward(0.8 * blend)
        return components.clamp(min=0), std


def test_what_a_network_makes_too_faint_comes_back_from_the_image():
    deblender = Deblender(Dim(), card(), device="cpu")
    data = galaxy()
    near = np.hypot(*(np.indices(data.shape[1:]) - np.array([38, 41])[:, None, None])) < 6
    result = deblender(stated(data), (41, 38))
    sky = np.reshape(result.meta["background"], (3, 1, 1))
    flux, found = ((d - sky)[:, near].sum(axis=1) for d in (data, result.central.data))
    np.testing.assert_allclose(found, flux, rtol=0.03)
    two = data + galaxy(position=(47.2, 40.1)) - galaxy(flux=0)
    scene = deblender.deblend_scene(
        stated(two), positions=[(41.3, 37.8), (47.2, 40.1)], light="network"
    )
    # each of the two has all the light of both, but for a fifth
    left = scene.residual.data[:, near].sum(axis=1)
    np.testing.assert_allclose(left / two[:, near].sum(axis=1), 0, atol=0.03)


@pytest.mark.parametrize("bands", range(1, 7))
def test_the_weights_of_the_package_take_any_bands(bands):
    """Two round galaxies, twice as far from each other as they are wide."""
    y, x = np.indices((48, 48)) - 23.5
    sources = np.stack(
        [
            flux * np.exp(-((x - x0) ** 2 + y**2) / (2 * 2.2**2)) / (2 * np.pi * 2.2**2)
            for x0, flux in ((0.0, 2000.0), (10.0, 1500.0))
        ]
    )
    rng = np.random.default_rng(bands)
    blend = sources.sum(axis=0) + rng.standard_normal((1, bands, 48, 48))
    blend = blend.astype(np.float32)
    survey = Deblender.from_pretrained("survey", device="cpu")
    components = survey.deblend_arrays(blend)
    flux = components[0].sum(axis=(-2, -1))
    np.testing.assert_allclose(flux, np.repeat([[2000], [1500]], bands, axis=1), rtol=0.1)
    order = rng.permutation(bands)
    np.testing.assert_allclose(
        survey.deblend_arrays(blend[:, order]), components[:, :, order], rtol=1e-3, atol=1e-2
    )
    ten = survey(stated_in_noise(blend[0], 10.0)).central.data
    one = survey(stated_in_noise(blend[0], 1.0)).central.data
    np.testing.assert_allclose(ten, 10 * one, rtol=1e-3, atol=0.1)


def stated_in_noise(data, factor):
    deviation = np.full(data.shape, factor, np.float32)
    return NDData(factor * data, uncertainty=StdDevUncertainty(deviation))
