"""The width of the PSF: from numbers, angles, images, models, files and headers."""

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.modeling.models import AiryDisk2D, Gaussian2D, Moffat2D
from astropy.nddata import NDData
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from click.testing import CliRunner
from photutils.psf import AiryDiskPSF, CircularGaussianPRF, GaussianPSF, ImagePSF, MoffatPSF
from scipy.special import j0

from astrodeblend.images import read_image

SCALE = 0.2  # arcsec per pixel


def sky_wcs(scale=SCALE):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval, wcs.wcs.crpix = (150.0, 2.0), (20.5, 20.5)
    wcs.wcs.cdelt = -scale / 3600, scale / 3600
    return wcs


def image(bands=3, wcs=True, side=40):
    data = np.random.default_rng(1).normal(size=(bands, side, side) if bands > 1 else (side, side))
    return NDData(data, unit=u.nJy, wcs=sky_wcs() if wcs else None)


def widths(given, psf, **more):
    return read_image(given, psf=psf, **more).meta["astrodeblend"]["psf"]


def hdu(cards=(), scale=SCALE):
    data = np.random.default_rng(2).normal(size=(40, 40))
    header = fits.Header() if scale is None else sky_wcs(scale).to_header()
    header["BUNIT"] = "nJy"
    header.extend(fits.Header(list(cards)))
    return fits.PrimaryHDU(data, header)


def _gaussian(r):
    return np.exp(-4 * np.log(2) * r**2)


def _moffat(r):
    return (1 + (2 * r) ** 2 * (2 ** (1 / 2.5) - 1)) ** -2.5


K = np.linspace(0, 8, 2000)
Q = np.linspace(0, 80, 1500)
KOLMOGOROV = np.array([np.trapezoid(np.exp(-(K ** (5 / 3))) * K * j0(q * K), K) for q in Q])
KOLMOGOROV /= KOLMOGOROV[0]


def _kolmogorov(r):
    return np.interp(r * 2 * np.interp(-0.5, -KOLMOGOROV, Q), Q, KOLMOGOROV)


PROFILES = {"gaussian": _gaussian, "moffat": _moffat, "kolmogorov": _kolmogorov}


def psf_image(profile, fwhm, side, shift=(0.0, 0.0)):
    """Sample a profile of unit width at half maximum at the pixels' middles."""
    x, y = (np.arange(side) - (side - 1) / 2 - s for s in shift)
    return PROFILES[profile](np.hypot(*np.meshgrid(x, y)) / fwhm)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("fwhm", [1.5, 2, 3.3, 8])
def test_image_has_the_width_of_its_profile(profile, fwhm):
    for side in (33, 40):
        for shift in ((0, 0), (0.3, -0.4)):
            found = widths(image(1), psf_image(profile, fwhm, side, shift))
            # below the sampling limit a Moffat profile cannot tell Kolmogorov's peak any better
            undersampled = profile == "kolmogorov" and fwhm < 2
            assert found == pytest.approx(fwhm, rel=0.12 if undersampled else 0.05)


def test_image_of_any_height_and_each_band():
    planes = [psf_image("moffat", fwhm, 31) for fwhm in (2.5, 3.5, 4.5)]
    for factor in (1e-30, 1, 1e6):
        found = widths(image(), factor * np.array(planes))
        assert found == pytest.approx([2.5, 3.5, 4.5], rel=0.01)
    assert widths(image(), [planes[0], None, NDData(planes[2])])[[0, 2]] == pytest.approx(
        [2.5, 4.5], rel=0.01
    )
    assert widths(image(), planes[1]) == pytest.approx(3.5, rel=0.01)
    elliptic = GaussianPSF(x_fwhm=3, y_fwhm=5)(*np.meshgrid(*[np.arange(-20.0, 21)] * 2))
    assert widths(image(1), elliptic) == pytest.approx(np.sqrt(15), rel=0.05)


