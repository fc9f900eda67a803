"""The contract of `Deblender`, with networks so small that their answers are known."""

import re
import threading
import warnings
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, NDData, StdDevUncertainty
from astropy.table import Table
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.data import hubble_deep_field

from astrodeblend import Deblender, Flag, decode_flags
from astrodeblend.networks import Familiarity, build
from astrodeblend.weights import Card, list_models, load_model, read_card, save_model

SHAPE = (90, 120)  # (y, x)
PLACE = (50.0, 42.0)
TINY = {"kind": "unet", "widths": (8, 8), "blocks": (1, 1), "attention": 0}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Paths of weight files, by what their networks do."""
    folder = tmp_path_factory.mktemp("weights")
    rng = torch.random.get_rng_state()
    torch.manual_seed(3)
    networks = {
        "any": build(**TINY),  # whatever comes out of random weights
        "quarters": constant(0.75, 0.25, std=0.1),
        "paper": build("reiman2019", width=8, root_blocks=1, branch_blocks=1),
    }
    torch.random.set_rng_state(rng)
    for name, network in networks.items():
        scores = {"psnr": {"mean": 36.213, "median": 36.5}, "split": "val"}
        save_model(folder / f"{name}.safetensors", network, Card(name, "", {}, scores=scores))
    return {name: folder / f"{name}.safetensors" for name in networks}


def constant(*fractions, std):
    """A network that gives each component the same fraction of the light everywhere."""
    network = build(**TINY)
    with torch.no_grad():
        network.fraction.weight.zero_()
        network.fraction.bias.copy_(torch.logit(torch.tensor(fractions)).repeat_interleave(3))
        network.log_std[2].weight.zero_()
        network.log_std[2].bias.fill_(np.log(std))
    return network


@pytest.fixture(scope="module")
def deblender(weights):
    return Deblender.load(weights["any"], device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def quarters(weights):
    return Deblender.load(weights["quarters"], device="cpu", dtype="float32")


@pytest.fixture
def linear(splitting):
    """A deblender for flux."""
    return splitting["flux"]


def tan_wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crpix, wcs.wcs.crval = (30.0, 70.0), (150.1, 2.2)
    wcs.wcs.cd = 5e-5 * np.array([[-0.9, 0.3], [0.3, 0.9]])
    return wcs


def flux(*, level=20.0, shape=SHAPE, place=PLACE):
    """Two round galaxies on a noisy sky, three bands."""
    rng = np.random.default_rng(11)
    rows, columns = np.indices(shape)
    light = np.zeros(shape)
    for x, y, scale, peak in ((*place, 3.0, 300.0), (place[0] + 9, place[1] - 7, 2.0, 200.0)):
        light += peak * np.exp(-np.hypot(columns - x, rows - y) / scale)
    colours = np.array([1.0, 0.8, 0.5])[:, None, None]
    return (level + colours * light + rng.normal(size=(3, *shape))).astype(np.float32)


def picture(n=80, seed=0):
    """A picture (y, x, 3) as a camera gives it."""
    image = flux(shape=(n, n), place=(n // 2, n // 2), level=8 + seed)
    return np.moveaxis(np.clip(image, 0, 250), 0, -1).astype(np.uint8)


def light(image, result):
    """Values above the background, (bands, y, x)."""
    return image.data - np.array(result.meta["background"])[:, None, None]


# Where a deblender comes from.


def test_models_are_listed_with_their_scores():
    models = Deblender.models()
    assert isinstance(models, Table)
    assert models.colnames == ["name", "images", "bands", "modes", "scores"]
    assert models["name"].tolist() == list(list_models())
    assert "galaxyzoo" in models["name"]
    assert "R, G, B" in str(models)
    assert "..." not in str(models)
    for row in models:
        scores = read_card(row["name"]).scores
        assert scores
        assert all(name in row["scores"] for name in scores)
    listed = dict(zip(models["name"], models["scores"], strict=True))
    psnr = read_card("galaxyzoo").scores["reiman2019 on test"]["psnr"]["mean"]
    assert f"reiman2019 on test {psnr:.2f} dB, " in listed["galaxyzoo"]
    bands = read_card("survey").scores["lsst on test"]["psnr"].values()
    assert f"lsst on test {min(bands):.2f} to {max(bands):.2f} dB" in listed["survey"]
    assert re.search(r"lsst fields \d\d % complete, \d\.\d noise limits", listed["field"])


def test_a_model_of_the_package_takes_a_blend_apart():
    deblender = Deblender.from_pretrained("galaxyzoo", device="cpu")
    assert deblender.card.name == "galaxyzoo"
    result = deblender(picture())
    core = np.s_[:, 38:43, 38:43]
    assert (
        light(result.central, result)[core].mean() > 0.8 * light(result.image, result)[core].mean()
    )
    assert (
        light(result.companion, result)[core].mean()
        < 0.5 * light(result.central, result)[core].mean()
    )


@pytest.mark.parametrize("name", ["galaxyzooo", "", "galaxyzoo.safetensors", 3])
def test_an_unknown_name_lists_those_there_are(name):
    with pytest.raises(ValueError, match=rf"name={name!r} is not a model.*'galaxyzoo'"):
        Deblender.from_pretrained(name)


@pytest.mark.parametrize(
    ("typo", "meant"), [("surveys", "survey"), ("GalaxyZoo", "galaxyzoo"), ("reiman", "reiman2019")]
)
def test_a_typo_is_answered_with_what_was_meant(typo, meant):
    with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
        Deblender.from_pretrained(typo)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ((), "Deblender.from_pretrained()"),
        (("galaxyzoo",), "Deblender.from_pretrained('galaxyzoo')"),
        (("Surve",), "Deblender.from_pretrained('survey')"),
        ((Path("mine.safetensors"),), "Deblender.load('mine.safetensors')"),
        ((Path("mine.safetensors"), "card"), "Deblender.load('mine.safetensors')"),
        ((torch.nn.Identity(),), "give the network's, an astrodeblend.weights.Card"),
    ],
)
def test_what_is_no_network_is_answered_with_what_was_meant(wrong, right):
    with pytest.raises(TypeError) as error:
        Deblender(*wrong)
    assert str(error.value).endswith(right)


def test_progress_has_a_name_for_each_stage(deblender, capfd):
    blends = [picture() for _ in range(3)]
    deblender.deblend_stamps(blends, progress=True)
    stages = re.findall(r"(\w+): 100%[^\r\n]* 3/3 ", capfd.readouterr().err)
    assert list(dict.fromkeys(stages)) == ["reading", "deblending"]
    deblender.deblend_stamps(blends)
    assert capfd.readouterr().err == ""


def test_a_notebook_shows_its_card(deblender):
    assert deblender._repr_html_().startswith("<b>Deblender &#x27;any&#x27;")
    assert (
        escape(read_card("survey").description) in Deblender.from_pretrained("survey")._repr_html_()
    )
    assert "survey" in Deblender.from_pretrained()._repr_html_()


def test_the_right_model_is_taken_by_default():
    deblender = Deblender.from_pretrained(device="cpu")
    said = "<Deblender 'galaxyzoo' for a colour picture or 'survey' for linear flux, on cpu>"
    assert repr(deblender) == said
    with pytest.raises(ValueError, match="by the kind of each image; here it takes a name"):
        _ = deblender.card
    results = deblender.deblend_stamps([picture(), NDData(flux(), unit="nJy")])
    assert [result.meta["model"] for result in results] == ["galaxyzoo", "survey"]
    assert [result.meta["kind"] for result in results] == ["picture", "flux"]


def test_a_model_that_does_not_suit_is_refused(deblender, linear):
    with pytest.raises(
        ValueError, match=r"linear flux; the model 'any' takes a colour.*'survey'.*kind='picture'"
    ):
        deblender(flux())
    with pytest.raises(
        ValueError, match=r"picture; the model 'split' takes linear.*'galaxyzoo'.*kind='flux'"
    ):
        linear(picture())
    for call in (linear, linear.deblend_scene):
        call(picture(), kind="flux")


def test_a_file_that_is_not_there(tmp_path):
    for path in (None, 3):
        with pytest.raises(TypeError, match=f"path={path}: give the path of a .safetensors file"):
            Deblender.load(path)
    with pytest.raises(FileNotFoundError, match=r"mine\.safetensors' does not exist"):
        Deblender.load(tmp_path / "mine.safetensors")


def test_a_corrupt_file_is_refused(weights, tmp_path):
    path = tmp_path / "any.safetensors"
    content = bytearray(weights["any"].read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    path.with_suffix(".json").write_bytes(weights["any"].with_suffix(".json").read_bytes())
    with pytest.raises(ValueError, match=r"the weight file .* is corrupt"):
        Deblender.load(path)


def test_more_than_two_branches_are_refused(tmp_path):
    path = tmp_path / "three.safetensors"
    save_model(path, build(**TINY, branches=3), Card("three", "", {}))
    with pytest.raises(ValueError, match=r"model 'three' has 3 branches; .* two"):
        Deblender.load(path)


def test_what_it_says_of_itself(deblender):
    assert repr(deblender) == "<Deblender 'any' (R, G, B) on cpu, float32>"
    assert deblender.card.bands == ("R", "G", "B")
    assert deblender.device == torch.device("cpu")
    assert deblender.dtype is torch.float32


@pytest.mark.parametrize("device", ["meta", "nonsense", "cuda:99", "cpu:7", 1.5])
def test_a_device_that_is_not_there_is_refused(weights, device):
    with pytest.raises(ValueError, match=rf"device='{device}' .* choose .*'cpu'"):
        Deblender.load(weights["any"], device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(weights):
    assert Deblender.load(weights["any"]).device.type == "cpu"
    with pytest.raises(ValueError, match=r"device='cuda' is not here; choose 'cpu'"):
        Deblender.load(weights["any"], device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_with_a_gpu(weights, deblender):
    there = Deblender.load(weights["any"])
    assert there.device.type == "cuda"
    images = [picture(seed=i) for i in range(3)]
    for one, two in zip(
        there.deblend_stamps(images), deblender.deblend_stamps(images), strict=True
    ):
        np.testing.assert_allclose(one.central.data, two.central.data, rtol=1e-3, atol=0.1)


@pytest.mark.parametrize("dtype", ["float16", "double", torch.int8, 32])
def test_an_arithmetic_that_is_not_offered_is_refused(weights, dtype):
    with pytest.raises(ValueError, match=r"dtype=.* is not offered; choose float32 or bfloat16"):
        Deblender.load(weights["any"], dtype=dtype)


@pytest.mark.parametrize("batch_size", [0, -3, 2.5, "all", True])
def test_a_batch_size_that_is_none_is_refused(weights, batch_size):
    with pytest.raises(ValueError, match=rf"batch_size={batch_size!r}: .*'auto'"):
        Deblender.load(weights["any"], batch_size=batch_size)


@pytest.mark.parametrize(
    ("scaling", "multiplies", "mixed", "expected"),
    [
        ("picture", "amx_bf16", False, torch.bfloat16),
        ("picture", "avx512_bf16", False, torch.bfloat16),
        ("picture", "avx512_f", False, torch.float32),
        ("noise", "amx_bf16", False, torch.float32),
        ("noise", "amx_bf16", True, torch.bfloat16),
        ("noise", "avx512_f", True, torch.float32),
    ],
)
def test_the_arithmetic_by_default(weights, monkeypatch, scaling, multiplies, mixed, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {multiplies: True})
    network, card = load_model(weights["any"])
    network.mixed_precision = mixed
    card = replace(card, scaling=scaling)
    assert Deblender(network, card, device="cpu").dtype is expected
    assert Deblender(network, card, device="cpu", dtype="float32").dtype is torch.float32


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_bfloat16_gives_nearly_the_same(weights, deblender, dtype):
    quick = Deblender.load(weights["any"], device="cpu", dtype=dtype)
    assert quick.dtype is torch.bfloat16
    batch = np.random.default_rng(0).uniform(0, 1, (2, 3, 32, 32)).astype(np.float32)
    components = quick.deblend_arrays(batch)
    assert components.dtype == np.float32
    np.testing.assert_allclose(components, deblender.deblend_arrays(batch), atol=0.02)
    assert not np.array_equal(components, deblender.deblend_arrays(batch))


# Any image in: same grid, unit, WCS, mask and units out.


def test_the_grid_unit_and_wcs_are_those_of_the_image(linear):
    data = flux()
    image = CCDData(data, unit="nJy", wcs=tan_wcs(), meta={"TELESCOP": "Subaru"})
    result = linear(image, PLACE)
    assert result.position == PLACE
    np.testing.assert_array_equal(result.image.data, data)
    for part in (result.image, result.central, result.companion):
        assert part.data.shape == data.shape
        assert part.data.dtype == np.float32
        assert part.unit == u.nJy
        assert part.mask is None
        assert part.meta["header"]["TELESCOP"] == "Subaru"
        corners = np.array([[0, 0, 119, 119], [0, 89, 0, 89]])
        there = part.wcs.world_to_pixel(tan_wcs().pixel_to_world(*corners))
        np.testing.assert_allclose(there, corners, rtol=0, atol=1e-6)
    for part in (result.central, result.companion):
        assert isinstance(part.uncertainty, StdDevUncertainty)
        assert np.all(part.uncertainty.array > 0)
    np.testing.assert_array_equal(image.data, data)  # the input is left alone


def test_a_fits_file_to_a_fits_file(linear, tmp_path):
    """What "Done when" asks for: same sky, same pixels, same unit."""
    header = tan_wcs().to_header()
    header["BUNIT"] = "MJy/sr"
    fits.writeto(tmp_path / "in.fits", flux(), header)
    linear(tmp_path / "in.fits").write(tmp_path / "out.fits")
    rows, columns = np.mgrid[0:90:10, 0:120:10].reshape(2, -1)
    sky = tan_wcs().pixel_to_world(columns, rows)
    for name in ("CENTRAL", "COMPANION"):
        ccd = CCDData.read(tmp_path / "out.fits", hdu=name, hdu_uncertainty=f"{name}_UNCERT")
        assert ccd.unit == u.MJy / u.sr
        there = ccd.wcs.celestial.world_to_pixel(sky)
        np.testing.assert_allclose(there, (columns, rows), rtol=0, atol=1e-6)


def test_known_fractions_of_a_picture(quarters):
    """Both answers known in closed form: 3/4 and 1/4 of the light."""
    image = picture()
    result = quarters(image)
    expected = np.moveaxis(image, -1, 0)
    np.testing.assert_allclose(result.central.data, 0.75 * expected, rtol=1e-4)
    np.testing.assert_allclose(result.companion.data, 0.25 * expected, rtol=1e-4)
    # The network's own deviation, a tenth of the mean light: a picture's noise is in it.
    np.testing.assert_allclose(result.central.uncertainty.array, 0.1 * expected.mean(), rtol=1e-3)


def test_a_place_on_the_sky_is_a_place_in_pixels(linear):
    image = NDData(flux(), wcs=tan_wcs())
    sky = tan_wcs().pixel_to_world(*PLACE)
    by_sky, by_pixel = linear(image, sky), linear(image, PLACE)
    np.testing.assert_allclose(by_sky.position, PLACE, atol=1e-6)
    np.testing.assert_allclose(by_sky.central.data, by_pixel.central.data, rtol=1e-4, atol=1e-3)


def test_the_default_position_is_the_centre(linear):
    image = flux(place=(59.5, 44.5))
    result = linear(image)
    assert result.position == (59.5, 44.5)
    np.testing.assert_array_equal(result.central.data, linear(image, (59.5, 44.5)).central.data)


def test_a_two_dimensional_image_stays_so(linear):
    data = flux()[0]
    result = linear(CCDData(data, unit="adu", wcs=tan_wcs()), PLACE)
    assert not result.flags & Flag.SINGLE_BAND  # it takes any number
    for part in (result.image, result.central, result.companion):
        assert part.data.shape == SHAPE
    assert result.central.uncertainty.array.shape == SHAPE
    cube = linear(CCDData(data[None], unit="adu", wcs=tan_wcs()), PLACE)
    assert cube.central.data.shape == (1, *SHAPE)
    np.testing.assert_array_equal(cube.central.data[0], result.central.data)


def test_a_single_band_is_the_average_of_three(deblender):
    """The network itself gives its bands different answers."""
    grey = picture()[:, :, 0]
    result = deblender(grey)
    assert Flag.SINGLE_BAND in result.flags
    three = deblender(np.stack([grey] * 3))
    assert np.ptp(three.central.data, axis=0).max() > 1
    np.testing.assert_allclose(
        result.central.data, three.central.data.mean(axis=0), rtol=1e-4, atol=1e-3
    )


def test_masked_pixels_stay_masked(linear):
    data = flux()
    mask = np.zeros(data.shape, dtype=bool)
    mask[0, 40:43, 50] = True
    data[1, 44, 52] = np.nan
    result = linear(NDData(data, mask=mask), PLACE)
    assert Flag.MASKED in result.flags
    mask[1, 44, 52] = True
    for part in (result.central, result.companion):
        np.testing.assert_array_equal(part.mask, mask)
        np.testing.assert_array_equal(np.isnan(part.data), mask)
    # What lies under the mask plays no part.
    data[0, 41, 50] = 1e6
    again = linear(NDData(data, mask=mask), PLACE)
    np.testing.assert_array_equal(again.central.data, result.central.data)


def test_weights_of_zero_are_masked_and_others_become_deviations(linear):
    weight = np.full((3, *SHAPE), 4.0)
    weight[2, 5, 6] = 0
    result = linear(NDData(flux(), uncertainty=InverseVariance(weight)), PLACE)
    assert result.central.mask.sum() == 1
    assert result.central.mask[2, 5, 6]
    np.testing.assert_allclose(result.central.uncertainty.array[0, 5, 6], 0.5)  # far outside


def test_a_unit_that_is_none_is_kept_as_text(linear, tmp_path):
    header = fits.Header({"BUNIT": "photons per fortnight"})
    with pytest.warns(UserWarning, match="is no unit that astropy knows"):
        result = linear(fits.ImageHDU(flux(), header), PLACE)
    result.write(tmp_path / "out.fits")
    assert fits.getheader(tmp_path / "out.fits", "CENTRAL")["BUNIT"] == "photons per fortnight"


def test_a_list_of_bands_is_an_image(linear):
    bands = [NDData(band, unit="nJy") for band in flux()]
    expected = linear(NDData(flux(), unit="nJy"), PLACE)
    result = linear(bands, PLACE)
    np.testing.assert_array_equal(result.central.data, expected.central.data)


def test_the_meta_data_say_how(linear):
    result = linear(NDData(flux(), unit="nJy"), PLACE)
    meta = result.meta
    assert meta["model"] == "split"
    assert meta["sha256"] == linear.card.sha256
    assert meta["kind"] == "flux"
    assert meta["stamp_pixels"] == 32
    assert meta["stamp_width"] in (32, 64)
    assert meta["noise_from"] == "image"
    np.testing.assert_allclose(meta["background"], 20, atol=0.5)
    np.testing.assert_allclose(meta["noise"], 1, rtol=0.2)


def test_a_network_without_deviations_is_asked_from_eight_sides(weights):
    deblender = Deblender.load(weights["paper"], device="cpu")
    image = picture()
    result = deblender(image)
    blend = np.moveaxis(image, -1, 0)[None] / np.float32(255)
    answers = []
    for k in range(4):
        for flip in (False, True):  # by hand, with numpy
            turned = np.rot90(blend, k, (-2, -1))
            turned = turned[..., ::-1] if flip else turned
            answer = deblender.deblend_arrays(turned)[0]
            answer = answer[..., ::-1] if flip else answer
            answers.append(np.rot90(answer, -k, (-2, -1)))
    spread = 255 * np.std(answers, axis=0, ddof=1)
    bright = blend[0] > 0.01
    for part, std in zip((result.central, result.companion), spread, strict=True):
        np.testing.assert_allclose(part.uncertainty.array[bright], std[bright], rtol=1e-3)


# What is refused.


@pytest.mark.parametrize("bands", [2, 4, 5])
def test_a_wrong_number_of_bands_is_refused(deblender, bands):
    with pytest.raises(
        ValueError, match=rf"image has {bands} bands; .*'any' takes 3, in the order R, G, B"
    ):
        deblender(np.zeros((bands, 40, 50)) + flux()[0, :40, :50], kind="picture")


@pytest.mark.parametrize("position", [(120, 10), (-1, 10), (10, 90), (np.nan, 3)])
def test_a_position_outside_is_refused(linear, position):
    with pytest.raises(ValueError, match=r"position is .*, outside the image"):
        linear(flux(), position)


def test_a_position_that_is_none_is_refused(linear):
    image, sky = flux(), Table({"ra": [150.1, 150.2], "dec": [2.2, 2.3]})
    degrees = (150.1 * u.deg, 2.2 * u.deg)
    for position in (5, "centre", (1, 2, 3), ("a", "b"), {"x": 1}, (3, 4) * u.arcsec, degrees):
        for call in (linear, partial(linear.deblend_scene, positions=position)):
            with pytest.raises(TypeError, match=r"position is .* two numbers \(x, y\) or"):
                call(image, **({"position": position} if call is linear else {}))
    for call, place in ((linear, sky[0]), (linear, sky.as_array()[0]), (linear, sky)):
        with pytest.raises(TypeError, match=r"of ra, dec; give two columns, \(x, y\) .* SkyCoord"):
            call(image, place)
    for positions in (sky, sky.as_array()):
        with pytest.raises(TypeError, match=r"of ra, dec; give two columns, \(x, y\) .* SkyCoord"):
            linear.deblend_scene(image, positions=positions)


def test_one_position_is_a_list_of_one(linear):
    image = NDData(flux(), wcs=tan_wcs())
    expected = linear.deblend_scene(image, positions=[PLACE]).catalog
    for one in (
        PLACE,
        list(PLACE),
        np.array(PLACE),
        PLACE * u.pix,
        tan_wcs().pixel_to_world(*PLACE),
    ):
        catalog = linear.deblend_scene(image, positions=one).catalog
        assert len(catalog) == 1
        np.testing.assert_allclose(catalog["segment_flux"], expected["segment_flux"], rtol=1e-5)


@pytest.mark.parametrize("purity", ["high", None, 0, 1.0, True, np.nan, [0.9]])
def test_a_purity_that_is_no_share_is_refused(linear, purity):
    said = re.escape(f"purity={purity!r}: give a share between 0 and 1, such as 0.95")
    with pytest.raises(ValueError, match=said):
        linear.deblend_scene(flux(), purity=purity)


def test_degrees_as_a_position_are_told_what_they_take(linear):
    image = NDData(flux(), wcs=tan_wcs())
    for call in (linear, linear.deblend_scene):
        given = {"position": (150.1, 2.2)} if call is linear else {"positions": [(150.1, 2.2)]}
        with pytest.raises(ValueError, match=r"outside the image; .* degrees are given as a Sky"):
            call(image, **given)


def test_a_sky_position_needs_a_wcs(linear):
    with pytest.raises(ValueError, match=r"position is .* on the sky, but the image has no WCS"):
        linear(flux(), tan_wcs().pixel_to_world(*PLACE))


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (np.zeros((3, 0, 40)), ValueError, "shape"),
        (np.full((3, 40, 40), np.nan), ValueError, "no valid pixel"),
        (np.zeros(40), ValueError, "shape"),
        (np.zeros((1, 1, 1, 40, 40)), ValueError, "shape"),
        (np.zeros((3, 12, 40)), ValueError, "at least 16"),
        ([[1.0, 2.0], [3.0]], ValueError, "image is no array of numbers"),
        (None, TypeError, "NoneType"),
        (3.0, TypeError, "float"),
    ],
)
def test_what_is_no_image_is_refused(deblender, image, error, words):
    with pytest.raises(error, match=words):
        deblender(image)


def test_an_image_of_nothing_but_noise_is_taken_without_a_source(linear):
    noise = np.random.default_rng(5).normal(100, 3, (3, 100, 130))
    result = linear(NDData(noise, unit="nJy"))
    assert result.flags & Flag.NO_SOURCE
    assert result.meta["stamp_width"] == 32
    for part in (result.central, result.companion):
        assert np.isfinite(part.data).all()
        assert np.isfinite(part.uncertainty.array).all()
    table = result.to_table()
    assert all(flags & Flag.NO_SOURCE for flags in table["flags"])


def test_files_that_are_none_are_refused(deblender, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        deblender(tmp_path / "missing.fits")
    (tmp_path / "not.jpg").write_bytes(b"not a picture")
    with pytest.raises(OSError, match=r"not\.jpg"):
        deblender(tmp_path / "not.jpg")


# Many at once.


def mixed(kind):
    if kind == "picture":
        return [picture(seed=1), picture(seed=2)[:, :, 0], picture(90, seed=3)]
    central = flux(place=(59.5, 44.5))
    return [
        NDData(flux(), unit="nJy"),
        flux()[0],
        CCDData(central, unit="adu", wcs=tan_wcs()),
        central[:2],
    ]


@pytest.mark.parametrize("kind", ["picture", "flux"])
@pytest.mark.parametrize("batch_size", ["auto", 1, 2, 100])
def test_many_are_each_as_if_alone(deblender, linear, kind, batch_size):
    deblender = deblender if kind == "picture" else linear
    network, options = deblender._model.inference.network, {"device": "cpu", "dtype": "float32"}
    many = Deblender(network, deblender.card, batch_size=batch_size, **options)
    results = many.deblend_stamps(mixed(kind))
    assert isinstance(results, list)
    for result, image in zip(results, mixed(kind), strict=True):
        alone = deblender(image)
        assert result.flags == alone.flags
        assert result.position == alone.position
        assert result.meta == alone.meta
        for name in ("central", "companion"):
            a, b = getattr(result, name), getattr(alone, name)
            assert a.unit == b.unit
            np.testing.assert_allclose(a.data, b.data, rtol=1e-5, atol=1e-4)
            np.testing.assert_allclose(a.uncertainty.array, b.uncertainty.array, rtol=1e-4)


def test_no_images_give_no_results(deblender):
    assert deblender.deblend_stamps([]) == []


def test_an_array_of_pictures_is_a_list_of_images(deblender):
    results = deblender.deblend_stamps(np.stack([picture(seed=1), picture(seed=2)]))
    alone = deblender(picture(seed=2))
    np.testing.assert_allclose(results[1].central.data, alone.central.data, rtol=1e-5, atol=1e-4)


def test_the_one_that_is_wrong_is_named(linear):
    with pytest.raises(ValueError, match=r"images\[1\]: position is \(500, 3\), outside"):
        linear.deblend_stamps([flux(), flux()], [None, (500, 3)])
    with pytest.raises(ValueError, match="positions has 1 and images 2"):
        linear.deblend_stamps([flux(), flux()], [None])


@pytest.mark.parametrize("images", ["image.fits", None, 3])
def test_what_is_no_list_of_images_is_refused(deblender, images):
    with pytest.raises(TypeError, match=r"images is a .*; give a list of images"):
        deblender.deblend_stamps(images)


def test_threads_may_share_one(deblender):
    images = [picture(seed=i) for i in range(4)]
    alone = [deblender(image).central.data for image in images]
    together = {}

    def work(i):
        together[i] = deblender(images[i]).central.data

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        np.testing.assert_array_equal(together[i], alone[i])


# What is unlike training.


@pytest.fixture(scope="module")
def judging(weights, tmp_path_factory):
    """A deblender that finds the second of three pictures too far from all it knows."""
    network, card = load_model(weights["any"])
    features = features_of(network, three())
    network.familiarity = Familiarity(24)  # mean and deviation of 8 features, mean of 8 others
    network.familiarity.mean.copy_(features[[0, 2]].mean(dim=0))
    network.familiarity.threshold.fill_(1.1 * network.familiarity(features)[[0, 2]].max())
    path = tmp_path_factory.mktemp("judging") / "judging.safetensors"
    save_model(path, network, card, dtype=torch.float32)
    return Deblender.load(path, device="cpu")


def three():
    noise = np.random.default_rng(2).integers(0, 255, (80, 80, 3)).astype(np.uint8)
    return [picture(seed=1), noise, picture(seed=2)]


def features_of(network, pictures):
    batch = torch.from_numpy(np.stack(pictures)).movedim(-1, 1) / 255
    with torch.no_grad():
        return network(batch, with_features=True)[2]


@pytest.mark.parametrize("batch_size", ["auto", 2])
def test_a_stamp_unlike_training_is_flagged(judging, batch_size):
    options = {"device": "cpu", "dtype": "float32", "batch_size": batch_size}
    network = judging._model.inference.network
    judging = Deblender(network, judging.card, **options)
    results = judging.deblend_stamps(three())
    flagged = [bool(result.flags & Flag.OUT_OF_DISTRIBUTION) for result in results]
    assert flagged == [False, True, False]
    features, mean = features_of(network, three()), network.familiarity.mean
    expected = np.linalg.norm(features - mean, axis=1)
    threshold = network.familiarity.threshold.item()
    for result, distance in zip(results, expected, strict=True):
        assert result.meta["familiarity"]["distance"] == pytest.approx(distance, rel=1e-3)
        assert result.meta["familiarity"]["threshold"] == threshold
    assert "differs from those that the model was trained on" in decode_flags(results[1].flags)[-1]
    assert "differs from those" in repr(results[1])
    assert np.all(results[1].to_table()["flags"] & Flag.OUT_OF_DISTRIBUTION)


def test_a_network_that_answers_with_no_number_is_flagged(judging):
    network = load_model_of(judging)
    network.familiarity.mean.fill_(torch.nan)
    result = Deblender(network, judging.card, device="cpu")(picture())
    assert result.flags & Flag.OUT_OF_DISTRIBUTION


def load_model_of(deblender):
    network = build(**deblender.card.network)
    network.familiarity = Familiarity(24)
    network.load_state_dict(deblender._model.inference.network.state_dict())
    return network


def test_arrays_and_answers_are_the_same_with_and_without(judging, deblender):
    batch = np.random.default_rng(1).uniform(0, 1, (3, 3, 24, 30)).astype(np.float32)
    network = load_model_of(judging)
    without = Deblender(network, judging.card, device="cpu")
    network.familiarity = None
    np.testing.assert_array_equal(judging.deblend_arrays(batch), without.deblend_arrays(batch))
    one, other = judging(picture()), without(picture())
    np.testing.assert_array_equal(one.central.data, other.central.data)
    assert other.meta["familiarity"] is None
    assert not other.flags & Flag.OUT_OF_DISTRIBUTION


# The bare network.


@settings(max_examples=20, deadline=None)
@given(n=st.integers(0, 3), height=st.integers(16, 40), width=st.integers(16, 40))
def test_any_shape_goes(deblender, n, height, width):
    batch = np.random.default_rng(n).uniform(0, 1, (n, 3, height, width)).astype(np.float32)
    components = deblender.deblend_arrays(batch)
    assert components.shape == (n, 2, 3, height, width)
    assert components.dtype == np.float32
    assert np.all((components >= 0) & (components <= batch[:, None]))


def test_arrays_are_what_the_network_says(deblender, weights):
    batch = np.random.default_rng(1).uniform(0, 1, (5, 3, 24, 30)).astype(np.float32)
    with torch.no_grad():
        expected, _ = deblender._model.inference.network(torch.from_numpy(batch))
    np.testing.assert_allclose(deblender.deblend_arrays(batch), expected, rtol=1e-5, atol=1e-6)
    options = {"device": "cpu", "dtype": "float32", "batch_size": 2}
    in_parts = Deblender.load(weights["any"], **options).deblend_arrays(batch)
    np.testing.assert_allclose(in_parts, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "convert",
    [
        lambda a: a.astype(np.float64),
        lambda a: a.astype(">f4"),
        lambda a: np.asfortranarray(a),
        lambda a: a[::-1][::-1],
    ],
)
def test_arrays_of_any_layout(deblender, convert):
    batch = np.random.default_rng(1).uniform(0, 1, (2, 3, 24, 30)).astype(np.float32)
    np.testing.assert_array_equal(
        deblender.deblend_arrays(convert(batch)), deblender.deblend_arrays(batch)
    )


def test_a_tensor_is_answered_with_a_tensor(deblender):
    batch = torch.rand(2, 3, 20, 20, requires_grad=True)
    components = deblender.deblend_arrays(batch)
    assert isinstance(components, torch.Tensor)
    assert components.dtype is torch.float32
    assert components.device == batch.device
    assert not components.requires_grad
    assert not components.is_inference()  # so that it can go on anywhere
    expected = deblender.deblend_arrays(batch.detach().numpy())
    np.testing.assert_array_equal(components, expected)


@pytest.mark.parametrize(
    "shape", [(3, 32, 32), (1, 2, 32, 32), (1, 3, 15, 32), (1, 3, 32, 15), (1, 1, 3, 32, 32)]
)
def test_arrays_of_the_wrong_shape_are_refused(deblender, shape):
    with pytest.raises(
        ValueError, match=rf"batch has shape {re.escape(str(shape))}; .*\(n, 3, y, x\).*R, G, B"
    ):
        deblender.deblend_arrays(np.zeros(shape, dtype=np.float32))


@pytest.mark.parametrize("value", [1.5, -0.1, np.nan, np.inf])
def test_values_outside_the_range_are_refused(deblender, value):
    batch = np.full((2, 3, 20, 20), 0.5, dtype=np.float32)
    batch[1, 2, 3, 4] = value
    for array in (batch, torch.from_numpy(batch)):
        with pytest.raises(ValueError, match=r"batch has values .*finite ones within \[0, 1\]"):
            deblender.deblend_arrays(array)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (np.zeros((1, 3, 20, 20), dtype=np.uint8), "uint8.*divided by 255"),
        (torch.zeros((1, 3, 20, 20), dtype=torch.int64), "int64"),
        ([[1.0]], "batch is a list"),
        ("image.fits", "batch is a str"),
    ],
)
def test_what_is_no_array_of_floats_is_refused(deblender, batch, words):
    with pytest.raises(TypeError, match=words):
        deblender.deblend_arrays(batch)


def test_nothing_is_warned_of(linear):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linear(NDData(flux(), unit="nJy", wcs=tan_wcs()), PLACE).to_table()


def test_scenes_of_several_sources_have_a_model_of_their_own():
    picture = hubble_deep_field()[60:160, 240:340]
    deblender = Deblender.from_pretrained("galaxyzoo", device="cpu")
    assert deblender.card.crowded == "crowded"
    places = [(52, 48), (60, 62)]
    of_two = deblender.deblend_scene(picture, positions=places)
    assert (of_two.meta["model"], of_two.meta["network"]) == ("galaxyzoo", "crowded")
    assert of_two.meta["sha256"] == Deblender.from_pretrained("crowded").card.sha256
    assert deblender.deblend_scene(picture, positions=places[:1]).meta["network"] == "galaxyzoo"
    assert deblender(picture, places[0]).meta["network"] == "galaxyzoo"


def test_flux_goes_to_the_model_that_finds_sources():
    survey = Deblender.from_pretrained("survey", device="cpu")
    assert survey.card.crowded == "field"
    result = survey(NDData(flux(), unit="nJy"))
    assert (result.meta["model"], result.meta["network"]) == ("survey", "field")
    assert "model survey (network field)" in repr(result)
    field = Deblender.from_pretrained("field", device="cpu")
    one, other = (each(NDData(flux(), unit="nJy")).central.data for each in (survey, field))
    np.testing.assert_array_equal(one, other)
