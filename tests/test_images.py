"""Everything that holds an image goes through one door, and comes out as FITS."""

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import (
    CCDData,
    InverseVariance,
    NDData,
    NDDataRef,
    StdDevUncertainty,
    UnknownUncertainty,
    VarianceUncertainty,
)
from astropy.table import Table
from astropy.utils.exceptions import AstropyUserWarning
from astropy.utils.masked import Masked
from astropy.wcs import WCS, DistortionLookupTable, Sip
from astropy.wcs.utils import proj_plane_pixel_area
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from astrodeblend.images import (
    image_to_hdus,
    pixel_position,
    read_image,
    to_original_shape,
    write_fits,
)

SHAPE = (24, 20)
UNIT = u.MJy / u.sr


def flux_of(*shape):
    return np.random.default_rng(7).normal(size=shape or SHAPE).astype(np.float32)


def tan_wcs(scale=5e-5, crpix=(9.0, 12.5), angle=0.3, crval=(150.1, 2.2)):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crpix, wcs.wcs.crval = crpix, crval
    cos, sin = np.cos(angle), np.sin(angle)
    wcs.wcs.cd = scale * np.array([[-cos, sin], [sin, cos]])
    wcs.wcs.set()
    return wcs


def sip_wcs(order=3):
    wcs = tan_wcs(crpix=(300.0, -200.0))
    rng = np.random.default_rng(3)
    terms = rng.normal(size=(2, order + 1, order + 1))
    for i, j in np.ndindex(order + 1, order + 1):
        # each term moves the corner of the image, 300 pixels away, by about a pixel
        terms[:, i, j] *= 300.0 ** -(i + j) if 2 <= i + j <= order else 0
    wcs.sip = Sip(*terms, None, None, wcs.wcs.crpix)
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    return wcs


def tpv_wcs():
    wcs = tan_wcs(crpix=(300.0, -200.0))
    wcs.wcs.ctype = ["RA---TPV", "DEC--TPV"]
    wcs.wcs.set_pv([(1, 1, 1.0), (1, 4, 0.4), (1, 7, 3.0), (2, 1, 1.0), (2, 5, -0.3)])
    wcs.wcs.set()
    return wcs


DISTORTIONS = {"TAN": tan_wcs, "SIP": sip_wcs, "TPV": tpv_wcs}


def header_of(wcs, unit=UNIT):
    header = wcs.to_header(relax=True)
    header["BUNIT"] = unit.to_string("fits")
    header["OBJECT"] = "NGC 4676"
    return header


def sky_error(wcs, truth, shape=SHAPE):
    """Return the largest difference, in pixels, between two maps of pixels to the sky."""
    y, x = np.indices(shape[-2:])
    apart = wcs.pixel_to_world(x, y).separation(truth.pixel_to_world(x, y)).deg
    return apart.max() / np.sqrt(proj_plane_pixel_area(truth))


def hdu_of(flux, kind=fits.ImageHDU, wcs=None):
    return kind(flux.copy(), header_of(wcs or tan_wcs()))


def file_of(tmp_path, hdus, name="image.fits"):
    path = tmp_path / name
    fits.HDUList(hdus).writeto(path)
    return path


def files_of(tmp_path, bands):
    return [
        file_of(tmp_path, [hdu_of(band, fits.PrimaryHDU)], f"{i}.fits")
        for i, band in enumerate(bands)
    ]


def lossless(flux):
    header = header_of(tan_wcs())
    return fits.CompImageHDU(flux, header, compression_type="GZIP_2", quantize_level=0)


# Each kind of input: how to make it of flux, and whether it knows unit and WCS.
PLAIN, FULL = (False, False), (True, True)
KINDS = {
    "array": (lambda tmp, flux: flux, PLAIN),
    "big-endian array": (lambda tmp, flux: flux.astype(">f8"), PLAIN),
    "array in Fortran order": (lambda tmp, flux: np.asfortranarray(flux), PLAIN),
    "read-only array": (lambda tmp, flux: np.broadcast_to(flux, flux.shape), PLAIN),
    "masked array": (lambda tmp, flux: np.ma.array(flux), PLAIN),
    "Quantity": (lambda tmp, flux: flux * UNIT, (True, False)),
    "Masked": (lambda tmp, flux: Masked(flux * UNIT), (True, False)),
    "NDData": (lambda tmp, flux: NDData(flux, unit=UNIT, wcs=tan_wcs()), FULL),
    "CCDData": (lambda tmp, flux: CCDData(flux, unit=UNIT, wcs=tan_wcs()), FULL),
    "PrimaryHDU": (lambda tmp, flux: hdu_of(flux, fits.PrimaryHDU), FULL),
    "ImageHDU": (lambda tmp, flux: hdu_of(flux), FULL),
    "HDUList": (lambda tmp, flux: fits.HDUList([fits.PrimaryHDU(), hdu_of(flux)]), FULL),
    "path": (lambda tmp, flux: file_of(tmp, [hdu_of(flux, fits.PrimaryHDU)]), FULL),
    "str": (lambda tmp, flux: str(file_of(tmp, [hdu_of(flux, fits.PrimaryHDU)])), FULL),
    "gzipped": (lambda tmp, flux: file_of(tmp, [hdu_of(flux, fits.PrimaryHDU)], "i.fits.gz"), FULL),
    "extension": (lambda tmp, flux: file_of(tmp, [fits.PrimaryHDU(), hdu_of(flux)]), FULL),
    "compressed HDU": (lambda tmp, flux: file_of(tmp, [fits.PrimaryHDU(), lossless(flux)]), FULL),
    "sequence": (lambda tmp, flux: [hdu_of(band) for band in np.atleast_3d(flux.T).T], FULL),
    "sequence of paths": (lambda tmp, flux: tuple(files_of(tmp, np.atleast_3d(flux.T).T)), FULL),
    "nested lists": (lambda tmp, flux: flux.tolist(), PLAIN),
}


@pytest.fixture(params=[SHAPE, (1, *SHAPE), (3, *SHAPE)], ids=["2-D", "one band", "cube"])
def flux(request):
    return flux_of(*request.param)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def source(kind, flux, tmp_path):
    return KINDS[kind][0](tmp_path, flux)


# One behaviour for every kind.


