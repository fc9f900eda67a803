"""One galaxy or more: stamps made alike, a score that learns it, and what results say of it."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import kstest
from torch.nn.functional import avg_pool2d

from astrodeblend import Deblender
from astrodeblend.metrics import isophote, moments
from astrodeblend.networks import BlendScore, build
from astrodeblend.networks.heads import look_around
from astrodeblend.results import Flag, decode_flags
from astrodeblend.simulate.doubles import make_doubles
from astrodeblend.training import add_blend_score, add_familiarity
from astrodeblend.training.heads import _calibration, fit_blend_score
from astrodeblend.weights import Card, list_models, load_model, read_card, save_model

NETWORKS = {
    "unet": {"kind": "unet", "widths": (8, 16), "blocks": (1, 1), "attention": 0},
    "three levels": {"kind": "unet", "widths": (4, 8, 8), "blocks": (1, 1, 1), "attention": 1},
    "one level": {"kind": "unet", "widths": (8,), "blocks": (1,), "attention": 0},
    "reiman2019": {"kind": "reiman2019", "width": 8, "root_blocks": 1, "branch_blocks": 1},
}


def test_pooling_by_hand():
    generator = torch.Generator().manual_seed(1)
    picture, shallow, deep = (
        torch.randn(2, n, size, size, generator=generator) for n, size in ((2, 40), (3, 20), (4, 5))
    )
    found = look_around(picture, shallow.bfloat16(), deep).numpy()
    expected = []
    uneven = np.abs(picture.numpy() - picture.numpy()[:, :, ::-1, ::-1])
    for x, discs in (
        (torch.from_numpy(uneven), (0.05, 0.1, 0.18, 0.28, 0.4, 0.55, 0.75)),
        (shallow.bfloat16(), (0.1, 0.2, 0.4, 0.75)),
        (deep, (0.2, 0.5, 2.0)),
    ):
        x = x.float().numpy()
        middle = (x.shape[-1] - 1) / 2
        rows, columns = np.indices(x.shape[-2:]) - middle
        radius = np.hypot(rows, columns) / (x.shape[-1] / 2)
        for disc in discs:
            inside = x[:, :, radius <= disc]
            expected += [inside.mean(axis=2), inside.max(axis=2)]
    expected = np.concatenate(expected, axis=1)
    expected = np.sign(expected) * np.log1p(np.abs(expected))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
class TestNetworks:
    def test_the_score_comes_with_the_components(self, name):
        torch.manual_seed(1)
        network = build(**NETWORKS[name]).eval()
        blend = torch.rand((3, 3, 32, 40), generator=torch.Generator().manual_seed(2))
        with torch.inference_mode():
            features = network.blend_features(blend)
            network.blend_score = BlendScore(features.shape[1]).eval()
            components, _, score = network(blend, with_blend_score=True)
            expected = network(blend)[0]
            torch.testing.assert_close(score, network.blend_score(features))
            torch.testing.assert_close(network.blend_features(blend[1:2]), features[1:2])
            both = network(blend, with_features=True, with_blend_score=True)
        assert torch.equal(components, expected)
        assert score.shape == (3,)
        assert len(both) == 4
        assert torch.equal(both[-1], score)
        assert ((score > 0) & (score < 1)).all()


def disc(rng, size=288, noise=0.02):
    """A face-on or inclined exponential disc in noise, as bytes."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    angle, ratio, radius = rng.uniform(0, np.pi), rng.uniform(0.4, 1), rng.uniform(8, 16)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    light = np.exp(-np.hypot(along, across / ratio) / radius)
    picture = 0.05 + rng.uniform(0.5, 0.9, (3, 1, 1)) * light
    picture += noise * rng.standard_normal(picture.shape)
    return (255 * picture.clip(0, 1)).round().astype(np.uint8)


@pytest.fixture(scope="module")
def discs():
    rng = np.random.default_rng(1)
    return np.array([disc(rng) for _ in range(16)])


@pytest.fixture(scope="module")
def doubles(discs):
    return make_doubles(discs, 320, rng=np.random.default_rng(2))


def area(value, blended):
    """Probability that a blend has the larger value, pair by pair."""
    return np.mean(np.sign(value[blended][:, None] - value[~blended]) / 2 + 0.5)


