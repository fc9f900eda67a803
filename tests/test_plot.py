"""Figures: which band is which colour, what is left in sigma, outlines, axes, whole files."""

from types import SimpleNamespace

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import NDData, StdDevUncertainty
from astropy.table import QTable
from astropy.visualization.wcsaxes import WCSAxes
from astropy.wcs import WCS
from matplotlib.collections import EllipseCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

from astrodeblend.images import read_image, wavelength_of
from astrodeblend.plot import panels, scene_panels

SHAPE = (60, 64)
SKY = 10.0


def spot(x, y, sigma, peak):
    rows, columns = np.indices(SHAPE)
    return peak * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))


def result(*, bands=3, full_scale=255, wcs=None, mask=None, way="sum", flat=False, names=None):
    """Two spots of different colour in one noise, put together by sum or maximum."""
    noise = np.random.default_rng(0).normal(0, 0.5, (bands, *SHAPE))
    colours = np.linspace(1, 0.4, bands)[:, None, None]
    central, companion = colours * spot(30, 28, 4, 150), colours[::-1] * spot(40, 33, 4, 90)
    blend = central + companion if way == "sum" else np.maximum(central, companion)

    kind = "flux" if full_scale is None else "picture"

    def image(light):
        data = light + SKY + noise
        return NDData(
            data[0] if flat else data,
            wcs=wcs,
            mask=mask,
            meta={"astrodeblend": {"full_scale": full_scale, "kind": kind, "bands": names}},
        )

    whole = image(blend)
    return SimpleNamespace(
        image=whole,
        central=image(central),
        companion=image(companion),
        scene=SimpleNamespace(image=whole, sky=sky_of(whole)),
        meta={"core": [[5, 55], [8, 60]]},
    )


def sky_of(image):
    data = image.data.reshape(-1, *SHAPE)
    level, noise = (np.full((len(data), 1, 1), value) for value in (SKY, 0.5))
    hidden = np.zeros(data.shape, bool) if image.mask is None else image.mask
    return SimpleNamespace(level=level, noise=noise, hidden=hidden | ~np.isfinite(data))


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def shown(axes):
    return np.asarray(axes.images[0].get_array())


def pictures(figure):
    return [shown(axes) for axes in figure.axes]


def written(axes):
    return [text.get_text().strip() for text in axes.texts]


def bar_label(axes):
    return axes.child_axes[0].get_ylabel()


def sky(scale=0.4):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
    return wcs


PLACES = [(12, 14), (20, 16), (50, 45), (40, 14)]  # of the sources of a scene, the last isolated


def scene(*, bands=3, names=None, kind="flux", wcs=None, places=PLACES, stated=None):
    """A scene whose first component is too faint by a light of 4 standard deviations."""
    lights = [np.stack(bands * [spot(x, y, 3, 50 + 10 * k)]) for k, (x, y) in enumerate(places)]
    data = SKY + sum(lights, np.random.default_rng(0).normal(0, 0.5, (bands, *SHAPE)))
    known = {"kind": kind, "full_scale": 255 if kind == "picture" else None, "bands": names}
    about = {"wcs": wcs, "meta": {"astrodeblend": known}}
    uncertainty = None if stated is None else StdDevUncertainty(np.full(data.shape, stated))
    catalog = {
        "label": np.arange(1, len(places) + 1),
        "n_blended": [3, 3, 2, 1][: len(places)],
        "x_centroid": np.array([place[0] for place in places], float),
        "y_centroid": np.array([place[1] for place in places], float),
        "semimajor_axis": np.full(len(places), 3.0) * u.pix,
        "semiminor_axis": np.full(len(places), 2.0) * u.pix,
        "orientation": np.full(len(places), 30.0) * u.deg,
    }
    left = SKY + np.zeros_like(data)
    left[:, 14, 12] += 4 * 0.5
    image = NDData(data, uncertainty=uncertainty, **about)
    return SimpleNamespace(
        image=image,
        residual=NDData(left, **about),
        components=[
            NDData(
                light[:, y - 9 : y + 9, x - 8 : x + 8],
                meta={"box": ((y - 9, y + 9), (x - 8, x + 8))},
            )
            for light, (x, y) in zip(lights, places, strict=True)
        ],
        catalog=QTable(catalog),
        sky=sky_of(image),
        meta={},
    )


