"""The dialects of FITS: which extension is the image, what goes with it, and how it is spelled."""

import re
from contextlib import nullcontext

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import (
    CCDData,
    InverseVariance,
    NDData,
    StdDevUncertainty,
    VarianceUncertainty,
)
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS

from astrodeblend.images import image_to_hdus, is_surface_brightness, read_image, write_fits

SHAPE = (40, 50)
RNG = np.random.default_rng(5)
STD = RNG.uniform(0.5, 2, SHAPE)
FLUX = RNG.normal(0, 1, SHAPE) * STD  # noise is what STD says
HIDDEN = np.zeros(SHAPE, bool)
HIDDEN[3:9, 5:20] = True
DETECTED = np.zeros(SHAPE, bool)
DETECTED[20:30, 10:40] = True


def hdu(data, name=None, ver=None, kind=fits.ImageHDU, **cards):
    if data.dtype == bool:
        data = data.astype(np.uint8)
    # as astropy spells keywords of more than eight letters
    cards = {key if len(key) <= 8 else f"HIERARCH {key}": value for key, value in cards.items()}
    made = kind(data, fits.Header(cards))
    if name:
        made.name = name
    if ver:
        made.ver = ver
    return made


def planes(bad=0, detected=5, dtype=np.int32):
    return (HIDDEN * (1 << bad) | DETECTED * (1 << detected)).astype(dtype)


OTHER, SMALL = np.full(SHAPE, 7.0), np.full((9, 9), 7.0)
ARRAYS = {"flux": FLUX, "std": STD, "var": STD**2, "ivar": STD**-2, "mask": HIDDEN}
ARRAYS |= {"wrong": ~HIDDEN, "full": HIDDEN * np.uint8(255), "other": OTHER, "small": SMALL}
# Name: the HDUs (an array or the bits for bad and detected, its EXTNAME and EXTVER, cards), whether
# a mask and an uncertainty are read, and what is said to be left unread.
DIALECTS = {
    "CCDData": ("flux; mask MASK; std UNCERT", True, True, ""),
    "ours": (
        "flux A; mask A_MASK; std A_UNCERT; other COMPANION; other COMPANION_UNCERT",
        *(True, True, "COMPANION, COMPANION_UNCERT"),
    ),
    "HST": (
        "flux SCI 1; std ERR 1; mask DQ 1; other SCI 2; other ERR 2; wrong DQ 2",
        *(True, True, "SCI,2, ERR,2, DQ,2"),
    ),
    "HST, other chip first": ("other ERR 2; std ERR 1; flux SCI 1; mask DQ 1", True, True, "ERR,2"),
    "HST drizzled": ("flux SCI; ivar WHT; i2,0,5 CTX", False, True, "CTX"),
    "JWST": (
        "none TELESCOP=JWST; other AREA; flux SCI; std ERR; u4,0,2 DQ; other VAR_POISSON; std WHT",
        *(True, True, "AREA, VAR_POISSON, WHT"),
    ),
    "DES": ("flux SCI; mask MSK; ivar WGT", True, True, ""),
    "DES, compressed": ("flux SCI; ivar WGT", False, True, ""),
    "HSC": (
        "flux IMAGE; i4,8,5 MASK MP_NO_DATA=8 MP_DETECTED=5; var VARIANCE",
        *(True, True, ""),
    ),
    "HSC, unnamed": (
        "flux EXTTYPE=IMAGE; i4,0,5 EXTTYPE=MASK MP_BAD=0 MP_DETECTED=5; var EXTTYPE=VARIANCE",
        *(True, True, ""),
    ),
    "HSC, mask first": (
        "i4,0,5 EXTTYPE=MASK MP_BAD=0 MP_CR=3; var EXTTYPE=VARIANCE; flux EXTTYPE=IMAGE",
        *(True, True, ""),
    ),
    "HSC, 8 bits": ("flux IMAGE; u1,0,5 MASK MP_BAD=0 MP_DETECTED=5", True, False, ""),
    "bad is 1, detected 0": ("flux IMAGE; i4,1,0 MASK MP_BAD=1 MP_DETECTED=0", True, False, ""),
    "Legacy": ("other MODEL; flux IMTYPE=image; ivar IMTYPE=invvar", False, True, "MODEL"),
    "IVAR": ("flux; ivar IVAR", False, True, ""),
    "SWarp": ("flux SCI; ivar WEIGHT; mask FLG", True, True, ""),
    "RMS": ("std RMS; flux R", False, True, ""),
    "STDDEV": ("flux; std STDDEV", False, True, ""),
    "VAR": ("flux; var VAR", False, True, ""),
    "0 and 255": ("flux; full MASK", True, False, ""),
    "other shapes": ("flux; small ERR; small PSF", False, False, "PSF"),
    "ESO": ("flux DATA; var STAT", False, True, ""),
    "Euclid": (
        "flux 1-1.SCI; std 1-1.RMS; mask 1-1.FLG; other 2-2.SCI; other 2-2.RMS",
        *(True, True, "2-2.SCI, 2-2.RMS"),
    ),
    "only companions": ("flux WHT; mask MASK", False, False, "MASK"),
}
WARNED = {
    "HST": r"left unread beside SCI: SCI,2, .*; choose which to read, as in FILE\[SCI,2\]",
    "other shapes": r"HDU 'ERR' has shape \(9, 9\) and the image \(40, 50\): it is ignored",
}


