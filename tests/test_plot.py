"""Panels: what is in them, and that files appear whole."""

from types import SimpleNamespace

import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import NDData
from astropy.wcs import WCS
from matplotlib.figure import Figure
from PIL import Image

from astrodeblend.plot import panels, save_figure

SHAPE = (60, 64)
SKY = 10.0


def spot(x, y, sigma, peak):
    rows, columns = np.indices(SHAPE)
    return peak * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))


def result(*, bands=3, full_scale=255, unit=None, wcs=None, mask=None, way="sum", flat=False):
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
            unit=unit,
            wcs=wcs,
            mask=mask,
            meta={"astrodeblend": {"full_scale": full_scale, "kind": kind}},
        )

    return SimpleNamespace(
        image=image(blend),
        central=image(central),
        companion=image(companion),
        meta={
            "core": [[5, 55], [8, 60]],
            "background": bands * [SKY] if not flat else [SKY],
            "noise": bands * [0.5] if not flat else [0.5],
        },
    )


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def pictures(figure):
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes]


@pytest.mark.parametrize("way", ["sum", "maximum"])
def test_pictures_are_shown_as_they_are(way):
    each = result(way=way)
    figure = panels(each)
    assert isinstance(figure, Figure)
    assert titles(figure) == ["blend", "central", "companion", f"data − {way}"]
    blend, central, companion, left = pictures(figure)
    for shown, image in ((blend, each.image), (central, each.central), (companion, each.companion)):
        expected = np.moveaxis(image.data[:, 5:55, 8:60], 0, -1) / 255
        np.testing.assert_allclose(shown, expected.clip(0, 1))
    np.testing.assert_allclose(left, 0.5, atol=0.02)
    assert figure.axes[0].images[0].origin == "upper"


@pytest.mark.parametrize(("bands", "depth"), [(1, ()), (2, (3,)), (3, (3,)), (5, (3,))])
def test_flux_is_drawn_in_any_number_of_bands(bands, depth):
    figure = panels(result(bands=bands, full_scale=None, unit=u.nJy))
    assert titles(figure)[-1] == "data − sum"
    for picture in pictures(figure):
        assert picture.shape == (50, 52, *depth)
        assert picture.min() >= 0
        assert picture.max() <= 1
    blend, central, companion, left = pictures(figure)
    assert 0.75 < np.max(blend) <= 1  # bright, not burnt out
    assert np.median(blend) < 0.1
    # the row shares one scale: what is alone in its place looks the same in both panels
    row, column = 28 - 5, 24 - 8
    np.testing.assert_allclose(blend[row, column], central[row, column], atol=0.03)
    assert np.all(companion[row, column] < 0.2)
    # the sum has the noise twice, but no light of the galaxies is left
    assert abs(np.mean(left) - 0.5) < 0.01
    assert figure.axes[0].images[0].origin == "lower"


def test_the_reddest_band_is_red():
    colours = [1, 0.8, 0.6, 0.4, 0.2]  # of the central, from the first band to the last
    blend = pictures(panels(result(bands=5, full_scale=None)))[1]
    red, _, blue = blend[28 - 5, 30 - 8]
    assert colours[0] > colours[-1]
    assert blue > red  # bands go from blue to red


def test_two_dimensions_and_no_metadata():
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


def test_scale_in_pixels_or_on_the_sky():
    assert "10 px" in [text.get_text() for text in panels(result()).axes[0].texts]
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cdelt = [-0.4 / 3600, 0.4 / 3600]
    axes = panels(result(wcs=wcs)).axes[0]
    assert "5″" in [text.get_text() for text in axes.texts]
    start, stop = axes.lines[0].get_xdata()
    assert (stop - start) * 52 * 0.4 == pytest.approx(5)


@pytest.mark.parametrize(("number", "across", "columns"), [(3, None, 1), (5, None, 2), (4, 3, 3)])
def test_pages_of_many(number, across, columns):
    figure = panels([result() for _ in range(number)], across=across)
    assert len(figure.axes) == 4 * number
    assert len(titles(figure)) == 4 * columns
    labels = [figure.axes[4 * k].texts[-1].get_text() for k in range(number)]
    assert labels == [str(k + 1) for k in range(number)]
    boxes = [axes.get_position() for axes in figure.axes]
    assert all(0 <= box.x0 < box.x1 <= 1.001 and 0 <= box.y0 < box.y1 <= 1.001 for box in boxes)
    for k, box in enumerate(boxes):
        assert not any(box.count_overlaps([other]) for other in boxes[:k])


def test_flux_and_pictures_on_one_page_show_the_sum():
    page = [result(way="maximum"), result(full_scale=None)]
    assert titles(panels(page))[-1] == "data − sum"


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="results is empty"):
        panels([])
    with pytest.raises(ValueError, match="across is 0"):
        panels([result(), result()], across=0)


def test_files_appear_whole_or_not_at_all(tmp_path):
    figure = panels(result())
    save_figure(figure, tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.width > 1000
    with pytest.raises(FileExistsError, match="page"):
        save_figure(figure, tmp_path / "page.png")
    save_figure(figure, tmp_path / "page.png", overwrite=True)
    with pytest.raises(ValueError, match="nonsense"):
        save_figure(figure, tmp_path / "page.nonsense")
    with pytest.raises(FileNotFoundError, match="missing"):
        save_figure(figure, tmp_path / "missing" / "page.png")
    assert [path.name for path in tmp_path.iterdir()] == ["page.png"]
