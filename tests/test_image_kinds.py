"""A picture or flux: told once, from what the input is; and what of pictures is read."""

import dask.array as da
import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, NDData, StdDevUncertainty
from PIL import Image
from skimage.io import imsave

from astrodeblend.detect import find_sources
from astrodeblend.images import image_to_hdus, read_image, write_fits

SHAPE = (40, 50)


def picture():
    """A picture (y, x, 3) of 8 bits: two galaxies on a noisy sky, dark as most are."""
    rng = np.random.default_rng(1)
    y, x = np.indices(SHAPE)
    light = sum(
        peak * np.exp(-np.hypot(x - a, y - b) / 3) for peak, a, b in ((230, 20, 15), (90, 33, 28))
    )
    values = light[..., None] * [1, 0.9, 0.6] + rng.normal(8, 3, (*SHAPE, 3))
    return np.clip(values, 0, 255).astype(np.uint8)


def with_one(values, value):
    values = np.array(values, float)
    values[3, 4, 1] = value
    return values


EIGHT = picture()
FLOAT = EIGHT.astype(float)
PICTURES = {
    "8 bits": (EIGHT, 255),
    "bands first": (np.moveaxis(EIGHT, -1, 0), 255),
    "8 bits with alpha": (np.dstack([EIGHT, np.full(SHAPE, 9, np.uint8)]), 255),
    "16 bits": (EIGHT.astype(np.uint16) * 257, 65535),
    "16 bits with alpha": (np.dstack([EIGHT.astype(np.uint16) * 257, np.ones(SHAPE, "u2")]), 65535),
    "floats up to 255": (FLOAT, 255),
    "float32 up to 255": (FLOAT.astype("f4"), 255),
    "floats up to 255, bands first": (np.moveaxis(FLOAT, -1, 0), 255),
    "not whole, colour last": (FLOAT * 0.997, 255),
    "integers, colour last": (EIGHT.astype(int), 255),
    "floats up to 1": (FLOAT / 255, 1),
    "floats up to 1, bands first": (np.moveaxis(FLOAT, -1, 0) / 255, 1),
    "floats with alpha": (np.dstack([FLOAT / 255, np.ones(SHAPE)]), 1),
    "floats of 16 bits": (FLOAT * 257, 65535),
    "Dask": (da.from_array(FLOAT / 255), 1),
    "list of bands": (list(np.moveaxis(FLOAT / 255, -1, 0)), 1),
    "one above 1": (with_one(FLOAT / 255, 1.001), 1),
    "one far above 1": (with_one(FLOAT / 255, 1e6), 1),
    "one above 255": (with_one(FLOAT, 300), 255),
    "one below black": (with_one(FLOAT, -5), 255),
    "one not a number": (with_one(FLOAT, np.nan), 255),
}


@pytest.mark.parametrize("name", PICTURES)
def test_one_picture_in_many_forms(name):
    values, white = PICTURES[name]
    image = read_image(values)
    known = image.meta["astrodeblend"]
    assert set(known) == {"ndim", "kind", "full_scale", "bands", "psf", "read"}
    assert (known["kind"], known["full_scale"]) == ("picture", white)
    assert image.data.shape == (3, *SHAPE)
    times = 0.997 if name.startswith("not whole") else 1
    expected = np.moveaxis(EIGHT, -1, 0) * (times / 255)
    same = np.ones(expected.shape, bool)
    same[1, 3, 4] = not name.startswith("one ")
    np.testing.assert_allclose((image.data / white)[same], expected[same], atol=1e-6)
    assert ("clipped" in " ".join(known["read"])) == ("above" in name or "below" in name)
    assert ("alpha" in " ".join(known["read"])) == ("alpha" in name)
    again = read_image(image)
    assert again.meta["astrodeblend"].pop("psf").shape == known.pop("psf").shape == (3,)
    assert again.meta["astrodeblend"] == known
    np.testing.assert_array_equal(again.data, image.data)


@pytest.mark.parametrize("name", ["16 bits", "floats up to 1", "floats up to 255", "one above 1"])
def test_the_same_galaxies_are_in_it(name):
    sources = []
    for values, _ in (PICTURES["8 bits"], PICTURES[name]):
        found, _ = find_sources(read_image(values))  # of light before its stretch, in 8-bit steps
        fluxes = np.asarray(found["segment_flux"], float)
        sources.append(fluxes[fluxes.min(axis=1) > 1000])  # not the single value in one band
    assert len(sources[0]) >= 2
    np.testing.assert_allclose(*sources, rtol=0.02)


