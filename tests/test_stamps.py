"""Stamps and scalings: what a network sees, and the way back, against plain formulas."""

from types import SimpleNamespace

import numpy as np
import pytest
from astropy.nddata import NDData, StdDevUncertainty
from hypothesis import given, settings
from hypothesis import strategies as st

from astrodeblend.flags import Flag
from astrodeblend.images import read_image
from astrodeblend.scaling import Flux, Picture, scaling_of
from astrodeblend.stamps import cut_stamp

LEVEL, NOISE = np.array([5.0, 7.0])[:, None, None], np.array([1.0, 2.0])[:, None, None]


def make_image(shape=(2, 90, 120), **options):
    data = np.random.default_rng(0).normal(10, 3, shape).astype(np.float32)
    return NDData(data, **options)


def cut(image, position, width, pixels=80, *, scaling=None, hidden=None, **options):
    bands = len(image.data)
    hidden = np.zeros(image.data.shape, bool) if hidden is None else hidden
    sky = SimpleNamespace(level=LEVEL[:bands], noise=NOISE[:bands], hidden=hidden)
    scaling = scaling or Flux()
    return cut_stamp(image, sky, scaling, position, width=width, pixels=pixels, **options)


def galaxy(shape, x, y, sigma, flux=1000.0):
    rows, columns = np.indices(shape)
    square = (columns - x) ** 2 + (rows - y) ** 2
    return flux / (2 * np.pi * sigma**2) * np.exp(-square / (2 * sigma**2))


# Scalings.


def test_the_kind_of_an_image_chooses():
    picture = read_image(np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8))
    assert scaling_of(picture) == Picture(255)
    assert isinstance(scaling_of(read_image(make_image())), Flux)


def test_scalings_have_the_same_face():
    names = [{n for n in dir(kind) if not n.startswith("_")} for kind in (Picture(1.0), Flux())]
    assert names[0] - {"full_scale"} == names[1]


def test_what_a_network_sees():
    data = np.array([-3.0, 0.0, 51.0, 255.0, 300.0])
    np.testing.assert_allclose(Picture(255).values(data, 9, 2), [0, 0, 0.2, 1, 1])
    np.testing.assert_allclose(Flux().values(data, 9, 2), (data - 9) / 2)
    np.testing.assert_array_equal(Picture(255).averaged(np.array([-0.1, 0.5]), 3), [0, 0.5])
    np.testing.assert_allclose(Flux().averaged(np.array([-0.1, 0.5]), 3), [-0.3, 1.5])


def test_a_pictures_light_before_it_was_stretched():
    data, level, noise = np.array([[[0.0, 1.0, 128.0, 255.0]]]), np.full((1, 1, 1), 2.0), 1.0
    light, sky, scatter = Picture(255).linear(data, level, noise)
    assert light[0, 0, 0] == 0
    assert light[0, 0, 1] == pytest.approx(1, rel=1e-3)  # a step near black is a step
    expected = np.sinh(6.5) / np.sinh(6.5 * 128 / 255)
    assert light[0, 0, 3] / light[0, 0, 2] == pytest.approx(expected)
    above, _, _ = Picture(255).linear(data * 0 + 2.001, level, noise)
    assert scatter.item() == pytest.approx((above - sky)[0, 0, 0] / 0.001, rel=1e-3)
    same = Flux().linear(data, level, noise)
    assert all(a is b for a, b in zip(same, (data, level, noise), strict=True))


@settings(max_examples=60, deadline=None)
@given(x=st.floats(-0.5, 300), y=st.floats(-0.5, 300), width=st.floats(16, 700))
def test_stamps_of_flux_hold_whole_pixels(x, y, width):
    at_x, at_y, wide = Flux().on_grid(x, y, width, 32, (301, 301))
    assert wide % 32 == 0
    assert width - 0.1 <= wide < width + 32
    for at, wanted in ((at_x, x), (at_y, y)):
        assert abs(at - wanted) <= 0.5 + 1e-5
        assert (at - wide / 2 + 0.5) % 1 == 0


@pytest.mark.parametrize("x", [40.0, 41.0, 40.5, 40.3])
def test_a_shift_by_a_pixel_is_a_shift_by_a_pixel(x):
    one, other, by_sky = (
        Flux().on_grid(at, 30, 20.0, 32, (99, 99))[0] for at in (x, x + 1, x + 1e-7)
    )
    assert other == one + 1
    assert by_sky == one


def test_stamps_of_pictures_may_take_all_of_it():
    on_grid = Picture(255).on_grid
    assert on_grid(30, 33, 55.5, 80, (80, 80)) == (30, 33, 55.5)
    assert on_grid(30, 33, 60.0, 80, (80, 80)) == (30, 33, 60.0)  # not in the middle
    for middle in (39, 39.5, 40):
        assert on_grid(middle, 39.5, 20.0, 80, (80, 80)) == (39.5, 39.5, 80)
    assert on_grid(47.5, 47.5, 72.0, 80, (96, 96)) == (47.5, 47.5, 96)
    assert on_grid(47.5, 47.5, 71.0, 80, (96, 96)) == (47.5, 47.5, 71)
    assert on_grid(47.5, 49.5, 90.0, 80, (100, 96)) == (47.5, 49.5, 90)


