"""Deblenders on blends of surveys: scores against known errors, bins, error bars, files."""

import json
from dataclasses import dataclass, field, replace
from itertools import cycle
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from astropy.table import QTable
from click.testing import CliRunner

from astrodeblend import Deblender
from astrodeblend.calibration import recentred
from astrodeblend.cli import main
from astrodeblend.cli.score import PEERS as OFFERED
from astrodeblend.metrics import centroid_error, ellipticity_error, flux_error, isophote, psnr
from astrodeblend.score import (
    FILES,
    SEP,
    SURVEY_PEERS,
    Conditions,
    Found,
    Method,
    Photutils,
    Scarlet2,
    benchmark,
    by_position,
    tune,
)
from astrodeblend.simulate import simulate_blends
from astrodeblend.weights import Card

pytest.importorskip("galsim")

NUMBER = 24


@pytest.fixture(scope="module")
def blends():
    return simulate_blends("lsst", NUMBER, bands="gri", stamp=40, rng=1)


@dataclass(frozen=True)
class Oracle(Method):
    """Knows the truth, and multiplies each source in each band with ``factor``."""

    answers: tuple = field(default=(), repr=False)
    factor: tuple = ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
    most: int = 2

    name: ClassVar[str] = "oracle"
    given: ClassVar[str] = "the truth"
    given_of_survey: ClassVar[str] = "the truth"
    grid_of_survey: ClassVar[dict] = {"factor": (((1.5,) * 3,) * 2, ((1.1,) * 3,) * 2)}

    version: ClassVar[str] = "1"

    @property
    def settings(self):
        return {"factor": self.factor}

    def split(self, blend, positions, conditions):
        assert conditions.bands == ("g", "r", "i")
        isolated = next(each for known, each in self.answers if np.array_equal(known, positions))
        # the other order: whoever scores has to see which is which
        light = (isolated * np.array(self.factor)[..., None, None])[::-1]
        return Found(np.zeros_like(blend), light[: self.most])


class Slow(Oracle):
    name: ClassVar[str] = "slow"
    slow: ClassVar[bool] = True


def oracle(blends, kind=Oracle, **settings):
    isolated = blends.isolated / blends.noise[:, None, :, None, None]
    return kind(answers=tuple(zip(blends.position, isolated, strict=True)), **settings)


def model(answer, **card):
    """Return what passes for a Deblender."""
    card = Card("mine", "made for a test", {}, bands=(), scaling="noise", **card)
    return SimpleNamespace(
        card=card, device=torch.device("cpu"), arithmetic="float32", deblend_arrays=answer
    )


def run(blends, *, models=(), peers=(), **options):
    return benchmark(blends, models=models, peers=peers, **options)


def of_first(result, number):
    """Return the scores by band of the first blends."""
    table = result.tables["benchmark"]
    return table[table["blends"] == number]


@pytest.fixture(scope="module")
def result(blends):
    peers = [oracle(blends, factor=((1.1,) * 3,) * 2), oracle(blends, Slow), SEP(n_sigma=2)]
    return run(blends, peers=peers, slow_blends=5, meta={"seed": 1})


def test_scores_go_on_the_card(blends):
    """Of a model that answers with half the blend for every source."""

    def half(stamps, positions, std):
        return np.stack([stamps, stamps], axis=1) / 2, np.ones((len(stamps), 2, *stamps.shape[1:]))

    mine = model(half, sha256="0123456789abcdef", scores={"hsc on val": {"blends": 3}})
    result = run(blends, models=[mine], peers=[oracle(blends)], meta={"seed": 1})
    card = result.to_card(mine.card)
    assert card.scores.keys() == {"hsc on val", "lsst on parametric"}
    scores = card.scores["lsst on parametric"]
    assert (scores["blends"], scores["seed"]) == (NUMBER, 1)
    table = of_first(result, NUMBER)
    table = table[table["deblender"] == "mine"]
    for name, column in (("flux error, mean", "flux_mean"), ("psnr", "psnr")):
        assert list(scores[name]) == ["g", "r", "i"]
        np.testing.assert_allclose(list(scores[name].values()), table[column], atol=1e-4)