class TestDoubles:
    def test_half_of_them_are_of_two(self, doubles):
        assert doubles.picture.shape == (len(doubles), 3, 80, 80)
        assert doubles.picture.min() >= 0
        assert doubles.picture.max() <= 1
        np.testing.assert_array_equal(doubles.blended, np.arange(len(doubles)) % 2 == 0)
        two = doubles.blended
        assert np.isnan(doubles.separation[~two]).all()
        assert np.isnan(doubles.flux_ratio[~two]).all()
        assert doubles.flux_ratio[two].min() >= 0.1
        assert doubles.flux_ratio[two].max() <= 1
        assert kstest(doubles.separation[two] / 17, "uniform").pvalue > 1e-3

    def test_they_follow_from_the_seed(self, discs, doubles):
        again = make_doubles(discs, 64, rng=np.random.default_rng(2))
        assert torch.equal(again.picture, doubles.picture[: len(again)])
        other = make_doubles(discs, 8, rng=np.random.default_rng(3))
        assert not torch.equal(other.picture[:8], doubles.picture[:8])

    def test_neither_noise_nor_sky_tells(self, doubles):
        """In the corners, where no galaxy is, blends and single galaxies are alike."""
        corner = doubles.picture[:, :, :10, :10].flatten(2).double()
        rough = doubles.picture[:, :, :10, :10].diff(dim=3).flatten(1).double()
        for value in (corner.mean(dim=(1, 2)), corner.std(dim=2).mean(dim=1), rough.std(dim=1)):
            # The standard error is 1 / sqrt(6 * 160).
            assert abs(area(value.numpy(), doubles.blended) - 0.5) < 0.12

    def test_light_that_is_added_tells(self, doubles):
        middle = doubles.picture - doubles.picture.flatten(2).median(dim=2).values[..., None, None]
        uneven = (middle - middle.flip((2, 3)))[:, :, 10:70, 10:70].abs().mean(dim=(1, 2, 3))
        far = ~doubles.blended | (doubles.separation > 5)
        contrast = middle.square().mean(dim=(1, 2, 3)).sqrt()
        assert area((uneven / contrast).numpy()[far], doubles.blended[far]) > 0.6

    def test_they_are_centred_as_detected_sources_are(self, discs):
        stamps = make_doubles(discs, 128, rng=np.random.default_rng(4))
        single = stamps.picture[torch.from_numpy(~stamps.blended & stamps.plain)].numpy()
        light = single - np.median(single, axis=(2, 3), keepdims=True)
        found = moments(light, isophote(light, fraction=0.4)).centroid - 39.5
        assert (np.abs(np.median(found, axis=0)) < 0.3).all()
        assert (np.abs(found) < 3).all()
        assert 0.2 < found.std() < 1.2  # the error of 0.4, and half a pixel either way

    def test_pictures_of_other_sizes_and_bands(self):
        rng = np.random.default_rng(5)
        small = rng.integers(0, 60, (4, 2, 64, 64), dtype=np.uint8)
        small[:, :, 28:36, 28:36] = 220
        stamps = make_doubles(small, 8, rng=rng)
        assert stamps.picture.shape[1:] == (2, 80, 80)
        assert stamps.plain.dtype == bool


class TestFit:
    def test_calibration_finds_the_line(self):
        rng = np.random.default_rng(1)
        logit = 3 * rng.standard_normal(40_000)
        label = rng.random(40_000) < 1 / (1 + np.exp(-(0.6 * logit - 0.5)))
        factor, offset = _calibration(torch.from_numpy(logit), torch.from_numpy(label).double())
        assert float(factor) == pytest.approx(0.6, abs=0.03)
        assert float(offset) == pytest.approx(-0.5, abs=0.06)

    def test_what_is_easily_told_is_learned(self, discs, doubles, monkeypatch):
        """A network that sees how uneven a stamp is, and noise, gets a calibrated score."""

        class Seer(torch.nn.Linear):
            def blend_features(self, picture):
                # Of the middle, smoothed: over the whole stamp as it is, noise decides.
                light = picture - picture.flatten(2).median(dim=2).values[..., None, None]
                light = avg_pool2d(light, 5)[:, :, 4:12, 4:12]
                uneven = (light - light.flip((2, 3))).square().mean(dim=(1, 2, 3))
                told = (uneven / light.square().mean(dim=(1, 2, 3))).sqrt()
                noise = picture[:, 0, :3, :3].flatten(1)
                return torch.cat([told[:, None], noise], dim=1)

        monkeypatch.setattr("astrodeblend.training.heads._FEWEST_STEPS", 250)
        network = Seer(1, 1)
        score = fit_blend_score(network, discs, stamps=600)
        with torch.inference_mode():
            features = network.blend_features(doubles.picture)
            found = score(features).numpy()
        told = area(features[:, 0].numpy(), doubles.blended)
        assert told > 0.7  # there is something to learn
        assert area(found, doubles.blended) > told - 0.03
        assert (found[~doubles.blended] > score.threshold.item()).mean() < 0.04
        # Calibrated: on average it says how many there are, and what it says it means.
        assert found.mean() == pytest.approx(0.5, abs=0.05)
        sure = found > np.quantile(found, 0.75)
        assert doubles.blended[sure].mean() == pytest.approx(found[sure].mean(), abs=0.12)

    def test_it_follows_from_the_seed(self, discs, short_fits):
        torch.manual_seed(3)
        network = build(**NETWORKS["unet"])
        one, other = (fit_blend_score(network, discs, stamps=40, seed=4) for _ in range(2))
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name])
        assert network.training
        assert not one.training

    def test_what_cannot_be_fitted_is_refused(self, discs, tiny_model, tmp_path):
        network = build(**NETWORKS["unet"])
        with pytest.raises(ValueError, match="stamps=199 are too few; give at least 200"):
            fit_blend_score(network, discs, stamps=199)
        with pytest.raises(ValueError, match="images holds 7 galaxies; give at least 8"):
            fit_blend_score(network, discs[:7], stamps=200)
        with pytest.raises(ValueError, match="the model takes 3 bands, R, G, B"):
            add_blend_score(tiny_model, discs[:, :2])
        with pytest.raises(ValueError, match=r"give the path of a \.safetensors file"):
            add_blend_score("tiny", discs)
        path = tmp_path / "flux.safetensors"
        network = build("band_unet", band_widths=(4, 8), widths=(8, 8), attention=0)
        save_model(path, network, Card("flux", "for flux", network={}))
        with pytest.raises(ValueError, match="is a band_unet; give one for pictures"):
            add_blend_score(path, discs)