# Which band is which colour.


@pytest.mark.parametrize(
    ("names", "red", "green", "blue"),
    [
        ("gri", "i", "r", "g"),
        ("irg", "i", "r", "g"),
        ("rig", "i", "r", "g"),
        ("zg", "z", "g+z", "g"),
        ("ugrizy", "z+y", "r+i", "u+g"),
        (("HSC-Y", "HSC-G", "HSC-I2", "HSC-R2", "HSC-Z"), "HSC-Z+HSC-Y", "HSC-R2+HSC-I2", "HSC-G"),
        (("F814W", "F435W", "F606W"), "F814W", "F606W", "F435W"),
        (("F160W", "F814W", "F098M"), "F160W", "F098M", "F814W"),
        (("F444W", "F606W", "F150W", "F277W"), "F277W+F444W", "F150W", "F606W"),
        (("Ks", "J", "VIS"), "Ks", "J", "VIS"),
        ("IBV", "I", "V", "B"),
        (("one", "r", "g"), "g", "r", "one"),  # not all are known: as they come
        (None, "band 2", "band 1", "band 0"),
    ],
)
def test_bands_go_by_wavelength_from_blue_to_red(names, red, green, blue):
    count = 3 if names is None else len(names)
    figure = panels(result(bands=count, full_scale=None, names=names and tuple(names)))
    assert written(figure.axes[0])[:3] == [f"red {red}", f"green {green}", f"blue {blue}"]


@pytest.mark.parametrize("names", ["gri", "irg", "rgi"])
def test_what_is_bright_in_g_is_blue_in_any_order(names):
    each = scene(names=tuple(names), places=PLACES[:3])
    each.image.data[names.index("g"), 36:44, 6:10] += 200
    each.image.data[names.index("i"), 36:44, 26:30] += 200
    picture = shown(scene_panels(each).axes[0])
    assert picture[40, 8].argmax() == 2
    assert picture[40, 28].argmax() == 0


@pytest.mark.parametrize(
    ("names", "bands", "expected"),
    [
        ("gri", "ig", ["red i", "green g+i", "blue g"]),
        ("gri", "r", ["r"]),
        ("gri", [1], ["r"]),
        ("gri", [2, 1, 0], ["red g", "green r", "blue i"]),  # numbers go from blue to red
        (None, "irg", ["red i", "green r", "blue g"]),  # names for bands that have none
        (None, ["a", "b", "c"], ["red c", "green b", "blue a"]),
        (None, [0, 2], ["red band 2", "green band 0+band 2", "blue band 0"]),
        (("F606W", "F814W", "F435W"), "F814W", ["F814W"]),
        (None, np.int64(0), []),
    ],
)
def test_bands_that_are_asked_for(names, bands, expected):
    axes = scene_panels(scene(names=names and tuple(names)), bands=bands).axes[0]
    assert written(axes) == expected
    assert shown(axes).ndim == (2 if len(expected) < 2 else 3)


def test_a_band_alone_is_named():
    assert written(scene_panels(scene(bands=1), bands="F814W").axes[0]) == ["F814W"]


@pytest.mark.parametrize("bands", ["gx", [3], [], "gg", [0, "g"]])
def test_bands_that_are_not_there_are_refused(bands):
    with pytest.raises(ValueError, match="give some of 0 to 2 or g, r, i"):
        panels(result(full_scale=None, names=tuple("gri")), bands=bands)


