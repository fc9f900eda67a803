"""Stretches: the way back is exact, colours survive, pictures stay pictures."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose

from astrodeblend.stretch import AsinhStretch, LinearStretch, NoiseStretch, stretch_for

BANDS = 3
fluxes = arrays(np.float32, (BANDS, 1, 2), elements=st.floats(-1e5, 1e5, width=32))
stretches = st.builds(
    AsinhStretch,
    black=st.tuples(*BANDS * [st.floats(-1e4, 1e4)]),
    softening=st.tuples(*BANDS * [st.floats(1e-2, 1e4)]),
    white=st.floats(1e-2, 1e5),
)


def rounding(stretch, flux):
    """The float32 error that AsinhStretch states, for there and back."""
    values = np.abs(stretch(flux.astype(float)))
    black = np.abs(stretch.black)[:, None, None]
    above = np.abs(flux - np.array(stretch.black)[:, None, None])
    share = 5 + np.arcsinh(stretch.white) * values.mean(axis=0)
    return 3e-7 * share * above + 6e-8 * (np.abs(flux) + black) + 1e-30


@given(flux=fluxes, stretch=stretches)
@settings(deadline=None)
def test_there_and_back_within_the_stated_rounding(flux, stretch):
    values = stretch(flux)
    assert values.dtype == np.float32
    back = stretch.inverse(values)
    assert back.dtype == np.float32
    assert (np.abs(back - flux.astype(float)) <= rounding(stretch, flux)).all()


@given(flux=fluxes, stretch=stretches)
@settings(deadline=None)
def test_torch_agrees_with_numpy(flux, stretch):
    wide = torch.from_numpy(flux).double()
    assert_allclose(stretch(wide).numpy(), stretch(wide.numpy()), rtol=1e-7, atol=1e-12)
    values = stretch(torch.from_numpy(flux))
    assert values.dtype == torch.float32
    back = stretch.inverse(values).numpy()
    assert (np.abs(back - flux.astype(float)) <= rounding(stretch, flux)).all()


@given(
    colour=st.tuples(*BANDS * [st.floats(0.01, 1)]),
    first=st.floats(-10, 1e4),
    step=st.floats(1e-3, 1e4),
)
@settings(deadline=None)
def test_brighter_light_of_one_colour_gives_larger_values(colour, first, step):
    stretch = AsinhStretch(black=(1, 2, 3), softening=(4, 5, 6), white=100)
    colour = np.array(colour)[:, None, None] * [[first, first + step]]
    values = stretch(np.array([1.0, 2, 3])[:, None, None] + colour)
    assert (np.diff(values) > 0).all()


@given(pixel=st.tuples(*BANDS * [st.floats(0, 1e4)]), step=st.floats(1e-3, 1e4))
@settings(deadline=None)
def test_more_light_in_a_band_gives_a_larger_value_in_it(pixel, step):
    stretch = AsinhStretch(black=(0, 0, 0), softening=(1, 1, 1), white=100)
    pixel = np.array(pixel)[:, None, None]
    more = pixel + np.array([step, 0, 0])[:, None, None]
    assert stretch(more)[0] > stretch(pixel)[0]


def test_one_band_is_plain_asinh():
    stretch = AsinhStretch(black=(-2,), softening=(5,), white=40)
    flux = np.linspace(-100, 900, 11)[None, None]
    assert_allclose(stretch(flux), np.arcsinh((flux + 2) / 5) / np.arcsinh(40), rtol=1e-12)


def test_known_values_and_colours():
    stretch = AsinhStretch(black=(1, 2, 3), softening=(2, 2, 2), white=50)
    black = np.array([1.0, 2, 3])[:, None, None]
    assert_allclose(stretch(black), 0, atol=1e-15)
    assert_allclose(stretch(black + 100), 1)
    light = np.array([0.5, 2, 1])[:, None, None] * [[1, 30, 1e4]]
    values = stretch(black + light)
    assert_allclose(values / values.mean(axis=0), light / light.mean(axis=0))
    # Faint light is rendered linearly.
    faint = stretch(black + 1e-3 * light[..., :1])
    assert_allclose(faint, 1e-3 * light[..., :1] / 2 / np.arcsinh(50), rtol=1e-6)


def test_is_that_of_lupton_et_al():
    """Astropy's rendering after Lupton et al. (2004), where that is not clipped."""
    from astropy.visualization import make_lupton_rgb

    rng = np.random.default_rng(2)
    flux = rng.uniform(0, 5, size=(3, 6, 7))
    theirs = make_lupton_rgb(*flux, stretch=100, Q=8, output_dtype=np.float64)
    ours = AsinhStretch(black=(0, 0, 0), softening=3 * (100 / 8,), white=50)(flux)
    theirs = np.moveaxis(theirs, -1, 0)
    assert theirs.max() < 1
    assert_allclose(ours / ours.max(), theirs / theirs.max(), rtol=1e-6)