def test_every_kind_becomes_the_same(source, kind, flux):
    image = read_image(source)
    assert type(image) is NDData
    assert image.data.dtype == np.float32
    assert image.data.dtype.isnative
    assert image.data.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(image.data, flux.reshape(-1, *SHAPE))
    assert image.mask is None or not image.mask.any()
    assert image.uncertainty is None
    has_unit, has_wcs = KINDS[kind][1]
    assert image.unit == (UNIT if has_unit else None)
    if has_wcs:
        assert image.wcs.naxis == 2
        assert sky_error(image.wcs, tan_wcs()) < 1e-9
    else:
        assert image.wcs is None
    ndim = 3 if "sequence" in kind else flux.ndim
    known = dict(image.meta["astrodeblend"])
    assert known.pop("read")
    assert np.isnan(known.pop("psf")).tolist() == [True] * len(image.data)
    assert known == {"ndim": ndim, "kind": "flux", "full_scale": None, "bands": None}
    assert isinstance(image.meta["header"], fits.Header)
    # reading twice changes nothing, and nothing is shared with the input
    twice = read_image(image)
    assert (image.unit, image.meta) == (twice.unit, twice.meta)
    image.data[:] = 0
    for again in (twice, read_image(source)):
        np.testing.assert_array_equal(again.data, flux.reshape(-1, *SHAPE))


def test_every_kind_is_written_as_ccddata_reads_it(source, kind, flux, tmp_path):
    path = tmp_path / "out.fits"
    write_fits(image_to_hdus(read_image(source), "central"), path)
    ccd = CCDData.read(
        path, hdu="CENTRAL", hdu_mask="CENTRAL_MASK", hdu_uncertainty="CENTRAL_UNCERT"
    )
    shape = (len(flux), *SHAPE) if flux.ndim == 3 else SHAPE
    if "sequence" in kind and flux.ndim == 2:
        shape = (1, *SHAPE)
    np.testing.assert_array_equal(ccd.data, flux.reshape(shape))
    has_unit, has_wcs = KINDS[kind][1]
    assert ccd.unit == (UNIT if has_unit else u.dimensionless_unscaled)
    if has_wcs:
        assert sky_error(ccd.wcs.celestial, tan_wcs()) < 1e-9
    with fits.open(path) as hdulist:
        hdulist.verify("exception")
        assert hdulist["CENTRAL"].data.dtype == ">f4"
        assert hdulist["CENTRAL"].verify_datasum() == 1
    again = read_image(f"{path}[CENTRAL]")
    np.testing.assert_array_equal(again.data, read_image(source).data)


# Values, whatever their type.

REAL = (
    hnp.integer_dtypes(endianness="?")
    | hnp.unsigned_integer_dtypes(endianness="?")
    | hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64))
)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), bands=st.sampled_from([(), (1,), (2,), (5,)]), masked=st.booleans())
def test_any_real_number(data, bands, masked):
    dtype = data.draw(REAL)
    shape = (*bands, 16, 17)
    fill = st.just(1) if dtype.kind in "iu" else st.just(1.0)
    values = data.draw(hnp.arrays(dtype, shape, fill=fill))
    given_mask = data.draw(hnp.arrays(bool, shape)) if masked else np.zeros(shape, bool)
    before = values.copy()
    size = np.abs(values.astype(np.float64))
    out = ((size < 1e-15) | (size > 1e15)) & (size > 0) & np.isfinite(size) & ~given_mask
    counted = np.isfinite(size) & (size > 0) & ~given_mask
    with np.errstate(over="ignore"):
        truth = values.astype(np.float64 if 2 * out.sum() > counted.sum() else np.float32)
    bad = given_mask | ~np.isfinite(truth)
    source = np.ma.array(values, mask=given_mask) if masked else values
    if bad.all():
        with pytest.raises(ValueError, match="image has no valid pixel"):
            read_image(source)
    elif (largest := np.abs(truth[~bad]).max()) and not 1e-100 < float(largest) < 1e100:
        with pytest.raises(ValueError, match="image has values of up to"):
            read_image(source)
    else:
        image = read_image(source, kind="flux")
        if image.data.dtype != truth.dtype:  # float32 would round differences away
            truth = values.astype(np.float64)
        np.testing.assert_array_equal(image.data, truth.reshape(-1, 16, 17))
        mask = np.zeros(image.data.shape, bool) if image.mask is None else image.mask
        np.testing.assert_array_equal(mask, bad.reshape(-1, 16, 17))
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (np.ones(SHAPE, bool), TypeError, "values of type bool, which are no real numbers"),
        (np.ones(SHAPE, complex), TypeError, "values of type complex128, which are no real"),
        (np.full(SHAPE, "a"), TypeError, "values of type <U1, which are no real numbers"),
        (np.full(SHAPE, None), TypeError, "values of type object are no numbers"),
        (np.zeros(SHAPE, [("r", "f4")]), TypeError, "which are no real numbers"),
        (np.float32(3), ValueError, r"image has shape \(\); it has to be \(y, x\) or"),
        (np.ones(400), ValueError, r"image has shape \(400,\)"),
        (np.ones((2, 3, *SHAPE)), ValueError, r"image has shape \(2, 3, 24, 20\)"),
        (np.ones((1, 1, 1, *SHAPE)), ValueError, r"image has shape \(1, 1, 1, 24, 20\)"),
        (np.ones((15, 20)), ValueError, "with at least 16 pixels along x and y"),
        (np.ones((3, 20, 15)), ValueError, "with at least 16 pixels along x and y"),
        (np.ones((0, 20, 20)), ValueError, r"image has shape \(0, 20, 20\)"),
        (np.ones((0, 0)), ValueError, r"image has shape \(0, 0\)"),
        (np.full(SHAPE, np.nan), ValueError, "no valid pixel: each is masked .*, not finite"),
        (
            np.ma.masked_all(SHAPE),
            ValueError,
            r"no valid pixel: each is masked \(True is no data\)",
        ),
        (np.ones(SHAPE) * u.mag, ValueError, "image is in mag, but magnitudes do not add"),
        (
            fits.PrimaryHDU(np.ones(SHAPE), fits.Header({"BUNIT": "AB magnitudes"})),
            *(ValueError, "image is in AB magnitudes, but magnitudes do not add"),
        ),
        (np.ones((*SHAPE, 5)), ValueError, r"np.moveaxis\(image, -1, 0\) puts bands first"),
        (np.full(SHAPE, 1e300), ValueError, "values of up to 1e.300; that has to be 1e-100 to"),
        ("https://a.b/c.fits", OSError, "image 'https://a.b/c.fits' is no path; download it"),
        (np.ones(SHAPE) * u.ABmag, ValueError, r"image is in mag\(AB\), but magnitudes do not"),
        (np.ones(SHAPE) * (u.mag / u.arcsec**2), ValueError, "convert it to flux"),
        (None, TypeError, "image is of type NoneType, not an image; give a path to a FITS"),
        (7, TypeError, "image is of type int, not an image"),
        (fits.BinTableHDU(), TypeError, "image is of type BinTableHDU, not an image"),
        ([], ValueError, "image is an empty list; give a path to a FITS"),
        ([flux_of(), None], TypeError, "band 1 of the sequence: image is of type NoneType"),
        ([flux_of(), "no.fits"], OSError, "band 1 of the sequence: image 'no.fits' does not exist"),
        ([flux_of(3, *SHAPE)], ValueError, "band 0 of the sequence has 3 bands of its own"),
        ([flux_of(), flux_of(30, 30)], ValueError, "where they differ, both need a WCS"),
        (
            [NDData(flux_of(), wcs=tan_wcs(crval=(150.1 - 90 * i, 2.2))) for i in (0, 1)],
            *(ValueError, "band 1 does not overlap band 0 on the sky; leave it out"),
        ),
        (fits.ImageHDU(), ValueError, "HDU '' holds no image; choose another one"),
        (fits.HDUList([fits.PrimaryHDU()]), ValueError, "no image in any of its HDUs"),
    ],
)
def test_what_is_refused(values, error, message):
    with pytest.raises(error, match=message):
        read_image(values)


