"""Sources, Petrosian radii and widths of stamps, against analytic galaxies."""

from types import SimpleNamespace

import numpy as np
import pytest
from astropy import units as u
from astropy.modeling.models import Sersic2D
from astropy.nddata import NDData
from astropy.table import QTable
from astropy.wcs import WCS
from photutils.datasets import make_model_image
from scipy import ndimage
from scipy.optimize import brentq
from scipy.special import gamma, gammainc, gammaincinv

from astrodeblend.detect import (
    _enlargement,
    describe_sources,
    estimate_sky,
    find_sources,
    petrosian_radius,
    stamp_widths,
)
from astrodeblend.flags import Flag
from astrodeblend.images import read_image


def flux(data, **options):
    return read_image(NDData(data, **options), kind="flux")


def picture_of(data):
    """An 8-bit picture, as a camera gives it."""
    data = np.moveaxis(np.rint(data), 0, -1).clip(0, 255).astype(np.uint8)
    return read_image(data if data.shape[-1] > 1 else data[..., 0])


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
    return flux(COLOURS[:, None, None] * light + noise, unit=u.nJy, wcs=wcs)


def test_a_sky_clipped_at_zero_is_no_source(light):
    picture = np.clip(light + np.random.default_rng(0).normal(-3, 1, light.shape), 0, 255)
    assert len(find_sources(picture_of(np.floor(picture)[None]))[0]) == 3


def test_noise_free_images_have_sources(light):
    assert len(find_sources(flux(light[None]))[0]) == 3


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
        x, y, light, r_eff, n, *_ = galaxy
        source = sources[row]
        assert source["x_centroid"] == pytest.approx(x, abs=0.1)
        assert source["y_centroid"] == pytest.approx(y, abs=0.1)
        assert segmentation[round(y), round(x)] == source["label"]
        np.testing.assert_allclose(source["segment_flux"], COLOURS * light, rtol=0.25)
        assert source["petrosian_found"]
        # circles around an inclined disc: its radius times about the square root of the axis ratio
        petrosian = source["petrosian_radius"].to_value(u.pix) / sersic_petrosian(n) / r_eff
        assert 0.65 < petrosian < 1.1
    assert len(set(sources["parent"])) == 3


def test_segments_hold_the_light_of_the_image(scene):
    sources, segmentation = find_sources(scene)
    level = estimate_sky(scene).level
    for source in sources:
        own = (scene.data - level)[:, segmentation == source["label"]]
        np.testing.assert_allclose(source["segment_flux"], own.sum(axis=-1), rtol=1e-4)
        assert source["segment_area"].value == own.shape[-1]


@pytest.mark.parametrize("factor", [1e-20, 1e6])
def test_units_do_not_matter(scene, factor):
    plain = find_sources(flux(scene.data - 5))[0]
    scaled = find_sources(flux(scene.data * factor - 5 * factor))[0]
    np.testing.assert_allclose(scaled["x_centroid"], plain["x_centroid"], atol=1e-3)
    np.testing.assert_allclose(scaled["segment_flux"] / factor, plain["segment_flux"], rtol=1e-3)
    np.testing.assert_allclose(scaled["petrosian_radius"], plain["petrosian_radius"], rtol=1e-3)


def test_noisy_bands_weigh_less(light):
    data = np.stack([light, light]) + np.random.default_rng(0).normal(0, 1, (2, *light.shape))
    data[1] += np.random.default_rng(1).normal(0, 300, light.shape)
    sources, _ = find_sources(flux(data))
    assert len(sources) == 3


def test_single_band(light):
    noise = np.random.default_rng(0).normal(0, 1, light.shape)
    sources, _ = find_sources(flux((light + noise)[None]))
    assert sources["segment_flux"].shape == (3, 1)


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
@pytest.mark.filterwarnings("ignore:image has one value in every pixel")
def test_no_sources_is_an_empty_table(data, unit, scene):
    sources, segmentation = find_sources(flux(data, unit=unit))
    assert len(sources) == 0
    assert segmentation.shape == data.shape[1:]
    assert not segmentation.any()
    full = find_sources(scene)[0]
    assert full.colnames == sources.colnames
    assert sources["segment_flux"].shape == (0, len(data))


def test_galaxies_at_the_border_and_behind_masks():
    light = draw((80, 90), [(0.2, 40, 5000, 5, 1, 0, 0), (60, 78.5, 4000, 4, 1, 0, 0)])
    light += draw((80, 90), [(45, 40, 5000, 5, 1, 0, 0)])
    data = light + np.random.default_rng(0).normal(0, 1, (2, 80, 90))
    mask = np.zeros(data.shape, dtype=bool)
    mask[:, :, 46:48] = True  # bad columns through a galaxy
    mask[0, :30] = True  # one band missing
    data[:, 10, 10] = np.nan
    data[mask] = np.inf
    sources, segmentation = find_sources(flux(data, mask=mask))
    rows = match(sources, [(0.2, 40), (60, 78.5), (45, 40)])
    assert len(set(rows)) == 3
    assert np.isfinite(sources["petrosian_radius"].value).all()
    assert (sources["petrosian_radius"].value > 0).all()
    assert np.isfinite(sources["segment_flux"]).all()
    assert not segmentation[:, 46:48].any()
    assert sources["x_centroid"][rows[0]] < 4