def hdu_of(text, kind=fits.ImageHDU):
    array, *words = text.split()
    cards = dict(word.split("=") for word in words if "=" in word)
    cards = {key: int(value) if value.isdigit() else value for key, value in cards.items()}
    if array == "none":
        return fits.PrimaryHDU(header=fits.Header(cards))
    if "," in array:
        dtype, bad, detected = array.split(",")
        data = planes(int(bad), int(detected), dtype)
    else:
        data = ARRAYS[array]
    name, version = [*(word for word in words if "=" not in word), None, None][:2]
    return hdu(data, name, version and int(version), kind, **cards)


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("suffix", [".fits", ".fits.gz"])
def test_dialects(name, suffix, tmp_path):
    text, masked, stated, unread = DIALECTS[name]
    hdus = [hdu_of(each) for each in text.split("; ")]
    if "compressed" in name:
        hdus[0] = hdu_of("flux SCI", fits.CompImageHDU)
    if name == "CCDData":
        hdus[0] = hdu_of("flux", fits.PrimaryHDU)
    path = tmp_path / f"in{suffix}"
    first = [] if isinstance(hdus[0], fits.PrimaryHDU) else [fits.PrimaryHDU()]
    fits.HDUList([*first, *hdus]).writeto(path)
    with pytest.warns(AstropyUserWarning, match=WARNED[name]) if name in WARNED else nullcontext():
        image = read_image(path)
    atol = 0.3 if "compressed" in name else 1e-6
    np.testing.assert_allclose(image.data[0], FLUX, atol=atol)
    expected = HIDDEN if masked else np.zeros(SHAPE, bool)
    np.testing.assert_array_equal(False if image.mask is None else image.mask[0], expected)
    if stated:
        np.testing.assert_allclose(image.uncertainty.array[0], STD, rtol=1e-5)
    else:
        assert image.uncertainty is None
    said = [text for text in image.meta["astrodeblend"]["read"] if "left unread beside" in text]
    assert [re.split("[:;] ", text)[1] for text in said] == ([unread] if unread else [])


def test_chips_without_versions_are_told_apart_by_number(tmp_path):
    path = tmp_path / "in.fits"
    fits.HDUList([fits.PrimaryHDU(), hdu(FLUX, "SCI"), hdu(FLUX + 1, "SCI")]).writeto(path)
    with pytest.warns(AstropyUserWarning, match=r"choose which to read, as in FILE\[2\]"):
        read_image(path)
    np.testing.assert_allclose(read_image(f"{path}[2]").data[0], FLUX + 1, rtol=1e-6)


