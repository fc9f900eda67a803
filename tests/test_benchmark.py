"""Other deblenders get what is theirs, and one table holds them all."""

import itertools
import json
import re
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from astropy.table import QTable
from click.testing import CliRunner

from astrodeblend import Deblender
from astrodeblend.blends import draw_blends
from astrodeblend.cli import main
from astrodeblend.cli.score import PEERS as OFFERED
from astrodeblend.metrics import flux_error, psnr
from astrodeblend.score import (
    FILES,
    PEERS,
    SEP,
    Found,
    Method,
    Package,
    Photutils,
    Scarlet2,
    benchmark,
    by_position,
    kindest,
    tune,
)

RNG = np.random.default_rng(1)
QUICK = Photutils(n_sigma=3), SEP(n_sigma=3, n_levels=32)


def gaussians(*sources, size=80):
    """Images of round Gaussians (x, y, width, brightness), each (3, size, size)."""
    y, x = np.mgrid[:size, :size]
    colour = np.array([0.9, 0.7, 0.5])[:, None, None]
    return np.stack(
        [
            colour * peak * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * width**2))
            for cx, cy, width, peak in sources
        ]
    ).astype(np.float32)


@dataclass(frozen=True)
class Half(Method):
    """Cuts a stamp in the middle, and minds blends whose number is in ``refuses``."""

    cut: float = 0.5
    refuses: tuple = ()

    name: ClassVar[str] = "half"
    given: ClassVar[str] = "the blend"
    grid: ClassVar[dict] = {"cut": (0.1, 0.5)}
    calls: ClassVar[list] = []

    version: ClassVar[str] = "1.0"

    def split(self, blend, positions):
        self.calls.append(positions)
        # a first call warms up
        if len(self.calls) - 2 in self.refuses:
            raise KeyError("no such\nblend")
        left = np.arange(blend.shape[2]) < self.cut * blend.shape[2]
        return Found(np.zeros_like(blend), np.stack([blend * left, blend * ~left]))


@pytest.fixture
def half():
    Half.calls.clear()
    return Half()


@pytest.fixture(scope="module")
def blends(galaxies):
    return draw_blends(galaxies, number=4, seed=3)


@pytest.fixture(scope="module")
def result(blends, tiny_model):
    return benchmark(
        blends,
        models=[Deblender.load(tiny_model, device="cpu")],
        peers=[*QUICK, Half()],
    )


class TestPeers:
    @pytest.mark.parametrize("peer", [Photutils(), SEP()], ids=lambda peer: peer.name)
    def test_separate_galaxies_come_back(self, peer):
        isolated = gaussians((25, 40, 3, 0.9), (57, 45, 4, 0.6))
        blend = isolated.max(axis=0)
        positions = np.array([[25, 40], [57, 45]])
        found = peer.split(blend, positions)
        assert len(found.light) == 2
        for components in (kindest(found, blend, isolated), by_position(found, blend, positions)):
            # faint wings below the threshold are in both
            np.testing.assert_allclose(components, isolated, atol=0.01)
            assert psnr(components, isolated).min() > 45

    @pytest.mark.parametrize("peer", [Photutils, SEP], ids=lambda peer: peer.name)
    def test_the_sky(self, peer):
        noise = 0.1 + 0.01 * RNG.standard_normal((3, 80, 80)).astype(np.float32)
        blend = gaussians((25, 40, 3, 0.8), (57, 45, 4, 0.6)).max(axis=0) + noise
        found = {sky: peer(n_sigma=5, sky=sky).split(blend, None) for sky in ("blend", "border")}
        assert np.ptp(found["border"].sky, axis=(1, 2)).max() == 0
        np.testing.assert_allclose(found["border"].sky[:, 0, 0], 0.1, atol=0.005)
        for each in found.values():  # what is in no segment is the sky's, the rest is light
            inside = each.light.any(axis=(0, 1))
            everything = each.sky + each.light.sum(axis=0)
            np.testing.assert_allclose(everything[:, inside], blend[:, inside], atol=1e-6)
        outside = ~found["blend"].light.any(axis=(0, 1))
        np.testing.assert_array_equal(found["blend"].sky[:, outside], blend[:, outside])

    @pytest.mark.parametrize("peer", [Photutils(), SEP()], ids=lambda peer: peer.name)
    def test_an_empty_stamp(self, peer):
        blend = np.full((3, 40, 40), 0.2, dtype=np.float32)
        found = peer.split(blend, None)
        assert found.light.shape == (0, 3, 40, 40)
        np.testing.assert_allclose(found.sky, blend)

    def test_scarlet2_separates_profiles(self):
        pytest.importorskip("scarlet2")
        isolated = gaussians((19, 20, 3, 0.9), (29, 24, 2, 0.6), size=48)
        positions = np.array([[19.5, 20], [29, 23.5]])
        found = Scarlet2().split(isolated.sum(axis=0), positions)
        components = by_position(found, isolated.sum(axis=0), positions)
        assert psnr(components, isolated).min() > 40
        np.testing.assert_allclose(
            found.sky + found.light.sum(axis=0), isolated.sum(axis=0), atol=1e-5
        )

    def test_the_command_offers_them(self):
        assert tuple(PEERS) == OFFERED
        assert all(peer.grid.keys() <= peer().settings.keys() for peer in PEERS.values())
        assert not Scarlet2().installed or Scarlet2().version