def test_a_picture_stays_as_it_is():
    for names, said in (
        (None, []),
        (tuple("RGB"), []),
        (tuple("gri"), ["red g", "green r", "blue i"]),
    ):
        axes = panels(result(names=names)).axes[0]
        assert written(axes) == said


@pytest.mark.parametrize("key", ["FILTER", "BAND", "FILTER2"])
def test_names_come_from_headers(key):
    bands = [NDData(np.ones(SHAPE), meta={key: name, "FILTER1": "CLEAR1L"}) for name in "gri"]
    if key != "FILTER2":
        bands = [NDData(np.ones(SHAPE), meta={key: name}) for name in "gri"]
    assert read_image(bands, kind="flux").meta["astrodeblend"]["bands"] == tuple("gri")


def test_names_come_from_files(tmp_path):
    paths = [tmp_path / f"{name}.fits" for name in "gri"]
    for path in paths:
        fits.writeto(path, np.random.default_rng(0).normal(size=SHAPE).astype("f4"))
    assert read_image(paths).meta["astrodeblend"]["bands"] == tuple("gri")
    assert read_image([paths[0], paths[0]]).meta["astrodeblend"]["bands"] is None
    paths[0].rename(tmp_path / "one.fits")  # no band
    assert read_image([tmp_path / "one.fits", *paths[1:]]).meta["astrodeblend"]["bands"] is None


def test_wavelengths():
    for name, nm in {
        "r": 630, "R": 630, "sdss_g": 480, "i.MP9702": 770, "g DECam SDSS c0001 4720.0": 480,
        "F090W": 900, "f1000w": 10000, "F129": 1290, "F300X": 300, "F850LP": 850, "v": 384,
        "V": 550,
    }.items():  # fmt: skip
        assert wavelength_of(name) == nm
    for name in ("", "white", "K_field_r", "2", "irg"):
        assert wavelength_of(name) is None


# A blend, its components and what is left.


@pytest.mark.parametrize("way", ["sum", "maximum"])
def test_pictures_are_shown_as_they_are(way):
    each = result(way=way)
    figure = panels(each)
    assert isinstance(figure, Figure)
    assert titles(figure) == ["blend", "central", "companion", "residual"]
    assert bar_label(figure.axes[3]) == f"(data − {way}) / σ"
    blend, central, companion, left = pictures(figure)
    for drawn, image in ((blend, each.image), (central, each.central), (companion, each.companion)):
        expected = np.moveaxis(image.data[:, 5:55, 8:60], 0, -1) / 255
        np.testing.assert_allclose(drawn, expected.clip(0, 1))
    assert abs(left).max() < 15
    assert figure.axes[0].images[0].origin == "upper"


@pytest.mark.parametrize(("bands", "depth"), [(1, ()), (2, (3,)), (3, (3,)), (5, (3,))])
def test_flux_is_drawn_in_any_number_of_bands(bands, depth):
    figure = panels(result(bands=bands, full_scale=None))
    *lights, left = pictures(figure)
    for picture in lights:
        assert picture.shape == (50, 52, *depth)
        assert picture.min() >= 0
        assert picture.max() <= 1
    blend, central, companion = lights
    assert 0.75 < np.max(blend) <= 1  # bright, not burnt out
    assert np.median(blend) < 0.1
    # the row shares one scale: what is alone in its place looks the same in both panels
    row, column = 28 - 5, 24 - 8
    np.testing.assert_allclose(blend[row, column], central[row, column], atol=0.03)
    assert np.all(companion[row, column] < 0.2)
    assert figure.axes[0].images[0].origin == "lower"
    # one noise is left of one and of two: in units of its deviation, whatever the bands
    assert left.shape == (50, 52)
    assert np.std(left) == pytest.approx(1, abs=0.05)


def test_less_stretch_shows_fainter_light():
    faint, bright = (pictures(panels(result(full_scale=None), stretch=s))[0] for s in (2, 50))
    assert np.median(faint) > np.median(bright)
    assert np.abs(faint - pictures(panels(result(full_scale=None)))[0]).max() > 0.1
    with pytest.raises(ValueError, match="stretch is 0; it has to be a number above 0"):
        panels(result(), stretch=0)


