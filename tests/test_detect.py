"""Background, sources, Petrosian radii and the choice of blends, against analytic galaxies."""

import numpy as np
import pytest
import skimage.data
from astropy import units as u
from astropy.modeling.models import Sersic2D
from astropy.nddata import NDData
from astropy.table import QTable
from astropy.wcs import WCS
from photutils.datasets import make_model_image
from scipy import ndimage
from scipy.optimize import brentq
from scipy.special import gamma, gammainc, gammaincinv

from astrodeblend.background import estimate_background
from astrodeblend.detect import _enlargement, find_sources, petrosian_radius, select_blends

PICTURE = {"astrodeblend": {"full_scale": 255}}


def sersic_flux(amplitude, r_eff, n, ellip):
    """Total flux of a Sersic profile (Graham & Driver 2005, equation 4)."""
    b = gammaincinv(2 * n, 0.5)
    return (amplitude * r_eff**2 * 2 * np.pi * n * np.exp(b) * b ** (-2 * n) * gamma(2 * n)) * (
        1 - ellip
    )


def sersic_petrosian(n, eta=0.2):
    """Petrosian radius of a Sersic profile in effective radii, from its curve of growth."""
    b = gammaincinv(2 * n, 0.5)

    def excess(r):
        inner, within, outer = (gammainc(2 * n, b * (k * r) ** (1 / n)) for k in (0.8, 1, 1.25))
        return (outer - inner) / (1.25**2 - 0.8**2) / within - eta

    return brentq(excess, 0.3, 30)


def draw(shape, galaxies):
    """Galaxies given as (x, y, flux, r_eff, n, ellip, theta), light averaged over pixels."""
    columns = ["x_0", "y_0", "flux", "r_eff", "n", "ellip", "theta"]
    table = QTable(rows=galaxies, names=columns, dtype=[float] * 7)
    unit_flux = [sersic_flux(1, row["r_eff"], row["n"], row["ellip"]) for row in table]
    table["amplitude"] = table["flux"] / unit_flux
    table.remove_column("flux")
    return make_model_image(
        shape,
        Sersic2D(),
        table,
        model_shape=tuple(min(side, 161) for side in shape),
        discretize_method="oversample",
        discretize_oversample=5,
    )


GALAXIES = [
    (60.3, 50.8, 9000, 5, 1, 0.3, 0.6),
    (150.6, 61.2, 6000, 4, 2, 0.2, 2.0),
    (101.0, 148.5, 12000, 7, 1, 0.5, 1.2),
]
COLOURS = np.array([1.0, 0.6, 0.3])


@pytest.fixture(scope="module")
def light():
    return draw((200, 210), GALAXIES)


@pytest.fixture
def scene(light):
    """Three galaxies in three bands, sky subtracted, with a WCS and a unit."""
    noise = np.random.default_rng(3).normal(0, 1, (3, *light.shape))
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [150, 2], [100, 100], [-7e-5, 7e-5]
    return NDData(COLOURS[:, None, None] * light + noise, unit=u.nJy, wcs=wcs)


# background


@pytest.mark.parametrize("sky", [0.0, 11.0, -3.0])
@pytest.mark.parametrize("unit", [1.0, 1e-19, 1e5])
def test_level_and_noise_of_a_flat_sky(sky, unit):
    data = unit * np.random.default_rng(0).normal(sky, 2, (2, 90, 100))
    level, noise = estimate_background(NDData(data))
    assert level.shape == noise.shape == (2, 1, 1)
    np.testing.assert_allclose(level, sky * unit, atol=0.1 * unit)
    np.testing.assert_allclose(noise, 2 * unit, rtol=0.05)