class TestScores:
    def test_a_perfect_deblender(self, blends):
        table = run(blends, peers=[oracle(blends)]).tables["benchmark"]
        perfect = table[table["deblender"] == "oracle"]
        for name in ("flux_mean", "flux_median_any", "total_mean", "centroid", "ellipticity"):
            np.testing.assert_allclose(perfect[name], 0, atol=1e-6)
        np.testing.assert_allclose(perfect["flux_bias"], 0, atol=1e-6)
        assert (perfect["psnr"] > 100).all()
        nothing = table[table["deblender"] == "the blend itself"]
        assert (nothing["flux_mean"] > 0.05).all()
        assert (nothing["flux_bias"] > 0.05).all()  # there is too much light

    def test_a_known_error(self, blends):
        """A tenth too much in g, a fifth too little in r, of both sources."""
        result = run(blends, peers=[oracle(blends, factor=((1.1, 0.8, 1.0),) * 2)])
        table = of_first(result, NUMBER)
        table = table[table["deblender"] == "oracle"]
        for name in ("flux_mean", "flux_median", "flux_mean_any", "total_mean", "total_median"):
            np.testing.assert_allclose(table[name], [0.1, 0.2, 0], atol=1e-5)
        np.testing.assert_allclose(table["flux_bias"], [0.1, -0.2, 0], atol=1e-5)
        np.testing.assert_allclose(table["centroid"], 0, atol=1e-5)
        colours = result.tables["colours"]
        assert colours.colnames == ["deblender", "g-r", "r-i"]
        expected = 2.5 * np.log10([1.1 / 0.8, 1.25])
        np.testing.assert_allclose(list(colours[-1])[1:], expected, rtol=1e-4)
        # an error in proportion to the truth: by so much below its peak
        light = blends.isolated[:, :, 0].astype(float)
        bright = result.measured.truth.bright[..., 0]
        below = 20 * np.log10(light.max((2, 3)) / (0.1 * np.sqrt(np.square(light).mean((2, 3)))))
        assert table["psnr"][0] == pytest.approx(below[bright].mean(), abs=1e-3)

    def test_scores_are_those_of_the_metrics(self, blends):
        """Of the blend itself, band by band, in one footprint for all bands."""
        scores = run(blends).measured.entries[0].scores
        isolated = blends.isolated / blends.noise[:, None, :, None, None]
        blend = np.broadcast_to(blends.blend[:, None], isolated.shape)
        footprint = isophote(isolated)
        for b in range(3):
            pair = blend[:, :, b : b + 1], blends.isolated[:, :, b : b + 1]
            peak = pair[1].max(axis=(2, 3, 4))
            for name, expected in {
                "flux": flux_error(*pair, footprint=footprint),
                "centroid": centroid_error(*pair, footprint=footprint),
                "ellipticity": ellipticity_error(*pair, footprint=footprint),
                "psnr": psnr(*pair, data_range=peak),
            }.items():
                np.testing.assert_allclose(scores[name][..., b], expected, rtol=1e-3, atol=1e-4)

    def test_signal_to_noise(self, blends):
        """Measured on noise, a fit of the true image scatters by one over S/N."""
        truth = run(blends).measured.truth
        rng, weight = np.random.default_rng(1), 1 / blends.variance[0, 1]
        image = blends.isolated[0, 0, 1].astype(float)
        noise = rng.standard_normal((2000, *image.shape)) * np.sqrt(blends.variance[0, 1])
        fitted = (noise * image * weight).sum((1, 2)) / (image**2 * weight).sum()
        assert 1 / fitted.std() == pytest.approx(truth.snr[0, 0, 1], rel=0.06)

    def test_light_that_is_not_there(self, blends):
        """A colour of no light, or a place, is as wrong as can be, and counts."""
        factor = ((1.0, -1.0, 1.0), (1.0, 1.0, 1.0))
        scores = run(blends, peers=[oracle(blends, factor=factor)]).measured.entries[1].scores
        assert np.isinf(scores["colour"][:, 0]).all()
        assert np.isinf(scores["centroid"][:, 0, 1]).all()
        assert np.isfinite(scores["colour"][:, 1]).all()

    def test_one_source_found(self, blends):
        entry = run(blends, peers=[oracle(blends, most=1)]).measured.entries[1]
        assert entry.failures == {"fewer than two sources": NUMBER}
        np.testing.assert_allclose(entry.scores["flux"][:, 0], -1)
        np.testing.assert_allclose(entry.scores["flux"][:, 1], 0, atol=1e-5)