FLUXES = {
    "a unit": FLOAT * u.nJy,
    "8 bits with unit": EIGHT * u.adu,
    "one band": FLOAT[..., 0],
    "one band up to 1": FLOAT[..., 0] / 255,
    "five bands": np.moveaxis(np.dstack([FLOAT, FLOAT[..., :2]]), -1, 0),
    "an uncertainty": NDData(FLOAT / 255, uncertainty=StdDevUncertainty(np.ones(FLOAT.shape))),
    "a noisy sky at 0": np.moveaxis(FLOAT - 8, -1, 0) / 255,
    "0.2 % negative": np.where(np.arange(FLOAT.size).reshape(FLOAT.shape) % 500, FLOAT, -1),
    "1 % above white": np.where(np.arange(FLOAT.size).reshape(FLOAT.shape) % 100, FLOAT, 2000.5),
    "black throughout": np.moveaxis(FLOAT, -1, 0) * 1e-9,
    "not whole, bands first": np.moveaxis(FLOAT, -1, 0) * 0.997,
    "16 bits, bands first": np.moveaxis(EIGHT, -1, 0).astype(np.uint16),
    "counts, bands first": np.moveaxis(EIGHT, -1, 0).astype(np.int32),
    "FITS of floats": fits.PrimaryHDU(np.moveaxis(FLOAT, -1, 0) / 255),
    "FITS of 16 bits": fits.PrimaryHDU(np.moveaxis(EIGHT, -1, 0).astype(np.uint16)),
    "bands, one of FITS": [FLOAT[..., 0], fits.PrimaryHDU(FLOAT[..., 1]), FLOAT[..., 2]],
}


@pytest.mark.parametrize("name", FLUXES)
def test_what_is_flux(name):
    known = read_image(FLUXES[name]).meta["astrodeblend"]
    assert (known["kind"], known["full_scale"]) == ("flux", None)
    assert any(text.startswith("read as flux: ") for text in known["read"])