def test_values_far_from_zero_keep_their_noise():
    values = np.random.default_rng(1).normal(1e9, 1, SHAPE)
    np.testing.assert_array_equal(read_image(values).data[0], values)
    assert read_image(values - 1e9).data.dtype == np.float32


def test_radio_images_have_degenerate_axes():
    flux = flux_of(4, *SHAPE)
    for shape in ((1, 4, *SHAPE), (4, 1, *SHAPE)):
        np.testing.assert_array_equal(read_image(flux.reshape(shape)).data, flux)


def test_values_under_the_mask_are_kept():
    values = flux_of().astype(np.float64)
    values[:4, 0] = np.nan, np.inf, -np.inf, 1e39
    image = read_image(NDData(values, mask=values > 1.5))
    np.testing.assert_array_equal(image.data[0, :4, 0], [np.nan, np.inf, -np.inf, np.inf])
    np.testing.assert_array_equal(image.data[0, 4:], values[4:].astype(np.float32))
    np.testing.assert_array_equal(image.mask[0], (values > 1.5) | ~np.isfinite(image.data[0]))
    flux, row = flux_of(3, *SHAPE), np.arange(20) == 5
    image = read_image(NDData(flux, mask=row.astype(int)))  # numpy's rules of broadcasting
    np.testing.assert_array_equal(image.mask, np.broadcast_to(row, flux.shape))
    with pytest.raises(ValueError, match=r"the mask has shape \(7,\) and the image \(3, 24, 20\)"):
        read_image(NDData(flux, mask=np.zeros(7, bool)))


# Pictures.


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "gif"])
def test_colour_pictures(suffix, tmp_path):
    # whole blocks of one grey are what JPEG keeps
    values = np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40, np.ones((16, 16), np.uint8))
    values = np.stack([values] * 3, axis=-1)
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(values).save(path)
    image = read_image(path)
    assert image.data.shape == (3, 32, 48)
    np.testing.assert_allclose(image.data, np.moveaxis(values, -1, 0), atol=1)
    known = image.meta["astrodeblend"]
    assert known.pop("read")[0].startswith("read as a picture in which 255 is white")
    assert np.isnan(known.pop("psf")).tolist() == [True] * 3
    assert known == {"ndim": 3, "kind": "picture", "full_scale": 255, "bands": ("R", "G", "B")}
    assert image.unit is None
    assert image.wcs is None


@pytest.mark.parametrize(
    ("mode", "full_scale", "bands"),
    [
        *[("L", 255, 1), ("LA", 255, 1), ("1", 255, 1), ("P", 255, 3), ("RGBA", 255, 3)],
        *[("I;16", 65535, 1), ("F", None, 1), ("I", None, 1), ("CMYK", 255, 3)],
    ],
)
def test_picture_modes(mode, full_scale, bands, tmp_path):
    path = tmp_path / ("picture.tif" if mode in ("F", "CMYK", "I") else "picture.png")
    if mode == "I;16":
        picture = Image.fromarray(np.full(SHAPE, 40000, np.uint16))
    else:
        picture = Image.new("L", SHAPE[::-1], 255).convert(mode)
    picture.save(path)
    image = read_image(path)
    assert image.data.shape == (bands, *SHAPE)
    assert image.meta["astrodeblend"]["full_scale"] == full_scale
    assert image.meta["astrodeblend"]["ndim"] == (2 if bands == 1 else 3)
    np.testing.assert_allclose(image.data, 40000 if mode == "I;16" else 255, atol=1)


# Files.


@pytest.fixture
def extensions(tmp_path):
    table = fits.table_to_hdu(Table({"x": [1, 2]}))
    table.name = "CAT"
    hdus = [fits.PrimaryHDU(), table]
    for i, (name, version) in enumerate([("SCI", 1), ("SCI", 2), ("OTHER", 1)]):
        hdus.append(fits.ImageHDU(np.full(SHAPE, i, "i2"), name=name, ver=version))
    return file_of(tmp_path, hdus)


@pytest.mark.filterwarnings("ignore:left unread beside SCI. SCI,2")
@pytest.mark.parametrize(
    ("extension", "value"),
    [("", 0), ("[2]", 0), ("[4]", 2), ("[SCI]", 0), ("[sci,2]", 1), ("[ SCI , 2 ]", 1)],
)
def test_choosing_an_extension(extensions, extension, value):
    assert (read_image(f"{extensions}{extension}").data == value).all()
    odd = extensions.rename(extensions.parent / "odd[1]")  # a file named like an extension
    assert (read_image(odd).data == 0).all()