def test_noise_far_above_all_others_marks_missing_data():
    """SWarp and SExtractor write 1e30 for the noise of pixels without data."""
    noise = np.where(HIDDEN, 1e30, STD)
    image = read_image(fits.HDUList([hdu(FLUX, kind=fits.PrimaryHDU), hdu(noise, "RMS")]))
    np.testing.assert_array_equal(image.mask[0], HIDDEN)


def test_stokes_parameters_are_no_bands():
    cube = hdu(np.stack([FLUX] * 4), kind=fits.PrimaryHDU, CTYPE3="STOKES")
    with pytest.raises(ValueError, match="axis 3 of HDU 'PRIMARY' is STOKES with 4 values"):
        read_image(cube)
    cube.data = cube.data[:1]
    assert read_image(cube).data.shape == (1, *SHAPE)


def test_bands_in_extensions_of_one_file_are_not_left_in_silence(tmp_path):
    path = tmp_path / "in.fits"
    bands = [hdu(FLUX + k, name) for k, name in enumerate("GRI")]
    fits.HDUList([fits.PrimaryHDU(), *bands]).writeto(path)
    with pytest.warns(AstropyUserWarning, match=r"beside G: R, I; .* FILE\[G\], FILE\[R\]"):
        assert len(read_image(path).data) == 1
    image = read_image([f"{path}[{name}]" for name in "GRI"])
    np.testing.assert_allclose(image.data, [FLUX, FLUX + 1, FLUX + 2], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "dtype", "cards", "said"),
    [
        ("MASK", np.int32, {}, r"none \(0, 5 are set\)"),
        ("MASK", np.uint8, {}, r"none \(0, 5 are set\)"),
        (
            "MASK",
            np.int16,
            {"MP_DETECTED": 5, "MP_SAT": 0},
            r"none \(MP_SAT \(0\), MP_DETECTED \(5",
        ),
        ("DQ", np.int16, {"TELESCOP": "HST"}, r"none \(0, 5 are set\)"),
        ("MSK", np.int64, {}, r"none \(0, 5 are set\)"),
        ("FLG", np.float32, {}, "has values up to 32.0; it has to be 1 where there is no data"),
        ("MASKBITS", bool, {}, r"none \(0 are set\)"),
    ],
)
def test_bits_of_unknown_meaning_are_left_aside_or_refused_if_given(
    name, dtype, cards, said, tmp_path
):
    hdus = fits.HDUList([hdu(FLUX, kind=fits.PrimaryHDU), hdu(planes(dtype=dtype), name, **cards)])
    with pytest.warns(AstropyUserWarning, match=f"the mask is ignored: HDU '{name}' .*{said}"):
        image = read_image(hdus)
    assert image.mask is None
    assert any("ignored" in text for text in image.meta["astrodeblend"]["read"])
    hdus.writeto(tmp_path / "mask.fits")
    for given in (hdus[1], tmp_path / "mask.fits"):
        with pytest.raises(ValueError, match=f"HDU '{name}' .*{said}"):
            read_image(FLUX, mask=given)


def test_weights_that_are_no_inverse_variances():
    for times in (1e-4, 30.0):
        hdus = [hdu(FLUX, "SCI"), hdu(times * STD**-2, "WHT")]
        hdus[1].data[0, :3] = 0, np.nan, -1
        image = read_image(fits.HDUList([fits.PrimaryHDU(), *hdus]))
        assert image.mask[0, 0, :3].all()
        assert image.mask.sum() == 3
        ratio = image.uncertainty.array[0, 1:] / STD[1:]
        assert np.ptp(ratio) < 1e-5
        assert ratio.mean() == pytest.approx(1, rel=0.1)
        text = " ".join(image.meta["astrodeblend"]["read"])
        assert "3 pixels have an uncertainty of 0, none" in text
        assert "no inverse variances" in text


# Files of their own.