class TestBins:
    def test_they_add_up(self, blends):
        result = run(blends, peers=[oracle(blends, factor=((1.1, 0.8, 1.0), (1.2, 1.2, 1.3)))])
        table, bins = of_first(result, NUMBER), result.tables["bins"]
        assert (table["sources"] > 5).all()
        for row in table:
            mine = bins[(bins["band"] == row["band"]) & (bins["deblender"] == row["deblender"])]
            for quantity in ("separation", "fainter"):
                part = mine[(mine["quantity"] == quantity) & (mine["sources"] > 0)]
                assert part["sources"].sum() == row["sources"]
                mean = np.average(part["flux_mean"], weights=part["sources"])
                assert mean == pytest.approx(row["flux_mean"], rel=1e-6)
            by_signal = mine[mine["quantity"] == "snr"]
            assert by_signal["sources"].sum() == 2 * NUMBER
            assert by_signal["sources"][by_signal["low"] >= 20].sum() == row["sources"]
        together = bins[bins["band"] == "all"]
        for quantity in ("separation", "fainter", "snr"):
            some = (together["quantity"] == quantity) & (together["deblender"] == "oracle")
            assert together["sources"][some].sum() == (
                2 * NUMBER * 3 if quantity == "snr" else result.measured.truth.bright.sum()
            )

    def test_what_they_are_of(self, blends):
        truth = run(blends).measured.truth
        offset = blends.position[:, 1] - blends.position[:, 0]
        np.testing.assert_allclose(truth.separation, 0.2 * np.hypot(*offset.T))
        flux = blends.flux[..., 2]  # i, the reference
        fainter = -2.5 * np.log10(flux[:, 0] / flux[:, 1])
        np.testing.assert_allclose(truth.fainter[:, 0], fainter, atol=1e-6)
        for edges, place in truth.bins().values():
            assert (np.diff(edges) > 0).all()
            assert place.min() >= 0
            assert place.max() < len(edges) - 1


class TestModels:
    def test_every_source_in_the_middle(self):
        """Each star is asked for at the middle of a stamp, and comes back to its place."""
        stars = simulate_blends("lsst", 6, bands="gri", stamp=48, stars=1.0, rng=2)
        stars = replace(stars, blend=stars.isolated.sum(axis=1))
        asked = []

        def answer(stamps, positions, std):
            assert std == "predicted"
            asked.append((stamps, positions))
            y, x = np.indices(stamps.shape[2:]) - 23.5
            near = stamps * (np.hypot(x, y) < 6)
            components = np.stack([near, stamps - near], axis=1)
            return components, np.ones_like(components)

        entry = run(stars, models=[model(answer)]).measured.entries[1]
        assert entry.milliseconds > 0
        alone = stars.isolated / stars.noise[:, None, :, None, None]
        offset = stars.position[:, 1] - stars.position[:, 0]
        for k, (stamps, positions) in enumerate(asked[:2]):
            core = stamps[:, :, 22:26, 22:26].max(axis=(2, 3))
            assert (core > 0.99 * alone[:, k].max(axis=(2, 3))).all()
            assert np.abs(positions[:, 0] - 23.5).max() <= 0.5
            np.testing.assert_allclose(positions[:, 1] - positions[:, 0], (-1) ** k * offset)
        # the footprint is within these six pixels, and so are wings of the other one
        far = np.hypot(*offset.T) > 10
        assert far.any()
        assert np.abs(entry.scores["flux"][far]).max() < 0.1

    @pytest.mark.parametrize("factor", [1.0, 0.5])
    def test_error_bars(self, blends, factor):
        """Of Gaussian errors of known size as many are within as should be."""
        rng = np.random.default_rng(3)
        isolated = blends.isolated / blends.noise[:, None, :, None, None]
        shifts = np.rint(19.5 - blends.position).astype(int)

        turn = cycle(range(2))
        # what one source has too much the other one lacks, so that their sum is the blend
        error = 0.3 * rng.standard_normal(isolated[:, 0].shape)
        error = np.stack([error, -error], axis=1).astype(np.float32)

        def answer(stamps, positions, std):
            k = next(turn)
            found = recentred((isolated + error)[:, k], shifts[:, k])
            components = np.stack([found, stamps - found], axis=1)
            return components, np.full_like(components, 0.3 * factor)

        blends = replace(blends, blend=blends.isolated.sum(axis=1))
        result = run(blends, models=[model(answer)])
        rows = of_first(result, NUMBER)
        rows = rows[rows["deblender"] == "mine"]
        expected = {1.0: (0.683, 0.954), 0.5: (0.383, 0.683)}[factor]
        entry = result.measured.entries[1]
        for name, tolerance in (("pixels", 0.01), ("fluxes", 0.1)):
            for percent, part in zip((68, 95), expected, strict=True):
                values = entry.scores[f"{name}_{percent}"]
                of = entry.scores["pixels"].sum() if name == "pixels" else values.size
                assert values.sum() / of == pytest.approx(part, abs=tolerance)
                np.testing.assert_allclose(rows[f"{name}_{percent}"], part, atol=2 * tolerance)
        nothing = of_first(result, NUMBER)[0]
        assert np.isnan(nothing["pixels_68"])

    def test_of_another_kind(self, blends, tiny_model):
        with pytest.raises(ValueError, match="takes pictures; these are linear flux"):
            run(blends, models=[Deblender.load(tiny_model, device="cpu")])

    def test_blends_of_three(self):
        three = simulate_blends("lsst", 2, sources=3, bands="r", stamp=32, rng=1)
        with pytest.raises(ValueError, match=r"2 blends of 3 sources .*give sources=2"):
            run(three)