@pytest.mark.parametrize(
    ("extension", "message"),
    [
        ("[9]", "no extension '9'; there are 0 PRIMARY, 1 CAT, 2 SCI, 3 SCI, 4 OTHER"),
        ("[NOPE]", "no extension 'NOPE'; there are 0 PRIMARY"),
        ("[SCI,x]", "no extension 'SCI,x'; there are"),
        ("[0]", "extension '0' holds no image"),
        ("[CAT]", "extension 'CAT' holds no image; choose another one"),
    ],
)
def test_extensions_that_are_not_there(extensions, extension, message):
    with pytest.raises(ValueError, match=message):
        read_image(f"{extensions}{extension}")


def fits_bytes(*hdus):
    buffer = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(buffer)
    return buffer.getvalue()


def jpeg_bytes():
    buffer = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(values).save(buffer, "jpeg")
    return buffer.getvalue()


WHOLE = fits_bytes(fits.PrimaryHDU(flux_of(64, 64)))
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.fits", WHOLE[:9000], "truncated or damaged; get a fresh copy"),
        ("cut.fits", WHOLE[:1000], "is not a whole FITS file; get a fresh copy"),
        ("cut.fits.gz", gzip.compress(WHOLE, mtime=0)[:5000], "is not a whole FITS file"),
        ("no.fits.gz", gzip.compress(b"hello", mtime=0), "is not a whole FITS file"),
        ("no.zip", b"PK\x03\x04 no more", "is not a whole FITS file"),
        ("empty.fits", b"", "is empty"),
        ("no.jpg", b"plain text", "is not a whole FITS, JPEG, PNG or TIFF file"),
        ("no.jpg", b"\xff\xd8\xff\xe0\x00\x10JFIF", "is not a whole FITS, JPEG, PNG or TIFF"),
        ("no.png", PNG + b"\x00\x00\x00\rIHDR", "is not a whole FITS, JPEG, PNG or TIFF file"),
        ("cut.jpg", jpeg_bytes()[:1500], r"is not a whole .*truncated"),
    ],
    ids=["cut", "header", "gzip", "no-gzip", "zip", "empty", "text", "jpeg", "png", "cut jpeg"],
)
def test_damaged_files(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(OSError, match=message) as caught:
        read_image(path)
    assert name in str(caught.value)


def test_a_unit_that_is_not_of_light_is_warned_of():
    for unit, kind in ((u.s, "time"), (u.m, "length"), (u.arcsec, "angle")):
        with pytest.warns(AstropyUserWarning, match=f"image is in {unit}, a {kind}, not light"):
            assert read_image(flux_of() * unit).unit == unit
    for unit in (u.Jy, u.adu / u.s, u.K, u.MJy / u.sr, u.dimensionless_unscaled):
        read_image(flux_of() * unit)


def test_a_jpeg_of_low_quality_is_warned_of(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for colours in (values, values[..., 0]):
        Image.fromarray(colours).save(tmp_path / "fine.jpg", quality=75)
        read_image(tmp_path / "fine.jpg")
        Image.fromarray(colours).save(tmp_path / "coarse.jpg", quality=20)
        with pytest.warns(
            AstropyUserWarning, match="JPEG of low quality, .* steps of 141.5: faint"
        ):
            image = read_image(tmp_path / "coarse.jpg")
        assert "blocks of 8 x 8 pixels" in image.meta["astrodeblend"]["read"][0]


def test_a_truncated_extension_beside_a_whole_one(tmp_path):
    content = fits_bytes(fits.PrimaryHDU(flux_of()), fits.ImageHDU(flux_of(64, 64), name="B"))
    path = tmp_path / "cut.fits"
    path.write_bytes(content[:-8000])
    np.testing.assert_array_equal(read_image(path).data[0], flux_of())
    with pytest.raises(OSError, match=r"cut\.fits': the data of HDU 'B' cannot be read"):
        read_image(f"{path}[B]")
    path.write_bytes(WHOLE[: 2880 + 64 * 64 * 4])  # only its padding is not there
    np.testing.assert_array_equal(read_image(path).data[0], flux_of(64, 64))


def test_paths_that_lead_nowhere(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.fits' does not exist; check the path"):
        read_image(tmp_path / "none.fits")
    with pytest.raises(FileNotFoundError, match=r"none\.fits' does not exist"):
        read_image(f"{tmp_path}/none.fits[1]")
    with pytest.raises(IsADirectoryError, match="is a folder; name a file in it"):
        read_image(tmp_path)
    picture = tmp_path / "a.png"
    Image.new("L", SHAPE).save(picture)
    with pytest.raises(ValueError, match="is no FITS file: it has no extension '1'"):
        read_image(f"{picture}[1]")


def test_scaled_and_blank_integers(tmp_path):
    values = np.linspace(0, 65535, 480).astype(np.uint16).reshape(SHAPE)
    image = read_image(file_of(tmp_path, [fits.PrimaryHDU(values)]))
    np.testing.assert_array_equal(image.data[0], values)
    hdu = fits.PrimaryHDU(np.arange(480, dtype="i2").reshape(SHAPE))
    content = fits_bytes(hdu)
    hdu.header.update({"BLANK": 7, "BSCALE": 0.5, "BZERO": 100.0})
    path = tmp_path / "scaled.fits"
    # the header's own scale, without astropy applying it to the integers first
    path.write_bytes(hdu.header.tostring(padding=True).encode() + content[2880:])
    image = read_image(path)
    truth = 100 + 0.5 * np.arange(480)
    truth[7] = np.nan
    np.testing.assert_array_equal(image.data.ravel(), truth)
    np.testing.assert_array_equal(image.mask.ravel(), np.arange(480) == 7)
    assert set(image.meta["header"]).isdisjoint({"BLANK", "BSCALE", "BZERO", "BITPIX"})


# Headers and units.


def test_what_is_kept_of_a_header(tmp_path):
    primary = fits.PrimaryHDU()
    primary.header["TELESCOP"] = "CFHT"
    primary.header["OBJECT"] = "field"
    flux = np.round(flux_of(64, 64), 2)
    hdu = fits.CompImageHDU(flux, header_of(sip_wcs()), name="SCI", compression_type="RICE_1")
    hdu.header["FILTER"] = ("r", "the filter")
    hdu.header["Z"] = 0.022
    hdu.header["DATASEC"] = "[1:64,1:64]"
    hdu.header["CTYPE1A"] = "LINEAR"
    hdu.header["HIERARCH ESO DET NAME"] = "CCD 5"
    hdu.header["LONGSTRN"] = "abc " * 40
    hdu.header.add_history("flat-fielded")
    path = tmp_path / "in.fits"
    fits.HDUList([primary, hdu]).writeto(path, checksum=True)
    image = read_image(path)
    write_fits(image_to_hdus(image, "central"), tmp_path / "out.fits")
    header = fits.getheader(tmp_path / "out.fits", "CENTRAL")
    for kept in (image.meta["header"], header):
        assert kept["TELESCOP"] == "CFHT"
        assert kept["OBJECT"] == "NGC 4676"
        assert kept["FILTER"] == "r"
        assert kept.comments["FILTER"] == "the filter"
        assert kept["Z"] == 0.022
        assert kept["ESO DET NAME"] == "CCD 5"
        assert kept["LONGSTRN"] == ("abc " * 40).rstrip()
        assert list(kept["HISTORY"]) == ["flat-fielded"]
        assert not {"DATASEC", "CTYPE1A", "ZIMAGE", "ZCMPTYPE", "BSCALE"} & set(kept)
    assert header["EXTNAME"] == "CENTRAL"
    assert not any("CRPIX" in key or "A_" in key for key in image.meta["header"])


@pytest.mark.parametrize(
    "key",
    [
        *["CD1_1", "PC001002", "PV2_1", "A_ORDER", "BP_0_2", "CRPIX1B", "CROTA2", "RADECSYS"],
        *["LTM1_1", "WAT1_001", "WCSDIM", "AMDX12", "PPO3", "CNPIX1", "PLTRAH", "PLTDECSN"],
    ],
)
def test_nothing_of_an_older_wcs_stays(key):
    """Two descriptions of the sky in one header contradict each other, and crash wcslib."""
    header = fits.Header({key: 1, "PLATEID": "0025", "A_B": 2, "ZP": 22.5})
    image = read_image(CCDData(flux_of(), unit="adu", wcs=tan_wcs(), meta=header))
    assert dict(image.meta["header"]) == {"PLATEID": "0025", "A_B": 2, "ZP": 22.5}


def test_a_dictionary_of_an_nddata_goes_into_the_header():
    meta = {"object": "M51", "exptime": 30.0, "nan": np.nan, "too long a key": 1, "list": [1]}
    image = read_image(NDData(flux_of(), meta=meta))
    assert dict(image.meta["header"]) == {"OBJECT": "M51", "EXPTIME": 30.0}
    assert image.meta["too long a key"] == 1
    assert "header" not in meta


def test_a_unit_that_is_none_stays_text(tmp_path):
    hdu = fits.ImageHDU(flux_of(), fits.Header({"BUNIT": "Counts (bgsub)"}))
    with pytest.warns(AstropyUserWarning, match=r"BUNIT 'Counts \(bgsub\)' is no unit"):
        image = read_image(hdu)
    assert image.unit is None
    write_fits(image_to_hdus(image, "x"), tmp_path / "out.fits")
    assert fits.getheader(tmp_path / "out.fits", "X")["BUNIT"] == "Counts (bgsub)"
    assert CCDData.read(tmp_path / "out.fits", hdu="X", unit="adu").unit == u.adu
    image = read_image(flux_of() * u.def_unit("blob"))
    with pytest.warns(AstropyUserWarning, match="unit 'blob' is not known to FITS nor to astropy"):
        (out,) = image_to_hdus(image, "x")
    assert out.header["BUNIT"] == "blob"


# WCS.


@pytest.mark.parametrize("shape", [SHAPE, (3, *SHAPE)], ids=["2-D", "cube"])
@pytest.mark.parametrize("distortion", DISTORTIONS)
def test_the_wcs_survives(distortion, shape, tmp_path):
    wcs = DISTORTIONS[distortion]()
    image = read_image(hdu_of(flux_of(*shape), wcs=wcs))
    assert sky_error(image.wcs, wcs) < 1e-9
    path = tmp_path / "out.fits"
    write_fits(image_to_hdus(image, "central"), path)
    ccd = CCDData.read(path, hdu="CENTRAL", hdu_mask=None, hdu_uncertainty=None)
    y, x = np.indices(SHAPE).astype(float)
    band = () if len(shape) == 2 else (1.0,)
    sky = wcs.pixel_to_world(x, y)
    ours = ccd.wcs.pixel_to_world(x, y, *band)
    assert (ours if len(shape) == 2 else ours[0]).separation(sky).deg.max() < 1e-6 * 5e-5
    # and from the sky to the pixels; SIP is inverted by iteration
    values = np.broadcast_arrays(sky.ra.deg, sky.dec.deg, *(b + 1 for b in band))
    tolerance = {} if ccd.wcs.sip is None else {"tolerance": 1e-8}
    back = ccd.wcs.all_world2pix(*values, 0, **tolerance)[:2]
    np.testing.assert_allclose(back, (x, y), atol=1e-6)
    again = read_image(f"{path}[CENTRAL]")
    assert sky_error(again.wcs, wcs) < 1e-7
    if len(shape) == 2:
        assert (ccd.wcs.sip is None) == (wcs.sip is None)


@pytest.mark.parametrize("order", [2, 5, 7])
def test_sip_in_a_cube_is_exact_to_its_highest_order(order):
    wcs = sip_wcs(order)
    (out,) = image_to_hdus(NDData(flux_of(2, *SHAPE), wcs=wcs), "x")
    assert out.header["CTYPE1"] == "RA---TPV"
    assert sky_error(WCS(out.header, naxis=2), wcs) < 1e-7
    image = read_image(NDData(flux_of(2, *SHAPE), wcs=sip_wcs(8)))  # TPV ends at the 7th
    with pytest.warns(AstropyUserWarning, match="distortion in the WCS is one for two axes"):
        (out,) = image_to_hdus(image, "x")
    assert sky_error(WCS(out.header, naxis=2), sip_wcs(8)) < 1e-9


def test_lookup_tables_go_along(tmp_path):
    wcs = tan_wcs()
    table = flux_of(8, 8)
    wcs.cpdis1 = DistortionLookupTable(table, (1.0, 1.0), (1.0, 1.0), (4.0, 4.0))
    wcs.cpdis2 = DistortionLookupTable(-table, (1.0, 1.0), (1.0, 1.0), (4.0, 4.0))
    path = tmp_path / "out.fits"
    write_fits(image_to_hdus(read_image(NDData(flux_of(), wcs=wcs)), "x"), path)
    assert sky_error(read_image(path).wcs, wcs) < 1e-6
    assert sky_error(read_image(path).wcs, tan_wcs()) > 0.1


def test_the_celestial_part_of_a_spectral_cube():
    wcs = tan_wcs().sub([1, 2, 0])
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN", "FREQ"]
    wcs.wcs.crval = [*tan_wcs().wcs.crval, 1.4e9]
    flux = flux_of(3, *SHAPE)
    for source in (NDData(flux, wcs=wcs), fits.ImageHDU(flux, wcs.to_header())):
        image = read_image(source)
        assert image.wcs.naxis == 2
        assert sky_error(image.wcs, tan_wcs()) < 1e-9


@pytest.mark.parametrize("distortion", DISTORTIONS)
def test_the_wcs_of_a_sliced_nddata(distortion):
    wcs = DISTORTIONS[distortion]()
    image = read_image(NDDataRef(flux_of(40, 40), wcs=wcs)[10:34, 3:23])
    y, x = np.indices(SHAPE)
    there = wcs.pixel_to_world(x + 3, y + 10)
    assert image.wcs.pixel_to_world(x, y).separation(there).deg.max() < 1e-6 * 5e-5


@pytest.mark.parametrize(
    "cards",
    [
        {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CD1_1": 0.0, "CD2_2": 0.0},
        {"CTYPE1": "RA---XYZ", "CTYPE2": "DEC--XYZ"},
        {"CTYPE1": "RA---TAN", "CTYPE2": "FREQ"},
    ],
    ids=["singular", "unknown projection", "half a sky"],
)
def test_a_broken_wcs_is_left_aside(cards):
    with pytest.warns(AstropyUserWarning, match="the WCS in the header is broken and ignored"):
        image = read_image(fits.ImageHDU(flux_of(), fits.Header(cards)))
    assert image.wcs is None


def test_numbers_of_a_wcs_stored_as_text():
    """Astropy takes them for 0, and sources would be elsewhere on the sky."""
    header = tan_wcs().to_header()
    there = read_image(fits.ImageHDU(flux_of(), header)).wcs.pixel_to_world(3, 4)
    for key in ("CRVAL1", "CDELT2", "CRPIX1"):
        header[key] = str(header[key])
    for key in ("CTYPE1", "CTYPE2"):
        header[key] = header[key].lower()
    found = read_image(fits.ImageHDU(flux_of(), header)).wcs.pixel_to_world(3, 4)
    assert found.separation(there).arcsec < 1e-6
    header["CRVAL1"] = "10h00m24s"
    with pytest.warns(AstropyUserWarning, match="CRVAL1 = '10h00m24s' is no number: the WCS is"):
        assert read_image(fits.ImageHDU(flux_of(), header)).wcs is None


def test_a_wcs_that_is_not_the_sky():
    header = fits.Header({"CTYPE1": "LINEAR", "CTYPE2": "LINEAR", "CRPIX1": 4.0})
    assert read_image(fits.ImageHDU(flux_of(), header)).wcs is None
    half = WCS(naxis=2)
    half.wcs.ctype = ["RA---TAN", "FREQ"]
    for wcs in (half, WCS(naxis=2)):
        with pytest.warns(AstropyUserWarning, match=r"WCS \(WCS\) is ignored: it is no FITS WCS"):
            assert read_image(NDData(flux_of(), wcs=wcs)).wcs is None


@pytest.mark.parametrize("cut", [(1, slice(2, 30)), (slice(None), 5, slice(None))])
def test_a_slice_without_x_or_y_has_no_sky(cut):
    wcs = tan_wcs().sub([1, 2, 0])
    cube = NDDataRef(flux_of(20, 40, 40), wcs=wcs)[cut]
    if cube.data.ndim == 2 and cube.data.shape == (20, 40):
        with pytest.warns(AstropyUserWarning, match="is ignored"):
            assert read_image(cube).wcs is None
    else:
        image = read_image(cube)
        there = tan_wcs().pixel_to_world(4, 5 + 2)
        assert image.wcs.pixel_to_world(4, 5).separation(there).deg < 1e-6 * 5e-5


# Uncertainties.

STD = np.abs(flux_of()) + 0.1


@pytest.mark.parametrize(
    "uncertainty",
    [
        StdDevUncertainty(STD),
        VarianceUncertainty(STD**2),
        InverseVariance(STD**-2),
        StdDevUncertainty(STD * 1e3, unit=u.mJy),
        VarianceUncertainty(STD**2 * 1e6, unit=u.mJy**2),
        InverseVariance(STD**-2 * 1e-6, unit=u.mJy**-2),
    ],
    ids=lambda u: f"{type(u).__name__} {u.unit}",
)
def test_every_uncertainty_becomes_a_standard_deviation(uncertainty, tmp_path):
    ccd = CCDData(flux_of(), unit=u.Jy, uncertainty=uncertainty)
    image = read_image(ccd)
    assert type(image.uncertainty) is StdDevUncertainty
    assert image.uncertainty.unit == u.Jy
    assert image.uncertainty.array.dtype == np.float32
    np.testing.assert_allclose(image.uncertainty.array[0], STD, rtol=1e-6)
    assert image.mask is None
    if uncertainty.unit == ccd.uncertainty._data_unit_to_uncertainty_unit(u.Jy):
        ccd.write(tmp_path / "ccd.fits")  # as CCDData writes it, with its kind in UTYPE
        image = read_image(tmp_path / "ccd.fits")
        np.testing.assert_allclose(image.uncertainty.array[0], STD, rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (StdDevUncertainty, [np.nan, np.inf, -1.0]),
        (VarianceUncertainty, [np.nan, np.inf, -1.0]),
        (InverseVariance, [np.nan, 0.0, -1.0]),
    ],
)
def test_no_weight_means_masked(kind, bad):
    values = np.ones(SHAPE)
    values[0, :3] = bad
    image = read_image(NDData(flux_of(), uncertainty=kind(values)))
    expected = np.zeros((1, *SHAPE), bool)
    expected[0, 0, :3] = True
    np.testing.assert_array_equal(image.mask, expected)


def test_uncertainties_that_are_refused():
    with pytest.raises(TypeError, match="uncertainty of type UnknownUncertainty; make it one of"):
        read_image(NDData(flux_of(), uncertainty=UnknownUncertainty(STD)))
    with pytest.raises(ValueError, match=r"the uncertainty has shape \(3,\) and the image"):
        read_image(NDData(flux_of(), uncertainty=StdDevUncertainty([1, 2, 3])))
    with pytest.raises(ValueError, match="the uncertainty is in adu and the image in Jy; give"):
        read_image(flux_of() * u.Jy, uncertainty=1 * u.adu)
    with pytest.raises(FileNotFoundError, match=r"weight 'no\.fits' does not exist"):
        read_image(flux_of(), weight="no.fits")
    with pytest.raises(ValueError, match="an uncertainty of 0 in every valid pixel of a band"):
        read_image(flux_of(), uncertainty=-1.0)
    with pytest.raises(ValueError, match=r"no valid pixel: .* without uncertainty or weight"):
        read_image(flux_of(), weight=np.zeros(SHAPE))
    each = read_image(flux_of(3, *SHAPE), uncertainty=[1, 2, 3])
    np.testing.assert_array_equal(each.uncertainty.array[:, 0, 0], [1, 2, 3])
    bands = [NDData(flux_of(), uncertainty=StdDevUncertainty(STD)), flux_of()]
    with pytest.warns(AstropyUserWarning, match="only some of the bands have an uncertainty"):
        assert read_image(bands).uncertainty is None


@pytest.mark.parametrize("shape", [SHAPE, (3, *SHAPE)], ids=["2-D", "cube"])
def test_mask_and_uncertainty_survive_the_disk(shape, tmp_path):
    flux, std = flux_of(*shape), 1 + np.abs(flux_of(*shape))
    ccd = CCDData(flux, unit="Jy", mask=flux > 1, uncertainty=VarianceUncertainty(std**2))
    ccd.write(tmp_path / "in.fits")
    image = read_image(tmp_path / "in.fits")
    hdus = image_to_hdus(image, "central") + image_to_hdus(image, "companion")
    write_fits(hdus, tmp_path / "out.fits")
    for name in ("CENTRAL", "COMPANION"):
        ccd = CCDData.read(
            tmp_path / "out.fits",
            hdu=name,
            hdu_mask=f"{name}_MASK",
            hdu_uncertainty=f"{name}_UNCERT",
        )
        np.testing.assert_array_equal(ccd.mask, flux > 1)
        assert type(ccd.uncertainty) is StdDevUncertainty
        np.testing.assert_allclose(ccd.uncertainty.array, std, rtol=1e-6)
        again = read_image(f"{tmp_path / 'out.fits'}[{name}]")
        np.testing.assert_array_equal(again.mask, image.mask)
        np.testing.assert_array_equal(again.uncertainty.array, image.uncertainty.array)


# Bands of a sequence.


def galaxy(wcs, shape, fwhm=1.4, unit=u.Jy):
    """Paint a round Gaussian of 1 Jy, analytically: as light per pixel, or per solid angle."""
    y, x = np.indices(shape)
    centre = tan_wcs().pixel_to_world(24.3, 25.1)
    apart = wcs.pixel_to_world(x, y).separation(centre).arcsec
    sigma = fwhm / 2.3548
    per_arcsec2 = np.exp(-0.5 * (apart / sigma) ** 2) / (2 * np.pi * sigma**2)
    if unit is u.Jy:
        return per_arcsec2 * proj_plane_pixel_area(wcs) * 3600**2 * u.Jy
    return (per_arcsec2 * u.Jy / u.arcsec**2).to(unit)


GRIDS = {
    "shifted": (tan_wcs(crpix=(18.4, 22.8)), (60, 66)),
    "rotated": (tan_wcs(crpix=(30, 30), angle=1.2), (80, 80)),
    "coarser": (tan_wcs(scale=8e-5, crpix=(14.7, 12.1)), (40, 40)),
    "finer": (tan_wcs(scale=2e-5, crpix=(50, 60)), (180, 190)),
}


@pytest.mark.parametrize("unit", [u.Jy, u.MJy / u.sr], ids=["per pixel", "per solid angle"])
@pytest.mark.parametrize("grid", GRIDS)
def test_bands_come_to_one_grid(grid, unit):
    wcs, shape = GRIDS[grid]
    first = galaxy(tan_wcs(), (50, 48), unit=unit)
    band = galaxy(wcs, shape, unit=unit)
    before = band.copy()
    image = read_image([NDData(first, wcs=tan_wcs()), NDData(band, wcs=wcs)])
    assert image.data.shape == (2, 50, 48)
    assert image.unit == unit
    assert sky_error(image.wcs, tan_wcs()) == 0
    bright = ~image.mask[1]
    assert bright.mean() > 0.5
    truth = first.value
    peak = truth.max()
    # the anti-aliased filter for finer pixels blurs, by less than one of the new ones
    tolerance = 0.06 if grid == "finer" else 0.01
    assert np.abs(image.data[1] - truth)[bright].max() < tolerance * peak
    assert image.data[1][bright].sum() == pytest.approx(truth[bright].sum(), rel=5e-3)
    np.testing.assert_array_equal(band, before)


def test_noise_averages_over_smaller_pixels():
    """Of patches of sky, wider than the resampling's kernel, the mean has the noise it should."""
    fine = tan_wcs(scale=1e-5, crpix=(200.5, 200.5), angle=0.0)
    coarse = tan_wcs(scale=4e-5, crpix=(50.5, 50.5), angle=0.0)
    noise = np.random.default_rng(2).normal(size=(400, 400))
    for unit, per_pixel in ((u.Jy, 4.0), (u.MJy / u.sr, 0.25)):
        bands = [
            NDData(np.zeros((100, 100)), unit=unit, wcs=coarse),
            NDData(noise, unit=unit, wcs=fine, uncertainty=StdDevUncertainty(np.ones((400, 400)))),
        ]
        bands[0].uncertainty = StdDevUncertainty(np.ones((100, 100)))
        image = read_image(bands)
        assert not image.mask[1, 2:98, 2:98].any()
        np.testing.assert_allclose(image.uncertainty.array[1, 2:98, 2:98], per_pixel, rtol=1e-6)
        patches = image.data[1, 2:98, 2:98].reshape(12, 8, 12, 8).mean(axis=(1, 3))
        assert patches.std() == pytest.approx(per_pixel / 8, rel=0.2)


def test_one_masked_pixel_in_an_average_masks_it():
    fine, coarse = tan_wcs(1e-5, (48.5, 48.5)), tan_wcs(4e-5, (12.5, 12.5))
    values = np.ones((96, 96))
    values[41, 45] = np.nan
    image = read_image([NDData(np.ones((24, 24)), wcs=coarse), NDData(values, wcs=fine)])
    assert image.mask[1, 41 // 4, 45 // 4]
    np.testing.assert_allclose(image.data[1][~image.mask[1]], 16, rtol=1e-5)
    assert image.mask[1, 2:-2, 2:-2].sum() <= 9


def test_masked_pixels_stay_hidden_on_another_grid():
    wcs = tan_wcs(crpix=(9.5, 13.0))
    values = flux_of(40, 40)
    values[20, 20] = np.nan
    bands = [NDData(flux_of(30, 30), wcs=tan_wcs()), NDData(values, wcs=wcs), flux_of(30, 30)]
    image = read_image(bands)
    # the pixel lies half a pixel further left and down on the first grid, touching four
    expected = np.zeros((30, 30), bool)
    expected[19:21, 19:21] = True
    np.testing.assert_array_equal(image.mask[1], expected)
    assert np.isfinite(image.data).all()
    np.testing.assert_array_equal(image.data[2], flux_of(30, 30))  # not resampled
    # and outside the footprint there is nothing
    half = NDData(np.ones((30, 30)), wcs=tan_wcs())
    image = read_image([NDData(np.ones((30, 60)), wcs=tan_wcs()), half])
    assert not image.mask[0].any()
    assert not image.mask[1, 1:29, 1:29].any()
    assert image.mask[1, :, 31:].all()
    np.testing.assert_allclose(image.data[1, 1:29, 1:29], 1, atol=1e-6)


def test_units_of_bands():
    image = read_image([flux_of() * u.Jy, flux_of() * 1e3 * u.mJy])
    assert image.unit == u.Jy
    np.testing.assert_allclose(image.data[0], image.data[1], rtol=1e-6)
    for other, name in ((flux_of() * u.adu, "adu"), (flux_of(), "no unit")):
        with pytest.raises(ValueError, match=f"band 1 is in {name} and band 0 in Jy; give all"):
            read_image([flux_of() * u.Jy, other])
    odd = fits.ImageHDU(flux_of(), fits.Header({"BUNIT": "blobs"}))
    with pytest.warns(AstropyUserWarning, match="BUNIT 'blobs' is no unit"):
        assert read_image([odd, odd]).meta["header"]["BUNIT"] == "blobs"
    with (
        pytest.warns(AstropyUserWarning, match="BUNIT 'blobs' is no unit"),
        pytest.raises(ValueError, match="band 1 is in no unit and band 0 in blobs"),
    ):
        read_image([odd, flux_of()])


def test_names_and_headers_of_bands(tmp_path):
    hdus = [hdu_of(flux_of()) for _ in range(3)]
    for hdu, name in zip(hdus, "gri", strict=True):
        hdu.header["FILTER"] = name
    image = read_image(hdus)
    assert image.meta["astrodeblend"]["bands"] == ("g", "r", "i")
    assert image.meta["header"]["OBJECT"] == "NGC 4676"
    assert "FILTER" not in image.meta["header"]
    write_fits(image_to_hdus(image, "x"), tmp_path / "out.fits")
    assert read_image(tmp_path / "out.fits").meta["astrodeblend"]["bands"] == ("g", "r", "i")


# Writing.


def test_a_position_may_have_the_unit_pix():
    assert pixel_position(read_image(flux_of()), [3, 4] * u.pix) == (3, 4)
    with pytest.raises(TypeError, match=r"deg>; it has to be two numbers"):
        pixel_position(read_image(flux_of()), [3, 4] * u.deg)


def test_a_2d_image_comes_back_2d():
    ccd = CCDData(flux_of(), unit="Jy", mask=flux_of() > 1, uncertainty=StdDevUncertainty(STD))
    read = read_image(ccd)
    image = to_original_shape(read)
    assert image.data.shape == image.mask.shape == image.uncertainty.array.shape == SHAPE
    assert image.unit == image.uncertainty.unit == u.Jy
    assert to_original_shape(image) is image
    cube = read_image(flux_of(1, *SHAPE))
    assert to_original_shape(cube) is cube
    for hdu in image_to_hdus(read, "x"):  # what is written is a copy
        assert not np.shares_memory(hdu.data, read.data)
        assert not np.shares_memory(hdu.data, read.uncertainty.array)
    assert "BUNIT" not in read.meta["header"]


def test_files_are_whole_or_not_there(tmp_path):
    hdus = image_to_hdus(read_image(flux_of()), "x")
    path = tmp_path / "out.fits"
    write_fits(fits.HDUList([fits.PrimaryHDU(), *hdus]), path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"out\.fits' exists"):
        write_fits(hdus, path)
    assert path.read_bytes() == before
    write_fits(image_to_hdus(read_image(2 * flux_of()), "x"), path, overwrite=True)
    np.testing.assert_array_equal(read_image(path).data[0], 2 * flux_of())
    with pytest.raises(FileNotFoundError, match=r"the folder .* does not exist"):
        write_fits(hdus, tmp_path / "none" / "out.fits")
    hdus[0].header["HISTORY"] = "fine"
    hdus[0].header.append(("BAD", 1))
    hdus[0].header.cards["BAD"]._image = "BAD     = 'unfinished".ljust(80)  # no FITS
    hdus[0].header.cards["BAD"]._verified = False
    with pytest.raises(fits.VerifyError):
        write_fits(hdus, tmp_path / "broken.fits")
    assert sorted(p.name for p in Path(tmp_path).iterdir()) == ["out.fits"]