@pytest.fixture
def files(tmp_path):
    """Files of one plane each, for three bands."""
    made = {}
    for name, data in {"std": STD, "var": STD**2, "ivar": STD**-2, "mask": HIDDEN}.items():
        made[name] = str(tmp_path / f"{name}.fits")
        label = None if name in ("std", "mask") else name.upper()
        fits.HDUList([fits.PrimaryHDU(), hdu(data, label)]).writeto(made[name])
    for i in range(3):
        made[i] = str(tmp_path / f"{i}.fits")
        hdu(FLUX * (i + 1), kind=fits.PrimaryHDU).writeto(made[i])
    return made


def test_planes_in_files_of_their_own(files):
    for given in (
        *({"uncertainty": files[name]} for name in ("std", "var", "ivar")),
        {"uncertainty": STD},
        {"uncertainty": VarianceUncertainty(STD**2)},
        {"weight": files["ivar"]},
        {"weight": STD**-2},
        {"weight": InverseVariance(STD**-2)},
    ):
        image = read_image(files[0], **given)
        np.testing.assert_allclose(image.uncertainty.array[0], STD, rtol=1e-5)
        assert image.mask is None
    for mask in (files["mask"], HIDDEN, HIDDEN.astype(int), hdu(HIDDEN)):
        np.testing.assert_array_equal(read_image(files[0], mask=mask).mask[0], HIDDEN)
    inside = NDData(FLUX, mask=DETECTED, uncertainty=StdDevUncertainty(9 * STD))
    image = read_image(inside, mask=HIDDEN, uncertainty=2.5)
    np.testing.assert_array_equal(image.mask[0], HIDDEN | DETECTED)
    assert (image.uncertainty.array == 2.5).all()


def test_planes_of_several_bands(files):
    bands = [files[0], files[1], files[2]]
    image = read_image(bands, uncertainty=[files["std"], STD, files["var"]], mask=files["mask"])
    np.testing.assert_allclose(image.uncertainty.array, [STD] * 3, rtol=1e-5)
    np.testing.assert_array_equal(image.mask, [HIDDEN] * 3)
    cube = np.array([FLUX, FLUX, FLUX])
    image = read_image(cube, uncertainty=[files["std"]] * 3, mask=[HIDDEN, ~HIDDEN, HIDDEN])
    np.testing.assert_array_equal(image.mask, [HIDDEN, ~HIDDEN, HIDDEN])
    np.testing.assert_allclose(image.uncertainty.array, [STD] * 3, rtol=1e-5)
    for one_for_all in (VarianceUncertainty(STD**2), STD):
        image = read_image(bands, uncertainty=one_for_all)
        np.testing.assert_allclose(image.uncertainty.array, [STD] * 3, rtol=1e-5)
    kinds = [STD, VarianceUncertainty(STD**2), InverseVariance(STD**-2)]
    image = read_image(np.moveaxis(cube, 0, -1), uncertainty=kinds, mask=HIDDEN)
    np.testing.assert_allclose(image.uncertainty.array, [STD] * 3, rtol=1e-5)
    np.testing.assert_array_equal(image.mask, [HIDDEN] * 3)
    with pytest.raises(ValueError, match="uncertainty is for one band, and there are 3; give one"):
        read_image(bands, uncertainty=files["std"])
    with pytest.raises(ValueError, match="mask is for 2 bands, and there are 3"):
        read_image(bands, mask=[HIDDEN, HIDDEN])
    hdus = [hdu(cube, kind=fits.PrimaryHDU), hdu(HIDDEN, "MASK"), hdu(STD, "ERR")]  # one for all
    image = read_image(fits.HDUList(hdus))
    np.testing.assert_array_equal(image.mask, [HIDDEN] * 3)
    np.testing.assert_allclose(image.uncertainty.array, [STD] * 3, rtol=1e-6)
    image.meta["astrodeblend"]["bands"] = ("\u03bb", "r'", "z")  # FITS is ASCII
    header = image_to_hdus(image, "x")[0].header
    assert [header["BAND1"], header["BAND2"]] == ["\\u03bb", "r'"]


