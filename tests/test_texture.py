"""Texture against a plain Fourier sum, and on light whose texture is known."""

import cmath
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from astrodeblend import metrics, texture
from astrodeblend.texture import Texture


def disk(size, radius, centre=None):
    y, x = np.mgrid[:size, :size]
    middle = (size - 1) / 2
    cx, cy = (middle, middle) if centre is None else centre
    return np.hypot(x - cx, y - cy) < radius


@pytest.fixture(scope="module")
def noise():
    """White noise of variance 0.04, shape (60, bands, y, x)."""
    return np.random.default_rng(3).normal(0.5, 0.2, size=(60, 3, 48, 48))


@pytest.fixture(scope="module")
def galaxies():
    """Pairs of galaxies with grain, shape (20, 2, bands, y, x); the second one is off centre."""
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:48, :48]
    isolated = np.empty((20, 2, 3, 48, 48))
    for pair in isolated:
        for k, galaxy in enumerate(pair):
            cx, cy = 24 + k * rng.uniform(-9, 9, size=2)
            profile = np.exp(-np.hypot(x - cx, y - cy) / rng.uniform(4, 7))
            colour = rng.uniform(0.5, 1, size=(3, 1, 1))
            galaxy[:] = colour * profile * (1 + 0.2 * rng.normal(size=galaxy.shape))
    return isolated


def blurred(image, sigma=1.0):
    return ndimage.gaussian_filter(image, sigma, axes=(-2, -1), mode="nearest")


def slow_spectrum(image, footprint, bins):
    """The definition, one sum at a time."""
    ny, nx = footprint.shape
    outside = [
        (y, x)
        for y in range(-1, ny + 1)
        for x in range(-1, nx + 1)
        if not (0 <= y < ny and 0 <= x < nx and footprint[y, x])
    ]
    gauss = [math.exp(-0.5 * (t / 1.5) ** 2) for t in range(-6, 7)]
    weight = np.zeros(footprint.shape)
    for y, x in zip(*footprint.nonzero(), strict=True):
        d = min(math.hypot(y - v, x - u) for v, u in outside)
        inside = math.sin(math.pi * d / 16) ** 2 if d < 8 else 1
        for v in range(max(y - 6, 0), min(y + 7, ny)):
            for u in range(max(x - 6, 0), min(x + 7, nx)):
                weight[v, u] += inside * gauss[v - y + 6] * gauss[u - x + 6] / sum(gauss) ** 2
    powers = [[] for _ in range(bins)]
    for ky in range(ny):
        for kx in range(nx):
            fy, fx = (min(k, n - k) / n for k, n in ((ky, ny), (kx, nx)))
            length = math.hypot(fy, fx)
            if not 0 < length <= 0.5:
                continue
            for band in image:
                light = weight * (band - (weight * band).sum() / weight.sum())
                wave = sum(
                    light[y, x] * cmath.exp(-2j * math.pi * (ky * y / ny + kx * x / nx))
                    for y in range(ny)
                    for x in range(nx)
                )
                k = min(int(length * 2 * bins), bins - 1)
                powers[k].append(abs(wave) ** 2 / (weight**2).sum())
    return [np.mean(p) for p in powers]


def power_ratio(image, truth, footprint=None):
    """Sum of the power of images over that of the truth."""
    footprint = metrics.isophote(truth) if footprint is None else footprint
    power, true = (
        texture.power_spectrum(part, footprint).reshape(-1, 10) for part in (image, truth)
    )
    return np.nansum(power, axis=0) / np.nansum(true, axis=0)


def test_power_spectrum_is_its_definition(monkeypatch):
    monkeypatch.setattr(texture, "_BINS", 4)
    rng = np.random.default_rng(1)
    image = rng.random((2, 10, 13))
    footprint = np.zeros((10, 13), dtype=bool)
    footprint[1:, 2:11] = True  # touches the image's edge
    footprint[4, 2] = False
    assert_allclose(
        texture.power_spectrum(image, footprint), slow_spectrum(image, footprint, 4), rtol=1e-10
    )


def test_white_noise_is_flat(noise):
    spectrum = texture.power_spectrum(noise, disk(48, 16)).mean(axis=0)
    assert_allclose(spectrum[1:], 0.04, rtol=0.06)
    assert spectrum[0] < 0.04  # part of it went with the mean


@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_a_wave_is_where_it_belongs(angle):
    y, x = np.mgrid[:64, :64]
    frequencies = texture.frequencies()
    for k in (2, 5, 9):
        phase = 2 * np.pi * frequencies[k] * (np.cos(angle) * x + np.sin(angle) * y)
        spectrum = texture.power_spectrum(0.3 + np.sin(phase)[None], disk(64, 24))
        assert spectrum.argmax() == k
        far = np.abs(np.arange(10) - k) > 1
        assert spectrum[far].max() < 0.01 * spectrum[k]