class TestChoice:
    @pytest.mark.parametrize("number", [2, 3, 5])
    def test_the_kindest_by_brute_force(self, number):
        """Try every pair, order and fate of the others, image by image."""
        places = RNG.uniform(5, 35, (number, 2))
        light = gaussians(*((x, y, 2, RNG.uniform(0.2, 0.9)) for x, y in places), size=40)
        sky = RNG.uniform(0, 0.05, light[0].shape).astype(np.float32)
        isolated = RNG.permutation(light)[:2] + RNG.normal(0, 0.02, (2, *sky.shape))
        tried = []
        for one, other in itertools.permutations(range(number), 2):
            tried.append((sky + light[one], sky + light[other]))
            parts = {one: [one], other: [other]}
            for k in set(range(number)) - {one, other}:
                nearer = min((one, other), key=lambda m: np.hypot(*(places[k] - places[m])))
                parts[nearer].append(k)
            tried.append(
                (sky + light[parts[one]].sum(axis=0), sky + light[parts[other]].sum(axis=0))
            )
        best = max(tried, key=lambda pair: psnr(np.stack(pair), isolated).sum())
        found = kindest(Found(sky, light), sky + light.max(axis=0), isolated)
        np.testing.assert_allclose(found, np.stack(best), atol=1e-5)

    def test_fragments_go_to_the_nearer(self):
        whole = gaussians((12, 20, 3, 0.8), (30, 20, 2, 0.7), size=40)
        left = np.arange(40) < 12
        light = np.stack([whole[1], whole[0] * left, whole[0] * ~left])
        found = kindest(Found(np.zeros_like(whole[0]), light), whole.max(axis=0), whole)
        np.testing.assert_allclose(found, whole, atol=1e-6)

    def test_a_source_without_light(self):
        whole = gaussians((12, 20, 3, 0.8), (30, 20, 2, 0.7), size=40)
        light = np.stack([whole[1], np.zeros_like(whole[0]), whole[0]])
        found = kindest(Found(np.zeros_like(whole[0]), light), whole.max(axis=0), whole)
        np.testing.assert_allclose(found, whole, atol=1e-6)

    def test_one_source_or_none(self):
        isolated = gaussians((12, 20, 3, 0.8), (30, 20, 2, 0.1), size=40)
        blend = isolated.max(axis=0)
        sky = np.zeros_like(blend)
        none = Found(sky, np.empty((0, *blend.shape)))
        np.testing.assert_array_equal(kindest(none, blend, isolated), [blend, blend])
        np.testing.assert_array_equal(by_position(none, blend, None), [blend, blend])
        # all light is in one source: the sky is a better companion than the blend is
        one = Found(sky, blend[None])
        np.testing.assert_array_equal(kindest(one, blend, isolated), [blend, sky])
        np.testing.assert_array_equal(kindest(one, blend, isolated[::-1]), [sky, blend])
        np.testing.assert_array_equal(by_position(one, blend, [[12, 20], [30, 20]]), [blend] * 2)

    def test_by_position(self):
        light = gaussians((30, 20, 2, 0.5), (12, 20, 3, 0.8), (5, 5, 2, 0.9), size=40)
        blend, sky = light.max(axis=0), np.zeros_like(light[0])
        chosen = by_position(Found(sky, light), blend, np.array([[12, 21], [31, 20]]))
        np.testing.assert_array_equal(chosen, light[[1, 0]])
        both = by_position(Found(sky, light), blend, np.array([[12, 21], [13, 20]]))
        np.testing.assert_array_equal(both, [blend, blend])

    @pytest.mark.parametrize("recipe", ["reiman2019", "varied"])
    def test_true_positions(self, galaxies, recipe):
        """The galaxies are where the light is."""
        blends = draw_blends(galaxies, recipe=recipe, number=4)
        _, isolated = next(blends.batches())
        light = isolated.sum(axis=2)
        light -= np.median(light, axis=(2, 3), keepdims=True)
        light = light.clip(0) ** 4  # the bulge
        y, x = np.indices(light.shape[2:])
        total = light.sum(axis=(2, 3))
        middles = np.stack([(light * x).sum((2, 3)) / total, (light * y).sum((2, 3)) / total], -1)
        np.testing.assert_allclose(
            blends.recipe.positions(blends.draw, blends.recipe.crop)[0], middles, atol=1.0
        )