def test_planes_that_are_refused(files):
    with pytest.raises(ValueError, match="uncertainty and weight are both given"):
        read_image(FLUX, uncertainty=STD, weight=STD)
    with pytest.raises(ValueError, match=r"the mask has bit planes, of which none \(0, 5 are set"):
        read_image(FLUX, mask=planes() | 33)
    with pytest.raises(ValueError, match=r"the mask has bit planes"):
        read_image(NDData(FLUX, mask=planes() | 33))
    with pytest.raises(ValueError, match=r"the uncertainty has shape \(3, 4\) and the image"):
        read_image(FLUX, uncertainty=np.ones((3, 4)))
    with pytest.raises(OSError, match=r"mask .*test_fits_dialects\.py' is not a whole FITS, JPEG"):
        read_image(FLUX, mask=__file__)
    with pytest.raises(FileNotFoundError, match=r"none\.fits' does not exist"):
        read_image(FLUX, mask="none.fits")
    for zero in (np.zeros(SHAPE), StdDevUncertainty(np.zeros(SHAPE)), 0.0):
        with pytest.raises(ValueError, match="uncertainty of 0 in every valid pixel of a band"):
            read_image(FLUX, uncertainty=zero)


def test_an_uncertainty_of_zero_is_no_data():
    deviation = np.where(HIDDEN, 0, STD)
    for source in (
        read_image(FLUX, uncertainty=deviation),
        read_image(NDData(FLUX, uncertainty=VarianceUncertainty(deviation**2))),
        read_image(fits.HDUList([hdu(FLUX, kind=fits.PrimaryHDU), hdu(deviation, "ERR")])),
    ):
        np.testing.assert_array_equal(source.mask[0], HIDDEN)


# asinh magnitudes.


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_asinh_magnitudes_are_undone(dtype, tmp_path):
    truth = 10 ** RNG.uniform(-3, 5, SHAPE) * np.sign(FLUX)
    stored = 2.5 / np.log(10) * np.arcsinh((truth - 12.5) / (2 * 30.0))
    path = tmp_path / "ps1.fits"
    cards = {"BSOFTEN": 30.0, "BOFFSET": 12.5}
    hdu(stored.astype(dtype), kind=fits.PrimaryHDU, **cards).writeto(path)
    image = read_image(path)
    np.testing.assert_allclose(image.data[0], truth, rtol=1e-5, atol=1e-4)
    assert {"BSOFTEN", "BOFFSET"}.isdisjoint(image.meta["header"])
    assert any("asinh" in text for text in image.meta["astrodeblend"]["read"])
    write_fits(image_to_hdus(image, "x"), tmp_path / "out.fits")
    np.testing.assert_array_equal(read_image(tmp_path / "out.fits").data, image.data)
    for bad in ({"BSOFTEN": 30.0}, {"BOFFSET": 1.0}, {"BSOFTEN": 0.0, "BOFFSET": 1.0}):
        with pytest.raises(ValueError, match="holds asinh magnitudes with BSOFTEN="):
            read_image(hdu(FLUX, **bad))


# Units.