class TestPeers:
    def conditions(self, blend):
        psf = np.zeros((3, 25, 25), np.float32)
        y, x = np.indices((25, 25)) - 12
        psf[:] = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
        psf /= psf.sum(axis=(1, 2), keepdims=True)
        return Conditions(np.ones_like(blend), psf, ("g", "r", "i"))

    def scene(self, noise, size=48):
        y, x = np.indices((size, size))
        colours = np.array([[9.0, 7, 5], [3, 5, 8]])[..., None, None]
        places = np.array([[16.0, 20], [31, 27]])
        isolated = np.stack(
            [
                30 * colour * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 2.5**2))
                for colour, (px, py) in zip(colours, places, strict=True)
            ]
        )
        blend = isolated.sum(axis=0)
        blend = blend + noise * np.random.default_rng(1).standard_normal(blend.shape)
        return blend.astype(np.float32), isolated, places

    @pytest.mark.parametrize("peer", [Photutils(n_sigma=2), SEP(n_sigma=2)], ids=lambda p: p.name)
    def test_separate_sources_come_back(self, peer):
        blend, isolated, places = self.scene(noise=1.0)
        found = peer.split(blend, places, self.conditions(blend))
        components = by_position(found, blend, places)
        errors = flux_error(components, isolated)
        assert np.abs(errors).max() < 0.05
        # the sky is known to be zero, whatever there is at the border
        inside = found.light.any(axis=(0, 1))
        assert (found.sky[:, inside] == 0).all()

    @pytest.mark.parametrize("morphology", ["sersic", "pixels"])
    def test_scarlet2_separates_profiles(self, morphology):
        pytest.importorskip("scarlet2")
        blend, isolated, places = self.scene(noise=1.0)
        peer = replace(SURVEY_PEERS["scarlet2"], morphology=morphology)
        found = peer.split(blend, places, self.conditions(blend))
        for b in range(3):
            pair = found.light[:, b : b + 1], isolated[:, b : b + 1]
            assert np.abs(flux_error(*pair)).max() < (0.02 if morphology == "sersic" else 0.05)

    def test_the_command_offers_them(self):
        assert tuple(SURVEY_PEERS) == OFFERED
        for name, peer in SURVEY_PEERS.items():
            assert peer.name == name
            assert peer.grid_of_survey.keys() <= peer.settings.keys()
        assert isinstance(SURVEY_PEERS["scarlet2"], Scarlet2)

    def test_tuning(self, blends):
        table = tune(oracle(blends), blends)
        np.testing.assert_allclose(table["flux_mean"], [0.1, 0.5], rtol=1e-4)
        np.testing.assert_allclose(table["factor"][0], 1.1)
        with pytest.raises(ValueError, match="no grid"):
            tune(type("Fixed", (Oracle,), {"grid_of_survey": {}})(), blends)