def test_touching_galaxies_share_a_parent():
    galaxies = [(40, 40, 9000, 4, 1, 0, 0), (53, 44, 6000, 4, 1, 0, 0), (90, 90, 5000, 4, 1, 0, 0)]
    data = draw((120, 120), galaxies) + np.random.default_rng(0).normal(0, 1, (1, 120, 120))
    sources, _ = find_sources(flux(data))
    assert len(sources) == 3
    parents = sources["parent"][match(sources, galaxies)]
    assert parents[0] == parents[1] != parents[2]


def test_only_groups_with_several_peaks_are_divided(light, monkeypatch):
    """Leaving the others out is quicker and changes nothing."""
    rng = np.random.default_rng(1)
    galaxies = [(*rng.uniform(10, 190, 2), 2000, rng.uniform(2, 5), 1, 0, 0) for _ in range(40)]
    data = np.stack([draw(light.shape, galaxies)]) + rng.normal(0, 1, (1, *light.shape))
    sources, segmentation = find_sources(flux(data))
    count = np.unique(sources["parent"], return_counts=True)[1]
    assert (count == 1).any()
    assert (count > 1).any()
    monkeypatch.setattr(
        "astrodeblend.detect._with_several_peaks", lambda _, labels: np.unique(labels[labels > 0])
    )
    np.testing.assert_array_equal(find_sources(flux(data))[1], segmentation)


def test_a_sky_that_is_known_is_not_estimated_again(scene, monkeypatch):
    known = estimate_sky(scene)
    sources, _ = find_sources(scene)
    monkeypatch.delattr("astrodeblend.detect.estimate_sky")
    again, _ = find_sources(scene, known)
    np.testing.assert_array_equal(again["segment_flux"], sources["segment_flux"])


# Petrosian radius


@pytest.mark.parametrize("n", [0.5, 1, 2.5, 4])
@pytest.mark.parametrize("r_eff", [4, 12])
def test_petrosian_radius_of_sersic_profiles(n, r_eff):
    data = draw((201, 211), [(100.3, 99.6, 1000, r_eff, n, 0, 0)])
    radius = petrosian_radius(data, (100.3, 99.6))
    # of the steepest and smallest half of the light is in the pixel in the middle
    assert radius == pytest.approx(r_eff * sersic_petrosian(n), rel=0.06 if r_eff < n + 1 else 0.03)
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
    sources, _ = find_sources(flux(data[None]))
    row = match(sources, [(60, 60)])[0]
    assert sources["petrosian_found"][row]
    assert sources["petrosian_radius"][row].value == pytest.approx(true, rel=0.15)
    rows, columns = np.indices(data.shape)
    neighbour = np.hypot(columns - 78, rows - 66) < 12
    assert petrosian_radius(data, (60, 60), mask=neighbour) == pytest.approx(true, rel=0.15)


def test_petrosian_radius_of_light_that_begins_negative():
    y, x = np.indices((41, 41)) - 20
    light = np.where(np.hypot(x, y) < 3, -5.0, np.exp(-np.hypot(x, y) / 3))
    found = petrosian_radius(light, (20, 20))  # warns of nothing
    assert np.isnan(found) or found > 3


def test_petrosian_radius_where_there_is_none():
    assert np.isnan(petrosian_radius(np.ones((40, 40)), (20, 20)))
    assert np.isnan(petrosian_radius(np.zeros((40, 40)), (20, 20)))
    hidden = np.ones((40, 40), dtype=bool)
    assert np.isnan(petrosian_radius(np.ones((40, 40)), (20, 20), mask=hidden))
    assert np.isnan(petrosian_radius(np.full((40, 40), np.nan), (20, 20)))


def test_given_positions_are_checked_and_reach_to_the_edge():
    image = flux(np.random.default_rng(0).normal(0, 1, (1, 60, 70)))
    sources, segmentation = find_sources(image, positions=[(69.5, 59.5), (20, 30)])
    assert segmentation[59, 69] == sources["label"][0]
    with pytest.raises(ValueError, match=r"\(70, 3\), outside the image"):
        find_sources(image, positions=[(70, 3)])


