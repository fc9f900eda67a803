"""Whole images through a network for fields: by blocks, on three scales, in any order."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from astropy.nddata import NDData, StdDevUncertainty
from scipy import ndimage

from astrodeblend import Deblender, Flag, field_inference
from astrodeblend.field_inference import overlap, take_apart
from astrodeblend.inference import Inference
from astrodeblend.networks import UNCALIBRATED, build
from astrodeblend.score import add_field_calibration
from astrodeblend.score.calibrating import fitted
from astrodeblend.simulate import simulate_fields
from astrodeblend.weights import load_model, read_card, save_model

UNKNOWN = np.full(2, np.nan)


@pytest.fixture(scope="module")
def inference():
    """A small network for fields all of whose weights matter."""
    torch.manual_seed(1)
    network = build("field", band_widths=[4, 8], widths=[8, 8], attention=1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        network.centres[-2].weight[-4:], network.centres[-2].bias[-4:] = 0, 1
        heat = network.find(torch.from_numpy(sources()[0])[None].float())[0]
        network.calibration.copy_(torch.tensor([3.0, -3.0 * heat.quantile(0.99)]) / heat.std())
    card = SimpleNamespace(bands=(), scaling="noise")
    return Inference(network, card, device="cpu", dtype="float32", batch_size="auto")


def sources(height=96, width=360, number=25, seed=3):
    """Return two bands of Gaussians over noise, where they are and how large."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    at = rng.uniform(4, (width - 4, height - 4), (number, 2))
    size = rng.uniform(1.5, 4, number)
    image = rng.standard_normal((2, height, width))
    for (cx, cy), r in zip(at, size, strict=True):
        image += 40 * np.exp(-0.7 * ((x - cx) ** 2 + (y - cy) ** 2) / r**2)
    return image, at, size


def whole(answer):
    """Return the light of every source on the whole image."""
    light = np.zeros((len(answer.positions), *answer.total.shape))
    for k, window in enumerate(answer.windows):
        box, inner = overlap(window, answer.total.shape[1:])
        light[k][:, *box] = window[2][:, *inner]
    return light


def test_blocks_are_the_whole(inference, monkeypatch):
    image, at, _ = sources()
    found = {}
    for block in (640, 96):
        monkeypatch.setattr(field_inference, "_BLOCK", block)
        monkeypatch.setattr(field_inference, "_MARGIN", 96)
        found[block] = (take_apart(inference, image, UNKNOWN, purity=0.5),
                        take_apart(inference, image, UNKNOWN, positions=at))  # fmt: skip
    for one, other in zip(*found.values(), strict=True):
        assert len(one.positions) == len(other.positions) > 3
        order = [np.lexsort(np.round(each.positions, 1).T) for each in (one, other)]
        for name in ("positions", "size", "probability"):
            first, second = (getattr(a, name)[k] for a, k in zip((one, other), order, strict=True))
            np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-3)
        first, second = (whole(a)[k] for a, k in zip((one, other), order, strict=True))
        np.testing.assert_allclose(first, second, rtol=2e-3, atol=2e-3)


