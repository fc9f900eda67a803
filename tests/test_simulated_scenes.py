"""Scenes with known truth, and what is measured on them."""

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.nddata import NDData, StdDevUncertainty
from astropy.table import QTable
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.transform import warp

from astrodeblend import Deblender
from astrodeblend.calibration import Calibration
from astrodeblend.cli import main
from astrodeblend.detect import find_sources
from astrodeblend.score import (
    FILES,
    add_scene_calibration,
    draw_scenes,
    match_sources,
    score_scenes,
)
from astrodeblend.score.scenes import METHODS, flux_errors
from astrodeblend.simulate import blend_pair, reduce_image, simulate_scene
from astrodeblend.weights import read_card


def disc(radius, width=424, sky=0.0, colour=(0.5, 0.4, 0.3)):
    """A round galaxy in the middle of its picture (bands, y, x), all its light within a radius."""
    y, x = np.mgrid[:width, :width] - (width - 1) / 2
    light = np.clip(1 - np.hypot(x, y) / radius, 0, None)
    return np.array(colour)[:, None, None] * light + sky


DISCS = [disc(30), disc(45), disc(38), disc(50), disc(25)]


def noisy(rng, count=3, width=424):
    """Discs with noise in the middle of their pictures, and none along the edges."""
    pictures = [
        disc(rng.uniform(40, 80), width, sky=rng.uniform(0, 0.02), colour=(0.9, 0.8, 0.7))
        for _ in range(count)
    ]
    edge = width // 10 + 1
    for picture in pictures:
        picture[:, edge:-edge, edge:-edge] += rng.normal(0, 0.02, (3, *2 * [width - 2 * edge]))
    return [picture.clip(0, 1) for picture in pictures]


def plain_light(picture, draw, k, size, factor=3):
    """A galaxy's light in the scene, warped in full on a canvas of the scene's size."""
    width = picture.shape[-1]
    edge = width // 10 + (width % 10 > 0)
    inner = np.zeros((width, width), bool)
    inner[edge:-edge, edge:-edge] = True
    light = picture - np.median(picture[:, ~inner], axis=1)[:, None, None]
    for y in range(width):
        depth = np.minimum(
            min(y, width - 1 - y), np.minimum(np.arange(width), np.arange(width)[::-1])
        )
        light[:, y] *= np.clip((depth + 0.5) / (0.05 * width), 0, 1)
    border = (factor * size - width) // 2
    canvas = np.pad(light, ((0, 0), (border, border), (border, border)))
    _, (matrix,) = draw[k : k + 1].matrices(factor * size)
    canvas = warp(np.moveaxis(canvas, 0, -1), matrix, order=1, mode="constant", cval=0)
    return reduce_image(np.moveaxis(canvas, -1, 0), crop=factor * size, factor=factor)


