"""The demonstration finds blends of the Hubble Deep Field, and writes what it says."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.table import QTable
from PIL import Image
from skimage.data import hubble_deep_field

from astrodeblend import Deblender
from astrodeblend.demo import FILES, run_demo

CORNER = 470, 560  # x and y of a part of the picture that holds two clear blends


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
    results = run_demo(deblender, picture, folder, number=3, say=said.append)
    return folder, results, "\n".join(said)


def test_it_takes_the_blends_that_a_person_sees(demo):
    _, results, _ = demo
    found = np.array([result.position for result in results]) + CORNER
    # Looked at: a white galaxy on a pink one, and a white streak before a red elliptical.
    for place in ((657, 591), (540, 723)):
        # Which of the two is the central one hangs by a little light: ten pixels apart.
        assert np.hypot(*(found - place).T).min() < 13


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
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000


def test_files_that_exist_stay(demo, picture, tiny_model):
    folder, _, _ = demo
    before = {name: (folder / name).read_bytes() for name in FILES}
    with pytest.raises(FileExistsError, match=r"panels\.png"):
        run_demo(Deblender.load(tiny_model, device="cpu"), picture, folder, number=1)
    assert {name: (folder / name).read_bytes() for name in FILES} == before
    assert len(list(folder.iterdir())) == len(FILES)


def test_a_picture_without_blends(tiny_model, tmp_path):
    sky = np.random.default_rng(1).integers(0, 9, (100, 100, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="no blend of two galaxies"):
        run_demo(Deblender.load(tiny_model, device="cpu"), sky, tmp_path / "out")
    assert not (tmp_path / "out").exists()