@pytest.mark.parametrize("n", [1, 4])
def test_sky_under_a_galaxy_that_fills_the_stamp(n):
    """The stamp is 5.8 Petrosian radii wide, as in training, and has a companion."""
    r_eff = 80 / 5.8 / sersic_petrosian(n)
    flux = sersic_flux(40, r_eff, n, 0)
    galaxies = [(39.5, 39.5, flux, r_eff, n, 0.2, 0.5), (52, 48, flux / 3, r_eff, 1, 0.5, 1)]
    data = draw((80, 80), galaxies) + np.random.default_rng(1).normal(10, 2, (80, 80))
    level, noise = estimate_background(NDData(data[None]))
    assert abs(level.item() - 10) < 1.5  # of a peak of more than 200
    assert abs(noise.item() - 2) < 0.3


def test_large_images_get_maps():
    rows, columns = np.indices((600, 640))
    slope = 10 + rows / 200 + columns / 400
    rng = np.random.default_rng(2)
    spread = np.where(columns < 320, 1.0, 3.0)
    data = slope + spread * rng.normal(size=slope.shape)
    data += draw(slope.shape, [(300, 300, 3e5, 12, 1, 0.2, 0), (500, 100, 1e5, 6, 4, 0, 0)])
    level, noise = estimate_background(NDData(data[None]))
    assert level.shape == noise.shape == (1, 600, 640)
    np.testing.assert_allclose(level[0], slope, atol=0.7)
    assert np.median(noise[0, :, :250]) == pytest.approx(1, rel=0.1)
    assert np.median(noise[0, :, 390:]) == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("shape", [(512, 700), (513, 601), (871, 640)])
def test_maps_turn_with_the_image(shape):
    rows, columns = np.indices(shape)
    data = np.random.default_rng(2).normal(5 + rows / 200 + columns / 100, 1)[None]
    level, noise = estimate_background(NDData(data))
    for turned in (lambda a: a[:, ::-1], lambda a: a[:, :, ::-1], lambda a: a.swapaxes(1, 2)):
        other = estimate_background(NDData(turned(data)))
        np.testing.assert_allclose(other[0], turned(level), atol=1e-9)
        np.testing.assert_allclose(other[1], turned(noise), atol=1e-9)


def test_large_image_with_one_band_mostly_masked():
    rng = np.random.default_rng(4)
    data = 10 + rng.standard_normal((2, 512, 512))
    data[1, 60:, :] = np.nan
    level, noise = estimate_background(NDData(data))
    assert level.shape == noise.shape == (2, 512, 512)
    np.testing.assert_allclose(level, 10, atol=0.5)


def test_large_image_that_is_mostly_masked():
    data = np.random.default_rng(2).normal(5, 1, (1, 520, 530))
    data[:, 60:, :] = np.nan
    level, noise = estimate_background(NDData(data))
    np.testing.assert_allclose(level, 5, atol=0.1)
    np.testing.assert_allclose(noise, 1, rtol=0.1)


def test_masked_pixels_are_not_looked_at():
    data = np.random.default_rng(0).normal(3, 1, (1, 60, 60))
    mask = np.zeros(data.shape, dtype=bool)
    mask[:, :40] = True
    data[mask] = 1e30
    data[0, 50, 50] = np.nan
    level, noise = estimate_background(NDData(data, mask=mask))
    assert level.item() == pytest.approx(3, abs=0.2)
    assert noise.item() == pytest.approx(1, rel=0.1)


def test_noise_of_a_sky_clipped_at_zero_is_positive(light):
    picture = np.clip(light + np.random.default_rng(0).normal(-3, 1, light.shape), 0, 255)
    picture = np.floor(picture)[None]
    level, noise = estimate_background(NDData(picture, meta=PICTURE))
    assert level.item() == 0
    assert 0 < noise.item() <= 0.5
    assert len(find_sources(NDData(picture, meta=PICTURE))[0]) == 3


def test_noise_free_images_have_a_little_noise(light):
    level, noise = estimate_background(NDData(light[None]))
    assert level.item() == pytest.approx(0, abs=0.2)
    assert 0 < noise.item() < 0.2
    assert len(find_sources(NDData(light[None]))[0]) == 3