class TestBenchmark:
    def test_scores_are_those_of_the_components(self, blends, half):
        found = benchmark(blends, peers=[half])
        blend, isolated = next(blends.batches())
        nothing, entry = found.measured.entries
        both = np.broadcast_to(blend[:, None], isolated.shape)
        np.testing.assert_allclose(nothing.scores["psnr"], psnr(both, isolated), rtol=1e-6)
        np.testing.assert_array_equal(nothing.scores["flux_error"], flux_error(both, isolated))
        for k in range(4):
            components = kindest(half.split(blend[k], None), blend[k], isolated[k])
            np.testing.assert_allclose(entry.scores["psnr"][k], psnr(components, isolated[k]))
            np.testing.assert_array_equal(found.measured.pictures["half"][k], components)
        np.testing.assert_array_equal(
            half.calls[1 : 1 + 4], blends.recipe.positions(blends.draw, blends.recipe.crop)[0]
        )
        assert (entry.scores["psnr"].sum(axis=1) >= entry.scores["by_position"].sum(axis=1)).all()

    def test_the_table(self, result):
        table = result.tables["benchmark"]
        assert table.colnames == [
            "deblender", "version", "blends", "psnr_mean", "psnr_error", "psnr_median", "psnr_p1",
            "psnr_min", "psnr_by_position", "ssim", "ssim_reiman2019", "flux_error", "failures",
            "milliseconds",
        ]  # fmt: skip
        assert list(table["deblender"]) == ["the blend itself", "photutils", "sep", "half", "tiny"]
        assert (table["blends"] == 4).all()
        assert np.isnan(table["milliseconds"][0])
        assert (table["milliseconds"][1:] > 0).all()
        assert (table["psnr_min"] <= table["psnr_p1"]).all()
        assert (table["psnr_mean"] >= table["psnr_by_position"] - 1e-9).all()
        spread = [entry.scores["psnr"].mean(axis=1).std() for entry in result.measured.entries]
        np.testing.assert_allclose(table["psnr_error"], np.divide(spread, 4**0.5), rtol=0.1)
        model = result.measured.entries[-1]
        np.testing.assert_array_equal(model.scores["psnr"], model.scores["by_position"])
        # discs that hardly touch are cut apart
        assert table["psnr_mean"][1] > table["psnr_mean"][0] + 3

    def test_one_blend_has_no_standard_error(self, blends, half):
        table = benchmark(blends[:1], peers=[half]).tables["benchmark"]
        assert np.isnan(table["psnr_error"]).all()
        assert np.isfinite(table["psnr_mean"]).all()

    def test_a_peer_that_fails_spoils_nothing(self, blends, half):
        apart, both = (
            benchmark(blends, peers=[QUICK[1], *([bad] if bad else [])])
            for bad in (None, replace(half, refuses=(1, 2)))
        )
        for name, scores in apart.measured.entries[1].scores.items():
            np.testing.assert_array_equal(both.measured.entries[1].scores[name], scores)
        failed = both.measured.entries[2]
        assert failed.failures == {"KeyError: 'no such\\nblend'": 2}
        nothing = both.measured.entries[0].scores["psnr"]
        same = (failed.scores["psnr"] == nothing).all(axis=1)
        np.testing.assert_array_equal(same, [False, True, True, False])
        assert both.tables["benchmark"]["failures"][-1] == 2
        assert r"half, 2 of 4 blends: KeyError: 'no such\nblend'." in both.to_dict()["notes"]

    @pytest.mark.parametrize(
        ("found", "why"),
        [
            (lambda blend: Found(blend, np.full((2, *blend.shape), np.nan)), "not finite"),
            (lambda blend: Found(blend, blend), r"light \(3, 80, 80\) in a blend"),
            (lambda blend: None, "AttributeError"),
        ],
        ids=["nan", "shape", "none"],
    )
    def test_an_answer_of_no_use(self, blends, found, why):
        @dataclass(frozen=True)
        class Useless(Half):
            def split(self, blend, positions):
                return found(blend)

        result = benchmark(blends, peers=[Useless()])
        nothing, entry = result.measured.entries
        ((reason, number),) = entry.failures.items()
        assert re.search(why, reason)
        assert number == 4
        np.testing.assert_array_equal(entry.scores["psnr"], nothing.scores["psnr"])

    def test_a_slow_peer_on_fewer_blends(self, blends, half):
        @dataclass(frozen=True)
        class Slow(Half):
            name: ClassVar[str] = "slow"
            slow: ClassVar[bool] = True

        found = benchmark(blends, peers=[half, Slow()], slow_blends=3)
        table = found.tables["benchmark"]
        assert list(table["blends"]) == [4, 4, 3]
        np.testing.assert_allclose(table["psnr_same_blends"][1], table["psnr_mean"][2])
        np.testing.assert_allclose(table["psnr_same_error"][1], table["psnr_error"][2])
        assert len(found.measured.pictures["slow"]) == 3
        assert "first 3" in str(found)
        found.figures["panels"]()
        (axes,) = found.figures["benchmark"]().axes
        title = axes.get_title().replace("\n", " ")
        assert title.startswith("4 blends of ")
        assert title.endswith("(open: the first 3, which all have tried)")
        open_one = next(line for line in axes.lines if line.get_fillstyle() == "none")
        assert open_one.get_ydata() == pytest.approx(table["psnr_same_blends"][1])
        with pytest.raises(ValueError, match="slow_blends=0"):
            benchmark(blends, peers=[half], slow_blends=0)

    def test_what_is_not_installed(self, blends, half):
        @dataclass(frozen=True)
        class Missing(Package):
            name: ClassVar[str] = "no_such_package"

        found = benchmark(blends, peers=[Missing(), half])
        assert [entry.name for entry in found.measured.entries] == ["the blend itself", "half"]
        assert "pip install astrodeblend[no_such_package]" in str(found)
        with pytest.raises(ValueError, match="not installed: pip install"):
            tune(replace(Missing()), blends)

    def test_the_same_one_twice(self, blends, half):
        found = benchmark(blends, peers=[half, replace(half, cut=0.1)])
        assert [entry.name for entry in found.measured.entries[1:]] == ["half (1)", "half (2)"]
        assert not np.array_equal(
            found.measured.pictures["half (1)"], found.measured.pictures["half (2)"]
        )

    def test_a_model_of_another_kind(self, blends, flux_model):
        other = Deblender.load(flux_model, device="cpu")
        with pytest.raises(ValueError, match="choose a model for R, G, B"):
            benchmark(blends, models=[other], peers=[])

    def test_the_text(self, result, blends):
        text = str(result)
        for row in result.tables["benchmark"]:
            start = f"{row['deblender']}  "
            (line,) = (each for each in text.splitlines() if each.startswith(start))
            assert f"{row['psnr_mean']:.2f}" in line
        assert str(blends) in text
        assert "CPU: " in text
        assert "photutils 3" in text
        assert max(map(len, text.splitlines()[4:])) <= 140

    def test_the_files(self, result, tmp_path):
        folder = tmp_path / "out"
        result.write(folder)
        assert {path.name for path in folder.iterdir()} == set(FILES["pictures"])
        table = QTable.read(folder / "benchmark.ecsv")
        np.testing.assert_array_equal(table["psnr_mean"], result.tables["benchmark"]["psnr_mean"])
        assert table.meta["seed"] == 3
        content = json.loads((folder / "benchmark.json").read_text())
        assert content["deblenders"][1]["settings"] == QUICK[0].settings
        assert content["deblenders"][0]["milliseconds"] is None
        assert content["versions"]["photutils"]
        with pytest.raises(FileExistsError):
            result.write(folder)
        result.write(folder, overwrite=True)

    def test_all_files_or_none(self, result, tmp_path, monkeypatch):
        folder = tmp_path / "out"
        monkeypatch.setitem(result.figures, "panels", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            result.write(folder)
        assert not folder.exists()


class TestTune:
    def test_every_setting_the_best_first(self, blends, half):
        table = tune(half, blends)
        assert sorted(table["cut"]) == [0.1, 0.5]
        assert table["psnr_mean"][0] > table["psnr_mean"][1]
        expected = benchmark(blends, peers=[replace(half, cut=table["cut"][0])])
        assert table["psnr_mean"][0] == pytest.approx(
            expected.measured.entries[1].scores["psnr"].mean()
        )

    def test_without_a_grid(self, blends, half):
        class Fixed(Half):
            grid: ClassVar[dict] = {}

        with pytest.raises(ValueError, match="no grid"):
            tune(Fixed(), blends)


class TestCommand:
    def invoke(self, *arguments, code=0):
        done = CliRunner().invoke(main, ["benchmark", *map(str, arguments)])
        assert done.exit_code == code, done.output
        return done

    def test_a_run(self, galaxies, tiny_model, tmp_path):
        out = tmp_path / "out"
        arguments = ("--data", galaxies, "-n", 2, "--model", tiny_model, "--out", out)
        text = self.invoke(*arguments, "--peer", "sep").output
        assert "tiny" in text
        assert "2 blends of 4 galaxies" in text
        assert {path.name for path in out.iterdir()} == set(FILES["pictures"])
        assert "--overwrite" in self.invoke(*arguments, code=2).stderr

    def test_tuning(self, galaxies, monkeypatch):
        monkeypatch.setattr(SEP, "grid", {"n_sigma": (1.0, 3.0)})
        text = self.invoke("--data", galaxies, "-n", 2, "--peer", "sep", "--tune").output
        assert "n_sigma" in text
        assert "2 blends" in text
        refused = self.invoke("--data", galaxies, "--split", "test", "--tune", code=2)
        assert "give --split val" in refused.stderr
        refused = self.invoke("--data", galaxies, "--out", "x", "--tune", code=2)
        assert "leave --model and --out out" in refused.stderr