def test_power_grows_with_the_square_of_light_and_not_with_its_level(noise):
    footprint = disk(48, 12)
    spectrum = texture.power_spectrum(noise, footprint)
    assert_allclose(texture.power_spectrum(3 * noise + 7, footprint), 9 * spectrum, rtol=1e-6)


def test_light_outside_the_footprint_does_not_count(noise):
    dirty = np.where(disk(48, 21), noise, 1e3)  # 9 pixels further out: smoothing has ended
    assert_allclose(
        texture.power_spectrum(dirty, disk(48, 12)), texture.power_spectrum(noise, disk(48, 12))
    )


def test_the_light_of_a_galaxy_does_not_leak_into_its_texture():
    """Fine structure a million times weaker than the galaxy itself is still measured."""
    y, x = np.mgrid[:64, :64]
    galaxy = np.exp(-(((x - 30) / 12) ** 2 + ((y - 33) / 8) ** 2) / 2)[None]
    footprint = metrics.isophote(galaxy)
    footprint[::7, ::5] = False  # ragged
    smooth = texture.power_spectrum(galaxy, footprint)
    assert np.all(smooth[6:] < 1e-6 * smooth[0])


def test_leading_axes_are_independent(galaxies):
    footprint = metrics.isophote(galaxies)
    spectra = texture.power_spectrum(galaxies, footprint)
    assert spectra.shape == (20, 2, 10)
    assert_array_equal(spectra[3, 1], texture.power_spectrum(galaxies[3, 1], footprint[3, 1]))
    rough = texture.roughness(galaxies, footprint)
    assert rough.shape == (20, 2)
    assert_allclose(rough[3, 1], texture.roughness(galaxies[3, 1], footprint[3, 1]), rtol=1e-12)


def test_power_ratio_of_what_is_right_blurred_and_rough(galaxies):
    rng = np.random.default_rng(5)
    assert_array_equal(power_ratio(galaxies, galaxies), 1)
    smooth = power_ratio(blurred(galaxies), galaxies)
    assert np.all(np.diff(smooth[:6]) < 0)  # the finer, the more is lost
    assert np.all(smooth[3:] < 0.5)
    rough = power_ratio(galaxies + rng.normal(0, 0.05, galaxies.shape), galaxies)
    assert np.all(rough[3:] > 1.05)
    assert_allclose(power_ratio(0.5 * galaxies, galaxies), 0.25, rtol=1e-10)


def test_power_ratio_is_of_sums():
    """A faint image that is all wrong hardly counts beside a bright one that is right."""
    rng = np.random.default_rng(6)
    truth = rng.random((2, 1, 32, 32)) * np.array([1.0, 1e-3]).reshape(2, 1, 1, 1)
    image = truth * np.array([1.0, 10.0]).reshape(2, 1, 1, 1)
    ratio = power_ratio(image, truth, np.ones((32, 32), dtype=bool))
    assert_allclose(ratio, 1, atol=1e-3)


def test_a_gaussian_blur_has_its_transfer_function(noise):
    """On noise the ratio is the squared modulation transfer function of the blur."""
    sigma = 0.8
    ratio = power_ratio(blurred(noise, sigma), noise, disk(48, 20))
    expected = np.exp(-((2 * np.pi * sigma * texture.frequencies()) ** 2))
    assert_allclose(ratio[1:7], expected[1:7], rtol=0.15)


def test_empty_footprints_are_left_out(galaxies):
    with_empty = np.concatenate([galaxies, np.zeros_like(galaxies[:1])])
    spectra = texture.power_spectrum(with_empty, metrics.isophote(with_empty))
    assert np.isnan(spectra[-1]).all()
    assert np.isfinite(spectra[:-1]).all()
    expected = power_ratio(blurred(galaxies), galaxies)
    assert_allclose(power_ratio(blurred(with_empty), with_empty), expected, rtol=1e-12)


def test_occluded_pixels():
    isolated = np.zeros((2, 1, 5, 8))
    isolated[0, 0, 1:4, 0:6] = 1.0
    isolated[1, 0, 2:5, 4:8] = 3.0
    isolated[1, 0, 4, 4] = 0.5
    faint, bright = texture.occluded(isolated)
    both = np.zeros((5, 8), dtype=bool)
    both[2:4, 4:6] = True
    assert_array_equal(faint, both)
    assert not bright.any()
    swapped = texture.occluded(isolated[::-1])
    assert_array_equal(swapped, [bright, faint])


def test_occluded_pixels_are_missing_from_a_maximum(galaxies):
    grey = galaxies.mean(axis=-3, keepdims=True)
    blend = grey.max(axis=1)
    hidden = texture.occluded(grey)
    lost = grey < blend[:, None]
    assert hidden.any()
    assert_array_equal(hidden, lost[:, :, 0] & metrics.isophote(grey))