class TestResult:
    def test_the_same_blends(self, result):
        assert set(result.tables["benchmark"]["blends"]) == {NUMBER, 5}
        every, same = of_first(result, NUMBER), of_first(result, 5)
        assert "slow" not in every["deblender"]
        assert (same["deblender"] == "slow").sum() == 3
        bright = result.measured.truth.bright[:5, :, 0]
        sep = result.measured.entries[3].scores["flux"][:5, :, 0][bright]
        row = same[(same["deblender"] == "sep") & (same["band"] == "g")]
        np.testing.assert_allclose(row["flux_mean"], np.abs(sep).mean())
        assert row["sources"] == bright.sum()

    def test_the_text(self, result):
        text = str(result)
        assert "24 blends of 2 sources as lsst sees them in g, r, i, seed 1" in text
        assert "All 24 blends\n=" in text
        assert "The first 5, which all tried\n=" in text
        for title in ("by separation (arcsec)", "fainter than the neighbour", "by S/N"):
            assert text.count(title) == 2
        for word in ("CPU: ", "sep 1", "given the truth"):
            assert word in text
        assert "within" not in text.partition("Flux:")[0]  # nobody states errors
        assert max(map(len, text.splitlines())) <= 150

    def test_the_files(self, result, tmp_path):
        folder = tmp_path / "out"
        result.write(folder)
        assert {path.name for path in folder.iterdir()} == set(FILES["survey"])
        table = QTable.read(folder / "benchmark.ecsv")
        assert set(table["blends"]) == {NUMBER, 5}
        np.testing.assert_allclose(
            table["flux_mean"][table["blends"] == 5], of_first(result, 5)["flux_mean"]
        )
        assert table.meta["seed"] == 1
        bins = result.tables["bins"]
        assert len(QTable.read(folder / "bins.ecsv")) == len(bins) == 4 * (5 + 4 + 6) * (4 + 3)
        content = json.loads((folder / "benchmark.json").read_text())
        assert content["survey"] == "lsst"
        assert content["deblenders"][0]["milliseconds"] is None
        assert {row["band"] for row in content["bands"]["5"]} == {"g", "r", "i"}
        with pytest.raises(FileExistsError):
            result.write(folder)

    def test_one_band(self):
        blends = simulate_blends("lsst", 3, bands="r", stamp=40, rng=1)
        text = str(run(blends, peers=[SEP(n_sigma=2)]))
        assert "as lsst sees them in r" in text
        assert "colours" not in text


class TestCommand:
    def invoke(self, *arguments, code=0):
        done = CliRunner().invoke(main, ["benchmark", *map(str, arguments)])
        assert done.exit_code == code, done.output
        return done

    def test_a_run(self, tmp_path):
        out = tmp_path / "out"
        lsst = ("--survey", "lsst", "--bands", "g,r")
        arguments = (*lsst, "-n", 2, "--peer", "sep", "--out", out, "--seed", 2)
        text = self.invoke(*arguments).stdout
        assert "2 blends of 2 sources as lsst sees them in g, r, seed 2" in text
        assert {path.name for path in out.iterdir()} == set(FILES["survey"])
        assert "--overwrite" in self.invoke(*arguments, code=2).stderr
        again = self.invoke(*arguments[:-4], "--seed", 2).stdout
        tables = [each.partition("All 2 blends")[2].partition("CPU")[0] for each in (text, again)]
        timed = [t.partition("sep: given")[0] for t in tables]
        assert timed[0] == timed[1]

    def test_tuning(self, monkeypatch):
        monkeypatch.setattr(SEP, "grid_of_survey", {"n_sigma": (1.0, 3.0)})
        options = ("--survey", "hsc", "--bands", "r,i", "-n", 2, "--peer", "sep", "--tune")
        text = self.invoke(*options).stdout
        assert "as hsc sees them in r, i" in text
        assert "n_sigma" in text

    def test_what_does_not_go_together(self):
        refused = self.invoke("--survey", "lsst", "--recipe", "sum", code=2)
        assert "--recipe does not go with --survey" in refused.stderr
        refused = self.invoke("--bands", "g,r", "--data", "x", code=2)
        assert "--bands does not go without --survey" in refused.stderr
        assert "a --survey, or --fields" in self.invoke(code=2).stderr
        refused = self.invoke("--survey", "lsst", "--split", "test", code=2)
        assert "give --images" in refused.stderr
        refused = self.invoke("--survey", "lost", code=2)
        assert "'lost' is not known" in refused.stderr