def test_a_band_without_valid_pixels_is_refused():
    data = np.ones((2, 30, 30))
    data[1] = np.nan
    with pytest.raises(ValueError, match="image has a band without a single valid pixel"):
        estimate_background(NDData(data))


def test_wrong_number_of_dimensions_is_refused():
    with pytest.raises(ValueError, match=r"image has shape \(30, 30\)"):
        estimate_background(NDData(np.ones((30, 30))))


# sources


def match(sources, galaxies=GALAXIES):
    """Rows of the sources nearest to each of the galaxies."""
    place = np.array([(sources["x_centroid"], sources["y_centroid"])])[0]
    return [np.argmin(np.hypot(*(place.T - galaxy[:2]).T)) for galaxy in galaxies]


def test_sources_are_where_the_galaxies_are(scene):
    sources, segmentation = find_sources(scene)
    assert len(sources) == 3
    assert segmentation.shape == (200, 210)
    rows = match(sources)
    for row, galaxy in zip(rows, GALAXIES, strict=True):
        x, y, flux, r_eff, n, _, theta = galaxy
        source = sources[row]
        assert source["x_centroid"] == pytest.approx(x, abs=0.1)
        assert source["y_centroid"] == pytest.approx(y, abs=0.1)
        assert segmentation[round(y), round(x)] == source["label"]
        kron = source["kron_flux"].to_value(u.nJy)
        np.testing.assert_allclose(kron, COLOURS * flux, rtol=0.12)
        turn = (source["orientation"].to_value(u.rad) - theta) % np.pi
        assert min(turn, np.pi - turn) < 0.1
        assert source["petrosian_found"]
        # circles around an inclined disc: its radius times about the square root of the axis ratio
        petrosian = source["petrosian_radius"].to_value(u.pix) / sersic_petrosian(n) / r_eff
        assert 0.65 < petrosian < 1.1
    sky = scene.wcs.pixel_to_world(sources["x_centroid"], sources["y_centroid"])
    assert (sources["sky_centroid"].separation(sky) < 1 * u.mas).all()
    assert len(set(sources["parent"])) == 3


def test_segments_hold_the_light_of_the_image(scene):
    sources, segmentation = find_sources(scene)
    level, _ = estimate_background(scene)
    for source in sources:
        own = (scene.data - level)[:, segmentation == source["label"]]
        np.testing.assert_allclose(source["segment_flux"].value, own.sum(axis=-1))
        np.testing.assert_allclose(source["max_value"].value, own.max(axis=-1))


@pytest.mark.parametrize("factor", [1e-20, 1e6])
def test_units_do_not_matter(scene, factor):
    plain = find_sources(scene)[0]
    scaled = find_sources(NDData(scene.data * factor - 5 * factor))[0]
    np.testing.assert_allclose(scaled["x_centroid"], plain["x_centroid"], atol=1e-3)
    np.testing.assert_allclose(scaled["kron_flux"] / factor, plain["kron_flux"].value, rtol=1e-3)
    assert "sky_centroid" not in scaled.colnames


def test_noisy_bands_weigh_less(light):
    data = np.stack([light, light]) + np.random.default_rng(0).normal(0, 1, (2, *light.shape))
    data[1] += np.random.default_rng(1).normal(0, 300, light.shape)
    sources, _ = find_sources(NDData(data))
    assert len(sources) == 3


def test_single_band(light):
    noise = np.random.default_rng(0).normal(0, 1, light.shape)
    sources, _ = find_sources(NDData((light + noise)[None]))
    assert sources["kron_flux"].shape == (3, 1)


@pytest.mark.parametrize(
    "data",
    [
        np.zeros((2, 40, 50)),
        np.full((1, 16, 16), 7.0),
        np.random.default_rng(0).normal(0, 1, (3, 80, 80)),
    ],
    ids=["zeros", "constant", "noise"],
)
@pytest.mark.parametrize("unit", [None, u.nJy])
def test_no_sources_is_an_empty_table(data, unit, scene):
    sources, segmentation = find_sources(NDData(data, unit=unit))
    assert len(sources) == 0
    assert segmentation.shape == data.shape[1:]
    assert not segmentation.any()
    full = find_sources(scene)[0]
    assert set(full.colnames) - {"sky_centroid"} == set(sources.colnames)
    assert sources["kron_flux"].shape == (0, len(data))
    assert sources["kron_flux"].unit == unit if unit else True
    blends = select_blends(NDData(data, unit=unit), sources, segmentation)
    assert len(blends) == 0
    assert "clarity" in blends.colnames