def test_roughness_of_noise_planes_and_nothing(noise):
    rng = np.random.default_rng(7)
    where = rng.random((48, 48)) < 0.9
    assert_allclose(texture.roughness(noise, where).mean(), 0.04, rtol=0.03)
    y, x = np.mgrid[:48, :48]
    assert_allclose(texture.roughness((3 * x + 2 * y)[None], where), 0, atol=1e-20)
    assert np.isnan(texture.roughness(noise[0], np.zeros((48, 48), dtype=bool)))
    thin = np.zeros((48, 48), dtype=bool)
    thin[20:22] = True
    assert np.isnan(texture.roughness(noise[0], thin))


def test_what_borders_on_the_chosen_pixels_is_not_rough(noise):
    where = disk(48, 9)
    image = np.where(where, 0.5, noise)
    assert_allclose(texture.roughness(image, where), 0, atol=1e-25)
    dirty = np.where(where, noise, 9)
    assert_allclose(texture.roughness(dirty, where), texture.roughness(noise, where), rtol=1e-9)


def test_roughness_is_its_definition():
    rng = np.random.default_rng(8)
    image = rng.random((2, 9, 11))
    where = rng.random((9, 11)) < 0.9
    squares = []
    for band in image:
        for y in range(1, 8):
            for x in range(1, 10):
                box = np.s_[y - 1 : y + 2, x - 1 : x + 2]
                if where[box].all():
                    squares.append(9 / 8 * (band[y, x] - band[box].mean()) ** 2)
    assert len(squares) > 10
    assert_allclose(texture.roughness(image, where), np.mean(squares), rtol=1e-12)


class TestTexture:
    def test_the_truth_is_right(self, galaxies):
        found = Texture.of(galaxies, galaxies)
        assert_array_equal(found.power_ratio, 1)
        assert_array_equal(found.median_power_ratio, 1)
        assert found.occluded_roughness == 1
        assert found.occluded_psnr == np.inf

    def test_blurred_and_rough(self, galaxies):
        rng = np.random.default_rng(9)
        assert Texture.of(blurred(galaxies), galaxies).occluded_roughness < 0.5
        rough = Texture.of(galaxies + rng.normal(0, 0.1, galaxies.shape), galaxies)
        assert rough.occluded_roughness > 1.5
        assert_allclose(rough.occluded_psnr, 20, atol=0.2)

    def test_every_occluded_pixel_counts_alike(self, galaxies):
        components = blurred(galaxies)
        found = Texture.of(components, galaxies)
        hidden = texture.occluded(galaxies)
        error = (components - galaxies).transpose(2, 0, 1, 3, 4)[:, hidden]
        assert_allclose(found.occluded_psnr, -10 * np.log10(np.square(error).mean()))
        error = (components[3, 1] - galaxies[3, 1])[:, hidden[3, 1]]
        assert_allclose(found.squared_error[3, 1], np.square(error).mean())

    def test_the_median_is_of_components(self, galaxies):
        """One bright galaxy that is wrong decides the ratio of the sums, not the median."""
        isolated, components = galaxies.copy(), galaxies.copy()
        isolated[0, 0] *= 100
        components[0, 0] *= 200
        found = Texture.of(components, isolated)
        assert_allclose(found.median_power_ratio, 1)
        assert_allclose(found.power_ratio, 4, rtol=0.1)

    def test_batches_join(self, galaxies):
        components = blurred(galaxies)
        whole = Texture.of(components, galaxies)
        parts = [Texture.of(components[k : k + 7], galaxies[k : k + 7]) for k in (0, 7, 14)]
        joined = Texture.join(parts)
        assert len(joined) == 20
        for name, values in vars(whole).items():
            assert_array_equal(getattr(joined, name), values)
        assert_array_equal(joined[:, 0].power_ratio, power_ratio(components[:, 0], galaxies[:, 0]))

    def test_without_overlap_there_is_nothing_to_say_of_it(self):
        apart = np.zeros((2, 1, 40, 40))
        apart[0, 0, disk(40, 5, (8, 8))] = np.linspace(0.5, 1, 69)
        apart[1, 0, disk(40, 5, (30, 30))] = np.linspace(0.5, 1, 69)
        found = Texture.of(apart, apart)
        assert_array_equal(found.median_power_ratio, 1)
        nothing = Texture.of(0 * apart, 0 * apart)
        assert np.isnan([*nothing.power_ratio, *nothing.median_power_ratio]).all()
        assert np.isnan(found.occluded_psnr)
        assert np.isnan(found.occluded_roughness)
        assert_array_equal(found.pixels, 0)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda i: texture.power_spectrum(i[0], i[0] > 0), r"image has shape \(8, 8\)"),
        (lambda i: texture.power_spectrum(i, np.ones((3, 3))), r"footprint has shape \(3, 3\)"),
        (lambda i: Texture.of(i, i[:, 1:]), "give both the same shape"),
        (lambda i: texture.occluded(i), r"isolated has shape \(2, 8, 8\)"),
        (lambda i: texture.roughness(i, np.ones(7)), r"where has shape \(7,\)"),
    ],
)
def test_refusals(call, match):
    with pytest.raises(ValueError, match=match):
        call(np.ones((2, 8, 8)))