@pytest.mark.parametrize(
    ("psf", "pixels"),
    [
        (3.2, [3.2, 3.2, 3.2]),
        (4, [4, 4, 4]),
        ("3.2", [3.2, 3.2, 3.2]),
        ("0.8 arcsec", [4, 4, 4]),
        ([3, 4.5, np.nan], [3, 4.5, np.nan]),
        (["3", "0.9arcsec", None], [3, 4.5, np.nan]),
        (np.array([3.0, 4, 5]), [3, 4, 5]),
        (0.8 * u.arcsec, [4, 4, 4]),
        (0.8 / 3600 * u.deg, [4, 4, 4]),
        ([600, 800, 1000] * u.mas, [3, 4, 5]),
        ([3 * u.pix, 0.8 * u.arcsec, 5], [3, 4, 5]),
        (CircularGaussianPRF(fwhm=3.3), [3.3] * 3),
        (GaussianPSF(x_fwhm=2, y_fwhm=8), [4] * 3),
        (MoffatPSF(alpha=2, beta=2.5), [4 * np.sqrt(2**0.4 - 1)] * 3),
        (Moffat2D(1, 7, 9, 2, 2.5), [4 * np.sqrt(2**0.4 - 1)] * 3),
        (Gaussian2D(5, 3, 3, 2, 2), [4 * np.sqrt(2 * np.log(2))] * 3),
        (CircularGaussianPRF(fwhm=0.8 * u.arcsec), [4] * 3),
        ([MoffatPSF(alpha=2, beta=2.5), 3, 4], [4 * np.sqrt(2**0.4 - 1), 3, 4]),
        (None, [np.nan] * 3),
    ],
    ids=str,
)
def test_widths_in_all_their_forms(psf, pixels):
    found = widths(image(), psf)
    assert isinstance(found, np.ndarray)
    assert found.dtype == float
    np.testing.assert_allclose(found, pixels, rtol=1e-4)


def test_models_that_state_no_width_are_measured():
    oversampled = ImagePSF(psf_image("moffat", 3 * 4, 161), oversampling=4)
    assert widths(image(1), oversampled) == pytest.approx(3, rel=0.02)
    shifted = ImagePSF(psf_image("moffat", 3, 61), x_0=100, y_0=50)
    assert widths(image(1), shifted) == pytest.approx(3, rel=0.02)
    airy = AiryDisk2D(1, 3, 5, 4)  # of the first dark ring
    assert widths(image(1), airy) == pytest.approx(AiryDiskPSF(radius=4).fwhm, rel=0.01)


def test_files(tmp_path):
    plane = psf_image("moffat", 4, 41)
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(plane, name="PSF")]).writeto(tmp_path / "a.fits")
    fits.writeto(tmp_path / "cube.fits", np.array([plane, psf_image("moffat", 3, 41)]))
    finer = fits.Header({"PIXELSCL": SCALE / 2})
    fits.writeto(tmp_path / "finer.fits", plane, finer)
    table = fits.BinTableHDU.from_columns([fits.Column("PSF_MASK", "E", array=[1.0])])
    table.header["POLNAXIS"], table.header["PSF_FWHM"] = 2, 4.4
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(tmp_path / "psfex.psf")
    files = {"a.fits": 4, "a.fits[PSF]": 4, "finer.fits": 2, "psfex.psf": 4.4}
    for name, width in files.items():
        assert widths(image(1), str(tmp_path / name)) == pytest.approx(width, rel=0.01)
    assert widths(image(2), tmp_path / "cube.fits") == pytest.approx([4, 3], rel=0.01)
    both = [tmp_path / "psfex.psf", tmp_path / "a.fits"]
    assert widths(image(2), both) == pytest.approx([4.4, 4], rel=0.01)
    with fits.open(tmp_path / "a.fits") as hdus:
        assert widths(image(1), hdus["PSF"]) == pytest.approx(4, rel=0.01)
    (tmp_path / "no.txt").write_text("3.2")
    with pytest.raises(ValueError, match=r"psf='.*no.txt'.*no FITS file; give the full width"):
        widths(image(1), tmp_path / "no.txt")
    with pytest.raises(FileNotFoundError, match=r"psf='0.8 arcsecs'.*does not exist.*full width"):
        widths(image(1), "0.8 arcsecs")


@pytest.mark.parametrize(
    ("psf", "message"),
    [
        ([3, 4], "psf is for 2 bands, and there are 3; give .* or one for each"),
        (np.ones((2, 31, 31)) * psf_image("moffat", 3, 31), "psf is for 2 bands, and there are 3"),
        (0, "psf is 0 pix; a width has to be 0.5 to 50 pixels, or NaN"),
        (-3.0, "psf is -3 pix"),
        (0.3, "psf is 0.3 pix"),
        (51, "psf is 51 pix"),
        (np.inf, "psf is inf pix"),
        ([3, 4, 0.1], "psf is 0.1 pix"),
        (0.01 * u.arcsec, "psf is 0.01 arcsec, that is 0.05 pixels; a width has to be"),
        (3 * u.s, "psf is in s; give the full width at half maximum"),
        (psf_image("moffat", 3, 31)[:, :20], r"psf is an image of shape \(31, 20\).*about square"),
        (np.ones((4, 4)), r"psf is an image of shape \(4, 4\).*5 pixels or more"),
        (np.zeros((31, 31)), r"shape \(31, 31\), with values from 0 to 0; it has to show"),
        (np.ones((31, 31)), "has to show one star, all of it"),
        (-psf_image("moffat", 3, 31), "has to show one star"),
        (psf_image("moffat", 3, 31)[15:, 15:], "has to show one star, all of it"),
        (psf_image("moffat", 40, 31), "has to show one star, all of it"),
        (np.where(np.arange(31) == 3, np.inf, psf_image("moffat", 3, 31)), "all values finite"),
        (np.full((31, 31), np.nan), "all values finite"),
    ],
)
def test_what_is_no_width_is_refused(psf, message):
    with pytest.raises(ValueError, match=message):
        read_image(image(), psf=psf)