def test_empty_table_has_positions_on_the_sky_too(scene):
    data = np.random.default_rng(0).normal(0, 1, (1, 60, 60))
    sources, _ = find_sources(NDData(data, wcs=scene.wcs))
    assert len(sources) == 0
    assert len(sources["sky_centroid"]) == 0


def test_galaxies_at_the_border_and_behind_masks():
    light = draw((80, 90), [(0.2, 40, 5000, 5, 1, 0, 0), (60, 78.5, 4000, 4, 1, 0, 0)])
    light += draw((80, 90), [(45, 40, 5000, 5, 1, 0, 0)])
    data = light + np.random.default_rng(0).normal(0, 1, (2, 80, 90))
    mask = np.zeros(data.shape, dtype=bool)
    mask[:, :, 46:48] = True  # bad columns through a galaxy
    mask[0, :30] = True  # one band missing
    data[:, 10, 10] = np.nan
    data[mask] = np.inf
    sources, segmentation = find_sources(NDData(data, mask=mask))
    rows = match(sources, [(0.2, 40), (60, 78.5), (45, 40)])
    assert len(set(rows)) == 3
    assert np.isfinite(sources["petrosian_radius"].value).all()
    assert (sources["petrosian_radius"].value > 0).all()
    assert np.isfinite(sources["kron_flux"]).all()
    assert not segmentation[:, 46:48].any()
    assert sources["x_centroid"][rows[0]] < 4


def test_touching_galaxies_share_a_parent():
    galaxies = [(40, 40, 9000, 4, 1, 0, 0), (53, 44, 6000, 4, 1, 0, 0), (90, 90, 5000, 4, 1, 0, 0)]
    data = draw((120, 120), galaxies) + np.random.default_rng(0).normal(0, 1, (1, 120, 120))
    sources, _ = find_sources(NDData(data))
    assert len(sources) == 3
    parents = sources["parent"][match(sources, galaxies)]
    assert parents[0] == parents[1] != parents[2]


def test_only_groups_with_several_peaks_are_divided(light, monkeypatch):
    """Leaving the others out is quicker and changes nothing."""
    rng = np.random.default_rng(1)
    galaxies = [(*rng.uniform(10, 190, 2), 2000, rng.uniform(2, 5), 1, 0, 0) for _ in range(40)]
    data = np.stack([draw(light.shape, galaxies)]) + rng.normal(0, 1, (1, *light.shape))
    sources, segmentation = find_sources(NDData(data))
    count = np.unique(sources["parent"], return_counts=True)[1]
    assert (count == 1).any()
    assert (count > 1).any()
    monkeypatch.setattr(
        "astrodeblend.detect._with_several_peaks", lambda _, labels: np.unique(labels[labels > 0])
    )
    np.testing.assert_array_equal(find_sources(NDData(data))[1], segmentation)


def test_a_background_that_is_known_is_not_estimated_again(scene, monkeypatch):
    known = estimate_background(scene)
    sources, _ = find_sources(scene)
    monkeypatch.delattr("astrodeblend.detect.estimate_background")
    again, _ = find_sources(scene, background=known)
    np.testing.assert_array_equal(again["kron_flux"], sources["kron_flux"])


# Petrosian radius