def test_leading_axes_and_devices_go_through():
    stretch = AsinhStretch(black=(0, 1, 2), softening=(1, 2, 3), white=50)
    flux = np.random.default_rng(0).normal(2, 5, size=(4, 2, 3, 5, 6))
    assert_allclose(stretch(flux)[3, 1], stretch(flux[3, 1]))
    assert_allclose(stretch.inverse(flux)[3, 1], stretch.inverse(flux[3, 1]))
    for wrong in (flux[..., :2, :, :], flux[0, 0, 0]):
        with pytest.raises(ValueError, match=r"the array has shape .* and the stretch 3 bands"):
            stretch(wrong)


def test_gradients_pass_through_torch():
    stretch = AsinhStretch(black=(0, 1, 2), softening=(1, 2, 3), white=50)
    flux = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(stretch, flux)
    assert torch.autograd.gradcheck(stretch.inverse, flux)
    # At black itself, where the formula reads 0 / 0.
    black = torch.tensor([0.0, 1, 2])[:, None, None].requires_grad_()
    stretch(black).sum().backward()
    assert torch.isfinite(black.grad).all()


def test_standard_deviations_are_propagated():
    stretch = AsinhStretch(black=(0, 1, 2), softening=(1, 2, 3), white=50)
    rng = np.random.default_rng(4)
    std = rng.uniform(0.01, 0.1, size=(3, 1, 1))
    for values in (rng.normal(0.5, 0.3, size=(3, 1, 1)), np.full((3, 1, 1), 0.005)):
        slopes = torch.autograd.functional.jacobian(stretch.inverse, torch.tensor(values))
        expected = np.sqrt(slopes.numpy().reshape(3, 3) ** 2 @ std.ravel() ** 2)
        assert_allclose(stretch.inverse_std(values, std).ravel(), expected, rtol=1e-5)
        tensor = stretch.inverse_std(torch.tensor(values), torch.tensor(std))
        assert_allclose(tensor.numpy().ravel(), expected, rtol=1e-5)
    assert LinearStretch(255).inverse_std(values, std) == pytest.approx(255 * std)


def test_linear_stretch_divides():
    stretch = LinearStretch(255)
    picture = np.arange(256, dtype=np.float32)
    assert stretch(picture).dtype == np.float32
    assert stretch(picture)[[0, -1]].tolist() == [0, 1]
    assert_allclose(stretch.inverse(stretch(picture)), picture, rtol=2e-7)
    tensor = stretch.inverse(stretch(torch.arange(256.0)))
    assert_allclose(tensor.numpy(), picture, rtol=2e-7)


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="full_scale=0 is not a positive number"):
        LinearStretch(0)
    with pytest.raises(ValueError, match=r"softening=-1\.0 is not a positive"):
        AsinhStretch(black=(0, 0), softening=(1, -1), white=10)
    with pytest.raises(ValueError, match="white=nan is not a positive"):
        AsinhStretch(black=(0,), softening=(1,), white=float("nan"))
    with pytest.raises(ValueError, match=r"black=\(inf,\) is not finite"):
        AsinhStretch(black=(float("inf"),), softening=(1,), white=10)
    with pytest.raises(ValueError, match="black has 2 bands and softening 1"):
        AsinhStretch(black=(0, 0), softening=(1,), white=10)


def test_to_dict_is_plain():
    assert LinearStretch(255).to_dict() == {"stretch": "linear", "full_scale": 255}
    stretch = AsinhStretch(black=(0, 1), softening=(2, 3), white=4)
    described = {"stretch": "asinh", "black": [0.0, 1.0], "softening": [2.0, 3.0], "white": 4}
    assert stretch.to_dict() == described


@pytest.fixture(scope="module")
def sky():
    """Linear flux of two galaxies on a bright sky, its level and noise per band."""
    rng = np.random.default_rng(8)
    level, noise = np.array([100.0, 900, 5]), np.array([3.0, 20, 0.1])
    y, x = np.mgrid[:70, :80]
    light = np.exp(-np.hypot(y - 35, x - 40) / 5) + 0.4 * np.exp(-np.hypot(y - 25, x - 55) / 3)
    colour = np.array([1.5, 1, 0.6])
    flux = light * (400 * noise * colour)[:, None, None] + level[:, None, None]
    return flux + rng.normal(size=flux.shape) * noise[:, None, None], level, noise


def test_flux_is_rendered_like_a_picture(sky):
    flux, level, noise = sky
    stretch = stretch_for(flux.astype(np.float32), level, noise)
    values = stretch(flux)
    corner = values[:, :12, :12]
    assert_allclose(np.median(corner, axis=(1, 2)), 0.02, atol=0.01)
    assert_allclose(corner.std(axis=(1, 2)), 0.02, atol=0.01)
    assert 0.75 < values.max() < 1
    peaks = values.max(axis=(1, 2))
    assert_allclose(peaks / peaks[1], [1.5, 1, 0.6], rtol=0.05)


