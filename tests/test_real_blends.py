"""Real blends of which only the peaks are known, beside another deblender."""

import numpy as np
import pytest
import torch
from astropy.table import QTable
from click.testing import CliRunner
from PIL import Image

from astrodeblend import Deblender
from astrodeblend.cli import main
from astrodeblend.networks import build
from astrodeblend.score import (
    SURVEY_PEERS,
    Photutils,
    Scarlet2,
    real,
    real_files,
    score_real_blends,
)
from astrodeblend.weights import Card, save_model

TINY = {"kind": "band_unet", "band_widths": [4, 8], "widths": [8], "attention": 1}
NOISE = np.array([0.2, 1.0, 0.5, 2.0, 3.0])[:, None, None]
SHAPE = (44, 52)
PAIR = np.array([[20.0, 21.0], [30.0, 24.0]])
SINGLE = np.array([[25.0, 20.0]])
CROWD = np.concatenate([PAIR, np.random.default_rng(1).uniform(8, 36, (24, 2))])


def gaussian(x, y, sigma, shape=SHAPE):
    rows, columns = np.indices(shape)
    light = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return light / (2 * np.pi * sigma**2)


def draw(places, sky=0.0):
    """Return a blend of as many bands as there are, and its light without noise."""
    light = NOISE * sum(gaussian(*place, 2.5) * 3000 for place in places)
    noise = NOISE * np.random.default_rng(3).standard_normal((5, *SHAPE))
    weights = np.broadcast_to(NOISE**-2.0, noise.shape).copy()
    weights[:, :, -6:] = 0
    data = light + noise + sky * NOISE
    data[:, :, -6:] = np.nan
    return {"images": data, "weights": weights, "psfs": np.stack(5 * [PSF])}, light