def test_what_is_no_psf_is_refused():
    for psf in (object(), {"g": 3}, True, np.ones((1, 1, 5, 5))):
        with pytest.raises(TypeError, match=r"psf is of type .*; give the full width"):
            read_image(image(), psf=psf)
    with pytest.raises(ValueError, match=r"psf is 0.8 arcsec, and the image has no celestial WCS"):
        read_image(image(wcs=False), psf="0.8 arcsec")


@pytest.mark.parametrize(
    ("cards", "pixels"),
    [
        ([("SEEING", 3.1, "[pixels] Average FWHM")], 3.1),  # VISTA, UKIRT
        ([("SEEING", 0.9, "[arcseconds] Average FWHM")], 4.5),
        ([("SEEING", 0.9, "FWHM in arc sec")], 4.5),
        ([("SEEING", 0.9, "average FWHM (arcsec)")], 4.5),
        ([("SEEING", 0.9)], np.nan),  # of either unit
        ([("SEEING", 4.4, "0.2 arcsec/pixel")], np.nan),
        ([("SEEING", 0.9, "DIMM seeing in arcsec")], np.nan),
        ([("SEEING", "good", "[arcsec]")], np.nan),
        ([("SEEING", True, "[arcsec]")], np.nan),
        ([("PSF_FWHM", 0.7, "Effective spatial resolution (arcsec)")], 3.5),  # ESO
        ([("PRODCATG", "SCIENCE.IMAGE"), ("PSF_FWHM", 0.7)], 3.5),
        ([("PRODCATG", "SCIENCE.IMAGE"), ("PSF_FWHM", 3.2, "in pixels")], 3.2),
        ([("PSF_FWHM", 3.2)], np.nan),
        ([("PSF_FWHM", 3.2, "PSF FWHM in pixels")], 3.2),
        ([("HIERARCH CHIP.SEEING", 4.2)], 4.2),  # Pan-STARRS
        ([("HIERARCH CHIP.SEEING", "NaN"), ("SEEING", 4.1, "pix")], 4.1),
        ([("L1FWHM", 1.1, "[arcsec] Frame FWHM in arcsec")], 5.5),  # Las Cumbres
        ([("SEEING", 1.3, "[arcsec]"), ("FWHM", 4.0, "Median FWHM in pixels")], 4.0),
        ([("SEEING", 1.3, "[arcsec]"), ("FWHM", 4.0)], 6.5),
    ],
    ids=str,
)
def test_headers_that_state_it(cards, pixels):
    read = read_image(hdu(cards))
    np.testing.assert_allclose(read.meta["astrodeblend"]["psf"], [pixels], rtol=1e-4)
    if np.isfinite(pixels):
        assert any(
            "pixels wide at half maximum" in said for said in read.meta["astrodeblend"]["read"]
        )
    assert widths(hdu(cards), 2.5) == 2.5


@pytest.mark.parametrize("value", [0.0, -1.0, 0.05, 99.0, 9999.0])
def test_implausible_cards_are_left_aside(value):
    with pytest.warns(AstropyUserWarning, match=f"FWHM = {value:g} arcsec is no width of a PSF"):
        found = widths(hdu([("L1FWHM", value, "[arcsec]")]), None)
    assert np.isnan(found).all()
    with pytest.warns(AstropyUserWarning, match="is no width"):  # the next card counts
        found = widths(hdu([("FWHM", value / SCALE, "pix"), ("SEEING", 3.0, "pix")]), None)
    assert found == 3


def test_angle_in_header_needs_a_wcs():
    given = hdu([("SEEING", 0.9, "[arcsec]")], scale=None)
    known = read_image(given).meta["astrodeblend"]
    assert np.isnan(known["psf"]).all()
    assert "SEEING = 0.9 arcsec has no pixel scale: the PSF is not known from it" in known["read"]


def test_header_of_a_cube_says_nothing_of_its_bands():
    header = sky_wcs().to_header()
    header["SEEING"] = 4.0, "[pixels]"
    assert np.isnan(widths(fits.PrimaryHDU(image().data, header), None)).all()