def test_a_kind_that_is_asked_for():
    for values, white in ((EIGHT, 255), (FLOAT / 255, 1)):
        image = read_image(values, kind="flux")
        assert image.meta["astrodeblend"]["full_scale"] is None
        back = read_image(image, kind="picture").meta["astrodeblend"]
        assert (back["kind"], back["full_scale"]) == ("picture", white)
        assert back["read"][-1].endswith("kind='picture' was asked for")
    for values, white in (
        (FLOAT[..., 0] / 300, 1),
        (with_one(FLOAT, 9e9)[..., 1], 255),
        ((EIGHT // 3).astype(np.uint16), 65535),
        (FLOAT[..., 0] * 200, 65535),
    ):
        known = read_image(values, kind="picture").meta["astrodeblend"]
        assert (known["kind"], known["full_scale"]) == ("picture", white)
    with pytest.raises(ValueError, match=r"the values go up to 2\.\d+e\+06; scale them"):
        read_image(FLOAT * 1e4, kind="picture")
    with pytest.raises(ValueError, match="kind is 'image'; give one of picture, flux"):
        read_image(FLOAT, kind="image")


def test_bands_of_both_kinds():
    bands = [EIGHT[..., 0], fits.PrimaryHDU(FLOAT[..., 1])]
    with pytest.raises(ValueError, match="some bands of the sequence are pictures and some flux"):
        read_image(bands)
    assert read_image(bands, kind="flux").meta["astrodeblend"]["kind"] == "flux"


def test_the_kind_survives_the_disk(tmp_path):
    for values, white in ((FLOAT / 255, 1), (EIGHT, 255)):
        path = tmp_path / f"{white}.fits"
        write_fits(image_to_hdus(read_image(values), "CENTRAL"), path)
        known = read_image(path).meta["astrodeblend"]
        assert (known["kind"], known["full_scale"]) == ("picture", white)
        assert "FULLSCAL" not in read_image(path).meta["header"]
    for white in (0, -1.0):
        hdu = fits.PrimaryHDU(FLOAT.astype("f4"), fits.Header({"FULLSCAL": white}))
        assert read_image(hdu).meta["astrodeblend"]["kind"] == "flux"
    write_fits(image_to_hdus(read_image(FLOAT * u.nJy), "CENTRAL"), path, overwrite=True)
    assert read_image(path).meta["astrodeblend"]["kind"] == "flux"


# Files.


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_orientation(turn, tmp_path):
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(EIGHT).save(path, exif=exif)
    upright = {
        1: EIGHT,
        2: EIGHT[:, ::-1],
        3: EIGHT[::-1, ::-1],
        4: EIGHT[::-1],
        5: EIGHT.swapaxes(0, 1),
        6: np.rot90(EIGHT, -1),
        7: EIGHT[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(EIGHT),
    }[turn]
    image = read_image(path)
    np.testing.assert_array_equal(np.moveaxis(image.data, 0, -1), upright)
    assert ("EXIF" in " ".join(image.meta["astrodeblend"]["read"])) == (turn > 1)


def test_sixteen_bit_colours_of_a_tiff(tmp_path):
    values = EIGHT.astype(np.uint16) * 257 + 3
    imsave(tmp_path / "c.tif", values, check_contrast=False)
    image = read_image(tmp_path / "c.tif")
    np.testing.assert_array_equal(image.data, np.moveaxis(values, -1, 0).astype("f4"))
    assert image.meta["astrodeblend"]["full_scale"] == 65535


def test_what_of_a_picture_is_left_unread(tmp_path):
    pages = [Image.fromarray(EIGHT), Image.fromarray(EIGHT // 2)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    clear = np.arange(SHAPE[1]) < 5
    alpha = Image.fromarray(np.dstack([EIGHT, np.broadcast_to(~clear * np.uint8(200), SHAPE)]))
    alpha.save(tmp_path / "alpha.png")
    for name, text in (("pages.tif", "first of 2 pages"), ("alpha.png", "alpha channel")):
        image = read_image(tmp_path / name)
        np.testing.assert_array_equal(image.data, np.moveaxis(EIGHT, -1, 0))
        assert text in " ".join(image.meta["astrodeblend"]["read"])
    for source in (tmp_path / "alpha.png", np.asarray(alpha)):  # transparent: no data
        hidden = read_image(source).mask
        np.testing.assert_array_equal(hidden, np.broadcast_to(clear, hidden.shape))


# Masks of Dask, and values far from 1.


@pytest.mark.parametrize("wrapped", [False, True])
def test_dask_keeps_its_mask(wrapped):
    hidden = np.zeros(SHAPE, bool)
    hidden[3:9, 5:20] = True
    values = np.random.default_rng(2).normal(size=SHAPE)
    array = da.ma.masked_array(da.from_array(values), mask=hidden)
    other = np.arange(SHAPE[1]) == 30
    source = NDData(array, mask=da.from_array(np.broadcast_to(other, SHAPE))) if wrapped else array
    image = read_image(source)
    np.testing.assert_array_equal(image.mask[0], hidden | other if wrapped else hidden)
    np.testing.assert_array_equal(image.data[0][~hidden], values[~hidden].astype("f4"))


@pytest.mark.parametrize("scale", [1e-60, 1e-40, 1e-30, 1e-17, 1e17, 1e35, 1e60])
def test_no_scale_is_lost(scale, tmp_path):
    values = np.random.default_rng(2).normal(5, 2, (3, *SHAPE))
    deviation = np.random.default_rng(3).uniform(1, 2, values.shape)
    source = CCDData(values * scale, unit="W", uncertainty=StdDevUncertainty(deviation * scale))
    image = read_image(source)
    write_fits(image_to_hdus(image, "x"), tmp_path / "x.fits")
    for read in (image, read_image(tmp_path / "x.fits")):
        np.testing.assert_allclose(read.data, values * scale, rtol=1e-6)
        np.testing.assert_allclose(read.uncertainty.array, deviation * scale, rtol=1e-6)
        assert np.all(np.square(read.data) > 0)
        assert np.isfinite(np.square(read.data)).all()
    mixed = read_image([values[0] * scale * u.W, values[1] * scale * 1e3 * u.mW])
    np.testing.assert_allclose(mixed.data, values[:2] * scale, rtol=1e-6)


def test_a_few_wild_values_keep_the_type():
    values = np.ones(SHAPE)
    values[0, :3] = 1e300, 1e-300, -1.7e308
    image = read_image(values)
    assert image.data.dtype == np.float32
    np.testing.assert_array_equal(image.mask[0, 0, :4], [True, False, True, False])
