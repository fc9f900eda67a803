"""Whole images: every source alone, nothing lost, whatever the order, and each step once."""

import re
import sys
import warnings

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, NDData, StdDevUncertainty
from astropy.table import QTable
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from matplotlib.figure import Figure
from regions import EllipseSkyRegion, PointPixelRegion, Regions

from astrodeblend import Flag
from astrodeblend.inference import Inference

KINDS = ("flux", "picture")
GALAXIES = [  # x, y, sigma, flux per band
    (60.0, 50.0, 2.5, (9000, 7000, 5000)),
    (70.0, 54.0, 2.0, (3000, 5000, 8000)),
    (65.0, 62.0, 2.0, (4000, 3000, 3000)),
    (130.0, 60.0, 2.2, (8000, 8000, 8000)),  # alone
    (60.0, 110.0, 2.5, (6000, 5000, 7000)),
    (71.0, 110.0, 2.0, (5000, 7000, 4000)),
]
PLACES = [galaxy[:2] for galaxy in GALAXIES]
ALONE = 3
SHAPE = (150, 170)


def draw(galaxies=GALAXIES, shape=SHAPE, bands=3):
    """Gaussian galaxies, each alone (n, bands, y, x)."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.array(
        [
            np.resize(flux, bands)[:, None, None]
            * np.exp(-((x - gx) ** 2 + (y - gy) ** 2) / (2 * sigma**2))
            / (2 * np.pi * sigma**2)
            for gx, gy, sigma, flux in galaxies
        ]
    )


def tan_wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval, wcs.wcs.crpix = (150.0, 2.0), (100.0, 100.0)
    wcs.wcs.cdelt = -2e-4, 2e-4
    return wcs


def flux(galaxies=GALAXIES, shape=SHAPE, bands=3, factor=1.0, **options):
    data = draw(galaxies, shape, bands).sum(axis=0)
    data += np.random.default_rng(1).standard_normal(data.shape)
    spread = np.full(data.shape, factor, np.float32)
    data = (factor * data).astype(np.float32)
    return NDData(data, uncertainty=StdDevUncertainty(spread), **options)


def picture(galaxies=GALAXIES, shape=SHAPE):
    """An 8-bit picture (y, x, 3) in which the brightest hides the others."""
    sky = 4 + 1.5 * np.random.default_rng(2).standard_normal((3, *shape))
    light = 0.8 * draw(galaxies, shape).max(axis=0) + sky
    return np.moveaxis(np.rint(light.clip(0, 255)), 0, -1).astype(np.uint8)


def made(kind, **options):
    return flux(unit=u.nJy, wcs=tan_wcs(), **options) if kind == "flux" else picture(**options)


@pytest.fixture(scope="module")
def scenes(splitting):
    return {kind: splitting[kind].deblend_scene(made(kind), positions=PLACES) for kind in KINDS}


@pytest.fixture(scope="module")
def scene(scenes):
    return scenes["flux"]


def whole(scene):
    """Sum of all components on the grid of the image."""
    return sum(np.nan_to_num(scene.component(k + 1).data) for k in range(len(scene.components)))


def level(scene):
    return np.reshape(scene.meta["background"], (-1, 1, 1))


def assert_same(table, other, *, rtol=1e-4, atol=1e-3, leaving=()):
    assert table.colnames == other.colnames
    for name in set(table.colnames) - {"label", "parent", "sky_centroid", "flag_names", *leaving}:
        np.testing.assert_allclose(
            np.asarray(table[name]), np.asarray(other[name]), rtol=rtol, atol=atol, err_msg=name
        )


# One path.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [PLACES[0], PLACES[ALONE], (3.0, 140.0)])
def test_a_stamp_is_a_scene_of_one_position_and_the_rest(splitting, kind, place):
    result = splitting[kind](made(kind), place)
    scene = splitting[kind].deblend_scene(made(kind), positions=[place], light="network")
    (y, x), light = scene.components[0].meta["box"], scene.components[0].data
    central = result.central.data[:, slice(*y), slice(*x)]
    sky = result.scene.light.components[0].sky[:, 0]
    seen = light != 0
    np.testing.assert_allclose((central - sky[:, None])[seen], light[seen], rtol=1e-5, atol=1e-4)
    table = result.to_table()
    table.remove_column("component")
    assert_same(table[:1], scene.catalog, rtol=0, atol=0)
    assert (result.flags & ~Flag.EMPTY) == (Flag(int(scene.catalog["flags"][0])) & ~Flag.EMPTY)


@pytest.mark.parametrize("kind", KINDS)
def test_each_step_is_taken_once(splitting, kind, monkeypatch):
    counts = dict.fromkeys(["estimate_sky", "find_sources", "run", "NDData"], 0)

    def counted(holder, name, label):
        function = getattr(holder, name)

        def call(*args, **kwargs):
            counts[label] += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(holder, name, call)

    import astrodeblend.detect as detect
    import astrodeblend.walk as walk

    counted(walk, "estimate_sky", "estimate_sky")
    counted(detect, "estimate_sky", "estimate_sky")
    counted(walk, "find_sources", "find_sources")
    counted(Inference, "run", "run")
    image = made(kind)
    counted(NDData, "__init__", "NDData")
    scene = splitting[kind].deblend_scene(image, positions=PLACES)
    read = counts["NDData"]
    for light in ("network", "apportioned"):
        shown = scene.with_light(light)
        assert len(shown.catalog) == len(shown.components) == len(PLACES)
    made_of = counts.pop("NDData") - read
    assert made_of <= 2 * 3 * len(PLACES)
    assert set(counts.values()) == {1}


@pytest.mark.parametrize("kind", KINDS)
def test_both_kinds_of_light_are_there(scenes, splitting, kind, monkeypatch):
    scene = scenes[kind]
    monkeypatch.delattr(Inference, "run")
    other = scene.with_light("network")
    assert (scene.meta["light"], other.meta["light"]) == ("apportioned", "network")
    assert other.catalog.meta["light"] == "network"
    assert not np.array_equal(scene.components[0].data, other.components[0].data)
    np.testing.assert_array_equal(
        other.with_light("apportioned").components[0].data, scene.components[0].data
    )
    with pytest.raises(ValueError, match="light='all': choose one of apportioned, network"):
        scene.with_light("all")
    with pytest.raises(ValueError, match="light='all': choose one of apportioned, network"):
        splitting[kind].deblend_scene(made(kind), light="all")


# Light is kept.


def test_an_isolated_galaxy_keeps_its_flux(scene, scenes):
    row = scene.catalog[ALONE]
    for light in ("apportioned", "network"):
        row = scene.with_light(light).catalog[ALONE]
        for name in ("segment_flux", "kron_flux"):
            np.testing.assert_allclose(row[name].to_value(u.nJy), 8000, rtol=0.02)
        assert row["blendedness"] == pytest.approx(0, abs=5e-3)
        assert row["x_centroid"] == pytest.approx(130, abs=0.05)
    # a picture's is what is in the picture
    catalog = scenes["picture"].catalog
    image = np.moveaxis(picture(), -1, 0) - level(scenes["picture"])
    light = image[:, 45:76, 115:146].sum(axis=(1, 2))
    np.testing.assert_allclose(catalog["kron_flux"][ALONE], light, rtol=0.04)


@pytest.mark.parametrize("kind", KINDS)
def test_the_networks_components_and_the_residual_are_the_image(scenes, kind):
    scene = scenes[kind].with_light("network")
    total = whole(scene) + scene.residual.data
    np.testing.assert_allclose(total, scene.image.data, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_apportioned_components_are_the_image_less_what_nobody_claims(scenes, kind):
    scene = scenes[kind]
    above = scene.image.data - level(scene)
    total, claimed = whole(scene), scene.light.unclaimed
    covered = (total != 0) & (claimed == 0)
    assert covered.sum() > 1000
    np.testing.assert_allclose(total[covered], above[covered], atol=1e-3)
    shared = (total != 0) & (claimed > 0)
    part = total[shared] / above[shared]
    assert ((part >= -1e-3) & (part <= 1 + 1e-3)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_positions_changes_nothing(scenes, splitting, kind):
    order = np.random.default_rng(3).permutation(len(PLACES))
    other = splitting[kind].deblend_scene(made(kind), positions=np.array(PLACES)[order])
    assert_same(scenes[kind].catalog[order], other.catalog)
    assert other.catalog["label"].tolist() == list(range(1, len(PLACES) + 1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_shift_by_whole_pixels_shifts_everything(splitting, kind):
    inside = [g for g in GALAXIES if g[1] < 100]
    one, other = (made(kind, galaxies=inside) for _ in range(2))
    if kind == "flux":
        other.data[:] = np.roll(one.data, (7, -11), axis=(1, 2))
    else:
        other = np.roll(one, (7, -11), axis=(0, 1))
    places = np.array([g[:2] for g in inside])
    one = splitting[kind].deblend_scene(one, positions=places)
    other = splitting[kind].deblend_scene(other, positions=np.add(places, (-11, 7)))
    assert_same(
        one.catalog, other.catalog, rtol=1e-3, atol=5e-3, leaving=("x_centroid", "y_centroid")
    )
    for name, by in (("x_centroid", -11), ("y_centroid", 7)):
        np.testing.assert_allclose(other.catalog[name], one.catalog[name] + by, atol=1e-3)
    for a, b in zip(one.components, other.components, strict=True):
        assert np.subtract(b.meta["box"], a.meta["box"]).tolist() == [[7, 7], [-11, -11]]
        np.testing.assert_allclose(b.data, a.data, atol=0.05)


@pytest.mark.parametrize("factor", [10.0, 1e-30, 1e20])
@pytest.mark.parametrize("light", ["apportioned", "network"])
def test_units_do_not_matter(splitting, scene, factor, light):
    image, scene = flux(factor=factor, wcs=tan_wcs()), scene.with_light(light)
    other = splitting["flux"].deblend_scene(image, positions=PLACES, light=light)
    for name in ("segment", "kron", "aperture"):
        for end in ("_flux", "_flux_err"):
            values = scene.catalog[name + end].value
            np.testing.assert_allclose(other.catalog[name + end], factor * values, rtol=2e-3)
    leaving = [name for name in scene.catalog.colnames if "flux" in name]
    assert_same(scene.catalog, other.catalog, rtol=2e-3, atol=2e-3, leaving=leaving)


@pytest.mark.parametrize("bands", range(1, 7))
def test_any_number_of_bands(splitting, bands):
    scene = splitting["flux"].deblend_scene(flux(GALAXIES[:4], bands=bands), positions=PLACES[:4])
    assert scene.catalog["segment_flux"].shape == (4, bands)
    expected = np.resize(GALAXIES[ALONE][3], bands)
    np.testing.assert_allclose(scene.catalog["segment_flux"][ALONE], expected, rtol=0.03)
    assert scene.component(1).data.shape == (bands, *SHAPE)


def test_a_flat_image_stays_flat(splitting):
    image = flux(bands=1)
    image = NDData(image.data[0], uncertainty=StdDevUncertainty(image.uncertainty.array[0]))
    scene = splitting["flux"].deblend_scene(image, positions=PLACES)
    assert scene.catalog["segment_flux"].shape == (len(PLACES),)
    assert scene.image.data.shape == scene.residual.data.shape == scene.component(1).data.shape
    assert all(c.data.ndim == c.uncertainty.array.ndim == 2 for c in scene.components)
    assert scene.residual.data.shape == SHAPE
    table = splitting["flux"](image, PLACES[0]).to_table()
    assert table["segment_flux"].shape == (2,)


# What is not there.


@pytest.mark.parametrize("kind", KINDS)
def test_no_sources(splitting, scenes, kind, tmp_path):
    image = made(kind, galaxies=[(50, 50, 2.0, 0.0)])
    for scene in (
        splitting[kind].deblend_scene(image),
        splitting[kind].deblend_scene(image, positions=[]),
    ):
        assert len(scene.catalog) == len(scene.components) == 0
        assert scene.catalog.colnames == scenes[kind].catalog.colnames
        np.testing.assert_array_equal(scene.residual.data, scene.image.data)
        with pytest.raises(ValueError, match="label=1 is not in the catalogue; it is empty"):
            scene.component(1)
        assert "0 sources" in repr(scene)
        assert "0 sources" in scene._repr_html_()
        scene.write(tmp_path / "none.fits", overwrite=True)
        scene.plot()


def test_a_position_where_nothing_is(splitting):
    places = [*PLACES, (20.0, 20.0), (169.49, 149.49)]
    catalog = splitting["flux"].deblend_scene(flux(), positions=places).catalog
    for row in catalog[-2:]:
        assert Flag.NO_SOURCE in Flag(int(row["flags"]))
        assert (np.abs(row["segment_flux"]) < 5 * np.fmax(row["segment_flux_err"], 10)).all()
    assert catalog["x_centroid"][-2] == pytest.approx(20, abs=3)
    np.testing.assert_allclose(catalog["segment_flux"][ALONE], 8000, rtol=0.02)
    assert not catalog["flags"][ALONE] & Flag.NO_SOURCE


def test_noise_makes_no_light(splitting):
    image = flux([(60, 60, 3.0, (10, 10, 10))], shape=(120, 120))
    row = splitting["flux"].deblend_scene(image, positions=[(60, 60)]).catalog[0]
    assert (np.abs(row["aperture_flux"] - 10) < 4 * row["aperture_flux_err"]).all()


def test_a_source_without_a_band_is_nan_there_and_no_other_is_touched(splitting, scene):
    image = flux(unit=u.nJy, wcs=tan_wcs())
    image.data[1, 40:80, 110:150] = np.nan
    found = splitting["flux"].deblend_scene(image, positions=PLACES)
    row, was = found.catalog[ALONE], scene.catalog[ALONE]
    for name in ("segment_flux", "kron_flux", "aperture_flux"):
        for end in ("", "_err"):
            assert np.isnan(row[name + end][1])
        np.testing.assert_allclose(row[name][[0, 2]], was[name][[0, 2]], rtol=0.01)
    assert np.isnan(found.components[ALONE].data[1]).all()
    assert np.isfinite(found.components[ALONE].data[[0, 2]]).all()
    others = np.arange(len(PLACES)) != ALONE
    assert_same(found.catalog[others], scene.catalog[others])
    assert np.isnan(splitting["flux"](image, PLACES[ALONE]).central.data[1, 60, 130])


@pytest.mark.parametrize("kind", KINDS)
def test_half_of_the_image_is_masked(splitting, scenes, kind):
    image = made(kind)
    mask = np.zeros(np.shape(image.data), bool)
    if kind == "flux":
        mask[:, 85:] = True
        image.data[mask] = 1e8
        image.mask = mask
    else:
        mask[85:] = True
        image = NDData(image, mask=mask)
    scene = splitting[kind].deblend_scene(image, positions=PLACES)
    assert_same(scene.catalog[:4], scenes[kind].catalog[:4], rtol=0.02, atol=0.05,
                leaving=("neighbor_distance",))  # fmt: skip
    assert np.isnan(scene.catalog["segment_flux"][4:]).all()
    assert (scene.catalog["flags"][4:] & Flag.MASKED > 0).all()
    assert f"of {len(PLACES)}: MASKED" in scene._repr_html_()
    found = splitting[kind].deblend_scene(image)
    assert len(found.catalog) == 4
    with pytest.raises(ValueError, match="around which the image has no data"):
        splitting[kind](image, PLACES[5])


def test_an_image_without_any_data_is_refused(splitting):
    with pytest.raises(ValueError, match="valid pixel"):
        splitting["flux"].deblend_scene(np.full((3, 40, 40), np.nan))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(16, 16), (16, 70), (41, 23)])
def test_images_smaller_than_a_stamp(splitting, kind, shape):
    middle = (shape[1] // 2, shape[0] // 2)
    image = made(kind, galaxies=[(*middle, 1.5, (3000, 3000, 3000))], shape=shape)
    scene = splitting[kind].deblend_scene(image)
    assert len(scene.catalog) == 1
    assert scene.catalog["x_centroid"][0] == pytest.approx(middle[0], abs=0.2)
    if kind == "flux":
        np.testing.assert_allclose(scene.catalog["kron_flux"][0].value, 3000, rtol=0.06)
    assert splitting[kind](image, middle).central.data.shape == (3, *shape)


@pytest.mark.parametrize("kind", KINDS)
def test_sources_at_the_very_edge(splitting, kind):
    edges = [(0.0, 30.0), (169.0, 60.0), (80.0, 0.0), (40.0, 149.0), (-0.5, -0.5)]
    galaxies = [(*place, 2.5, (8000, 8000, 8000)) for place in edges]
    scene = splitting[kind].deblend_scene(made(kind, galaxies=galaxies), positions=edges)
    assert (scene.catalog["flags"] & Flag.EDGE > 0).all()
    if kind == "flux":
        inside = draw(galaxies).sum(axis=(2, 3))
        np.testing.assert_allclose(scene.catalog["segment_flux"].value, inside, rtol=0.05)


def test_two_sources_a_pixel_apart_share(splitting):
    galaxies = [(60.0, 60.0, 2.0, (5000,) * 3), (61.0, 60.0, 2.0, (5000,) * 3)]
    image = flux(galaxies)
    catalog = splitting["flux"].deblend_scene(image, positions=[g[:2] for g in galaxies]).catalog
    np.testing.assert_allclose(catalog["segment_flux"].sum(axis=0), 10000, rtol=0.02)
    np.testing.assert_allclose(catalog["segment_flux"], 5000, rtol=0.2)
    with pytest.raises(ValueError, match="two sources in one pixel"):
        splitting["flux"].deblend_scene(image, positions=[(60, 50), (60.1, 50.1)])
    with pytest.raises(ValueError, match="outside the image"):
        splitting["flux"].deblend_scene(image, positions=[(500, 3)])


def test_integers_and_wild_pixels(splitting):
    image = np.rint(flux().data).astype(np.int32)
    scene = splitting["flux"].deblend_scene(image, positions=PLACES)
    np.testing.assert_allclose(scene.catalog["segment_flux"][ALONE], 8000, rtol=0.05)
    wild = flux()
    wild.data[:, 60, 130] = 1e9
    with pytest.warns(AstropyUserWarning, match="sharper than any PSF .* 1 in band 0, 1 in band 1"):
        scene = splitting["flux"].deblend_scene(wild, positions=PLACES)
    assert np.isnan(scene.residual.data[:, 60, 130]).all() or scene.residual.mask[:, 60, 130].all()
    assert Flag.MASKED in Flag(int(scene.catalog["flags"][ALONE]))
    np.testing.assert_allclose(scene.catalog["segment_flux"][ALONE], 8000, rtol=0.05)
    np.testing.assert_allclose(scene.catalog["segment_flux"][4].sum(), 18000, rtol=0.1)


def test_positions_on_the_sky(splitting, scene):
    places = tan_wcs().pixel_to_world(*np.transpose(PLACES))
    other = splitting["flux"].deblend_scene(made("flux"), positions=places)
    assert_same(scene.catalog, other.catalog)
    (one,) = splitting["flux"].deblend_scene(made("flux"), positions=places[ALONE]).catalog
    assert one["x_centroid"] == pytest.approx(130, abs=0.05)


def test_places_of_components(scene):
    for row, component in zip(scene.catalog, scene.components, strict=True):
        assert component.unit == u.nJy
        (y0, y1), (x0, x1) = component.meta["box"]
        assert component.data.shape == (3, y1 - y0, x1 - x0)
        x, y = component.wcs.world_to_pixel(row["sky_centroid"])
        assert (x + x0, y + y0) == pytest.approx((row["x_centroid"], row["y_centroid"]), abs=1e-6)
    for label in (9, 0, "a", 1.5, None, [1, 2]):
        said = re.escape(f"label={label!r} is not in the catalogue; give one of 1 to 6")
        with pytest.raises(ValueError, match=said):
            scene.component(label)


def test_the_meta_data_say_how(scene):
    meta = scene.catalog.meta
    assert meta == scene.meta
    assert (meta["model"], meta["kind"], meta["positions"]) == ("split", "flux", "given")
    assert meta["noise_from"] == "uncertainty"
    np.testing.assert_allclose(meta["noise"], 1)
    assert repr(scene) == "<Scene: 3 x 150 x 170 nJy, 6 sources, 5 of them blended>"


# Files and figures.


def read(path, **hdus):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CCDData.read(path, **hdus)


@pytest.mark.parametrize(("name", "masked"), [("scene.fits", True), ("scene.fits.gz", False)])
def test_written_and_read_back(splitting, tmp_path, name, masked):
    image = made("flux")
    if masked:
        image.mask = np.zeros(image.data.shape, bool)
        image.mask[:, 57:60, 55:65] = True
    scene = splitting["flux"].deblend_scene(image, positions=PLACES)
    scene.write(tmp_path / name)
    with fits.open(tmp_path / name) as hdus:
        hdus.verify("exception")
        assert hdus[0].header["NSOURCES"] == len(PLACES)
        names = [(hdu.name, hdu.ver) for hdu in hdus if hdu.name.startswith("COMPONENT")]
        assert len(set(names)) == len(names)
    residual = read(tmp_path / name, hdu="RESIDUAL")
    np.testing.assert_array_equal(residual.data, scene.residual.data)
    for label, component in enumerate(scene.components, 1):
        mask = {} if component.mask is None else {"hdu_mask": ("COMPONENT_MASK", label)}
        ccd = read(
            tmp_path / name, hdu=("COMPONENT", label),
            hdu_uncertainty=("COMPONENT_UNCERT", label), **mask,
        )  # fmt: skip
        assert ccd.unit == u.nJy
        np.testing.assert_array_equal(ccd.data, component.data)
        np.testing.assert_array_equal(ccd.uncertainty.array, component.uncertainty.array)
        np.testing.assert_array_equal(ccd.mask, component.mask)
        (top, _), (left, _) = component.meta["box"]
        header = fits.getheader(tmp_path / name, ("COMPONENT", label))
        assert (header["LTV1"], header["LTV2"]) == (-left, -top)
        there = ccd.wcs.celestial.pixel_to_world(3, 4)
        assert there.separation(tan_wcs().pixel_to_world(3 + left, 4 + top)) < 1e-6 * u.arcsec
    with pytest.raises(FileExistsError):
        scene.write(tmp_path / name)


@pytest.mark.parametrize("name", ["scene.fits", "catalog.ecsv"])
def test_the_catalogue_comes_back(scene, tmp_path, name):
    path = tmp_path / name
    scene.write(path) if name.endswith("fits") else scene.catalog.write(path)
    again = QTable.read(path, **({"hdu": "CATALOG"} if name.endswith("fits") else {}))
    assert again.colnames == scene.catalog.colnames
    for column in again.colnames:
        assert again[column].info.unit == scene.catalog[column].info.unit
        if column != "sky_centroid":
            np.testing.assert_array_equal(again[column], scene.catalog[column])
    assert again["sky_centroid"].separation(scene.catalog["sky_centroid"]).max() < 1e-6 * u.deg
    if not name.endswith("fits"):
        assert again.meta == scene.meta


def test_regions(scene, tmp_path):
    scene.write_regions(tmp_path / "sources.reg")
    ellipses = Regions.read(tmp_path / "sources.reg")
    assert len(ellipses) == len(GALAXIES)
    for ellipse, row in zip(ellipses, scene.catalog, strict=True):
        assert isinstance(ellipse, EllipseSkyRegion)
        assert int(ellipse.meta["text"]) == row["label"]
        assert ellipse.center.separation(row["sky_centroid"]) < 0.01 * u.arcsec
        ellipse = ellipse.to_pixel(tan_wcs())
        assert ellipse.width == pytest.approx(6 * row["semimajor_axis"].value, rel=1e-3)
    with pytest.raises(FileExistsError):
        scene.write_regions(tmp_path / "sources.reg")


def test_regions_without_wcs_are_in_pixels(splitting, tmp_path):
    image = flux()
    image.data[:, 100:120, 100:120] = np.nan
    scene = splitting["flux"].deblend_scene(image, positions=[*PLACES, (110, 111)])
    scene.write_regions(tmp_path / "all.reg")
    *ellipses, point = Regions.read(tmp_path / "all.reg")
    assert isinstance(point, PointPixelRegion)
    assert point.center.xy == pytest.approx((110, 111))
    for ellipse, row in zip(ellipses, scene.catalog[:-1], strict=True):
        assert ellipse.center.xy == pytest.approx((row["x_centroid"], row["y_centroid"]))


def test_regions_say_what_they_take(scene, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "regions", None)
    with pytest.raises(ImportError, match="pip install regions"):
        scene.write_regions(tmp_path / "sources.reg")
    assert not list(tmp_path.iterdir())


def test_the_figure(scene, tmp_path):
    figure = scene.plot(bands="irg")
    blended = int((scene.catalog["n_blended"] > 1).sum())
    assert len(figure.axes) == 3 + blended
    figure.savefig(tmp_path / "scene.png")
    left = scene.residual.data - level(scene)
    shown = figure.axes[2].get_images()[0].get_array()
    np.testing.assert_allclose(shown, left.sum(axis=0) / np.sqrt(3), atol=1e-5)
    axes = Figure().subplots()
    assert scene.plot(axes=axes) is axes