@pytest.mark.parametrize("n", [0.5, 1, 2.5, 4])
@pytest.mark.parametrize("r_eff", [4, 12])
def test_petrosian_radius_of_sersic_profiles(n, r_eff):
    data = draw((201, 211), [(100.3, 99.6, 1000, r_eff, n, 0, 0)])
    radius = petrosian_radius(data, (100.3, 99.6))
    assert radius == pytest.approx(r_eff * sersic_petrosian(n), rel=0.03)
    assert radius == pytest.approx(petrosian_radius(data * 1e-9, (100.3, 99.6)))


def test_petrosian_radius_of_an_exponential_disc_is_known():
    """3.55 scale lengths for a ratio of 0.2; more for a lower ratio."""
    assert sersic_petrosian(1) * gammaincinv(2, 0.5) == pytest.approx(3.55, abs=0.01)
    data = draw((161, 161), [(80, 80, 1000, 8, 1, 0, 0)])
    wider = petrosian_radius(data, (80, 80), eta=0.1)
    assert wider == pytest.approx(8 * sersic_petrosian(1, eta=0.1), rel=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_petrosian_radius_in_noise(seed):
    data = draw((121, 121), [(60, 60, 3000, 6, 1, 0, 0)])
    data += np.random.default_rng(seed).normal(0, 1, data.shape)
    radius = petrosian_radius(data, (60, 60), largest=40)
    assert radius == pytest.approx(6 * sersic_petrosian(1), rel=0.15)


def test_petrosian_radius_beside_a_neighbour():
    true = 6 * sersic_petrosian(1)
    data = draw((121, 121), [(60, 60, 9000, 6, 1, 0, 0), (78, 66, 9000, 5, 1, 0.3, 0)])
    data += np.random.default_rng(0).normal(0, 1, data.shape)
    sources, _ = find_sources(NDData(data[None]))
    row = match(sources, [(60, 60)])[0]
    assert sources["petrosian_found"][row]
    assert sources["petrosian_radius"][row].value == pytest.approx(true, rel=0.15)
    rows, columns = np.indices(data.shape)
    neighbour = np.hypot(columns - 78, rows - 66) < 12
    assert petrosian_radius(data, (60, 60), mask=neighbour) == pytest.approx(true, rel=0.15)


def test_petrosian_radius_where_there_is_none():
    assert np.isnan(petrosian_radius(np.ones((40, 40)), (20, 20)))
    assert np.isnan(petrosian_radius(np.zeros((40, 40)), (20, 20)))
    hidden = np.ones((40, 40), dtype=bool)
    assert np.isnan(petrosian_radius(np.ones((40, 40)), (20, 20), mask=hidden))
    assert np.isnan(petrosian_radius(np.full((40, 40), np.nan), (20, 20)))


# blends


def test_clear_blend_is_picked():
    galaxies = [
        (80, 80, 30000, 6, 1, 0.1, 0),
        (92, 86, 15000, 5, 1, 0.3, 1),  # the blend
        (180, 60, 30000, 6, 1, 0, 0),  # alone
        (60, 180, 30000, 6, 1, 0, 0),
        (71, 180, 300, 2, 1, 0, 0),  # much too faint a companion
    ]
    light = draw((240, 240), galaxies)
    image = NDData(light + np.random.default_rng(0).normal(0, 1, (1, 240, 240)))
    sources, segmentation = find_sources(image)
    blends = select_blends(image, sources, segmentation)
    assert len(blends) == 1
    central, companion = match(sources, galaxies[:2])
    blend = blends[0]
    assert blend["central"] == sources["label"][central]
    assert blend["companion"] == sources["label"][companion]
    assert blend["flux_ratio"] == pytest.approx(0.5, rel=0.2)
    assert blend["separation"] == pytest.approx(np.hypot(12, 6), rel=0.1)
    assert 0 < blend["clarity"] <= 1


def test_blends_of_the_hubble_deep_field():
    """Looked at one by one: each is two galaxies that overlap, neither of them a star."""
    good = np.array([(656, 591), (182, 710), (540, 725)])
    corner = 130, 400
    picture = skimage.data.hubble_deep_field()[400:780, 130:760]
    image = NDData(np.moveaxis(picture, -1, 0).astype(np.float32), meta=PICTURE)
    sources, segmentation = find_sources(image)
    blends = select_blends(image, sources, segmentation)
    used = np.concatenate([blends["central"], blends["companion"]])
    assert len(set(used)) == len(used)
    assert (np.diff(blends["clarity"]) <= 0).all()
    place = np.stack([blends["x_centroid"], blends["y_centroid"]], axis=-1)[:3] + corner
    distance = np.hypot(*(place[:, None] - good).T)
    assert (distance.min(axis=0) < 3).all()
    assert (distance.min(axis=1) < 3).all()


def test_given_positions_are_checked_and_reach_to_the_edge():
    image = NDData(np.random.default_rng(0).normal(0, 1, (1, 60, 70)))
    sources, segmentation = find_sources(image, positions=[(69.5, 59.5), (20, 30)])
    assert segmentation[59, 69] == sources["label"][0]
    with pytest.raises(ValueError, match=r"\(70, 3\), outside the image"):
        find_sources(image, positions=[(70, 3)])


def _enlarged(image, times):
    """What a picture viewer makes of (bands, y, x): smooth, with the noise of neighbours alike."""
    return ndimage.zoom(image, (1, times, times), order=3, mode="grid-wrap", grid_mode=True)


@pytest.mark.parametrize("times", [3, 4, 6])
def test_an_enlarged_picture_has_the_same_sources(times):
    """Where black cuts the sky off, specks stand out far above the scatter: then they count."""
    rng = np.random.default_rng(times)
    y, x = np.mgrid[:96, :96]
    places = [(20, 30), (60, 22), (70, 70), (28, 75)]
    light = sum(150 * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 8) for a, b in places)
    picture = (light + rng.normal(-2, 4, (3, 96, 96))).clip(0)
    small, large = (
        NDData(np.rint(each).clip(0, 255), meta=PICTURE)
        for each in (picture, _enlarged(picture, times))
    )
    assert len(find_sources(large, smoothing=2.0)[0]) > len(places)
    for image, scale in ((small, 1), (large, times)):
        sources, _ = find_sources(image)
        assert len(sources) == len(places)
        found = np.column_stack([sources["x_centroid"], sources["y_centroid"]])
        expected = scale * (np.array(places) + 0.5) - 0.5
        distance = np.hypot(*(found[:, None] - expected).T).min(axis=1)
        np.testing.assert_allclose(distance, 0, atol=0.3 * scale)