def test_units_of_a_band_do_not_matter(sky):
    flux, level, noise = sky
    gain = np.array([1e-3, 7, 1e5])
    one = stretch_for(flux, level, noise)
    other = stretch_for(flux * gain[:, None, None], level * gain, noise * gain)
    assert_allclose(one(flux), other(flux * gain[:, None, None]), rtol=1e-9, atol=1e-9)


def test_sky_may_be_given_in_any_shape(sky):
    flux, level, noise = sky
    expected = stretch_for(flux, level, noise)
    columns = level[:, None, None], noise[:, None, None]
    assert stretch_for(flux, *columns) == expected
    assert stretch_for(flux, *(np.broadcast_to(c, flux.shape) for c in columns)) == expected
    assert stretch_for(flux[:1], 100, 3) == stretch_for(flux[:1], [100], [3])
    with pytest.raises(ValueError, match=r"noise has shape \(2,\), which does not fit"):
        stretch_for(flux, level, noise[:2])
    with pytest.raises(ValueError, match=r"level=\[nan, 900\.0, 5\.0\] is not finite"):
        stretch_for(flux, [np.nan, 900, 5], noise)


def test_a_hot_pixel_or_a_hole_decides_nothing(sky):
    flux, level, noise = sky
    usual = stretch_for(flux, level, noise).white
    flux = flux.copy()
    flux[:, 3, 3] = np.nan
    assert stretch_for(flux, level, noise).white == pytest.approx(usual)
    flux[0, 60, 8] = 3000
    assert stretch_for(flux, level, noise).white == pytest.approx(usual)


def test_pictures_stay_linear():
    rng = np.random.default_rng(0)
    picture = rng.random((3, 20, 20))
    assert stretch_for(picture, 0.1, 0.01) == LinearStretch(1)
    assert stretch_for(255 * picture, 10, 1, 255) == LinearStretch(255)
    assert stretch_for(picture[:1], 10, 1, 65535) == LinearStretch(65535)
    for flux, options in (
        (picture, {"unit": "nJy"}),
        (picture - 0.1, {}),
        (2 * picture, {}),
        (picture[:2], {}),
        ((picture > 0.5).astype(int), {}),
    ):
        assert isinstance(stretch_for(flux, 0.1, 0.01, **options), AsinhStretch)


def test_images_without_noise_or_light_work():
    flat = np.full((2, 16, 16), 7.0)
    assert_allclose(stretch_for(flat, 7, 0)(flat), stretch_for(flat, 7, 1)(flat))
    clean = np.full((1, 32, 32), 5.0)
    clean[0, 12:20, 12:20] = 1e6
    values = stretch_for(clean, 5, 0)(clean)
    assert values.max() == pytest.approx(0.85)
    assert 0 < values.min() < 0.05


def test_bad_images_are_refused():
    with pytest.raises(ValueError, match=r"data has shape \(4, 4\); give \(bands, y, x\)"):
        stretch_for(np.zeros((4, 4)), 0, 1)
    with pytest.raises(ValueError, match="data has no finite pixel"):
        stretch_for(np.full((1, 4, 4), np.nan), 0, 1)


def test_needs_neither_astropy_nor_torch():
    code = (
        "import sys; from astrodeblend import metrics, stretch; "
        "sys.exit(any(m in sys.modules for m in ('astropy', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_noise_stretch_counts_in_units_of_each_bands_noise(bands, seed):
    rng = np.random.default_rng(seed)
    level, noise = rng.normal(0, 100, bands), rng.uniform(0.01, 10, bands)
    stretch = NoiseStretch(level, noise)
    flux = rng.normal(0, 50, (2, bands, 4, 5))
    values = stretch(flux)
    for band in range(bands):
        assert_allclose(values[:, band], (flux[:, band] - level[band]) / noise[band])
    assert_allclose(stretch.inverse(values), flux, atol=1e-9)
    assert_allclose(stretch.inverse_std(values, np.ones_like(values))[0, :, 0, 0], noise)
    # Ten times the light and the noise is the same to the network.
    assert_allclose(NoiseStretch(10 * level, 10 * noise)(10 * flux), values, atol=1e-9)
    assert stretch.to_dict() == {"stretch": "noise", "level": [*level], "noise": [*noise]}
    assert isinstance(stretch(torch.from_numpy(flux)), torch.Tensor)


@pytest.mark.parametrize(
    ("level", "noise", "named"),
    [((0, 1), (1,), "noise"), ((np.nan,), (1,), "level"), ((0,), (0,), "noise"), ((), (), "level")],
)
def test_noise_stretch_refuses(level, noise, named):
    with pytest.raises(ValueError, match=named):
        NoiseStretch(level, noise)