def test_two_dimensions():
    each = result(bands=1, full_scale=None, flat=True)
    each.meta.clear()
    blend = pictures(panels(each))[0]
    assert blend.shape == SHAPE
    assert np.median(blend) < 0.1


def test_what_is_masked_is_not_drawn():
    mask = np.zeros((3, *SHAPE), dtype=bool)
    mask[:, 20:22, 20:22] = True
    each = result(mask=mask)
    each.image.data[mask] = np.nan
    each.central.data[mask] = 1e30
    blend, central, *_ = pictures(panels(each))
    for picture in (blend, central):
        assert np.isfinite(picture).all()
        np.testing.assert_allclose(picture[15:17, 12:14], SKY / 255)


def scale_bars(axes):
    return [artist for artist in axes.artists if isinstance(artist, AnchoredSizeBar)]


def scale_bar(axes):
    (bar,) = scale_bars(axes)
    return bar.txt_label.get_text(), bar.size_bar.get_children()[0].get_width()


def test_scale_in_pixels_or_on_the_sky():
    assert scale_bar(panels(result()).axes[0]) == ("10 px", 10)
    for scale, label, pixels in ((0.4, "5″", 12.5), (10, "2′", 12), (400, "1°", 9)):
        figure = panels([result(wcs=sky(scale)) for _ in range(2)])
        text, length = scale_bar(figure.axes[0])
        assert (text, length) == (label, pytest.approx(pixels))


def test_axes_of_the_sky():
    for figure in (panels(result(wcs=sky())), scene_panels(scene(wcs=sky()))):
        first, second = figure.axes[:2]
        assert isinstance(first, WCSAxes)
        assert first.wcs.wcs.cdelt[1] == 0.4 / 3600
        assert not scale_bars(first)
        figure.draw_without_rendering()
        assert [c.get_axislabel() for c in first.coords] == ["RA", "Dec"]
        assert [c.get_ticklabel_visible() for c in second.coords] == [False, False]
    left, right = panels(result(wcs=sky())).axes[0].get_xlim()
    assert (left, right) == (7.5, 59.5)  # pixels of the image, for its WCS


@pytest.mark.parametrize(("number", "across", "columns"), [(3, None, 1), (5, None, 2), (4, 3, 3)])
def test_pages_of_many(number, across, columns):
    figure = panels([result() for _ in range(number)], across=across)
    assert len(figure.axes) == 4 * number
    assert len(titles(figure)) == 4 * columns
    labels = [written(figure.axes[4 * k])[-1] for k in range(number)]
    assert labels == [str(k + 1) for k in range(number)]
    figure.draw_without_rendering()
    boxes = [axes.get_position() for axes in figure.axes]
    assert all(0 <= box.x0 < box.x1 <= 1.001 and 0 <= box.y0 < box.y1 <= 1.001 for box in boxes)
    for k, box in enumerate(boxes):
        assert not any(box.count_overlaps([other]) for other in boxes[:k])


def test_flux_and_pictures_on_one_page():
    figure = panels([result(way="maximum"), result(full_scale=None)])
    assert [bar_label(axes)[8:11] for axes in (figure.axes[3], figure.axes[7])] == ["max", "sum"]


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="results is empty"):
        panels([])
    with pytest.raises(ValueError, match="across is 0"):
        panels([result(), result()], across=0)


# Scenes.


def outlines(axes):
    return [each for each in axes.collections if isinstance(each, EllipseCollection)]


