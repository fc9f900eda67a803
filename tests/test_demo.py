"""The demonstration takes blends of the Hubble Deep Field apart, and writes what it says."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.table import QTable
from PIL import Image
from scipy.ndimage import gaussian_filter, maximum_filter
from skimage.data import hubble_deep_field

from astrodeblend import Deblender
from astrodeblend.demo import BLENDS, FILES, run_demo

CORNER = 470, 560  # x and y of a part of the picture that holds three of the blends
INSIDE = [tuple(np.subtract(BLENDS[k], CORNER)) for k in (0, 2, 6)]


@pytest.fixture(scope="module")
def picture():
    x, y = CORNER
    return hubble_deep_field()[y:780, x:760]


@pytest.fixture(scope="module")
def demo(picture, tiny_model, tmp_path_factory):
    """Return folder, results and what was said."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    said = []
    deblender = Deblender.load(tiny_model, device="cpu")
    results = run_demo(deblender, picture, INSIDE, folder, say=said.append)
    return folder, results, "\n".join(said)


def test_the_blends_are_two_galaxies_each():
    """The central galaxy has a peak at its place, and there is another peak in its stamp."""
    light = gaussian_filter(hubble_deep_field().sum(axis=-1, dtype=float), 1)
    peaks = np.argwhere((light == maximum_filter(light, 5)) & (light > 100))[:, ::-1]
    for place in BLENDS:
        away = np.sort(np.hypot(*(peaks - place).T))
        assert away[0] < 3
        assert away[1] < 35


def test_it_takes_what_is_asked_for(demo):
    _, results, _ = demo
    found = np.array([result.position for result in results])
    np.testing.assert_allclose(found, INSIDE, atol=3)


def test_it_says_where_everything_is(demo):
    folder, results, said = demo
    for name in FILES:
        assert str(folder / name) in said
        assert (folder / name).is_file()
    assert f"the {len(results)} clearest blends" in said
    assert said.count("companion") == len(results)


def test_the_catalogue(demo):
    folder, results, _ = demo
    table = QTable.read(folder / "catalogue.ecsv")
    assert list(table["blend"]) == [k + 1 for k in range(len(results)) for _ in range(2)]
    assert list(table["component"]) == ["central", "companion"] * len(results)
    assert table["segment_flux"].shape == (2 * len(results), 3)
    assert table.meta["model"] == "tiny"
    np.testing.assert_allclose(
        table["x_centroid"][0], results[0].to_table()["x_centroid"][0], rtol=1e-6
    )


def test_the_stamps(demo, picture):
    folder, results, _ = demo
    for number, result in enumerate(results, start=1):
        rows, columns = (slice(*ends) for ends in result.meta["stamp_box"])
        blend = fits.getdata(folder / "stamps.fits", f"BLEND{number}")
        np.testing.assert_array_equal(blend, np.moveaxis(picture[rows, columns], -1, 0))
        central = CCDData.read(folder / "stamps.fits", hdu=f"CENTRAL{number}", unit="adu")
        np.testing.assert_array_equal(central.data, result.central.data[:, rows, columns])


def test_the_panels(demo):
    folder, _, _ = demo
    with Image.open(folder / "panels.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    height, width, _ = pixels.shape
    assert width > height > 100
    assert len(np.unique(pixels @ np.array([1, 256, 65536]))) > 1000  # colours


def test_files_that_exist_stay(demo, picture, tiny_model):
    folder, _, _ = demo
    before = {name: (folder / name).read_bytes() for name in FILES}
    with pytest.raises(FileExistsError, match=r"panels\.png"):
        run_demo(Deblender.load(tiny_model, device="cpu"), picture, INSIDE[:1], folder)
    assert {name: (folder / name).read_bytes() for name in FILES} == before
    assert len(list(folder.iterdir())) == len(FILES)