# Cutting.


def test_a_stamp_on_the_images_pixels_is_a_copy():
    image = make_image()
    stamp = cut(image, (49.5, 39.5), 80.0)
    part = image.data[:, :80, 10:90]
    np.testing.assert_allclose(stamp.blend, (part - LEVEL) / NOISE, rtol=1e-5, atol=1e-6)
    assert stamp.blend.dtype == np.float32
    assert stamp.slices == (slice(0, 80), slice(10, 90))
    np.testing.assert_array_equal(stamp.data, part)
    np.testing.assert_array_equal(stamp.to_image(stamp.blend), stamp.blend)
    odd = cut(image, (40, 30), 31.0, 31)
    np.testing.assert_array_equal(odd.data, image.data[:, 15:46, 25:56])


@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("scaling", [Flux(), Picture(20.0)])
def test_whole_pixels_are_block_means(times, scaling):
    image = make_image((2, 40 * times + 10, 40 * times + 6))
    middle = (20 * times + 2.5, 20 * times + 3.5)
    stamp = cut(image, middle, 40.0 * times, 40, scaling=scaling)
    part = image.data[:, 4 : 4 + 40 * times, 3 : 3 + 40 * times]
    if scaling.adds:
        seen, last = (part - LEVEL) / NOISE, times  # the sum, over its noise
    else:
        seen, last = (part / 20).clip(0, 1), 1
    means = seen.reshape(2, 40, times, 40, times).mean(axis=(2, 4)) * last
    np.testing.assert_allclose(stamp.blend, means, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [23.7, 32.0, 57.3])