@pytest.mark.parametrize(
    ("texts", "unit", "brightness"),
    [
        ("JY/BEAM;Jy/beam;jy/beam;Jy beam-1;JY BEAM^-1", u.Jy / u.beam, True),
        ("mJy/beam;mJy/BEAM;mjy/beam", u.mJy / u.beam, True),
        ("MJy/sr;MJy/Sr;MJY/SR;MJY/sr", u.MJy / u.sr, True),
        ("K;Kelvin;KELVIN", u.K, True),
        ("nJy;NJY", u.nJy, False),
        ("adu;ADU", u.adu, False),
        ("ADU/S;adu/s;ADU/sec", u.adu / u.s, False),
        ("COUNTS;counts;Counts;CTS;count;ct", u.ct, False),
        ("counts/s;COUNTS/S;CPS;cts/sec", u.ct / u.s, False),
        ("ELECTRONS;electrons;electron;e-;e", u.electron, False),
        ("ELECTRONS/S;electrons/s;e-/s;E-/S;e/s;electrons/sec", u.electron / u.s, False),
        ("DN;dn", u.DN, False),
        ("DN/S;dn/s", u.DN / u.s, False),
        ("nanomaggy;nmgy;nanomaggies;NANOMAGGY;NMGY", u.nmgy, False),
        (
            "erg/s/cm^2/A;erg/s/cm2/Angstrom;ERG/S/CM2/ANGSTROM;ergs/s/cm^2/A;erg/cm2/s/Ang",
            u.erg / u.s / u.cm**2 / u.AA,
            False,
        ),
        ("W/m2/sr;W/M2/SR", u.W / u.m**2 / u.sr, True),
        ("1e-20 erg/s/cm2;1E-20 ERG/S/CM2", u.Unit("1e-20 erg / (s cm2)"), False),
        ("10**-9 Jy", u.nJy, False),
        ("3631 Jy;3631 JY", u.Unit("3631 Jy"), False),
    ],
)
def test_units_in_any_spelling(texts, unit, brightness, tmp_path):
    for text in texts.split(";"):
        image = read_image(hdu(FLUX, BUNIT=text))
        assert image.unit == unit, text
        assert "BUNIT" not in image.meta["header"]
        assert is_surface_brightness(image) == brightness
    write_fits(image_to_hdus(image, "x"), tmp_path / "out.fits")
    assert CCDData.read(tmp_path / "out.fits", hdu="X").unit == unit


@pytest.mark.parametrize("text", ["MJY", "MJY/BEAM", "blobs", "Jy per beam", "UNKNOWN", "(a"])
def test_texts_that_are_no_unit(text):
    with pytest.warns(AstropyUserWarning, match="is no unit that astropy knows"):
        image = read_image(hdu(FLUX, BUNIT=text))
    assert image.unit is None
    assert image.meta["header"]["BUNIT"] == text


@pytest.mark.parametrize("text", ["mag", "MAG", "mag/arcsec2", "MAG/ARCSEC2", "dex"])
def test_magnitudes_are_refused(text):
    with pytest.raises(ValueError, match="but magnitudes do not add; convert it to flux"):
        read_image(hdu(FLUX, BUNIT=text))


def sky_header(scale=5e-5, **cards):
    header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"})
    header.update({"CRVAL1": 150.1, "CRVAL2": 2.2, "CRPIX1": 20.5, "CRPIX2": 18.5})
    header.update({"CDELT1": -scale, "CDELT2": scale, **cards})
    return header


@pytest.mark.filterwarnings("ignore:BUNIT 'blobs' is no unit")
def test_a_text_decides_no_arithmetic():
    def band(scale, unit):
        return fits.PrimaryHDU(np.ones(SHAPE), sky_header(scale, BUNIT=unit))

    assert read_image([band(5e-5, "blobs"), band(5e-5, "blobs")]).data.shape == (2, *SHAPE)
    with pytest.raises(ValueError, match="its unit 'blobs' is not known: it may be light per"):
        read_image([band(5e-5, "blobs"), band(1e-4, "blobs")])
    for unit, value in (("JY/BEAM", 1.0), ("K", 1.0), ("ADU", 0.25)):
        image = read_image([band(5e-5, unit), band(1e-4, unit)])
        np.testing.assert_allclose(image.data[1][~image.mask[1]], value, rtol=1e-5)