def test_positions_divide_what_they_lie_in():
    """The rest has rows of its own, after theirs; without it all light is theirs."""
    galaxies = [(40, 40, 9000, 4, 1, 0, 0), (53, 44, 6000, 4, 1, 0, 0), (90, 90, 5000, 4, 1, 0, 0)]
    image = flux(draw((120, 120), galaxies) + np.random.default_rng(0).normal(0, 1, (1, 120, 120)))
    places = [(53.0, 44.0), (40.0, 40.0), (20.0, 100.0)]
    sources, segments = find_sources(image, positions=places, rest=True)
    assert len(sources) == 4
    np.testing.assert_array_equal(sources["x_centroid"][:3], [53, 40, 20])
    assert [segments[round(y), round(x)] for x, y in places] == [1, 2, 3]
    assert sources["n_blended"].tolist() == [2, 2, 1, 1]
    assert sources["x_centroid"][3] == pytest.approx(90, abs=0.2)
    assert ((sources["flags"] & Flag.NO_SOURCE) > 0).tolist() == [False, False, True, False]
    alone, _ = find_sources(image, positions=places[1:2])
    assert len(alone) == 1
    assert alone["segment_flux"][0, 0] > 1.5 * sources["segment_flux"][1, 0]


def test_sources_of_a_network_are_blended_where_their_light_is_above_the_noise():
    """Not by wings far below it: Gaussians of sigma 2 meet halfway."""

    def component(peak, x, y):
        light = peak * np.exp(-((np.arange(80) - x) ** 2 + (np.arange(60)[:, None] - y) ** 2) / 8)
        box = (slice(0, 60), slice(0, 80))
        return SimpleNamespace(
            light=np.stack([light, light]), sky_noise=np.full((2, 1, 1), 2.0), box=box,
            position=(x, y),
        )  # fmt: skip

    # the second of each pair is 10 pixels from the first, where each has 0.04 of its peak
    components = [component(*source) for source in [
        (100, 12, 20), (100, 22, 20), (2, 50, 20), (2, 60, 20), (0.01, 70, 50),
    ]]  # fmt: skip
    sources = describe_sources(components, np.full(5, 3.0), (60, 80))
    assert sources["n_blended"].tolist() == [2, 2, 1, 1, 1]
    assert len(set(sources["parent"])) == 4


def test_widths_of_stamps_follow_the_rule():
    rule = {"petrosian_radii": 5.0, "pixels": 32}
    sources = QTable(
        {
            "petrosian_radius": [10.0, 10.0, 1.0, 9.0, 2.0, 60.0] * u.pix,
            "x_centroid": [50.0, 63.0, 150.0, 52.0, 300.0, 300.0],
            "y_centroid": [50.0, 50.0, 150.0, 90.0, 50.0, 150.0],
            "segment_flux": [[3.0], [9.0], [1.0], [0.1], [0.1], [8.0]],
            "parent": [1, 1, 2, 3, 4, 5],
            "flags": [0, 0, 0, int(Flag.NO_SOURCE), int(Flag.NO_SOURCE), 0],
        }
    )
    widths = stamp_widths(sources, rule, (200, 200))
    assert widths[0] == pytest.approx(13 * 240 / 50)  # with its companion inside
    assert stamp_widths(sources[[0]], rule, (200, 200))[0] == 50
    assert widths[2] == 16  # no less
    assert widths[3] == 50  # by the size of the nearest source
    assert widths[4] == 32  # nothing near: the network's own
    assert widths[5] == 200  # no wider than the image


def _enlarged(image, times):
    """What a picture viewer makes of (bands, y, x): smooth, with the noise of neighbours alike."""
    return ndimage.zoom(image, (1, times, times), order=3, mode="grid-wrap", grid_mode=True)


@pytest.mark.parametrize("times", [3, 6])
def test_an_enlarged_picture_has_the_same_sources(times):
    """Where black cuts the sky off, specks stand out far above the scatter: then they count."""
    rng = np.random.default_rng(times)
    y, x = np.mgrid[:64, :64]
    places = [(16, 20), (46, 15), (30, 48)]
    light = sum(150 * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 8) for a, b in places)
    picture = (light + rng.normal(-2, 4, (3, 64, 64))).clip(0)
    small, large = (picture_of(each) for each in (picture, _enlarged(picture, times)))
    if times == 3:  # slow with more specks
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
    image = flux((light + noise / noise.std())[None])
    segments = find_sources(image)[1]
    np.testing.assert_array_equal(segments, find_sources(image, smoothing=2.0)[1])
    assert segments.max() == len(places)


@pytest.mark.parametrize("times", [2.5, 4, 9])
def test_how_many_times_a_picture_was_enlarged(times):
    noise = np.random.default_rng(2).normal(0, 1, (1, 100, 100))
    for image, expected in ((noise, 1), (_enlarged(noise, times), times)):
        found = _enlargement(image[0], np.zeros(image.shape[1:], bool))
        assert found == pytest.approx(expected, rel=0.15)