class TestModel:
    def test_the_weights_stay_as_they_were(self, tiny_model, scoring_model):
        before, after = load_file(tiny_model), load_file(scoring_model)
        for name, value in before.items():
            assert torch.equal(value, after[name])
            assert value.dtype == after[name].dtype
        added = {name.split(".")[0] for name in after.keys() - before.keys()}
        assert added == {"blend_score"}
        entry = read_card(scoring_model).training["blend_score"]
        assert entry == {
            "stamps": 80,
            "galaxies": 8,
            "separation": [0, 17],
            "flux_ratio": [0.1, 1],
            "false_alarms": 0.01,
        }

    def test_fitted_again_it_is_no_larger(self, scoring_model, discs, tmp_path, short_fits):
        path = tmp_path / "again.safetensors"
        for suffix in (".safetensors", ".json"):
            path.with_suffix(suffix).write_bytes(scoring_model.with_suffix(suffix).read_bytes())
        add_blend_score(path, discs, stamps=40, progress=False)
        add_familiarity(path, discs, blends=40, progress=False)
        add_familiarity(path, discs, blends=40, progress=False)
        kinds = {name: value.dtype for name, value in load_file(path).items()}
        assert kinds["stem.weight"] == kinds["blend_score.hidden.weight"] == torch.float16
        assert kinds["blend_score.threshold"] == torch.float32

    def test_it_comes_back_from_its_file(self, scoring_model, doubles):
        network, _ = load_model(scoring_model)
        with torch.inference_mode():
            expected = network.blend_score(network.blend_features(doubles.picture[:40]))
        deblender = Deblender.load(scoring_model, device="cpu", dtype="float32")
        found = deblender.blend_scores(doubles.picture[:40])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        assert deblender.blend_threshold == pytest.approx(network.blend_score.threshold.item())

    def test_neither_order_nor_company_matters(self, scoring_model, doubles):
        deblender = Deblender.load(scoring_model, device="cpu", batch_size=3)
        batch = doubles.picture[:10].numpy()
        order = np.random.default_rng(1).permutation(10)
        scores = deblender.blend_scores(batch)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(deblender.blend_scores(batch[order]), scores[order], atol=1e-5)
        alone = np.concatenate([deblender.blend_scores(one[None]) for one in batch])
        np.testing.assert_allclose(alone, scores, atol=1e-5)

    def test_a_model_without(self, tiny_model, doubles):
        deblender = Deblender.load(tiny_model, device="cpu")
        assert np.isnan(deblender.blend_scores(doubles.picture[:2].numpy())).all()
        assert deblender.blend_threshold is None
        assert deblender(np.moveaxis(doubles.picture[0].numpy(), 0, -1)).meta["blend_score"] is None

    def test_results_have_it(self, scoring_model, doubles):
        deblender = Deblender.load(scoring_model, device="cpu")
        batch = doubles.picture[:3].numpy()
        results = deblender.deblend_stamps(list(batch))
        found = [result.meta["blend_score"] for result in results]
        np.testing.assert_allclose(found, deblender.blend_scores(batch), atol=1e-4)

    @pytest.mark.parametrize("name", list_models())
    def test_a_model_of_the_package_tells(self, name):
        deblender = Deblender.from_pretrained(name, device="cpu")
        if deblender.blend_threshold is None:
            pytest.skip(f"{name} has no blend score")
        y, x = np.mgrid[:80, :80] - 39.5
        noise = 0.01 * np.random.default_rng(1).standard_normal((2, 3, 80, 80))

        def galaxy(x0, y0, ratio):
            light = np.exp(-np.hypot(x - x0, (y - y0) / ratio) / 4)
            return np.array([0.8, 0.7, 0.6])[:, None, None] * light

        single = galaxy(0, 0, 0.8)
        double = np.maximum(galaxy(-2.5, 0, 0.8), galaxy(2.5, 1, 0.6)[::-1])
        stamps = (np.stack([single, double]) + 0.03 + noise).clip(0, 1).astype(np.float32)
        alone, both = deblender.blend_scores(stamps)
        # a galaxy without any structure is no galaxy of SDSS, and its score no small one
        assert alone < deblender.blend_threshold - 0.1
        assert both > deblender.blend_threshold