# Frames.


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("stated", "frame"),
    [
        *[(name, "icrs") for name in ("ICRS", " icrs", "Icrs", "'ICRS'", "ICRF", "")],
        *[(name, "fk5") for name in ("FK5", "fk5", "J2000", "FK5/J2000", "GSC1", "gsc1")],
        *[(name, "fk4") for name in ("FK4", "fk4", "B1950")],
        ("FK4-NO-E", "fk4noeterms"),
    ],
)
def test_frames_in_any_spelling(stated, frame, transposed, tmp_path):
    header = sky_header(RADESYS=stated)
    if transposed:
        for key in ("CTYPE", "CRVAL", "CDELT"):
            header[key + "1"], header[key + "2"] = header[key + "2"], header[key + "1"]
    image = read_image(fits.PrimaryHDU(FLUX, header))
    truth = SkyCoord(150.1, 2.2, unit="deg", frame=frame)
    pixel = image.wcs.world_to_pixel(truth.icrs)
    np.testing.assert_allclose(pixel, (19.5, 17.5), atol=1e-5)
    write_fits(image_to_hdus(image, "x"), tmp_path / "out.fits")
    place = read_image(tmp_path / "out.fits").wcs.pixel_to_world(19.5, 17.5)
    assert place.separation(truth).arcsec < 1e-5
    spelled = WCS(image.wcs.to_header())
    spelled.wcs.radesys = stated  # an NDData's WCS is mended, too
    again = read_image(NDData(FLUX, wcs=spelled)).wcs.pixel_to_world(19.5, 17.5)
    assert again.separation(truth).arcsec < 1e-5


@pytest.mark.parametrize(
    "cards",
    [
        *[{"RADESYS": name} for name in ("GAPPT", "CIRS", "unheard of")],
        *[{"CTYPE1": f"{a}LN-TAN", "CTYPE2": f"{a}LT-TAN"} for a in ("HP", "MA", "JU", "xy")],
        *[{"CTYPE1": f"{a}LON-TAN", "CTYPE2": f"{a}LAT-TAN"} for a in "EHST"],
    ],
    ids=lambda cards: next(iter(cards.values())),
)
def test_frames_without_places_are_left_aside(cards):
    with pytest.warns(AstropyUserWarning, match="the WCS is ignored: astropy finds no place"):
        image = read_image(fits.PrimaryHDU(FLUX, sky_header(**cards)))
    assert image.wcs is None
    assert any("WCS is ignored" in text for text in image.meta["astrodeblend"]["read"])


@pytest.mark.parametrize("stated", [None, "ICRS", "FK5"])
def test_galactic_coordinates(stated):
    header = sky_header(CTYPE1="GLON-TAN", CTYPE2="GLAT-TAN")
    if stated:
        header["RADESYS"] = stated
    place = read_image(fits.PrimaryHDU(FLUX, header)).wcs.pixel_to_world(19.5, 17.5)
    assert place.separation(SkyCoord(150.1, 2.2, unit="deg", frame="galactic")).arcsec < 1e-5


# Headers.


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("object  = 'M51     '", {"OBJECT": "M51"}),
        ("Object  = 'M51     ' / it", {"OBJECT": "M51"}),
        ("OBJECT  = 'M51 \xe9   '", {}),
        ("COMMENT \xe9", {}),
        ("OBJECT  = M51", {"OBJECT": "M51"}),
        ("OBJECT  = 'unfinished", {"OBJECT": "'unfinished"}),
        ("EXPTIME = nan", {"EXPTIME": "nan"}),
        ("KEY     = 'abc\x01'", {}),
        ("bad key = 3", {}),
        ("K.Y     = 3", {}),
        ("HIERARCH eso Det name = 'x'", {"ESO DET NAME": "x"}),
        (
            "HIERARCH ESO SOME KEYWORD THAT IS LONG = 'and a value too long for the card, too'",
            {},
        ),
        ("KEY     = 'a' / comment \xe9", {}),
        ("FULLSCAL= 'x'", {}),
    ],
)
@pytest.mark.parametrize("twice", [False, True])
def test_cards_are_mended_or_dropped(text, kept, twice, tmp_path):
    header = fits.Header([fits.Card.fromstring(text) for _ in range(1 + twice)])
    header["GOOD"] = 1
    image = read_image(fits.PrimaryHDU(FLUX, header))
    assert dict(image.meta["header"]) == {**kept, "GOOD": 1}
    write_fits(image_to_hdus(image, "x"), tmp_path / "out.fits")
    written = fits.getheader(tmp_path / "out.fits", "x")
    assert {key: written[key] for key in kept} == kept
