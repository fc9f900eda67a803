"""Whole images: every source alone, nothing lost, whatever the order."""

import warnings

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData, NDData
from astropy.table import QTable
from astropy.wcs import WCS

from astrodeblend import Deblender
from astrodeblend.results import Flag
from astrodeblend.separate import Component, share_out

GALAXIES = [  # x, y, radius, flux per band
    (60.0, 50.0, 5.0, (900, 700, 500)),
    (74.0, 56.0, 4.0, (300, 500, 800)),
    (68.0, 66.0, 3.0, (400, 300, 300)),
    (170.0, 60.0, 4.0, (800, 800, 800)),
    (60.0, 150.0, 5.0, (600, 500, 700)),
    (75.0, 150.0, 4.0, (500, 700, 400)),
]


def draw(galaxies, shape=(200, 230), noise=0.05, seed=1):
    """Gaussian galaxies in linear flux, each alone: truths (n, bands, y, x), and the image."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    truths = np.array(
        [
            np.array(flux)[:, None, None]
            * np.exp(-((x - gx) ** 2 + (y - gy) ** 2) / (2 * radius**2))
            / (2 * np.pi * radius**2)
            for gx, gy, radius, flux in galaxies
        ]
    )
    sky = noise * np.random.default_rng(seed).standard_normal((3, *shape))
    return truths, (truths.sum(axis=0) + sky).astype(np.float32)


@pytest.fixture(scope="module")
def tiny(tiny_model):
    return Deblender.load(tiny_model, device="cpu")


@pytest.fixture(scope="module")
def wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval, wcs.wcs.crpix = (150.0, 2.0), (100.0, 100.0)
    wcs.wcs.cdelt = -2e-4, 2e-4
    return wcs


@pytest.fixture(scope="module")
def image(wcs):
    return NDData(draw(GALAXIES)[1], unit=u.nJy, wcs=wcs)


@pytest.fixture(scope="module")
def scene(tiny, image):
    return tiny.deblend_scene(image)


def whole(scene):
    """Sum of all components on the grid of the image."""
    return sum(scene.component(label).data.astype(float) for label in scene.catalog["label"])


class TestScene:
    def test_every_source_is_in_the_catalogue(self, scene):
        assert len(scene.catalog) == len(scene.components) == len(GALAXIES)
        assert sorted(scene.catalog["n_blended"]) == [1, 2, 2, 3, 3, 3]
        assert (scene.catalog["flags"] & int(Flag.NOT_DEBLENDED) == 0).all()

    def test_an_isolated_source_keeps_its_light(self, scene):
        row = np.flatnonzero(scene.catalog["n_blended"] == 1)[0]
        flux = scene.catalog["segment_flux"][row].to_value(u.nJy)
        np.testing.assert_allclose(flux, 800, rtol=0.02)
        assert scene.catalog["blendedness"][row] == pytest.approx(0, abs=1e-6)
        assert scene.catalog["x_centroid"][row] == pytest.approx(170, abs=0.1)

    def test_apportioned_components_sum_to_the_image_where_there_are_any(self, scene, image):
        total = whole(scene)
        level = image.data - total
        covered = total != 0
        # What they leave is the sky's level, one number per band.
        for band in range(3):
            left = level[band][covered[band]]
            assert np.ptp(left) < 1e-3
            assert abs(left.mean()) < 0.05

    def test_network_components_and_residual_sum_to_the_image(self, tiny, image):
        scene = tiny.deblend_scene(image, light="network")
        np.testing.assert_allclose(whole(scene) + scene.residual.data, image.data, atol=1e-4)

    def test_units_and_places(self, scene, image):
        assert scene.catalog["segment_flux"].unit == u.nJy
        assert scene.catalog["segment_flux"].shape == (6, 3)
        assert scene.residual.wcs.wcs.compare(image.wcs.wcs)
        for row, component in zip(scene.catalog, scene.components, strict=True):
            assert component.unit == u.nJy
            sky = row["sky_centroid"]
            (y0, _), (x0, _) = component.meta["box"]
            x, y = component.wcs.world_to_pixel(sky)
            assert (x + x0, y + y0) == pytest.approx((row["x_centroid"], row["y_centroid"]))

    def test_given_positions_replace_detection(self, tiny, image, wcs):
        places = np.array([galaxy[:2] for galaxy in GALAXIES])
        scene = tiny.deblend_scene(image, positions=places)
        assert len(scene.catalog) == len(GALAXIES)
        sky = SkyCoord(wcs.pixel_to_world(*places.T))
        same = tiny.deblend_scene(image, positions=sky)
        np.testing.assert_allclose(
            scene.catalog["segment_flux"].value, same.catalog["segment_flux"].value, rtol=1e-4
        )

    def test_the_order_of_sources_changes_nothing(self, tiny, image):
        places = np.array([galaxy[:2] for galaxy in GALAXIES])
        order = np.random.default_rng(3).permutation(len(places))
        one = tiny.deblend_scene(image, positions=places)
        other = tiny.deblend_scene(image, positions=places[order])
        np.testing.assert_allclose(
            one.catalog["segment_flux"].value[order], other.catalog["segment_flux"].value, rtol=1e-4
        )

    def test_a_shift_by_whole_pixels_shifts_the_catalogue(self, tiny, scene, image):
        moved = np.roll(image.data, (7, -11), axis=(1, 2))
        moved = tiny.deblend_scene(NDData(moved, unit=u.nJy))
        assert len(moved.catalog) == len(scene.catalog)
        order = np.lexsort((moved.catalog["x_centroid"], moved.catalog["y_centroid"]))
        was = np.lexsort((scene.catalog["x_centroid"], scene.catalog["y_centroid"]))
        for name, shift in (("x_centroid", -11), ("y_centroid", 7)):
            np.testing.assert_allclose(
                moved.catalog[name][order], scene.catalog[name][was] + shift, atol=1e-3
            )
        np.testing.assert_allclose(
            moved.catalog["segment_flux"].value[order],
            scene.catalog["segment_flux"].value[was],
            rtol=1e-3,
        )

    def test_an_image_without_sources(self, tiny, scene):
        sky = np.random.default_rng(5).standard_normal((3, 90, 120)).astype(np.float32)
        empty = tiny.deblend_scene(NDData(sky, unit=u.nJy))
        assert len(empty.catalog) == 0
        expected = [name for name in scene.catalog.colnames if name != "sky_centroid"]
        assert empty.catalog.colnames == expected
        np.testing.assert_array_equal(empty.residual.data, sky)

    def test_one_band(self, tiny):
        scene = tiny.deblend_scene(draw(GALAXIES)[1][0])
        assert scene.residual.data.ndim == 2
        assert scene.catalog["segment_flux"].shape == (6,)
        assert (scene.catalog["flags"] & int(Flag.SINGLE_BAND) > 0).all()

    def test_noise_makes_no_light(self, tiny):
        _, image = draw([(60, 60, 3.0, (1, 1, 1))], shape=(120, 120), noise=1.0)
        scene = tiny.deblend_scene(NDData(image, unit=u.nJy), positions=[(60, 60)])
        row = scene.catalog[0]
        # Here there is next to nothing but noise: as much of it is negative as positive.
        error = row["segment_flux_err"].value
        assert (np.abs(row["segment_flux"].value - 1) < 4 * error).all()
        assert (scene.components[0].data < 0).any()

    def test_positions_where_little_is_to_be_seen(self, tiny, image):
        data, mask = image.data.copy(), np.zeros(image.data.shape, bool)
        mask[:, 100:120, 100:120] = True
        data[:, 20:40, 180:200] -= 20
        places = [galaxy[:2] for galaxy in GALAXIES] + [(110, 110), (190, 30), (229.5, 199.5)]
        scene = tiny.deblend_scene(NDData(data, mask=mask, unit=u.nJy), positions=places)
        assert len(scene.catalog) == len(places)
        assert (scene.catalog["segment_flux"][3] > 700 * u.nJy).all()
        assert scene.catalog["flags"][6] & int(Flag.MASKED)
        assert scene.catalog["flags"][8] & int(Flag.EDGE)

    def test_however_few_stamps_are_taken_at_once(self, tiny, scene, image, monkeypatch):
        monkeypatch.setattr("astrodeblend.separate._AT_ONCE", 2)
        few = tiny.deblend_scene(image)
        np.testing.assert_allclose(
            few.catalog["segment_flux"].value, scene.catalog["segment_flux"].value, rtol=1e-4
        )

    def test_one_source_that_fails_does_not_spoil_the_rest(self, tiny, image, monkeypatch):
        import astrodeblend.separate as module

        prepare, calls = module.prepare, []

        def fails_once(*args):
            calls.append(1)
            if len(calls) == 1:
                raise ValueError("no valid pixel")
            return prepare(*args)

        monkeypatch.setattr(module, "prepare", fails_once)
        scene = tiny.deblend_scene(image)
        failed = scene.catalog["flags"] & int(Flag.NOT_DEBLENDED) > 0
        assert failed.sum() == 1
        assert (scene.catalog["segment_flux"][failed] > 0).all()

    def test_wrong_options(self, tiny, image):
        with pytest.raises(ValueError, match="light='all': choose one of apportioned, network"):
            tiny.deblend_scene(image, light="all")
        with pytest.raises(ValueError, match="rounds=0"):
            tiny.deblend_scene(image, rounds=0)
        with pytest.raises(ValueError, match="outside the image"):
            tiny.deblend_scene(image, positions=[(500, 3)])
        with pytest.raises(ValueError, match="two sources in one pixel"):
            tiny.deblend_scene(image, positions=[(60, 50), (60.1, 50.1)])
        with pytest.raises(ValueError, match="label=9"):
            tiny.deblend_scene(image).component(9)


def test_a_trained_model_gives_each_galaxy_its_light(image):
    scene = Deblender.from_pretrained("galaxyzoo", device="cpu").deblend_scene(image)
    for k, (x, y, _, flux) in enumerate(GALAXIES):
        distance = np.hypot(scene.catalog["x_centroid"] - x, scene.catalog["y_centroid"] - y)
        assert distance.min() < (1.5 if k >= 3 else 4)
        found = scene.catalog["segment_flux"][np.argmin(distance)].to_value(u.nJy)
        # A pair is what the network knows; of three close ones the middle one gets too much.
        np.testing.assert_allclose(found.sum(), sum(flux), rtol=0.1 if k >= 3 else 0.35)


class TestFiles:
    def test_written_and_read_back(self, scene, tmp_path):
        path = tmp_path / "scene.fits"
        scene.write(path)
        catalog = QTable.read(path, hdu="CATALOG")
        assert catalog["segment_flux"].unit == u.nJy
        np.testing.assert_allclose(catalog["x_centroid"], scene.catalog["x_centroid"])
        with fits.open(path) as hdus:
            label = len(scene.components)
            np.testing.assert_array_equal(hdus["COMPONENT", label].data, scene.components[-1].data)
            assert "CRPIX1" in hdus["COMPONENT", label].header
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            residual = CCDData.read(path, hdu="RESIDUAL")
        np.testing.assert_array_equal(residual.data, scene.residual.data)
        with pytest.raises(FileExistsError):
            scene.write(path)

    def test_the_figure(self, scene, tmp_path):
        figure = scene.plot()
        assert [axes.get_title() for axes in figure.axes] == [
            "image", "components", "data − components",
        ]  # fmt: skip
        figure.savefig(tmp_path / "scene.png")

    def test_in_words(self, scene):
        assert repr(scene).startswith("<Scene: 3 x 200 x 230 nJy, 6 sources, 5 of them blended")


def test_sharing_out_conserves_the_light():
    box = (slice(0, 4), slice(0, 4))
    light = np.full((1, 4, 4), 3.0)
    variance = np.ones((1, 4, 4))
    two = [Component(box, np.full((1, 4, 4), v), variance, Flag(0)) for v in (4.0, 2.0)]
    a, b = share_out(light, two)  # claimed 6 of 3
    np.testing.assert_allclose(a.light, 2)
    np.testing.assert_allclose(b.light, 1)
    np.testing.assert_allclose(a.variance, 0.25)  # of half the claim
    few = [Component(box, np.full((1, 4, 4), v), variance, Flag(0)) for v in (1.0, 0.5)]
    a, b = share_out(light, few)  # claimed 1.5 of 3
    np.testing.assert_allclose(a.light, 1)
    a, b = share_out(light, few, fill=True)
    np.testing.assert_allclose((a.light, b.light), (np.full((1, 4, 4), 2), np.full((1, 4, 4), 1)))
    negative = [Component(box, np.full((1, 4, 4), v), variance, Flag(0)) for v in (-1.0, 0.5)]
    a, b = share_out(-light, negative, fill=True)  # only the first one claims what noise made
    np.testing.assert_allclose(a.light, -3)
    np.testing.assert_allclose(b.light, 0)