PSF = gaussian(10, 10, 1.5, shape=(21, 21))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return the path of a model of linear flux that has learned nothing."""
    path = tmp_path_factory.mktemp("models") / "flux.safetensors"
    torch.manual_seed(4)
    rule = {"petrosian_radii": 4.0, "pixels": 32}
    card = Card(
        *("flux", "has learned nothing", {}),
        bands=(), modes=("sum",), scaling="noise", size_rule=rule,
    )  # fmt: skip
    save_model(path, build(**TINY), card)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blends")
    for name, places in {"crowd": CROWD, "pair": PAIR, "single": SINGLE}.items():
        np.savez(folder / f"{name}.npz", **draw(places[:2])[0], peaks=places)
    return folder


class Offset:
    """Leaves twice the noise everywhere, and nothing of what it was given untold."""

    name, version, hint, installed = "offset", "1.2", "", True

    def __init__(self):
        self.given = []

    def deblend_image(self, data, weights, psfs, bands, positions):
        self.given.append((data, weights, psfs, bands, positions))
        seen = weights > 0
        return np.where(seen, data - 2 / np.sqrt(np.where(seen, weights, 1)), 0)


class Broken(Offset):
    """Fails on blends of one, and on no others."""

    name = "broken"

    def deblend_image(self, data, weights, psfs, bands, positions):
        if len(positions) == 1:
            raise RuntimeError("no such matrix")
        return np.full(data.shape, np.nan)


@pytest.fixture(scope="module")
def scored(model, folder):
    peers = Offset(), Broken()
    deblender = Deblender.load(model, device="cpu")
    return score_real_blends(deblender, folder, bands="ir", peers=peers), peers[0]


class TestScores:
    def test_chi_square_is_that_of_what_is_left(self, scored, folder):
        scores, _ = scored
        for row in scores.tables["blends"]:
            scene = scores.measured.scenes[row["blend"]]
            with np.load(folder / f"{row['blend']}.npz") as file:
                weights = file["weights"][[2, 1]]
            inside = np.zeros(weights.shape, bool)
            for label in scene.catalog["label"]:
                component = scene.component(label)
                inside |= (component.uncertainty.array > 0).any(axis=0)
            inside &= weights > 0
            expected = (weights * scene.residual.data**2)[inside].mean()
            np.testing.assert_allclose(row["chi_square"], expected, rtol=1e-5)

    def test_signal_to_noise_is_that_of_the_bands_with_data(self):
        """Of 3, 4 and nothing known, in units of the noise: 7 over the root of two bands."""
        data, weights = np.full((3, 4, 5), np.nan), np.zeros((3, 4, 5))
        data[:2, 2, 3], weights[:2, 2, 3] = [6, 12], [0.25, 1 / 9]
        places = np.array([[3.2, 1.9], [0.0, 0.0]])
        found = real._signal_to_noise(data, weights, places)
        np.testing.assert_allclose(found, [7 / np.sqrt(2), 0])

    def test_a_blend_without_peaks(self, splitting, tmp_path):
        np.savez(tmp_path / "a.npz", **draw(SINGLE)[0], peaks=np.empty((0, 2)))
        np.savez(tmp_path / "b.npz", **draw(SINGLE)[0], peaks=SINGLE)
        tables = score_real_blends(splitting["flux"], tmp_path, bands="ir").tables
        assert list(tables["peaks"]["blend"]) == ["b"]
        assert list(tables["blends"]["peaks"]) == [0, 1]

    def test_an_isolated_source_is_not_blended(self, scored, splitting, folder):
        row = scored[0].tables["blends"][2]
        assert (row["blend"], row["sources"]) == ("single", 1)
        assert np.isnan(row["chi_square_blended"])
        known = score_real_blends(splitting["flux"], folder).tables["blends"][2]
        assert known["chi_square"] < 1  # no more than noise is left
        assert row["chi_square"] > 2

    def test_another_deblender_has_the_same_pixels(self, scored):
        blends = scored[0].tables["blends"]
        np.testing.assert_allclose(blends["chi_square_offset"], [np.nan, 4, 4], rtol=1e-6)
        np.testing.assert_allclose(blends["chi_square_blended_offset"], [np.nan, 4, np.nan])

    def test_what_another_deblender_is_given(self, scored, folder):
        given = scored[1].given
        assert [len(each[-1]) for each in given] == [2, 1]
        data, weights, psfs, bands, positions = given[0]
        with np.load(folder / "pair.npz") as file:
            np.testing.assert_array_equal(data, file["images"][[2, 1]])
            np.testing.assert_array_equal(weights, file["weights"][[2, 1]])
            np.testing.assert_array_equal(psfs, file["psfs"][[2, 1]])
        assert bands == "ir"
        np.testing.assert_array_equal(positions, PAIR)

    def test_failures_are_listed(self, scored):
        scores, _ = scored
        crowd = "not tried, as it has 26 peaks, more than 25"
        assert scores.measured.not_done["offset"] == {"crowd": crowd}
        assert scores.measured.not_done["broken"] == {
            "crowd": crowd,
            "pair": "its light is not finite",
            "single": "RuntimeError: no such matrix",
        }
        assert np.isnan(scores.tables["blends"]["chi_square_broken"]).all()
        assert real.chi_squares(scores.tables["blends"], "chi_square").shape == (3, 0)

    def test_medians_are_of_blends_that_all_have_done(self, model, folder):
        deblender = Deblender.load(model, device="cpu")
        scores = score_real_blends(deblender, folder, peers=[Offset()])
        own, theirs = real.chi_squares(scores.tables["blends"], "chi_square")
        np.testing.assert_array_equal(own, scores.tables["blends"]["chi_square"][1:])
        np.testing.assert_allclose(theirs, 4)
        lines = [line.split() for line in str(scores).splitlines()]
        (line,) = (line for line in lines if line[:4] == ["done", "by", "all", "2"])
        assert line[4:] == [
            f"{np.median(own):.2f}", f"({np.percentile(own, 10):.2f},",
            f"{np.percentile(own, 90):.2f})", "4.00", "(4.00,", "4.00)",
        ]  # fmt: skip

    def test_both_go_without_the_sky(self, model, tmp_path):
        for name, sky in (("bright", 50), ("dark", 0)):
            np.savez(tmp_path / f"{name}.npz", **draw(SINGLE, sky=sky)[0], peaks=SINGLE)
        peer = Offset()
        scores = score_real_blends(Deblender.load(model, device="cpu"), tmp_path, peers=[peer])
        bright, dark = scores.tables["blends"]["chi_square"]
        assert bright == pytest.approx(dark, rel=0.02)
        np.testing.assert_allclose(scores.tables["blends"]["chi_square_offset"], 4, rtol=1e-6)
        over = peer.given[0][0] / NOISE
        assert np.abs(np.nanmedian(over, axis=(1, 2))).max() < 0.5

    def test_the_files(self, scored, folder, tmp_path, monkeypatch):
        scores, _ = scored
        out = tmp_path / "out"
        with monkeypatch.context() as patched:
            patched.setitem(scores.figures, "pair", lambda: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                scores.write(out)
        assert not out.exists()
        scores.write(out)
        assert sorted(path.name for path in out.iterdir()) == sorted(real_files(folder))
        blends = QTable.read(out / "blends.ecsv")
        np.testing.assert_array_equal(
            blends["chi_square_offset"], scores.tables["blends"]["chi_square_offset"]
        )
        assert blends.meta["peers"] == {"offset": "1.2", "broken": "1.2"}
        with Image.open(out / "pair.png") as image:
            assert np.asarray(image).std() > 10
        with pytest.raises(FileExistsError, match="peaks"):
            scores.write(out)


class TestOthersOnImages:
    def test_light_comes_in_the_unit_of_the_data(self):
        file, light = draw(PAIR)
        given = [file[name] for name in ("images", "weights", "psfs")]
        found = Photutils(n_sigma=3).split(light / NOISE, PAIR).light.sum(axis=0) * NOISE
        assert found.any()
        shown = Photutils(n_sigma=3).deblend_image(*given, "grizy", PAIR)
        bright = (light > 5 * NOISE).all(axis=0) & (file["weights"] > 0).all(axis=0)
        np.testing.assert_allclose(shown[:, bright], file["images"][:, bright])
        assert (shown[:, :, -6:] == 0).all()

    def test_scarlet2_fits_what_is_not_masked(self):
        pytest.importorskip("scarlet2")
        file, light = draw(PAIR)
        given = [file[name] for name in ("images", "weights", "psfs")]
        shown = SURVEY_PEERS["scarlet2"].deblend_image(*given, "grizy", PAIR)
        seen = file["weights"] > 0
        # a fit of some 20 numbers to thousands of pixels leaves the noise, and finds the light
        left = (file["weights"] * (file["images"] - shown) ** 2)[seen]
        assert 0.95 < left.mean() < 1.05
        assert np.abs(((shown - light) / NOISE)[seen]).max() < 2
        np.testing.assert_allclose(shown.sum(axis=(1, 2)), light.sum(axis=(1, 2)), rtol=0.02)


def run(*arguments, code=0):
    result = CliRunner().invoke(main, ["evaluate", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


class TestCommand:
    def test_it_writes_its_files(self, model, folder, tmp_path, monkeypatch):
        monkeypatch.setitem(SURVEY_PEERS, "scarlet2", Offset())
        options = ("--task", "hsc", "--data", folder, "--model", model, "-o", tmp_path / "out")
        text = run(*options, "--peer", "scarlet2").stdout
        for words in ("model flux", "offset 1.2, median", "peaks with S/N", "a picture of each"):
            assert words in text
        assert all((tmp_path / "out" / name).exists() for name in real_files(folder))
        refusal = run(*options, code=2)
        assert "--overwrite" in refusal.stderr

    def test_a_missing_package_is_said_first(self, model, folder, monkeypatch):
        monkeypatch.setattr(Scarlet2, "installed", False)
        options = ("--task", "hsc", "--data", folder, "--model", model, "--peer", "scarlet2")
        refusal = run(*options, code=2)
        assert "pip install astrodeblend[scarlet2]" in refusal.stderr

    @pytest.mark.parametrize("task", ["blends", "scenes", "detection"])
    def test_other_tasks_know_no_peer(self, task, folder):
        refusal = run("--task", task, "--data", folder, "--peer", "scarlet2", code=2)
        assert f"--task {task} takes no --peer" in refusal.stderr

    def test_peaks_outside_of_the_image_are_refused(self, model, tmp_path):
        np.savez(tmp_path / "a.npz", **draw(SINGLE)[0], peaks=[[20.0, 50.0]])  # (y, x) of 44x52
        refused = run("--task", "hsc", "--model", model, "--data", tmp_path, code=2)
        assert "a.npz has peaks outside of its 52x44 pixels; give (x, y)" in refused.stderr

    def test_a_folder_without_blends_is_refused(self, model, tmp_path):
        options = ("--task", "hsc", "--model", model, "--data", tmp_path, "-o", tmp_path / "out")
        assert "holds no .npz files" in run(*options, code=2).stderr