def test_flux_is_searched_alike_whatever_its_noise():
    """Of resampled images neighbouring pixels share their noise, and galaxies are as small."""
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:128, :128]
    places = [(30, 40), (90, 31), (100, 101), (40, 95)]
    noise = ndimage.gaussian_filter(rng.normal(0, 1, (128, 128)), 2)
    light = sum(12 * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 8) for a, b in places)
    image = NDData((light + noise / noise.std())[None])
    segments = find_sources(image)[1]
    np.testing.assert_array_equal(segments, find_sources(image, smoothing=2.0)[1])
    assert segments.max() == len(places)


@pytest.mark.parametrize("side", [200, 600])
@pytest.mark.parametrize("middle", [3, 0.2, -0.2, -3])
def test_noise_of_a_sky_that_is_cut_off(middle, side):
    """From a fifth to four fifths of it, with a map of the sky and without."""
    sky = np.random.default_rng(6).normal(middle, 4, (1, side, side)).clip(0)
    _, noise = estimate_background(NDData(sky, meta=PICTURE))
    np.testing.assert_allclose(noise, 4, rtol=0.05)


@pytest.mark.parametrize("times", [2.5, 4, 9])
def test_how_many_times_a_picture_was_enlarged(times):
    noise = np.random.default_rng(2).normal(0, 1, (1, 100, 100))
    for image, expected in ((noise, 1), (_enlarged(noise, times), times)):
        found = _enlargement(image[0], np.zeros(image.shape[1:], bool))
        assert found == pytest.approx(expected, rel=0.15)