def test_order_changes_nothing(inference):
    image, at, _ = sources(width=120, number=12)
    order = np.random.default_rng(0).permutation(len(at))
    one = take_apart(inference, image, UNKNOWN, positions=at)
    other = take_apart(inference, image, UNKNOWN, positions=at[order])
    np.testing.assert_allclose(whole(one)[order], whole(other), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(one.size[order], other.size, rtol=1e-5)


def test_a_single_position_has_all_others_beside_it(inference):
    image, *_ = sources(width=120, number=12)
    found = take_apart(inference, image, UNKNOWN, purity=0.5)
    one = take_apart(inference, image, UNKNOWN, positions=found.positions[2:3], purity=0.5)
    away = np.hypot(*(found.positions[:, None] - one.positions).transpose(2, 0, 1))
    assert away.min(axis=1).max() < 0.01
    # what is given counts as certain, so that one other may be less so
    assert len(one.positions) <= len(found.positions) + 1
    np.testing.assert_allclose(whole(one)[0], whole(found)[2], rtol=0.05, atol=0.05)
    two = take_apart(inference, image, UNKNOWN, positions=found.positions[:2])
    assert len(two.positions) == 2


def test_coarser_pixels_keep_light_and_noise():
    rng = np.random.default_rng(1)
    image = rng.standard_normal((1, 402, 399))
    image[0, 7, 9] = np.nan
    coarse, psf = field_inference._coarser(image, np.array([6.0]), 1.0, 4)
    assert coarse.shape == (1, 101, 100)
    assert psf == [1.5]
    assert 0.97 < np.nanstd(coarse) < 1.03
    flat, _ = field_inference._coarser(np.ones((1, 8, 8)), np.array([6.0]), [2.0], 2)
    assert (flat == 1).all()  # twice the light, over twice the noise


def test_values_between_coarser_pixels():
    y, x = np.mgrid[:24, :32].astype(np.float32)
    ramp = np.stack([3 * x + y, 1 - y])
    binned = ramp.reshape(2, 6, 4, 8, 4).mean(axis=(2, 4))
    inside = np.s_[:, 2:-2, 2:-2]
    np.testing.assert_allclose(field_inference._finer(binned, 4)[inside], ramp[inside], rtol=1e-5)


def test_light_is_shared_out_once_on_all_scales(inference):
    image, at, _ = sources(width=120)
    answer = take_apart(inference, image, UNKNOWN, positions=at)
    scale = np.repeat([1, 2, 4], [15, 6, 4])
    rows = np.column_stack([at, answer.probability, answer.size, scale])
    args = inference, image, UNKNOWN, 1.0, rows
    windows = field_inference._share_on_coarser(*args, answer.windows, answer.total, 2)
    windows = field_inference._share_on_coarser(*args, windows, answer.total, 4)
    before, after = whole(answer), whole(replace(answer, windows=windows))
    np.testing.assert_array_equal(after[scale == 1], before[scale == 1])
    assert (np.abs(after - before).max(axis=(1, 2, 3))[scale > 1] > 0).all()
    assert (after >= 0).all()
    finer = before[scale == 1].sum(axis=0)
    # what finer sources leave, at most twice of it where coarser pixels see more light
    assert (after.sum(axis=0) - finer <= 2 * (answer.total - finer) + 1e-4).all()
    for *_, light, std, flux_std in windows:
        assert light.shape == std.shape
        assert (flux_std > 0).all()


def test_no_source_is_named_twice():
    rows = np.array([[10, 10, 0.99, 40], [14, 10, 0.999, 3], [50, 10, 0.9, 2], [51, 11, 0.99, 2]])
    chosen = field_inference._chosen(rows, 0, 1, np.zeros((1, 64, 64)), 0.9)
    assert chosen.tolist() == [0, 3]
    assert field_inference._chosen(rows, 3, 3, np.zeros((1, 64, 64)), 0.9).tolist() == [0, 1, 2]
    values = np.zeros((1, 64, 64))
    values[0, 7:16, 47:56] = np.nan  # no data within 4 pixels of the third
    assert field_inference._chosen(rows, 0, 1, values, 0.9).tolist() == [0, 2]
    assert field_inference._chosen(rows[:0], 0, 0, values, 0.9).tolist() == []


def test_a_probability_is_that_on_the_best_scale():
    rows = np.array([[10, 10, 0.3, 2, 1], [13, 10, 0.9, 2, 1], [50, 10, 0.4, 2, 1]])
    coarse = [[10.5, 11, 0.8, 4, 2], [13, 10, 0.5, 4, 2], [50, 14, 0.9, 5, 4], [50, 14, 0.7, 20, 4]]
    field_inference._raise(rows, np.array(coarse, float))
    np.testing.assert_array_equal(rows[:, 2], [0.8, 0.9, 0.7])
    field_inference._raise(rows[:0], np.array(coarse, float))


@pytest.fixture(scope="module")
def deblender():
    return Deblender.from_pretrained("field", dtype="float32")  # exact enough to compare


@pytest.fixture(scope="module")
def fields():
    return simulate_fields("lsst", 1, 4, size=200, bands=["g", "r", "i"], density=60, large=0,
                           bright=0, gaps=0, edges=0)  # fmt: skip


def image_of(fields, times=1.0, bands=slice(None)):
    data = times * fields.image[0, bands]
    noise = times * np.sqrt(fields.variance[0, bands])
    return NDData(data, uncertainty=StdDevUncertainty(noise))


def matched(catalog, fields, strength):
    """Return which sources above a signal to noise are found, and their rows."""
    true = np.flatnonzero(fields.inside[0] & (fields.snr[0, :, 1] > strength))
    at = np.stack([catalog["x_centroid"], catalog["y_centroid"]], axis=1)
    away = np.hypot(*(fields.position[0, true, None] - at).transpose(2, 0, 1))
    return true, np.where(away.min(axis=1) < 2.5, away.argmin(axis=1), -1)


class TestShippedWeights:
    def test_sources_are_found_with_their_light(self, deblender, fields):
        scene = deblender.deblend_scene(image_of(fields))
        catalog = scene.catalog
        assert scene.meta["model"] == "field"
        assert scene.meta["light"] == "network"
        true, row = matched(catalog, fields, 20)
        assert (row >= 0).mean() > 0.8
        off = np.asarray(catalog["segment_flux"])[row, 1] / fields.flux[0, true, 1] - 1
        assert np.median(np.abs(off[row >= 0])) < 0.1
        all_true, _ = matched(catalog, fields, 0)
        assert len(catalog) <= len(all_true)
        left = scene.residual.data / np.sqrt(fields.variance[0])
        assert np.abs(left).mean() < 1.3 * np.sqrt(2 / np.pi)

    def test_flux_and_noise_ten_times_as_large(self, deblender, fields):
        one, ten = (deblender.deblend_scene(image_of(fields, k)).catalog for k in (1.0, 10.0))
        assert len(one) == len(ten)
        np.testing.assert_allclose(ten["segment_flux"], 10 * one["segment_flux"], rtol=1e-3)

    @pytest.mark.parametrize(("brightness", "bulge"), [(5.0, 0.0), (50.0, 0.0), (30.0, 0.15)])
    def test_a_large_galaxy_is_one_source(self, deblender, brightness, bulge):
        y, x = np.mgrid[:360, :360]
        disk = np.exp(-np.hypot(x - 175, (y - 180) / 0.6) * 1.678 / 30)
        middle = np.exp(-np.hypot(x - 175, y - 180) / 3)
        disk += bulge / (1 - bulge) * disk.sum() * middle / middle.sum()
        disk *= brightness * 2 * np.pi * 30**2 * 0.6 / disk.sum()  # mean within half of the light
        noise = np.random.default_rng(0).standard_normal((2, *disk.shape))
        image = NDData(disk + noise, uncertainty=StdDevUncertainty(np.ones_like(noise)))
        catalog = deblender.deblend_scene(image).catalog
        near = np.hypot(catalog["x_centroid"] - 175, catalog["y_centroid"] - 180) < 60
        assert near.sum() == 1
        share = np.asarray(catalog["segment_flux"])[near][0] / disk.sum()
        assert (np.abs(share - 1) < 0.25).all()

    def test_flux_of_light_fainter_than_the_noise(self, deblender):
        """Sizes and PSF are four times as large as usual; one side is no multiple of 4 pixels."""
        at = np.array([(80, 80), (240, 85), (90, 240), (230, 230)], float)
        y, x = np.mgrid[:322, :323]
        lights = np.exp([-np.hypot(x - a, (y - b) / 0.8) * 1.678 / 14 for a, b in at])
        lights = ndimage.gaussian_filter(lights, (0, 7, 7))
        fluxes = np.array([2500.0, 5000, 10000, 20000])
        lights *= (fluxes / lights.sum(axis=(1, 2)))[:, None, None]
        noise = np.random.default_rng(0).standard_normal((3, *y.shape))
        image = NDData(
            lights.sum(axis=0) + noise, uncertainty=StdDevUncertainty(np.ones_like(noise))
        )
        catalog = deblender.deblend_scene(image).catalog
        assert 4 <= len(catalog) <= 5  # a false one, at most
        place = np.stack([catalog["x_centroid"], catalog["y_centroid"]], axis=1)
        away = np.hypot(*(at[:, None] - place).transpose(2, 0, 1))
        found = np.asarray(catalog["segment_flux"])[away.argmin(axis=1)].mean(axis=1)
        error = found - fluxes
        limit = 1 / np.sqrt((lights**2).sum(axis=(1, 2)) / fluxes**2) / np.sqrt(3)
        assert (np.abs(error) < 4 * limit + 0.03 * fluxes).all()
        assert abs(np.median(error / fluxes)) < 0.05

    @pytest.mark.parametrize(
        ("radius", "brightness", "q"),
        [(8, b, q) for b in (10, 100) for q in (0.1, 0.2, 0.3)] + [(20, 3, 0.3), (20, 30, 0.3)],
    )
    def test_a_thin_disk_is_one_source(self, deblender, radius, brightness, q):
        y, x = np.mgrid[:201, :203]
        along, across = (x - 100) * 0.8 + (y - 97) * 0.6, (y - 97) * 0.8 - (x - 100) * 0.6
        disk = np.exp(-np.hypot(along, across / q) * 1.678 / radius)
        disk = ndimage.gaussian_filter(disk, 1.7)
        disk *= brightness * 2 * np.pi * radius**2 * q / disk.sum()
        noise = np.random.default_rng(0).standard_normal((3, *disk.shape))
        image = NDData(disk + noise, uncertainty=StdDevUncertainty(np.ones_like(noise)))
        catalog = deblender.deblend_scene(image).catalog
        assert len(catalog) == 1
        assert np.hypot(catalog["x_centroid"][0] - 100, catalog["y_centroid"][0] - 97) < 2
        assert (np.abs(catalog["segment_flux"][0] / disk.sum() - 1) < 0.2).all()

    @pytest.mark.parametrize("given", [True, False])
    @pytest.mark.parametrize("contrast", [1.0, 3.0, 10.0, 30.0])
    def test_a_star_in_front_of_a_large_galaxy(self, deblender, contrast, given):
        """Such as a supernova on the arm of a spiral."""
        y, x = np.mgrid[:240, :240]
        disk = 100 * np.exp(-np.hypot(x - 120, (y - 118) / 0.7) * 1.678 / 30)
        star = np.exp(-((x - 142.3) ** 2 + (y - 128.6) ** 2) / (2 * 1.7**2))
        star *= contrast * disk[129, 142]
        noise = np.random.default_rng(0).standard_normal((3, *disk.shape))
        image = NDData(disk + star + noise, uncertainty=StdDevUncertainty(np.ones_like(noise)))
        positions = [(120, 118), (142.3, 128.6)] if given else None
        catalog = deblender.deblend_scene(image, positions=positions).catalog
        place = np.stack([catalog["x_centroid"], catalog["y_centroid"]], axis=1)
        for at, light in (((120, 118), disk), ((142.3, 128.6), star)):
            away = np.hypot(*(place - at).T)
            assert away.min() < 1.5
            found = np.asarray(catalog["segment_flux"])[away.argmin()]
            assert (np.abs(found / light.sum() - 1) < 0.35).all()

    @pytest.mark.parametrize(("radius", "apart"), [(0.7, 5), (1.5, 5), (3.5, 9)])
    def test_bright_pairs_of_given_positions(self, deblender, radius, apart):
        rng, (y, x) = np.random.default_rng(1), np.mgrid[:256, :256]
        middle = np.array([(a, b) for a in (32, 96, 160, 224) for b in (32, 96, 160, 224)])
        angle = rng.uniform(0, 2 * np.pi, len(middle))
        half = apart / 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        at = np.concatenate([middle + half, middle - half])
        lights = np.exp([-np.hypot(x - a, y - b) * 1.678 / radius for a, b in at])
        lights = ndimage.gaussian_filter(lights, (0, 1.7, 1.7))
        lights *= (10 ** rng.uniform(3, 4, len(at)) / lights.sum(axis=(1, 2)))[:, None, None]
        noise = rng.standard_normal((3, *y.shape))
        image = NDData(
            lights.sum(axis=0) + noise, uncertainty=StdDevUncertainty(np.ones_like(noise))
        )
        catalog = deblender.deblend_scene(image, positions=at).catalog
        found = np.asarray(catalog["segment_flux"])
        error = np.abs(found / lights.sum(axis=(1, 2))[:, None] - 1)
        assert np.median(error) < 0.2

    @pytest.mark.parametrize("given", [True, False])
    @pytest.mark.parametrize("radius", [0.8, 1.5])
    def test_a_source_whose_middle_is_masked(self, deblender, radius, given):
        at = np.array([(40, 40), (120, 45), (42, 118), (118, 122)], float)
        y, x = np.mgrid[:160, :160]
        lights = np.exp([-np.hypot(x - a, (y - b) / 0.8) * 1.678 / 4 for a, b in at])
        lights = ndimage.gaussian_filter(lights, (0, 1.7, 1.7))
        fluxes = np.array([3000.0, 5000, 9000, 20000])
        lights *= (fluxes / lights.sum(axis=(1, 2)))[:, None, None]
        noise = np.random.default_rng(0).standard_normal((3, *y.shape))
        mask = (np.hypot(x - at[:, :1, None], y - at[:, 1:, None]) <= radius).any(axis=0)
        values = np.where(mask, 1e4, lights.sum(axis=0) + noise)
        image = NDData(
            values, mask=np.broadcast_to(mask, values.shape),
            uncertainty=StdDevUncertainty(np.ones_like(noise)),
        )  # fmt: skip
        catalog = deblender.deblend_scene(image, positions=at if given else None).catalog
        place = np.stack([catalog["x_centroid"], catalog["y_centroid"]], axis=1)
        away = np.hypot(*(at[:, None] - place).transpose(2, 0, 1))
        assert 4 <= len(catalog) <= 5
        assert (away.min(axis=1) < 2).all()
        rows = catalog[away.argmin(axis=1)]
        seen = fluxes * (1 - (lights * mask).sum(axis=(1, 2)) / fluxes)
        found = np.asarray(rows["segment_flux"]).mean(axis=1)
        assert (np.abs(found / seen - 1) < 0.1).all()
        whole = found / (1 - np.asarray(rows["masked_fraction"]).mean(axis=1))
        assert (np.abs(whole / fluxes - 1) < 0.2).all()

    @pytest.mark.parametrize("away", [4, 6])
    def test_a_bright_blend_is_not_missed(self, deblender, away):
        y, x = np.mgrid[:160, :160]
        disk = 60 * np.exp(-np.hypot(x - 80, y - 80) * 1.678 / 8)
        knot = 180 * np.exp(-((x - 80 - away) ** 2 + (y - 80) ** 2) / (2 * 1.7**2))
        noise = np.random.default_rng(0).standard_normal((3, 160, 160))
        image = NDData(disk + knot + noise, uncertainty=StdDevUncertainty(np.ones_like(noise)))
        catalog = deblender.deblend_scene(image).catalog
        assert 1 <= len(catalog) <= 2
        found = np.asarray(catalog["segment_flux"]).sum(axis=0)
        assert (np.abs(found / (disk + knot).sum() - 1) < 0.15).all()

    @pytest.mark.parametrize("place", [(-0.5, 30.0), (30.0, -0.5), (199.5, 30.0)])
    def test_positions_on_the_edge(self, deblender, fields, place):
        catalog = deblender.deblend_scene(
            image_of(fields), positions=[place, (100.0, 90.0)]
        ).catalog
        assert len(catalog) == 2
        assert np.isfinite(catalog["segment_flux"]).all()

    @pytest.mark.parametrize("bands", [[1], [0, 1], [0, 1, 2, 0, 1, 2]])
    def test_any_number_of_bands(self, deblender, fields, bands):
        catalog = deblender.deblend_scene(image_of(fields, bands=bands)).catalog
        assert catalog["segment_flux"].shape == (len(catalog), len(bands))
        _, row = matched(catalog, fields, 10)
        assert (row >= 0).mean() > 0.7

    def test_a_call_is_a_scene_of_one(self, deblender, fields):
        scene = deblender.deblend_scene(image_of(fields))
        place = scene.light.components[0].position
        one = deblender.deblend_scene(image_of(fields), positions=[place])
        called = deblender(image_of(fields), position=place)
        assert len(one.catalog) == 1
        row, central = one.catalog[0], called.to_table()[0]
        for name in ("segment_flux", "kron_flux_err", "flags", "x_centroid"):
            np.testing.assert_allclose(row[name], central[name])
        whole_row = scene.catalog[0]
        np.testing.assert_allclose(row["segment_flux"], whole_row["segment_flux"], rtol=0.05)
        both = np.nan_to_num(called.central.data + called.companion.data)
        assert both.shape == fields.image[0].shape

    def test_a_source_twice_and_none(self, deblender, fields):
        with pytest.raises(ValueError, match="two sources in one pixel"):
            deblender.deblend_scene(image_of(fields), positions=[(20, 20), (20.2, 20)])
        with pytest.raises(ValueError, match="outside the image"):
            deblender.deblend_scene(image_of(fields), positions=[(20, 20), (300, 20)])
        noise = np.random.default_rng(1).standard_normal((2, 64, 64))
        empty = deblender.deblend_scene(NDData(noise, uncertainty=StdDevUncertainty(noise * 0 + 1)))
        assert len(empty.catalog) == 0
        given = deblender.deblend_scene(NDData(noise), positions=[(20, 20), (40, 40)])
        assert all(Flag(int(flags)) & Flag.NO_SOURCE for flags in given.catalog["flags"])

    def test_many_sources(self, deblender):
        many = simulate_fields("lsst", 1, 4, size=400, bands=["r"], density=400, large=0, bright=0)
        inside = np.flatnonzero(many.inside[0] & ~many.mask[0, 0].all())
        at = np.unique(np.round(many.position[0, inside]).clip(0, 399), axis=0)
        scene = deblender.deblend_scene(image_of(many), positions=at)
        assert len(scene.catalog) == len(at) > 500
        assert np.isfinite(scene.catalog["segment_flux"]).mean() > 0.95

    def test_error_bars_are_made_to_hold(self, tmp_path):
        path = tmp_path / "field.safetensors"
        network, card = load_model("field")
        save_model(path, network, replace(card, calibration={}))
        fitted = add_field_calibration(
            path, surveys=["lsst"], number=2, blocks=8, seed=9, progress=False
        )
        assert read_card(path).calibration["fit"] == fitted.calibration["fit"]
        deblender = Deblender.load(path)
        off = {"network": [], "apportioned": []}
        for seed in (9, 1009):  # those of the fit
            made = simulate_fields("lsst", 1, seed)
            scene = deblender.deblend_scene(NDData(made.image[0], mask=made.mask[0]))
            for light, each in off.items():
                catalog = scene.with_light(light).catalog
                true, row = matched(catalog, made, 5)
                true, row = true[row >= 0], row[row >= 0]
                flux, error = (np.asarray(catalog[name])[row, 1:5]
                               for name in ("segment_flux", "segment_flux_err"))  # fmt: skip
                each.append(np.abs(flux - made.flux[0, true, 1:5]) / error)
        for each in off.values():
            assert 0.55 < (np.concatenate(each) < 1).mean() < 0.82

    def test_purity_is_a_choice(self, deblender, fields):
        few, many = (len(deblender.deblend_scene(image_of(fields), purity=p).catalog)
                     for p in (0.999, 0.8))  # fmt: skip
        assert few < many
        with pytest.raises(ValueError, match=r"purity=1\.5"):
            deblender.deblend_scene(image_of(fields), purity=1.5)

    def test_no_data_is_no_light(self, deblender, fields):
        image = image_of(fields)
        image.data[0, :, :80] = np.nan
        catalog = deblender.deblend_scene(image).catalog
        left = np.asarray(catalog["x_centroid"]) < 70
        assert left.any()
        assert np.isnan(catalog["segment_flux"][left][:, 0]).all()
        assert (catalog["segment_flux"][left][:, 1] > 0).mean() > 0.9
        assert all(Flag(int(flags)) & Flag.MASKED for flags in catalog["flags"][left])


def test_probabilities_are_fitted_to_what_is_true():
    rng = torch.Generator().manual_seed(3)
    heat = torch.randn(20_000, generator=rng, dtype=torch.float64) * 2
    chance = (1.7 * heat - 0.6).sigmoid()
    true = (torch.rand(20_000, generator=rng, dtype=torch.float64) < chance).double()
    assert fitted(heat, true).tolist() == pytest.approx([1.7, -0.6], abs=0.06)
    assert fitted(heat[:30], true[:30]).tolist() == list(UNCALIBRATED)  # too few to tell