class TestSimulateScene:
    @pytest.mark.parametrize("mode", ["max", "sum"])
    def test_it_is_what_a_plain_implementation_gives(self, mode):
        pictures = noisy(np.random.default_rng(4), width=360)
        scene = simulate_scene(pictures, mode=mode, size=160, rng=5)
        light = [plain_light(p, scene.draw, k, 160) for k, p in enumerate(pictures)]
        blend = np.max(light, 0) if mode == "max" else sum(light)
        gain = min(1, ((1 - scene.sky) / blend.max(axis=(1, 2))).min())
        assert (gain < 1) == (mode == "sum")
        np.testing.assert_allclose(scene.light, gain * np.array(light), atol=1e-6)
        sky = np.mean([np.median(p[:, :36], axis=(1, 2)) for p in pictures], axis=0)
        np.testing.assert_allclose(scene.sky, sky, atol=3e-3)
        blend = scene.sky[:, None, None] + gain * blend
        np.testing.assert_allclose(scene.blend, blend.clip(0), atol=1e-6)
        # where light adds, noise goes below zero, and is clipped as in pictures
        assert (scene.blend.min() == 0) == (mode == "sum")

    def test_two_galaxies_are_a_blend_of_the_recipe(self):
        pictures = np.array(DISCS[:2])
        scene = simulate_scene(pictures, size=160, rng=6)
        blend, isolated = blend_pair(pictures, scene.draw[1:])
        middle = (..., slice(40, 120), slice(40, 120))
        np.testing.assert_allclose(scene.isolated[middle], isolated, atol=1e-6)
        np.testing.assert_allclose(scene.blend[middle], blend, atol=1e-6)

    @settings(max_examples=10, deadline=None)
    @given(st.integers(2, 5), st.integers(0, 1000), st.sampled_from([300, 301, 424]))
    def test_galaxies_are_where_it_says(self, count, seed, width):
        pictures = [disc(40, width) for _ in range(count)]
        scene = simulate_scene(pictures, rng=seed)
        y, x = np.mgrid[:160, :160]
        for light, position in zip(scene.light.sum(axis=1), scene.positions, strict=True):
            centroid = [np.sum(light * axis) / light.sum() for axis in (x, y)]
            np.testing.assert_allclose(centroid, position, atol=0.1)
        assert np.abs(scene.positions[0] - 79.5).max() < 0.5
        assert scene.positions.min() > 19
        assert scene.positions.max() < 140
        apart = np.hypot(*(scene.positions[:, None] - scene.positions).transpose(2, 0, 1))
        apart[np.diag_indices(count)] = np.inf
        assert apart.min() > 4.7
        assert (apart.min(axis=0) < 23.6).all()  # 50 / 3 pixels along both axes

    def test_there_is_no_step_at_the_edge_of_a_picture(self):
        pictures = [disc(30, 300, sky=0.2), disc(30, 300, sky=0.1)]
        pictures[0][:, :, :20] += 0.3  # something bright that the edge cuts
        scene = simulate_scene(pictures, mode="sum", size=200, rng=1)
        steps = np.abs(np.diff(scene.light[0], axis=-1)).max(axis=0)[:, :56]
        assert scene.light[0, :, 100, 55].min() > 0.25
        assert steps.max() < 0.07  # it fades over 5 pixels
        np.testing.assert_allclose(scene.sky, 0.15, atol=1e-6)
        np.testing.assert_allclose(scene.blend[:, -1, -1], 0.15, atol=1e-6)

    def test_beyond_a_picture_its_noise_goes_on(self):
        rng = np.random.default_rng(1)
        pictures = [
            disc(30, 200, sky=0.3) + rng.normal(0, sigma, (3, 200, 200)) for sigma in (0.01, 0.03)
        ]
        pictures[1][:, 2:12, 2:12] = 1  # a star is no noise
        scene = simulate_scene(pictures, size=160, rng=2)
        for light, sigma in zip(scene.light, (0.01, 0.03), strict=True):
            beyond = light[:, :20]
            assert abs(beyond.mean()) < 0.1 * sigma
            assert beyond.std() == pytest.approx(sigma, rel=0.05)
            assert beyond.max() < 3.2 * sigma

    def test_a_seed_gives_the_same_scene(self):
        one, two, other = (simulate_scene(DISCS, rng=seed) for seed in (1, 1, 2))
        for name in ("blend", "isolated", "positions", "sky"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
        assert not np.array_equal(one.positions, other.positions)

    def test_bytes_are_fractions_of_255(self):
        pictures = [(255 * disc(40)).round().astype(np.uint8) for _ in range(2)]
        scene = simulate_scene(pictures, rng=1)
        same = simulate_scene([picture / 255 for picture in pictures], rng=1)
        np.testing.assert_array_equal(scene.blend, same.blend)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"images": DISCS[:1]}, "images holds 1"),
            ({"images": [DISCS[0], DISCS[1][:, 1:]]}, r"\(3, 423, 424\), \(3, 424, 424\)"),
            ({"images": [DISCS[0], DISCS[1][:2]]}, r"\(2, 424, 424\)"),
            ({"mode": "max_sum"}, "mode='max_sum' is not known; choose max or sum"),
            ({"size": 12}, "size=12: 5 galaxies found no place"),
        ],
    )
    def test_what_cannot_be_is_refused(self, change, words):
        with pytest.raises(ValueError, match=words):
            simulate_scene(**{"images": DISCS, "rng": 1, **change})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of galaxies without noise, and a table of splits."""
    folder = tmp_path_factory.mktemp("discs")
    rows = ["file,split,isolated"]
    for k, picture in enumerate([*DISCS, disc(34), disc(28)]):
        pixels = (255 * np.moveaxis(picture, 0, -1)).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
        rows.append(f"{k}.png,val,{int(k < 6)}")
    (folder / "splits.csv").write_text("\n".join(rows) + "\n")
    return folder


class Oracle:
    """Stands in for a deblender: knows the truth, and gets it wrong as it is told."""

    card = SimpleNamespace(
        scaling="picture",
        bands=("R", "G", "B"),
        name="oracle",
        sha256="0" * 64,
        calibration={},
        crowded="",
    )
    arithmetic = "float32"

    def __init__(self, scenes, wrong=0.0, stray=False, lost=0, sigma=1e-6):
        self.scenes, self.wrong, self.stray, self.lost = list(scenes), wrong, stray, lost
        self.sigma = sigma

    def deblend_scene(self, image, *, positions=None):
        (scene,) = (s for s in self.scenes if np.array_equal(s.blend, image))
        return SimpleNamespace(with_light=partial(self.scene, scene, positions))

    def scene(self, scene, positions, light):
        found = scene.light * (1 + self.wrong * (1 if light == "apportioned" else 2))
        if positions is None:
            found = np.roll(found, 2, axis=-1)[self.lost :]  # still close enough to be the galaxy
            if self.stray:
                dark = np.roll(scene.light[:1], (80, 80), axis=(-2, -1))
                found = np.concatenate([found, dark])
        error = np.full(found.shape, self.sigma)
        catalog = QTable(
            {
                "label": np.arange(1, len(found) + 1),
                "segment_flux": found.sum(axis=(2, 3)),
                "segment_flux_err": np.sqrt((error**2).sum(axis=(2, 3))),
                "flags": np.zeros(len(found), int),
            }
        )
        components = [
            NDData(light, uncertainty=StdDevUncertainty(spread))
            for light, spread in zip(found, error, strict=True)
        ]
        return SimpleNamespace(
            catalog=catalog, components=components, component=lambda k: components[k - 1]
        )


@pytest.fixture(scope="module")
def scenes(folder):
    return draw_scenes(folder, split="val", mode="sum", number=3, seed=2)


class TestDrawScenes:
    def test_a_scene_is_the_same_however_many_there_are(self, folder, scenes):
        (first,) = draw_scenes(folder, split="val", mode="sum", number=1, seed=2)
        np.testing.assert_array_equal(first.blend, next(iter(scenes)).blend)
        (other,) = draw_scenes(folder, split="val", mode="max", number=1, seed=2)
        np.testing.assert_array_equal(first.positions, other.positions)  # the rule alone differs

    def test_galaxies_that_are_not_isolated_are_left_out(self, folder):
        many = draw_scenes(folder, split="val", number=60)
        names = {name for k in range(60) for name in many.names(k)}
        assert names == {f"{k}.png" for k in range(6)}
        assert {len(members) for members in many.members} == {2, 3, 4, 5, 6}
        assert str(many).startswith("60 scenes with ")
        assert "6 pictures; split 'val'" in str(many)

    def test_what_cannot_be_is_refused(self, folder, tmp_path):
        with pytest.raises(ValueError, match="mode='soup' is not known; choose max or sum"):
            draw_scenes(folder, mode="soup")
        with pytest.raises(ValueError, match="number=0: give at least 1"):
            draw_scenes(folder, number=0)
        Image.new("RGB", (90, 90)).save(tmp_path / "one.png")
        with pytest.raises(ValueError, match="holds 1 isolated galaxies"):
            draw_scenes(tmp_path)


def flux_error(sources, method, positions):
    """Return errors of all bands together."""
    return flux_errors(sources, positions)[METHODS.index(method), :, -1]


@pytest.fixture(scope="module")
def perfect(scenes):
    return score_scenes(Oracle(scenes, sigma=1e-3), scenes)


@pytest.fixture(scope="module")
def wrong(scenes):
    """Return scores of fluxes 0.1 or 0.2 too high, the first galaxy undetected, and a stray."""
    return score_scenes(Oracle(scenes, wrong=0.1, sigma=0.01, stray=True, lost=1), scenes)


class TestScores:
    def test_the_truth_scores_perfectly(self, scenes, perfect):
        count = len(perfect.tables["sources"])
        assert count == sum(map(len, scenes.members))
        for light in ("apportioned", "network"):
            for positions in ("given", "detected"):
                assert perfect.tables["sources"][f"come_back_{light}_{positions}"].all()
                error = flux_error(perfect.tables["sources"], light, positions)
                np.testing.assert_allclose(error, 0, atol=1e-3)
        table = perfect.tables["table"]
        (row,) = table[(table["by"] == "overlapping") & (table["positions"] == "given")]
        assert row["median_apportioned"] < 1e-3
        assert row["median_photutils"] > 0.02
        rows = perfect.tables["detections"][perfect.tables["detections"]["method"] == "network"]
        assert list(rows["pure"]) == list(rows["detected"]) == list(rows["galaxies_detected"])
        assert (perfect.tables["coverage"]["within_68"] == 1).all()

    def test_a_known_error_is_that_error(self, wrong):
        given = flux_error(wrong.tables["sources"], "apportioned", "given")
        np.testing.assert_allclose(given, 0.1, atol=1e-3)
        np.testing.assert_allclose(
            flux_error(wrong.tables["sources"], "network", "given"), 0.2, atol=1e-3
        )
        table = wrong.tables["table"]
        rows = {(row["positions"], row["by"]): row for row in table if np.isnan(row["low"])}
        for positions in ("given", "detected"):
            for group in ("all", "band R", "band B"):
                row = rows[positions, group]
                assert row["median_apportioned"] == pytest.approx(0.1, abs=1e-3)
                assert row["p90_network"] == pytest.approx(0.2, abs=1e-3)

    def test_what_is_not_detected_and_what_is_not_there(self, wrong):
        content = wrong.to_dict()["detection"]["apportioned"]
        count = len(wrong.tables["sources"])
        assert content["completeness"] == pytest.approx((count - 3) / count)
        assert content["purity"] == pytest.approx((count - 3) / count)
        lost = ~wrong.tables["sources"]["come_back_network_detected"]
        assert lost.sum() == 3
        assert np.isnan(flux_error(wrong.tables["sources"], "network", "detected")[lost]).all()

    def test_photutils_has_the_flux_of_its_segments(self, scenes, perfect):
        scene = next(iter(scenes))
        _, segments = find_sources(NDData(scene.blend), positions=scene.positions)
        for k, found in enumerate(
            perfect.tables["sources"]["flux_photutils_given"][: len(scene.positions)]
        ):
            expected = scene.blend[:, segments == k + 1].sum(axis=1)
            np.testing.assert_allclose(found, expected, rtol=1e-4)

    def test_coverage_counts_errors(self, scenes, wrong):
        rows = {(row["light"], row["of"]): row for row in wrong.tables["coverage"]}
        light = [scene.light for scene in scenes]
        pixels = 3 * wrong.tables["sources"]["footprint_area"].sum()
        for name, factor in (("apportioned", 0.1), ("network", 0.2)):
            off = factor * np.concatenate([each.ravel() for each in light])
            flux = factor * np.concatenate([each.sum(axis=(2, 3)).ravel() for each in light])
            assert rows[name, "pixels"]["number"] == pixels
            for share, times in (("68", 1), ("95", 2)):
                found = rows[name, "pixels"][f"within_{share}"]
                assert found == pytest.approx(1 - np.sum(off > 0.01 * times) / pixels, abs=1e-3)
                found = rows[name, "flux"][f"within_{share}"]
                assert found == pytest.approx(np.mean(flux <= 1.6 * times))

    def test_what_is_true_of_the_galaxies(self, scenes, perfect):
        rows = iter(perfect.tables["sources"])
        for light, positions in ((s.light, s.positions) for s in scenes):
            summed = light.sum(axis=1)
            for k in range(len(light)):
                row = next(rows)
                own, others = summed[k], np.delete(summed, k, axis=0)
                share = own[others.sum(axis=0) > own].sum() / own.sum()
                assert row["overlap"] == pytest.approx(share, abs=1e-3)
                apart = np.delete(positions, k, axis=0) - positions[k]
                assert row["separation"] == pytest.approx(np.hypot(*apart.T).min())
                assert row["overlapping"] == ((own > 1e-3) & (others > 1e-3)).any()
                assert row["footprint_area"] >= (own > 1e-3).sum()
                np.testing.assert_allclose(row["true_flux"], light[k].sum(axis=(1, 2)), rtol=1e-3)
        assert next(rows, None) is None

    def test_a_source_is_one_galaxy(self):
        galaxies = np.array([(10.0, 10.0), (14.8, 10.0), (40.0, 40.0)])
        one = np.array([(30.0, 5.0), (12.2, 10.0), (np.nan, np.nan)])
        np.testing.assert_array_equal(match_sources(galaxies, one), [1, -1, -1])
        # both are nearest to the first, but two can be had
        two = np.array([(9.0, 10.0), (11.6, 10.0)])
        np.testing.assert_array_equal(match_sources(galaxies, two), [0, 1, -1])
        np.testing.assert_array_equal(match_sources(galaxies, one[:0]), [-1, -1, -1])

    def test_another_kind_of_model(self, scenes):
        linear = SimpleNamespace(card=SimpleNamespace(name="lin", scaling="flux", bands=("g",)))
        with pytest.raises(ValueError, match=r"model 'lin' works on g \(flux\); these scenes"):
            score_scenes(linear, scenes)

    def test_files(self, wrong, tmp_path):
        wrong.write(tmp_path / "scores")
        assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == sorted(
            FILES["scenes"]
        )
        sources = QTable.read(tmp_path / "scores" / "sources.ecsv")
        np.testing.assert_array_equal(
            sources["flux_network_given"], wrong.tables["sources"]["flux_network_given"]
        )
        assert sources.meta["recipe"] == "sum"
        content = json.loads((tmp_path / "scores" / "scores.json").read_text())
        assert content["come_back"]["photutils"] == content["galaxies"] == len(sources)
        assert content["coverage"] == wrong.to_dict()["coverage"]
        with pytest.raises(FileExistsError, match="sources"):
            wrong.write(tmp_path / "scores")


@pytest.fixture(scope="module")
def model(tiny_model, folder, tmp_path_factory):
    """Return the path of a model with error bars for scenes."""
    model = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    for suffix in (".safetensors", ".json"):
        model.with_suffix(suffix).write_bytes(tiny_model.with_suffix(suffix).read_bytes())
    add_scene_calibration(model, folder, scenes=2, seed=4, progress=False)
    return model


class TestErrorBars:
    """Fitted to some scenes, they hold there, and nothing else changes."""

    def test_they_hold(self, model, folder):
        deblender, off, pixels = Deblender.load(model, device="cpu", dtype="float32"), [], []
        for mode in ("max", "sum"):
            for scene in draw_scenes(folder, split="val", mode=mode, number=2, seed=4):
                found = deblender.deblend_scene(scene.blend, positions=scene.positions)
                lights = [found.with_light(light) for light in ("network", "apportioned")]
                for k, image in enumerate(scene.isolated):
                    at = [scene.positions[k]]
                    _, segments = find_sources(NDData(image), positions=at, threshold=3.0)
                    own = scene.light[k] * (segments > 0)
                    for light in lights:
                        flux = light.catalog["segment_flux"][k] - own.sum(axis=(1, 2))
                        off.append(np.abs(flux) / light.catalog["segment_flux_err"][k])
                    part = lights[0].component(k + 1)
                    std = part.uncertainty.array * (segments > 0)
                    pixels.append(np.abs(part.data - own)[std > 0] / std[std > 0])
        wide = read_card(model).calibration["in_scenes"]["interval_95"]
        for values, name in ((np.array(off), "flux"), (np.concatenate(pixels), "pixel")):
            assert np.mean(values < 1) == pytest.approx(0.683, abs=0.05)
            assert np.mean(values < wide[name]) == pytest.approx(0.954, abs=0.05)

    def test_those_of_single_blends_stay(self, model, tiny_model):
        before = json.loads(json.dumps(Calibration(**read_card(tiny_model).calibration).to_dict()))
        after = dict(read_card(model).calibration)
        scenes = after["in_scenes"]
        assert after | {"in_scenes": {}} == before
        assert scenes["log_factor"] != before["log_factor"]
        assert scenes["fit"] == {
            "scenes": 2,
            "recipes": ["max", "sum"],
            "split": "val",
            "seed": 4,
        }

    def test_another_kind_of_model(self, folder):
        with pytest.raises(ValueError, match=r"model 'survey' works on .*choose a model for R, G"):
            add_scene_calibration("survey", folder)


def run(*arguments, code=0):
    result = CliRunner().invoke(main, ["evaluate", "--task", "scenes", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


class TestCommand:
    def test_it_writes_its_files(self, galaxies, tiny_model, tmp_path):
        options = ("--data", galaxies, "--model", tiny_model, "-n", 1, "-o", tmp_path / "out")
        text = run(*options).stdout
        for words in ("model tiny", "recipe max", "recipe sum", "come back", "pure"):
            assert words in text
        for mode in ("max", "sum"):
            assert all((tmp_path / "out" / mode / name).exists() for name in FILES["scenes"])
        refusal = run(*options, "--recipe", "both", code=2)
        assert "--overwrite" in refusal.stderr

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--card"], "--task scenes takes no --card"),
            (["--blends", "x.ecsv"], "--task scenes takes no --blends"),
            (
                ["--recipe", "max_sum"],
                "--task scenes has no --recipe max_sum; it has max, sum, both",
            ),
            (
                ["--task", "blends", "--recipe", "both"],
                "--task blends has no --recipe both; it has reiman2019, ",
            ),
            (["--split", "tset"], "splits.csv"),
            (["--task", "galaxies"], "'blends', 'scenes'"),
        ],
    )
    def test_what_cannot_be_is_refused(self, galaxies, tiny_model, options, words):
        result = run("--data", galaxies, "--model", tiny_model, *options, code=2)
        assert words in result.stderr
