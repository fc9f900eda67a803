"""The demonstration finds blends of the Hubble Deep Field, and writes what it says."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.table import QTable
from PIL import Image
from skimage.data import hubble_deep_field

from astrodeblend import Deblender
from astrodeblend.demo import FILES, PAGE, deblend_folder, find_candidates, run_demo

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


@pytest.fixture
def splits(galaxies, tmp_path):
    """Return a folder of eight galaxies, and a function that writes their splits.csv."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in galaxies.glob("*.jpg"):
        (folder / path.name).symlink_to(path)

    def write(header, *rows):
        lines = [f"galaxy{k}.jpg,{row}" for k, row in enumerate(rows)]
        (folder / "splits.csv").write_text("\n".join([header, *lines]) + "\n")
        return folder

    return folder, write


def names(paths):
    return [path.stem for path in paths]


def test_candidates_are_those_that_the_table_says(splits):
    folder, write = splits
    assert len(find_candidates(folder)) == 8
    write("file,split,blend_candidate", "test,1", "train,1", "test,0", "test,1")
    assert names(find_candidates(folder, split="test")) == ["galaxy0", "galaxy3"]
    assert names(find_candidates(folder)) == ["galaxy0", "galaxy1", "galaxy3"]
    with pytest.raises(ValueError, match="split='val' is not in"):
        find_candidates(folder, split="val")


def test_without_the_column_all_are_candidates(splits):
    folder, write = splits
    write("file,split", "test", "train", "test")
    assert names(find_candidates(folder, split="test")) == ["galaxy0", "galaxy2"]


def test_no_candidate_is_said(splits):
    folder, write = splits
    write("file,split,blend_candidate", "test,0", "train,1")
    with pytest.raises(ValueError, match="no picture of split 'test' with blend_candidate = 1"):
        find_candidates(folder, split="test")


def test_a_page_of_real_blends(splits, tiny_model, tmp_path):
    folder, write = splits
    write("file,split,blend_candidate", *(f"test,{k % 2}" for k in range(8)))
    said, out = [], tmp_path / "page"
    deblender = Deblender.load(tiny_model, device="cpu")
    common = {"split": "test", "number": 2}
    results = deblend_folder(deblender, folder, out, seed=2, say=said.append, **common)
    assert sorted(path.name for path in out.iterdir()) == sorted(PAGE)
    assert said[0] == "taking 2 of 4 pictures apart"
    table = QTable.read(out / "catalogue.ecsv")
    assert list(table["component"]) == ["central", "companion"] * 2
    chosen = list(table["file"][::2])
    assert chosen == sorted(set(chosen))
    assert set(chosen) < {f"galaxy{k}.jpg" for k in (1, 3, 5, 7)}
    alone = deblender(folder / chosen[0])
    np.testing.assert_array_equal(results[0].central.data, alone.central.data)
    # each has a row of four panels, and is drawn
    with Image.open(out / "panels.png") as image:
        assert 0.6 < image.width / image.height * 2 / 4 < 1.1
    with pytest.raises(FileExistsError, match=r"panels\.png"):
        deblend_folder(deblender, folder, out, **common)
    with pytest.raises(ValueError, match="number=0"):
        deblend_folder(deblender, folder, out, number=0)


def test_the_seed_chooses(splits, tiny_model, tmp_path):
    folder, _ = splits
    deblender = Deblender.load(tiny_model, device="cpu")
    chosen = []
    for k, seed in enumerate((1, 1, 2)):
        out = tmp_path / str(k)
        deblend_folder(deblender, folder, out, number=1, seed=seed)
        chosen.append(QTable.read(out / "catalogue.ecsv")["file"][0])
    assert chosen[0] == chosen[1] != chosen[2]
