"""From an image to the network's blend and back, with the answer known beforehand."""

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import NDData, StdDevUncertainty

from astrodeblend.apportion import prepare
from astrodeblend.images import read_image
from astrodeblend.results import Flag
from astrodeblend.stamps import cut_stamp

RULE = {"petrosian_radii": 5.8, "pixels": 80}
COLOURS = np.array([3.0, 2.0, 1.0])[:, None, None]
LEVEL, NOISE = 50.0, 1.0


def disc(shape, x, y, scale, flux):
    """An exponential disc in three bands."""
    rows, columns = np.indices(shape)
    light = np.exp(-np.hypot(columns - x, rows - y) / scale)
    return COLOURS * flux * light / light.sum()


def scene(shape, scale, flux=2000.0):
    """Two discs on a noisy sky: central (in the middle), companion, and the image."""
    y, x = (n / 2 for n in shape)
    central = disc(shape, x, y, scale, flux * scale**2)
    companion = disc(shape, x + 3 * scale, y - 2 * scale, 0.7 * scale, flux / 2 * scale**2)
    noise = np.random.default_rng(2).normal(0, NOISE, (3, *shape))
    return central, companion, central + companion + LEVEL + noise


def prepared(data, position=None, *, unit=u.nJy, **options):
    return prepare(read_image(NDData(data, unit=unit, **options)), position, RULE)


def perfect_answers(cut, *lights):
    """What a perfect network would say: the share of each light in the noiseless stamp."""
    parts = []
    for light in (*lights, sum(lights)):
        image = NDData(light + LEVEL, unit=u.nJy)
        stamp = cut_stamp(image, cut.stamp.position, width=cut.stamp.width, background=LEVEL)
        parts.append(cut.stretch(stamp.image.data))
    *parts, whole = parts
    return [cut.blend * np.clip(part / whole, 0, 1) for part in parts]


@pytest.mark.parametrize("position", [None, (39.5, 39.5), (40, 40), (39, 39)])
def test_a_picture_of_the_networks_size_is_taken_as_it_is(position):
    picture = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    cut = prepared(picture, position, unit=None)
    np.testing.assert_array_equal(cut.blend, np.moveaxis(picture, -1, 0) / np.float32(255))
    answer = 0.5 * cut.blend
    component = cut.component(answer, np.zeros_like(answer))
    np.testing.assert_allclose(component.data, 0.5 * np.moveaxis(picture, -1, 0), rtol=1e-6)


def test_a_stamp_that_covers_most_of_a_square_image_covers_all_of_it():
    _, _, data = scene((96, 96), 4.0)
    assert prepared(data).stamp.width == 96
    assert prepared(data, (46, 48)).stamp.width < 96
    _, _, data = scene((200, 200), 3.0)
    assert prepared(data).stamp.width < 100


@pytest.mark.parametrize("scale", [2.0, 3.5, 8.0])  # in image pixels: up and down in resolution
def test_a_perfect_answer_gives_the_galaxies_back(scale):
    central, companion, data = scene((50 + int(30 * scale), 60 + int(30 * scale)), scale)
    cut = prepared(data)
    # the size rule on a disc: 5.8 Petrosian radii of some 3.5 scale lengths
    assert 15 * scale < cut.stamp.width < 27 * scale
    box = (slice(None), *cut.stamp.slices)
    total = 0
    for truth, answer in zip(
        (central, companion), perfect_answers(cut, central, companion), strict=True
    ):
        component = cut.component(answer, np.zeros_like(answer))
        light = component.data - cut.level
        np.testing.assert_allclose(
            light[box].sum(axis=(1, 2)), truth[box].sum(axis=(1, 2)), rtol=0.035
        )
        assert np.std((light - truth)[box]) < 1.1 * NOISE
        total = total + light
    assert abs(np.mean((total + cut.level - data)[box])) < 0.2 * NOISE


def test_outside_the_stamp_is_sky_and_no_square_shows():
    _, _, data = scene((150, 160), 3.0)
    cut = prepared(data)
    light = cut.component(cut.blend, np.zeros_like(cut.blend)).data - cut.level
    rows, columns = cut.stamp.slices
    inside = np.zeros(data.shape[1:], dtype=bool)
    inside[rows, columns] = True
    np.testing.assert_allclose(light[:, ~inside], 0, atol=1e-5)
    for edge in (
        light[:, rows.start, columns],
        light[:, rows.stop - 1, columns],
        light[:, rows, columns.start],
        light[:, rows, columns.stop - 1],
    ):
        assert np.abs(edge).max() < 0.2 * NOISE
    centre = (slice(None), slice(60, 90), slice(65, 95))
    np.testing.assert_allclose(light[centre], (data - cut.level)[centre], atol=1e-4)