@pytest.mark.parametrize("kind", ["flux", "picture"])
def test_every_blended_source_is_alone_in_a_grid(kind):
    each = scene(kind=kind)
    figure = scene_panels(each)
    image, components, residual, *alone = figure.axes
    assert titles(figure) == ["image", "components", "residual"]
    assert [written(axes)[0] for axes in alone] == ["1", "2", "3"]
    assert bar_label(residual) == "(data − components) / σ"
    assert len(outlines(image)[0].get_offsets()) == 4
    for axes, component in zip(alone, each.components, strict=False):
        y, x = component.meta["box"]
        assert axes.images[0].get_extent()[:2] == [x[0] - 0.5, x[1] - 0.5]
        assert sorted(axes.get_ylim()) == [y[0] - 0.5, y[1] - 0.5]
        assert sorted(axes.get_xlim()) == [x[0] - 1.5, x[1] + 0.5]  # a square
        assert axes.yaxis_inverted() == image.yaxis_inverted() == (kind == "picture")
        # as bright as in the panel of all
        np.testing.assert_allclose(
            shown(axes)[9, 8], shown(components)[y[0] + 9, x[0] + 8], atol=0.02
        )


def test_what_is_left_is_in_sigma():
    for bands, stated, expected in ((1, None, 4), (3, None, 4 * 3**0.5), (3, 2.0, 3**0.5)):
        figure = scene_panels(scene(bands=bands, stated=stated))
        left = shown(figure.axes[2])
        assert left[14, 12] == pytest.approx(expected)
        assert left[40, 40] == 0
        assert figure.axes[2].images[0].get_clim() == (-5, 5)
    one = shown(scene_panels(scene(bands=3), bands=[1]).axes[2])
    assert one[14, 12] == pytest.approx(4)


def test_an_uneven_sky_is_not_left():
    each = scene()
    slope = np.broadcast_to(np.arange(SHAPE[1]), (3, *SHAPE)).astype(float)
    each.sky.level = each.sky.level + slope
    each.residual.data[:] += slope
    each.image.data[:] += slope
    for axes, other in zip(scene_panels(each).axes[:3], scene_panels(scene()).axes, strict=False):
        np.testing.assert_allclose(shown(axes), shown(other), atol=1e-6)


def test_outlines_turn_as_their_sources_do():
    for kind in ("flux", "picture"):
        figure = scene_panels(scene(kind=kind))
        figure.draw_without_rendering()
        axes = figure.axes[0]
        (drawn,) = outlines(axes)
        linear = drawn.get_transform().get_matrix()[:2, :2] @ drawn.get_transforms()[0][:2, :2]
        x, y = np.linalg.inv(axes.transData.get_affine().get_matrix()[:2, :2]) @ linear @ (1, 0)
        assert (x, y) == pytest.approx((6 * 0.75**0.5, 6 * 0.5))


def test_what_is_masked_has_no_residual():
    each = scene()
    each.sky.hidden[:, 14, 12] = each.sky.hidden[:2, 20, 30] = True
    each.residual.data[:, 20, 30] = SKY + 1
    left = shown(scene_panels(each).axes[2])
    assert np.ma.getmaskarray(scene_panels(each).axes[2].images[0].get_array())[14, 12]
    assert left[20, 30] == pytest.approx(2)  # of the band that is seen


def test_neighbours_have_outlines_of_other_colours():
    places = [(8 + 7 * k, 8 + 9 * j) for k in range(7) for j in range(5)]
    each = scene(places=PLACES[:1])
    each.catalog = QTable(
        {name: np.resize(each.catalog[name], 35) for name in each.catalog.colnames}
    )
    each.catalog["x_centroid"], each.catalog["y_centroid"] = np.array(places, float).T
    each.catalog["label"], each.components = np.arange(1, 36), 35 * each.components
    (drawn,) = outlines(scene_panels(each).axes[0])
    colours = drawn.get_edgecolor()
    for k, (x, y) in enumerate(places):
        near = [j for j, (a, b) in enumerate(places) if 0 < np.hypot(a - x, b - y) < 10]
        assert all(tuple(colours[j]) != tuple(colours[k]) for j in near)