@pytest.fixture(scope="module")
def image():
    """Two galaxies that overlap, and one alone with a small one near it, as a picture."""
    y, x = np.mgrid[:150, :180]
    galaxies = [(50, 50, 5, 900), (63, 55, 4, 600), (130, 90, 5, 800), (160, 92, 1.5, 60)]
    light = sum(
        flux * np.exp(-((x - gx) ** 2 + (y - gy) ** 2) / (2 * r**2)) / (2 * np.pi * r**2)
        for gx, gy, r, flux in galaxies
    )
    return picture_of(0.15 * light)


def picture_of(light):
    """Show light above a dark sky, in three bands of bytes with noise."""
    noise = 0.02 * np.random.default_rng(1).standard_normal((3, *light.shape))
    return (255 * (0.05 + light + noise).clip(0, 1)).round().astype(np.uint8)


class TestScenes:
    def test_every_source_has_a_score(self, scoring_model, image):
        deblender = Deblender.load(scoring_model, device="cpu")
        scene = deblender.deblend_scene(image)
        assert sorted(scene.catalog["n_blended"]) == [1, 1, 2, 2]
        score = np.asarray(scene.catalog["blend_score"])
        assert ((score > 0) & (score < 1)).all()
        assert scene.meta["blend_threshold"] == deblender.blend_threshold
        flagged = (scene.catalog["flags"] & int(Flag.POSSIBLE_BLEND)) > 0
        expected = (scene.catalog["n_blended"] == 1) & (score > deblender.blend_threshold)
        np.testing.assert_array_equal(flagged, expected)

    def test_a_low_threshold_flags_all_isolated_ones(self, scoring_model, image):
        deblender = Deblender.load(scoring_model, device="cpu")
        deblender._model.inference.network.blend_score.threshold.fill_(0)
        scene = deblender.deblend_scene(image)
        flagged = (scene.catalog["flags"] & int(Flag.POSSIBLE_BLEND)) > 0
        np.testing.assert_array_equal(flagged, scene.catalog["n_blended"] == 1)
        assert "several galaxies" in decode_flags(Flag.POSSIBLE_BLEND)[0]

    def test_others_have_no_part_in_the_score_of_an_isolated_source(self, scoring_model):
        deblender = Deblender.load(scoring_model, device="cpu")
        y, x = np.mgrid[:150, :180]
        one = 0.8 * np.exp(-((x - 130) ** 2 + (y - 90) ** 2) / 50)
        other = np.exp(-((x - 160) ** 2 + (y - 92) ** 2) / 2)
        scores = {}
        for name, peak in (("faint", 0.2), ("bright", 0.8)):
            scene = deblender.deblend_scene(
                picture_of(one + peak * other), positions=[(130, 90), (160, 92)]
            )
            scores[name] = scene.catalog["blend_score"][0]
        assert scores["faint"] == pytest.approx(scores["bright"], abs=0.05)

    def test_a_scene_of_one_source_scores_as_a_stamp_does(self, scoring_model):
        deblender = Deblender.load(scoring_model, device="cpu")
        y, x = np.mgrid[:100, :100]
        image = picture_of(0.8 * np.exp(-((x - 45) ** 2 + (y - 50) ** 2) / 50))
        scene = deblender.deblend_scene(image, positions=[(45, 50)])
        stamp = deblender(image, position=(45, 50))
        assert scene.catalog["blend_score"][0] == pytest.approx(stamp.meta["blend_score"], abs=1e-4)

    def test_without_a_score_the_column_is_not_a_number(self, tiny_model, image):
        scene = Deblender.load(tiny_model, device="cpu").deblend_scene(image)
        assert np.isnan(scene.catalog["blend_score"]).all()
        assert scene.meta["blend_threshold"] is None
        assert not (scene.catalog["flags"] & int(Flag.POSSIBLE_BLEND)).any()
