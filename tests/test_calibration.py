"""Error bars: fitted to errors that are known, and counted by hand."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from astropy.nddata import NDData
from scipy.interpolate import RegularGridInterpolator
from scipy.special import erf

from astrodeblend import Deblender
from astrodeblend.calibration import Calibration, measure_segment
from astrodeblend.detect import find_sources
from astrodeblend.metrics import isophote
from astrodeblend.networks import build
from astrodeblend.score.coverage import MULTIPLES, Coverage
from astrodeblend.simulate import find_images, read_images
from astrodeblend.training import add_calibration
from astrodeblend.training.calibration import fit_calibration
from astrodeblend.weights import Card, save_model

SIZE = 56


def galaxies(number, rng, *, bands=1, noise=0.01):
    """Return pictures of round galaxies, (number, 2, bands, y, x): light, and as they are seen."""
    y, x = np.mgrid[:SIZE, :SIZE]
    light = np.empty((number, 2, bands, SIZE, SIZE))
    for k in np.ndindex(number, 2):
        middle = (SIZE - 1) / 2 + rng.uniform(-6, 6, 2)
        radius = np.hypot(x - middle[0], y - middle[1]) / rng.uniform(2.5, 4.5)
        light[k] = rng.uniform(0.3, 0.9, (bands, 1, 1)) * np.exp(-(radius**2) / 2)
    return light, light + 0.05 + noise * rng.standard_normal(light.shape)


def errors(number, kind, rng, *, factor=2.5, bands=1):
    """Return blend, components, stated deviations and truth; errors of a kind, but for a factor."""
    light, isolated = galaxies(number, rng, bands=bands)
    if kind == "independent":
        std = 0.002 + 0.012 * light
        error = factor * std * rng.standard_normal(light.shape)
    else:  # of a galaxy's light, the same part in all of its pixels
        std = 0.001 + 0.1 * light
        error = factor * 0.1 * light * rng.standard_normal((number, 2, 1, 1, 1))
    blend = 0.05 + light.sum(axis=1)
    arrays = blend, isolated + error, std, isolated
    return tuple(a.astype(np.float32) for a in arrays)


def fluxes_of(components, std, isolated, *calibrations):
    """Return errors of fluxes over their deviations, by one calibration or several."""
    off = []
    for k in np.ndindex(components.shape[:2]):
        found = measure_segment(components[k], isolated[k])
        given = found.light, std[k], found.segment, found.noise
        off.append([np.abs(found.error / each.flux_std(*given)) for each in calibrations])
    return np.moveaxis(off, 1, 0)


class TestCalibration:
    def test_factors_are_bilinear_between_nodes_and_level_beyond(self):
        nodes = (-4.0, -2.0, 0.0), (0.0, 0.5, 1.0)
        rng = np.random.default_rng(1)
        table = rng.normal(size=(3, 3))
        calibration = Calibration(*nodes, tuple(map(tuple, table)))
        blend = rng.uniform(0.1, 1, 500)
        fraction = rng.uniform(-0.2, 1.2, 500)
        ratio = rng.uniform(-5, 1, 500)
        expected = RegularGridInterpolator(nodes, table)(
            np.stack([ratio.clip(-4, 0), fraction.clip(0, 1)], axis=1)
        )
        std = blend * np.exp(ratio)
        found = calibration.std(std, fraction * blend, blend)
        np.testing.assert_allclose(found, std * np.exp(expected), rtol=1e-9)

    def test_in_units_of_the_noise_the_deviation_itself_decides(self):
        calibration = Calibration((-2.0, 2.0), (0.0, 1.0), ((0.2, 0.4), (-0.3, 0.8)), in_noise=True)
        std = np.exp([-3.0, -2.0, 0.0, 2.0])
        for light in (0.5, 70.0):
            found = calibration.std(std, np.full(4, light), np.full(4, light))
            np.testing.assert_allclose(found, std * np.exp([0.4, 0.4, 0.6, 0.8]))

    def test_one_more_factor_goes_with_the_peak(self):
        plain = Calibration((-2.0, 2.0), (0.0, 1.0), ((0.2, 0.4), (-0.3, 0.8)), in_noise=True)
        calibration = replace(plain, log_peak=(0.0, 2.0, 4.0), log_peak_factor=(0.1, -0.3, 0.5))
        rng = np.random.default_rng(5)
        components, std = rng.random((2, 4, 3, 6, 6))
        peaks = np.exp(rng.uniform(-1, 5, (4, 3)))
        components *= (peaks / components.max(axis=(2, 3)))[..., None, None]
        found = calibration.std(std, components, components) / plain.std(
            std, components, components
        )
        expected = np.exp(np.interp(np.log(peaks), (0, 2, 4), (0.1, -0.3, 0.5)))
        np.testing.assert_allclose(found, np.broadcast_to(expected[..., None, None], found.shape))
        with pytest.raises(
            ValueError, match=r"log_peak_factor has 0 numbers; give 1, one for each"
        ):
            Calibration(log_peak=(0.0,))

    def test_they_scale_with_the_blend(self):
        calibration = Calibration(
            (-3.0, 0.0), (0.0, 1.0), ((0.1, 0.4), (-0.3, 0.8)),
            coherent=0.7, independent=1.3, level=0.2,
        )  # fmt: skip
        rng = np.random.default_rng(2)
        blend = rng.uniform(0.2, 1, (3, 20, 20))
        components, std = blend * rng.random(blend.shape), blend * rng.uniform(0.05, 2, blend.shape)
        np.testing.assert_allclose(
            calibration.std(0.3 * std, 0.3 * components, 0.3 * blend),
            0.3 * calibration.std(std, components, blend),
        )
        inside, noise = rng.random((20, 20)) < 0.5, np.array([0.1, 0.2, 0.3])
        found = calibration.flux_std(components, std, inside, noise)
        np.testing.assert_allclose(
            calibration.flux_std(0.3 * components, 0.3 * std, inside, 0.3 * noise), 0.3 * found
        )

    def test_without_a_fit_errors_are_independent(self):
        rng = np.random.default_rng(3)
        light, std = rng.random((2, 3, 10, 10))
        inside = rng.random((10, 10)) < 0.5
        found = Calibration().flux_std(light, std, inside, np.ones(3))
        np.testing.assert_allclose(found, [np.sqrt((s[inside] ** 2).sum()) for s in std])
        np.testing.assert_array_equal(Calibration().std(std, light, light), std)

    def test_a_table_that_does_not_fit_its_nodes_is_refused(self):
        with pytest.raises(ValueError, match=r"log_factor has shape \(1, 1\); give \(2, 1\)"):
            Calibration(log_ratio=(0.0, 1.0))


class TestFluxes:
    def test_segments_are_those_of_photutils(self):
        _, isolated = galaxies(3, np.random.default_rng(4), bands=3)
        for picture in isolated.reshape(-1, 3, SIZE, SIZE):
            found = measure_segment(picture, 0.5 * picture)
            sources, segments = find_sources(NDData(picture))
            segment = segments == sources["label"][np.argmax(sources["signal_to_noise"])]
            assert (segment & found.segment).sum() > 0.9 * (segment | found.segment).sum()
            # Half of the picture is half of the light.
            np.testing.assert_allclose(
                found.error, 0.5 * found.light[:, found.segment].sum(axis=1), rtol=0.02
            )
            np.testing.assert_allclose(found.noise, 0.01, rtol=0.15)

    def test_a_larger_segment(self):
        light, isolated = galaxies(1, np.random.default_rng(5))
        found = measure_segment(isolated[0, 0], light[0, 0])
        grown = found.grown(0.45)
        assert grown.segment[found.segment].all()
        radius, larger = (np.sqrt(s.segment.sum() / np.pi) for s in (found, grown))
        assert larger / radius == pytest.approx(1.45, abs=0.15)

    def test_sky_alone_has_none(self):
        sky = 0.05 + 0.01 * np.random.default_rng(6).standard_normal((3, SIZE, SIZE))
        assert measure_segment(sky, sky) is None


class TestFit:
    def test_independent_errors(self):
        """Errors that are normal, but so many times what is stated, in pixels and fluxes."""
        rng, factor = np.random.default_rng(7), 0.5
        blend, *arrays = errors(300, "independent", rng, factor=factor)
        calibration = fit_calibration(blend, *arrays, sky=0.05)
        assert calibration.interval_95["pixel"] == pytest.approx(2, abs=0.1)
        assert calibration.interval_95["flux"] == pytest.approx(2, abs=0.3)
        components, std, isolated = arrays
        footprint = np.broadcast_to(isophote(isolated - 0.05)[:, :, None], std.shape)
        found = calibration.std(std, components, blend[:, None]) / std
        assert np.median(found[footprint]) == pytest.approx(factor, rel=0.03)
        assert (np.abs(np.log(found[footprint] / factor)) < 0.15).mean() > 0.9

        blend, components, std, isolated = errors(120, "independent", rng, factor=factor)
        std = calibration.std(std, components, blend[:, None])
        (off,) = fluxes_of(components, std, isolated, calibration)
        for share, multiple in ((0.683, 1), (0.954, calibration.interval_95["flux"])):
            assert (off < multiple).mean() == pytest.approx(share, abs=0.1)

    def test_errors_that_go_together(self):
        rng = np.random.default_rng(8)
        calibration = fit_calibration(*errors(100, "coherent", rng), sky=0.05)
        blend, components, std, isolated = errors(100, "coherent", rng)
        std = calibration.std(std, components, blend[:, None])
        off, alone = fluxes_of(components, std, isolated, calibration, Calibration())
        for share, multiple in ((0.683, 1), (0.954, calibration.interval_95["flux"])):
            assert (off < multiple).mean() == pytest.approx(share, abs=0.1)
        # As if they were independent they hold next to nothing.
        assert (alone < 1).mean() < 0.3

    def test_the_main_blends_are_held_to_the_letter(self):
        """Others with larger errors, such as look the same, do not widen these."""
        rng = np.random.default_rng(9)
        main, other = (errors(40, "independent", rng, factor=f) for f in (1, 3))
        arrays = [np.concatenate(pair) for pair in zip(main, other, strict=True)]
        calibration = fit_calibration(*arrays, sky=0.05, main=slice(40))
        blend, components, std, isolated = main
        footprint = np.broadcast_to(isophote(isolated - 0.05)[:, :, None], std.shape)
        std = calibration.std(std, components, blend[:, None])
        off = (np.abs(components - isolated) / std)[footprint]
        assert (off < 1).mean() == pytest.approx(0.683, abs=0.01)
        assert (off < calibration.interval_95["pixel"]).mean() == pytest.approx(0.954, abs=0.005)

    def test_what_cannot_be_fitted_is_refused(self):
        blend, components, std, isolated = errors(2, "independent", np.random.default_rng(10))
        with pytest.raises(ValueError, match="not all finite"):
            fit_calibration(blend, components, np.full_like(std, np.nan), isolated)
        nothing = np.zeros_like(isolated)
        with pytest.raises(ValueError, match="no light"):
            fit_calibration(blend, components, std, nothing)
        with pytest.raises(ValueError, match="no galaxy is detected"):
            fit_calibration(blend, nothing, std, isolated, sky=0.05)


@pytest.fixture(scope="module")
def given():
    """Errors one and a half times as large as stated, in pixels."""
    rng = np.random.default_rng(11)
    _, components, std, isolated = errors(12, "independent", rng, factor=1.5, bands=3)
    components[3, 1] = 0.05  # in which nothing is detected
    return components, std, isolated


@pytest.fixture(scope="module")
def calibration():
    return Calibration(independent=1.4, interval_95={"pixel": 2.6, "flux": 2.3})


@pytest.fixture(scope="module")
def coverage(given, calibration):
    return Coverage.of(*given, calibration, sky=np.full((12, 3), 0.05))


class TestCoverage:
    def test_shares_are_those_counted_one_by_one(self, given, calibration, coverage):
        components, std, isolated = given
        within = {name: {"68": [], "95": []} for name in ("pixels", "fluxes")}
        for k in np.ndindex(12, 2):
            footprint = isophote(isolated[k] - np.float32(0.05))
            for band in range(3):
                for off, deviation in zip(
                    np.abs(components[k] - isolated[k])[band][footprint],
                    std[k][band][footprint],
                    strict=True,
                ):
                    within["pixels"]["68"].append(off <= deviation)
                    within["pixels"]["95"].append(off <= 2.6 * deviation)
            found = measure_segment(components[k], isolated[k])
            if found is not None:
                expected = 1.4 * np.sqrt(np.square(std[k][:, found.segment]).sum(axis=1))
                within["fluxes"]["68"] += list(np.abs(found.error) <= expected)
                within["fluxes"]["95"] += list(np.abs(found.error) <= 2.3 * expected)
        rows = {(row["kind"], row["of"]): row for row in coverage.rows()}
        for kind, shares in within.items():
            row = rows[kind, "components"]
            assert row["number"] == len(shares["68"])
            for name, values in shares.items():
                assert row[f"within_{name}"] == pytest.approx(np.mean(values))
            parts = [rows[kind, branch] for branch in ("central", "companion")]
            assert sum(part["number"] for part in parts) == row["number"]
        assert rows["fluxes", "companion"]["number"] == 11 * 3

    def test_the_curve_is_that_of_a_normal_distribution(self, coverage):
        curve = coverage.curve()
        np.testing.assert_allclose(curve["normal"], erf(MULTIPLES / np.sqrt(2)))
        good = np.arange(12) != 3  # the one in which nothing was found is far off
        pixels = coverage.within[good, :, :-1].sum(axis=(0, 1)) / coverage.pixels[good].sum()
        np.testing.assert_allclose(pixels, erf(MULTIPLES / 1.5 / np.sqrt(2)), atol=0.01)
        np.testing.assert_allclose(curve["pixels"][9], coverage.rows()[0]["within_68"])

    def test_errors_by_deviation(self, given, calibration):
        found = Coverage.of(*(a[4:] for a in given), calibration, sky=0.05)
        pixels = found.binned()["pixels"]
        assert len(pixels["std"]) >= 3
        large = pixels["number"] > 1000
        assert large.sum() > 1
        np.testing.assert_allclose(pixels["error"][large] / pixels["std"][large], 1.5, rtol=0.1)
        fluxes = found.binned()["fluxes"]
        assert fluxes["number"].sum() == 16 * 3
        assert (np.diff(fluxes["std"]) > 0).all()

    def test_parts_make_a_whole(self, given, calibration, coverage):
        parts = [
            Coverage.of(*(a[part] for a in given), calibration, sky=0.05)
            for part in (slice(0, 7), slice(7, 12))
        ]
        whole = Coverage.join(parts)
        assert len(whole) == len(coverage) == 12
        assert whole.rows() == coverage.rows()
        np.testing.assert_allclose(whole.bins, coverage.bins)

    def test_errors_resample_blends(self, coverage):
        """Pixels of a blend that all are within, or none, are worth one measurement."""
        number = 400
        inside = np.random.default_rng(12).random(number) < 0.5
        pixels = np.full((number, 2), 100)
        within = np.zeros((number, 2, len(MULTIPLES) + 1), int)
        within[inside] = 100
        other = replace(coverage, pixels=pixels, within=within)
        row = other.rows()[0]
        assert row["within_68"] == pytest.approx(inside.mean())
        assert row["within_68_error"] == pytest.approx(0.5 / np.sqrt(number), rel=0.2)


@pytest.fixture(scope="module")
def calibrated(tiny_model, galaxies, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "calibrated.safetensors"
    for suffix in (".safetensors", ".json"):
        shutil.copy(tiny_model.with_suffix(suffix), path.with_suffix(suffix))
    images = read_images(find_images(galaxies))
    card = add_calibration(path, images, blends=25, progress=False)
    return path, card


class TestModel:
    def test_it_goes_on_the_card_and_nothing_else_changes(self, calibrated, tiny_model):
        path, card = calibrated
        assert path.read_bytes() == tiny_model.read_bytes()
        assert json.loads(path.with_suffix(".json").read_text())["sha256"] == card.sha256
        before, after = (json.loads(p.with_suffix(".json").read_text()) for p in (tiny_model, path))
        assert before.pop("calibration") == {}
        calibration = Calibration(**after.pop("calibration"))
        assert before == after
        assert calibration.fit == {
            "blends": 25, "galaxies": 8, "seed": 1,
            "recipes": {"reiman2019": 3, "rerendered": 1, "sum": 1},
        }  # fmt: skip
        assert json.loads(json.dumps(calibration.to_dict())) == json.loads(
            json.dumps(card.calibration)
        )

    def test_results_come_with_it(self, calibrated):
        deblender = Deblender.load(calibrated[0], device="cpu")
        calibration = Calibration(**calibrated[1].calibration)
        batch = np.random.default_rng(1).random((2, 3, 80, 80), np.float32)
        components, std = deblender.deblend_arrays(batch, std="calibrated")
        _, predicted = deblender.deblend_arrays(batch, std="predicted")
        np.testing.assert_allclose(std, calibration.std(predicted, components, batch[:, None]))
        assert not np.allclose(std, predicted)
        result = deblender(np.moveaxis(batch[0], 0, -1))
        assert result.meta["calibration"] == calibration.of_fluxes()

    def test_it_follows_from_the_seed(self, calibrated, galaxies):
        path, card = calibrated
        again = add_calibration(path, read_images(find_images(galaxies)), blends=25, progress=False)
        assert again == card

    def test_what_cannot_be_calibrated_is_refused(self, calibrated, galaxies):
        images = read_images(find_images(galaxies))
        with pytest.raises(ValueError, match="blends=19 are too few; give at least 20"):
            add_calibration(calibrated[0], images, blends=19)
        with pytest.raises(ValueError, match=r"give the path of a \.safetensors file"):
            add_calibration("tiny", images)

    def test_of_linear_flux(self, tmp_path):
        """Blends of two, both sources asked for, have a calibration of their own."""
        torch.manual_seed(2)
        network = {"kind": "band_unet", "band_widths": [4, 8], "widths": [8], "attention": 0}
        card = Card(
            "flux", "for tests", network, bands=(), modes=("sum",), scaling="noise",
            size_rule={"petrosian_radii": 4.0, "pixels": 32},
            training={"config": {"surveys": ["lsst", "hsc"]}},
        )  # fmt: skip
        path = tmp_path / "flux.safetensors"
        save_model(path, build(**network), card)
        card = add_calibration(path, None, blends=64, progress=False)
        calibration = Calibration(**card.calibration)
        assert calibration.fit["held_to"] == "lsst"
        together = calibration.of_scenes()
        assert together.log_factor != calibration.log_factor
        assert together.of_scenes() is together
        deblender = Deblender.load(path, device="cpu")
        image = np.random.default_rng(1).normal(size=(2, 60, 60))
        image, places = NDData(image, unit="nJy"), [(30, 30), (20, 25)]
        for number, expected in ((1, calibration), (2, together)):
            scene = deblender.deblend_scene(image, positions=places[:number])
            assert scene.meta["calibration"] == expected.of_fluxes()

        # a model that was tuned on stamps does not know how its survey sees
        own = replace(card, training={"config": {"surveys": ["stamps"]}})
        save_model(path, build(**network), own, overwrite=True)
        with pytest.raises(ValueError, match="'stamps', which cannot be simulated; give surveys="):
            add_calibration(path, None, blends=64)
        (tmp_path / "own.yaml").write_text(
            "pixel_scale: 0.2\nbands: [{name: r, psf_fwhm: 0.8, depth: 26, zero_point: 27, "
            "exposure: 900}]"
        )
        card = add_calibration(
            path, None, surveys=[tmp_path / "own.yaml"], blends=64, progress=False
        )
        assert card.calibration["fit"]["surveys"] == ["own"]
        assert card.calibration["fit"]["bands"] == 1

    def test_flux_is_held_at_every_brightness(self):
        """The errors of bright galaxies are half of what their pixels tell."""
        rng = np.random.default_rng(13)
        light, _ = galaxies(120, rng)
        light *= np.exp(rng.uniform(1, 6, (120, 1, 1, 1, 1)))
        bright = light.max(axis=(3, 4), keepdims=True) > 30
        std = 0.3 + 0.1 * light
        components = light + np.where(bright, 0.5, 1.0) * std * rng.standard_normal(light.shape)
        blend = light.sum(axis=1)
        given = (a.astype(np.float32) for a in (blend, components, std, light))
        calibration = fit_calibration(*given, noise=1.0)
        off = np.abs(components - light) / calibration.std(std, components, blend[:, None])
        footprint = np.broadcast_to(isophote(light)[:, :, None], std.shape)
        peak = np.broadcast_to(light.max(axis=(3, 4), keepdims=True), std.shape)
        for low, high in ((3, 15), (80, 400)):
            some = footprint & (peak > low) & (peak < high)
            assert (off[some] < 1).mean() == pytest.approx(0.683, abs=0.03)

    def test_what_is_measured_may_not_be_what_the_factor_depends_on(self):
        """Deviations stated of components before they are made to agree hold those after it."""
        blend, components, std, isolated = errors(40, "independent", np.random.default_rng(12))
        off = isolated + 2 * (components - isolated)
        calibration = fit_calibration(blend, components, std, isolated, final=off, sky=0.05)
        footprint = np.broadcast_to(isophote(isolated - 0.05)[:, :, None], std.shape)
        std = calibration.std(std, components, blend[:, None])
        inside = (np.abs(off - isolated) <= std)[footprint]
        assert inside.mean() == pytest.approx(0.683, abs=0.01)