def test_isolated_sources_are_white():
    (drawn,) = outlines(scene_panels(scene()).axes[0])
    assert [tuple(colour) == to_rgba("white") for colour in drawn.get_edgecolor()] == [
        False, False, False, True,
    ]  # fmt: skip


def test_labels_on_request():
    assert written(scene_panels(scene(bands=1)).axes[0]) == []
    for kind, up in (("flux", 1), ("picture", -1)):
        axes = scene_panels(scene(bands=1, kind=kind), labels=True).axes[0]
        assert written(axes) == ["1", "2", "3", "4"]
        high = np.hypot(6 * 0.5, 4 * 0.75**0.5)  # of an ellipse of 2 semi-axes at 30 degrees
        assert axes.texts[0].xy == pytest.approx((12, 14 + up * high))


def test_sources_that_are_asked_for():
    image, *_, one, other = scene_panels(scene(), sources=[2, 4], labels=True, bands=0).axes
    assert [written(one)[0], written(other)[0]] == ["2", "4"]
    np.testing.assert_array_equal(outlines(image)[0].get_offsets(), [PLACES[1], PLACES[3]])
    assert written(image) == ["2", "4"]
    assert len(scene_panels(scene(), sources=[]).axes) == 3
    assert len(scene_panels(scene(), sources=2).axes) == 4
    with pytest.raises(ValueError, match="sources has 5: the catalogue has labels 1 to 4"):
        scene_panels(scene(), sources=[1, 5])


def test_of_many_the_brightest_are_alone(monkeypatch):
    monkeypatch.setattr("astrodeblend.plot._MOST", 2)
    figure = scene_panels(scene())
    assert [written(axes)[0] for axes in figure.axes[3:]] == ["2", "3"]
    assert figure.subfigs[1].get_suptitle() == "the brightest 2 of 3 blended sources"


@pytest.mark.parametrize("kind", ["flux", "picture"])
def test_a_scene_without_sources_or_with_one(kind):
    figure = scene_panels(scene(kind=kind, places=[]), labels=True)
    assert len(figure.axes) == 3
    assert not shown(figure.axes[1])[0, 0].any() or kind == "picture"
    figure = scene_panels(scene(kind=kind, places=PLACES[:1]))
    assert len(figure.axes) == 4
    figure.draw_without_rendering()


def test_a_source_without_light_is_not_outlined():
    each = scene()
    each.catalog["x_centroid"][1] = np.nan
    (drawn,) = outlines(scene_panels(each, labels=True).axes[0])
    assert len(drawn.get_offsets()) == 3


# Axes of one's own.


def test_axes_are_taken_and_returned():
    figure = Figure()
    one, *three = figure.subplots(1, 4)
    assert scene_panels(scene(), axes=one) is one
    assert one.get_title() == "image"
    three = np.array(three)
    assert scene_panels(scene(), axes=three) is three
    assert [axes.get_title() for axes in three] == ["image", "components", "residual"]
    assert len(figure.axes) == 4
    named = dict(zip(["residual", 2], Figure().subplots(1, 2), strict=True))
    assert scene_panels(scene(), axes=named) is named
    assert named["residual"].images[0].get_clim() == (-5, 5)
    assert written(named[2]) == ["2"]
    (central,) = Figure().subplots(1, 1, squeeze=False).ravel()
    assert panels(result(), axes={"central": central})["central"] is central
    np.testing.assert_array_equal(shown(central), pictures(panels(result()))[1])


def test_axes_that_do_not_fit_are_refused():
    axes = Figure().subplots(1, 9)
    with pytest.raises(ValueError, match="axes are 9, and there are 4 panels; give fewer"):
        panels(result(), axes=axes)
    with pytest.raises(ValueError, match="axes are for one result, and there are 2"):
        panels([result(), result()], axes=axes)
    with pytest.raises(ValueError, match="axes has 'rest'; panels are image, components, residual"):
        scene_panels(scene(), axes={"rest": axes[0]})