def test_between_pixels_smooth_light_is_averaged_exactly(width):
    """A cubic spline through sums is exact where light is a quadratic along an axis."""
    x, y = 50.3, 44.8
    rows, columns = np.mgrid[:90, :120].astype(float)

    def light(rows, columns):
        return 3 + 0.02 * (rows - 40) ** 2 - 0.5 * columns + 0.01 * (rows - 40) * (columns - 50)

    data = light(rows, columns) + 0.02 / 12  # the mean over a pixel
    stamp = cut(NDData(data[None]), (x, y), width, 32)
    within = width / 32 * (np.arange(16) - 7.5) / 16
    centres = width / 32 * (np.arange(32) - 15.5)[:, None] + within
    fine = light((y + centres).reshape(-1, 1), (x + centres).ravel())
    means = fine.reshape(32, 16, 32, 16).mean(axis=(1, 3))
    expected = (means - LEVEL[0]) / NOISE[0] * width / 32
    np.testing.assert_allclose(stamp.blend[0], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("width", [37.3, 60, 101.7, 200])
def test_a_galaxy_keeps_place_shape_and_flux(width):
    x, y = 99.2, 107.9
    image = NDData((galaxy((220, 200), x, y, 4) + LEVEL[0, 0, 0])[None])
    stamp = cut(image, (97.3, 105.1), width)
    light = stamp.blend[0] * NOISE[0, 0, 0] * width / 80  # the sum per pixel of the stamp
    assert light.sum() == pytest.approx(1000, rel=2e-3)
    (place,) = stamp.places([(x, y)])
    rows, columns = np.indices((80, 80))
    found = (columns * light).sum() / light.sum(), (rows * light).sum() / light.sum()
    np.testing.assert_allclose(found, place, atol=0.02)
    sigma = np.hypot(4, width / 80 / 12**0.5) * 80 / width
    middle = galaxy((80, 80), *place, sigma)
    np.testing.assert_allclose(light, middle, atol=0.012 * middle.max())


@settings(max_examples=30, deadline=None)
@given(
    x=st.floats(35, 65), y=st.floats(35, 65), width=st.floats(16, 60), pixels=st.integers(16, 96)
)
def test_the_way_back_keeps_fractions_and_places(x, y, width, pixels):
    stamp = cut(make_image((1, 101, 101)), (x, y), width, pixels)
    values = np.random.default_rng(pixels).normal(1, 0.3, (2, pixels, pixels))
    back = stamp.to_image(values)
    assert back.shape == (2, *(part.stop - part.start for part in stamp.slices))
    np.testing.assert_allclose(back + stamp.to_image(1 - values), 1, rtol=1e-6)
    corners = np.array([[part.start, part.stop - 1] for part in stamp.slices[::-1]]).T
    places = stamp.places(corners)
    beyond = 0.5 + 0.5 / stamp.scale + 1e-6
    assert (places > -beyond).all()
    assert (places < pixels - 1 + beyond).all()
    np.testing.assert_allclose((places - (pixels - 1) / 2) * stamp.scale + (x, y), corners)
    np.testing.assert_allclose(stamp.places([(x, y)]), (pixels - 1) / 2)


@pytest.mark.parametrize("times", [2, 4])
def test_the_way_back_from_larger_pixels_keeps_their_means(times):
    stamp = cut(make_image((1, 200, 200)), (99.5, 99.5), 32.0 * times, 32)
    values = np.random.default_rng(1).normal(size=(32, 32))
    means = stamp.to_image(values).reshape(32, times, 32, times).mean(axis=(1, 3))
    np.testing.assert_allclose(means, values, atol=1e-9)


def test_what_is_missing_is_empty_sky():
    image = make_image((2, 60, 60))
    hidden = np.zeros((2, 60, 60), bool)
    hidden[1, 30:32, 20:24] = True
    image.data[hidden] = np.nan
    stamp = cut(image, (29.5, 19.5), 80.0, hidden=hidden)
    assert stamp.slices == (slice(0, 60), slice(0, 60))
    outside = np.ones((2, 80, 80), bool)
    outside[:, 20:, 10:70] = hidden
    np.testing.assert_array_equal(stamp.blend[outside], 0)
    assert (stamp.blend[~outside] != 0).all()
    assert stamp.flags == Flag.MASKED | Flag.EDGE
    assert stamp.known.all()
    np.testing.assert_array_equal(stamp.deviation, np.broadcast_to(NOISE, (2, 60, 60)))
    resampled = cut(image, (21.7, 30.6), 33.3, hidden=hidden)
    assert np.isfinite(resampled.blend).all()


@pytest.mark.parametrize(("part", "known"), [(0.4, True), (0.6, False)])
def test_bands_that_are_known(part, known):
    hidden = np.zeros((2, 90, 120), bool)
    hidden[1, :, : int(45 + 40 * part)] = True  # the middle half of the stamp is 45 to 85
    stamp = cut(make_image(), (65, 45), 80.0, hidden=hidden)
    assert stamp.known.tolist() == [True, known]


def test_a_stated_uncertainty_is_the_deviation():
    spread = np.random.default_rng(3).uniform(1, 2, (2, 90, 120))
    stamp = cut(make_image(uncertainty=StdDevUncertainty(spread)), (60, 40), 33.3)
    assert stamp.stated
    np.testing.assert_allclose(stamp.deviation, spread[:, *stamp.slices])
    assert not cut(make_image(), (60, 40), 33.3).stated


def test_a_stamp_at_the_corner_has_its_way_back():
    stamp = cut(make_image((1, 50, 70)), (0, 49), 30.7)
    assert (stamp.slices[0].stop, stamp.slices[1].start) == (50, 0)
    assert stamp.to_image(stamp.blend).shape == stamp.data.shape
    assert Flag.EDGE in stamp.flags


def test_components_of_pictures_fade_where_the_image_goes_on():
    stamp = cut(make_image(), (30.5, 44.5), 80.0, scaling=Picture(255.0))
    x = np.arange(stamp.slices[1].start, stamp.slices[1].stop)
    ramp = np.clip((70.5 - x) / 8, 0, 1)  # of the way in at the right; at the left is an edge
    np.testing.assert_allclose(stamp.weight[40], ramp**2 * (3 - 2 * ramp), atol=1e-6)
    assert stamp.core == (slice(13, 77), slice(0, 63))
    assert (cut(make_image(), (30.5, 44.5), 80.0).weight == 1).all()


# The way back of components.


def test_a_fluxs_component_is_the_answer_in_units_of_the_image():
    stamp = cut(make_image(), (49.5, 39.5), 80.0)
    light, sky, deblending, noise = stamp.component(stamp.blend, np.full_like(stamp.blend, 0.5))
    np.testing.assert_allclose(light, stamp.data - LEVEL, atol=1e-4)
    np.testing.assert_array_equal(sky, LEVEL)
    np.testing.assert_allclose(deblending, np.broadcast_to(0.5 * NOISE, light.shape))
    assert not noise.any()
    wide = cut(make_image(), (59.5, 44.5), 80.0, 40)
    light, *_ = wide.component(wide.blend, wide.blend)
    expected = (wide.data - LEVEL).sum(axis=(1, 2))
    np.testing.assert_allclose(light.sum(axis=(1, 2)), expected, rtol=1e-4)


@pytest.mark.parametrize("kept", [1.0, 0.5])
def test_a_pictures_component_is_a_fraction_of_the_image(kept):
    """What a network takes away of the sky is no light."""
    data = np.random.default_rng(5).uniform(40, 200, (2, 80, 80))
    data[:, :20] = LEVEL
    image = NDData(data, uncertainty=StdDevUncertainty(np.full(data.shape, 3.0)))
    stamp = cut(image, (39.5, 39.5), 80.0, scaling=Picture(255.0))
    answer = 0.25 * stamp.blend
    answer[:, :20] = kept * stamp.blend[:, :20]
    light, sky, deblending, noise = stamp.component(answer, np.full_like(answer, 2 / 255))
    np.testing.assert_allclose(sky, kept * LEVEL, rtol=1e-5)
    np.testing.assert_allclose(light[:, 30:], 0.25 * data[:, 30:] - kept * LEVEL, rtol=1e-4)
    np.testing.assert_allclose(light[:, :20], 0, atol=1e-5)
    np.testing.assert_allclose(deblending, 2, rtol=1e-4)
    np.testing.assert_allclose(noise[:, 30:], 0.25 * 3, rtol=1e-4)