@pytest.mark.parametrize("kept", [0.5, 0.8, 1.0])
def test_sky_that_the_network_takes_away_is_given_back_to_flux(kept):
    """Networks trained on maxima do so, and apertures on components must not feel it."""
    central, companion, data = scene((150, 160), 3.0)
    cut = prepared(data)
    sky = cut.blend.mean(axis=0) < 0.06
    assert 0.1 < sky.mean() < 0.9
    answer = np.where(sky, kept, 1) * cut.blend
    light = cut.component(answer, np.zeros_like(answer)).data - LEVEL
    rows, columns = (slice(part.start, part.start + 12) for part in cut.core)
    corner = (slice(None), rows, columns)
    assert abs((light - kept * (central + companion))[corner].mean()) < 0.2 * NOISE
    np.testing.assert_allclose(light[:, 70:80, 75:85], data[:, 70:80, 75:85] - LEVEL, atol=0.01)


def test_a_pictures_sky_is_what_the_network_says():
    picture = np.full((150, 160, 3), 40, dtype=np.uint8)
    picture += np.random.default_rng(3).integers(0, 9, picture.shape, dtype=np.uint8)
    picture[70:80, 75:85] = 200
    cut = prepared(picture, unit=None)
    answer = 0.5 * cut.blend
    component = cut.component(answer, np.zeros_like(answer)).data
    np.testing.assert_allclose(component[:, 0, 0], 0.5 * cut.level.ravel(), rtol=0.01)
    np.testing.assert_allclose(component[:, 72:78, 77:83], 100, rtol=1e-5)


def test_the_edge_of_the_image_is_no_edge_of_the_galaxy():
    """Where the image ends components do not fade."""
    _, _, data = scene((150, 160), 3.0)
    data = data[:, 55:, 60:]  # both galaxies close to the corner
    cut = prepared(data, (20, 20))
    assert cut.flags == Flag.EDGE
    light = cut.component(cut.blend, np.zeros_like(cut.blend)).data
    np.testing.assert_allclose(light[:, :30, :30], data[:, :30, :30], rtol=1e-5)


def test_ten_times_the_light_is_the_same_blend_and_ten_times_the_component():
    _, _, data = scene((150, 160), 3.0)
    one, ten = prepared(data), prepared(10 * data)
    np.testing.assert_allclose(ten.blend, one.blend, atol=2e-5)
    answer, std = 0.4 * one.blend, np.full_like(one.blend, 0.01)
    one, ten = one.component(answer, std), ten.component(answer, std)
    np.testing.assert_allclose(ten.data, 10 * one.data, rtol=1e-4)
    np.testing.assert_allclose(ten.uncertainty.array, 10 * one.uncertainty.array, rtol=1e-3)


def test_pictures_and_flux_are_told_apart():
    rng = np.random.default_rng(1)
    light = rng.uniform(0, 1, (3, 80, 80)).astype(np.float32)
    picture = prepared(light, unit=None)
    np.testing.assert_array_equal(picture.blend, light)
    assert picture.stretch.to_dict() == {"stretch": "linear", "full_scale": 1.0}
    for flux in (prepared(light), prepared(light - 0.1, unit=None), prepared(light[0], unit=None)):
        assert flux.stretch.to_dict()["stretch"] == "asinh"
    # one bright pixel far from the stamp decides for the image, not the stamp for itself
    _, _, data = scene((240, 260), 4.0)
    data = (data - data.min()) / (data[:, 60:-60, 60:-60].max() - data.min())
    data[:, 0, 0] = 2
    assert prepared(data, unit=None).stretch.to_dict()["stretch"] == "asinh"