def test_each_band_of_a_sequence_has_its_own():
    bands = [hdu([("SEEING", 0.8, "[arcsec]")]), hdu([("SEEING", 5.0, "[pixels]")]), hdu()]
    np.testing.assert_allclose(widths(bands, None), [4, 5, np.nan], rtol=1e-4)
    np.testing.assert_allclose(widths(bands, [None, 3, 0.7 * u.arcsec]), [4, 3, 3.5], rtol=1e-4)
    np.testing.assert_allclose(widths(bands, 3), [3, 3, 3])
    with pytest.raises(ValueError, match="psf is for 2 bands, and there are 3"):
        widths(bands, [3, 4])
    with pytest.raises(ValueError, match=r"band 1 of the sequence: psf is 0.1 pix"):
        widths(bands, [3, 0.1, 3])


@pytest.mark.parametrize("coarser", [0.7, 1.3, 2, 3])
def test_width_is_that_of_the_star_on_the_new_grid(coarser):
    star = NDData(psf_image("moffat", 5, 121), unit=u.nJy, wcs=sky_wcs())
    star.wcs.wcs.crpix = 61, 61
    first = NDData(image(1, side=61).data, unit=u.nJy, wcs=sky_wcs(coarser * SCALE))
    first.wcs.wcs.crpix = 31.3, 30.8
    read = read_image([first, star], psf=[3, 5])
    hidden = False if read.mask is None else read.mask[1]
    shown = np.where(hidden, 0, read.data[1])
    assert read.meta["astrodeblend"]["psf"][0] == 3
    assert read.meta["astrodeblend"]["psf"][1] == pytest.approx(widths(first, shown)[0], rel=0.03)


def test_widths_follow_a_band_to_a_finer_grid():
    # pixels of a width are those of the band's own file; what comes out is on the first one's grid
    bands = [
        hdu([("SEEING", 4.0, "[pixels]")]),
        hdu([("SEEING", 3.0, "[pixels]")], scale=2 * SCALE),
    ]
    np.testing.assert_allclose(widths(bands, None), [4, 6], rtol=1e-4)
    np.testing.assert_allclose(widths(bands, [3, 2]), [3, 4], rtol=1e-4)
    np.testing.assert_allclose(widths(bands, 0.8 * u.arcsec), [4, 4], rtol=1e-4)


def test_an_image_that_was_read_keeps_it():
    read = read_image(hdu([("SEEING", 4.0, "[pixels]")]), psf=3)
    again = read_image(read)
    assert again.meta["astrodeblend"]["psf"] == 3
    assert again.meta["astrodeblend"]["read"] == read.meta["astrodeblend"]["read"]
    assert widths(read, 5) == 5


def test_pictures_have_one_per_colour():
    picture = np.zeros((40, 40, 4), np.uint8)
    picture[:] = np.arange(40)[:, None, None]
    assert widths(picture, [2, 3, 4, 5]).tolist() == [2, 3, 4]
    assert widths(picture[..., :3], 3).tolist() == [3, 3, 3]


class _AskedError(Exception):
    pass


@pytest.fixture
def asked(monkeypatch):
    """Stop where the network would be asked, and tell the widths that it is told."""
    from astrodeblend import walk

    def take_apart(inference, values, psf, **_):
        raise _AskedError([psf.tolist()])

    monkeypatch.setattr(walk, "take_apart", take_apart)


def test_deblender_takes_it_to_the_network(asked):
    from astrodeblend import Deblender

    deblender, given = Deblender.from_pretrained("survey"), image(side=80)
    calls = [
        lambda: deblender(given, psf=0.6 * u.arcsec),
        lambda: deblender.deblend_stamps([given], psf=[3, 3, 3]),
        lambda: deblender.deblend_scene(given, positions=[(40, 40)], psf="3"),
    ]
    for call in calls:
        with pytest.raises(_AskedError) as stopped:
            call()
        np.testing.assert_allclose(stopped.value.args[0], [[3, 3, 3]], rtol=1e-4)
    with pytest.raises(ValueError, match=r"images\[0\]: psf is 99 pix"):
        deblender.deblend_stamps([given], psf=99)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--psf", "3.5"], [3.5, 3.5]),
        (["--psf", "3.5", "--psf", "0.8 arcsec"], [3.5, 4.0]),
        ([], [4.5, np.nan]),
    ],
)
def test_command_line(tmp_path, asked, options, found):
    from astrodeblend.cli import main

    hdu([("SEEING", 0.9, "[arcsec]")]).writeto(tmp_path / "g.fits")
    hdu().writeto(tmp_path / "r.fits")
    files = [str(tmp_path / name) for name in ("g.fits", "r.fits")]
    out = ["-o", str(tmp_path / "out.fits")]
    result = CliRunner().invoke(main, ["deblend", *files, *out, *options])
    assert isinstance(result.exception, _AskedError), result.output
    np.testing.assert_allclose(result.exception.args[0], [found], rtol=1e-4)