def test_the_uncertainty_is_that_of_the_image_in_proportion_and_that_of_the_answer():
    picture = np.random.default_rng(0).integers(20, 200, (80, 80, 3), dtype=np.uint8)
    given = np.random.default_rng(1).uniform(1, 2, (80, 80, 3))
    cut = prepared(picture, unit=None, uncertainty=StdDevUncertainty(given))
    given = np.moveaxis(given, -1, 0)
    nothing, much = np.zeros_like(cut.blend), np.full_like(cut.blend, 4 / 255)
    whole = cut.component(cut.blend, nothing)
    np.testing.assert_allclose(whole.uncertainty.array, given, rtol=1e-6)
    half = cut.component(0.5 * cut.blend, nothing)
    np.testing.assert_allclose(half.uncertainty.array, 0.5 * given, rtol=1e-5)
    unsure = cut.component(0.5 * cut.blend, much)
    np.testing.assert_allclose(unsure.uncertainty.array, np.hypot(0.5 * given, 4), rtol=1e-5)


def test_without_an_uncertainty_the_noise_of_the_sky_stands_for_it():
    _, _, data = scene((150, 160), 3.0)
    cut = prepared(data)
    component = cut.component(cut.blend, np.zeros_like(cut.blend))
    np.testing.assert_allclose(component.uncertainty.array, NOISE, rtol=0.15)


@pytest.mark.parametrize("scale", [2.0, 8.0])
def test_the_answers_error_comes_back_in_the_units_of_the_image(scale):
    """Compared with answers that are really scattered, by hand, through the same way back."""
    _, _, data = scene((50 + int(30 * scale), 60 + int(30 * scale)), scale)
    cut = prepared(data)
    answer = np.where(cut.blend > 0.1, 0.5 * cut.blend, cut.blend)
    error = 0.01
    up, down = (
        cut.component(answer + sign * error, np.zeros_like(answer)).data for sign in (1, -1)
    )
    bright = np.abs(up - down).sum(axis=0) > 0
    bright &= cut.stamp.fractions_to_image((cut.blend.min(axis=0) > 0.2).astype(float)) > 0.99
    # The same error in all bands at once is the sum of what each of them does to the others;
    # the deviation takes them as independent, so for three bands it is at most that.
    scatter = np.abs(up - down)[:, bright].mean() / 2
    carried = cut.component(answer, np.zeros_like(answer)).uncertainty.array
    total = cut.component(answer, np.full_like(answer, error)).uncertainty.array
    expected = np.sqrt(total**2 - carried**2)[:, bright].mean()
    assert 0.55 < expected / scatter < 1.05


def test_masked_pixels_are_sky_for_the_network_and_stay_masked():
    _, _, data = scene((150, 160), 3.0)
    clean = prepared(data)
    data[0, 73:77, 79:82] = np.nan
    mask = np.zeros(data.shape, dtype=bool)
    mask[1, 10, 10] = True  # far from the stamp
    cut = prepared(data, mask=mask)
    assert clean.flags == 0
    assert cut.flags == Flag.MASKED
    assert np.isfinite(cut.blend).all()
    component = cut.component(cut.blend, np.zeros_like(cut.blend))
    np.testing.assert_array_equal(component.mask, mask | np.isnan(data))
    assert np.isfinite(component.data).all()
    assert np.isfinite(component.uncertainty.array).all()
    np.testing.assert_allclose(component.data[0, 75, 80], cut.level[0, 0, 0], atol=0.5)


def test_a_place_without_a_valid_pixel_is_refused():
    _, _, data = scene((150, 600), 3.0)
    data[1, :, :300] = np.nan
    with pytest.raises(
        ValueError, match=r"position is \(100, 70\), around which a band of the image has no valid"
    ):
        prepared(data, (100, 70))


def test_other_flags():
    _, _, data = scene((150, 160), 3.0)
    assert prepared(data[0]).flags == Flag.SINGLE_BAND
    assert prepared(data, (20, 130)).flags & Flag.NO_SOURCE
    assert prepared(data, (20, 130)).stamp.width == 80
    header = fits.Header({"SATURATE": float(data.max()) - 1})
    assert prepared(data, meta={"header": header}).flags == Flag.SATURATED
    header["SATURATE"] += 2
    assert prepared(data, meta={"header": header}).flags == 0
    picture = np.full((80, 80, 3), 20, dtype=np.uint8)
    assert prepared(picture, unit=None).flags == 0
    picture[40, 40, 1] = 255
    assert prepared(picture, unit=None).flags == Flag.SATURATED


def test_a_galaxy_larger_than_its_surroundings_gets_a_stamp_of_its_size():
    _, _, data = scene((600, 600), 16.0, flux=20000.0)
    assert prepared(data, (300, 300)).stamp.width > 15 * 16
