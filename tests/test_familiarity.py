"""What is unlike training is told: Gaussian data with known answers, and pictures of all sorts."""

from functools import cache

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from scipy.stats import chi2, kstest
from skimage import data
from skimage.transform import resize

from astrodeblend.networks import Familiarity, build, fit_familiarity
from astrodeblend.networks.heads import pool
from astrodeblend.simulate import Simulator, get_recipe
from astrodeblend.training import BlendStream
from astrodeblend.training.heads import familiarity_of
from astrodeblend.weights import list_models, load_model

NETWORKS = {
    "unet": {"kind": "unet", "widths": (8, 16), "blocks": (1, 1), "attention": 0},
    "one level": {"kind": "unet", "widths": (8,), "blocks": (1,), "attention": 0},
    "reiman2019": {"kind": "reiman2019", "width": 8, "root_blocks": 1, "branch_blocks": 1},
}


def gaussian(n, width=12, seed=0):
    """Correlated Gaussian features of all sizes, float32, and their true covariance and mean."""
    rng = np.random.default_rng(1)
    mixing = np.eye(width) + 0.3 * rng.standard_normal((width, width)) / width**0.5
    mixing *= 10.0 ** rng.uniform(-2, 2, width)
    mean = 10.0 ** rng.uniform(-1, 2, width)
    sample = np.random.default_rng(seed).standard_normal((n, width)) @ mixing + mean
    return torch.from_numpy(sample.astype(np.float32)), mixing.T @ mixing, mean


class TestFit:
    def test_distances_are_mahalanobis_and_follow_chi_square(self):
        familiarity = fit_familiarity(gaussian(20_000)[0])
        features, covariance, mean = gaussian(4000, seed=2)
        distance = familiarity(features).numpy()
        inverse = np.linalg.inv(covariance)
        expected = [mahalanobis(row, mean, inverse) for row in features[:50].numpy()]
        np.testing.assert_allclose(distance[:50], expected, rtol=0.06)
        assert kstest(distance**2, chi2(12).cdf).statistic < 0.035

    def test_the_covariance_is_shrunk_as_ledoit_and_wolf_do(self):
        """Against their lemma 3.4, sample by sample."""
        features = gaussian(220, width=40)[0]
        z = features.double().numpy()
        z = (z - z.mean(axis=0)) / z.std(axis=0, ddof=1)
        outer = [np.outer(row, row) for row in z]
        covariance = np.mean(outer, axis=0)
        error = sum(np.sum((one - covariance) ** 2) for one in outer) / len(z) ** 2
        share = error / np.sum((covariance - np.eye(40)) ** 2)
        assert 0.01 < share < 1
        inverse = np.linalg.inv((1 - share) * covariance + share * np.eye(40))
        expected = [row @ inverse @ row for row in z]
        found = fit_familiarity(features)(features).numpy() ** 2
        np.testing.assert_allclose(found, expected, rtol=0.01)

    @pytest.mark.parametrize("rate", [0.005, 0.05])
    def test_false_alarms_are_as_rare_as_stated(self, rate):
        familiarity = fit_familiarity(gaussian(8000)[0], false_alarms=rate)
        found = familiarity(gaussian(40_000, seed=3)[0]) > familiarity.threshold
        assert found.float().mean().item() == pytest.approx(rate, rel=0.4)
        assert familiarity.threshold.item() ** 2 == pytest.approx(chi2(12).isf(rate), rel=0.1)

    def test_few_blends_raise_no_more_alarms(self):
        """Distances of blends that were fitted are too small: a threshold by them is, too."""
        familiarity = fit_familiarity(gaussian(300, width=100)[0])
        found = familiarity(gaussian(5000, width=100, seed=4)[0]) > familiarity.threshold
        assert found.float().mean() < 0.02

    def test_what_no_single_feature_shows_is_found(self):
        generator = torch.Generator().manual_seed(5)
        one = torch.randn(5000, 1, generator=generator)
        both = torch.cat([one, one + 0.2 * torch.randn(5000, 1, generator=generator)], dim=1)
        familiarity = fit_familiarity(both)
        assert familiarity(torch.tensor([[2.0, 2.0]])) < familiarity.threshold
        assert familiarity(torch.tensor([[2.0, -2.0]])) > 2 * familiarity.threshold

    def test_a_feature_that_never_varied(self):
        features = torch.cat([gaussian(500)[0], torch.full((500, 1), 7.0)], dim=1)
        familiarity = fit_familiarity(features)
        assert torch.isfinite(familiarity(features)).all()
        assert (familiarity(features) > familiarity.threshold).float().mean() < 0.01
        features[:, -1] = 8
        assert (familiarity(features) > familiarity.threshold).all()

    def test_an_empty_one_flags_nothing(self):
        familiarity = Familiarity(12)
        assert (familiarity(gaussian(20)[0]) < familiarity.threshold).all()

    def test_low_precision_around_it_changes_nothing(self):
        features = gaussian(500)[0]
        familiarity = fit_familiarity(features)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(familiarity(features), familiarity(features.clone()))
            low = familiarity(features)
        assert torch.equal(low, familiarity(features))

    def test_what_cannot_be_fitted_is_refused(self):
        features = gaussian(199)[0]
        with pytest.raises(ValueError, match=r"of 199 blends; .* one in 200 exceeds"):
            fit_familiarity(features)
        with pytest.raises(ValueError, match=r"false_alarms=1\.5: give a share"):
            fit_familiarity(features, false_alarms=1.5)
        features = gaussian(200)[0]
        features[3, 4] = torch.nan
        with pytest.raises(ValueError, match="not all finite"):
            fit_familiarity(features)


@pytest.mark.parametrize("name", NETWORKS)
class TestNetworks:
    def test_features_come_with_the_components(self, name):
        torch.manual_seed(1)
        network = build(**NETWORKS[name]).eval()
        blend = torch.rand((3, 3, 21, 30), generator=torch.Generator().manual_seed(2))
        with torch.inference_mode():
            *bare, features = network(blend, with_features=True)
            expected = network(blend)
            alone = network(blend[1:2], with_features=True)[2]
        assert len(expected) == 2
        assert torch.equal(bare[0], expected[0])
        assert features.shape[0] == 3
        assert features.dtype is torch.float32
        torch.testing.assert_close(alone, features[1:2])

    def test_it_changes_no_names_of_weights_until_it_is_fitted(self, name):
        network = build(**NETWORKS[name])
        before = set(network.state_dict())
        assert not any("familiarity" in key for key in before)
        network.familiarity = Familiarity(4)
        assert {key.split(".")[0] for key in set(network.state_dict()) - before} == {"familiarity"}


def test_pooling_by_hand():
    generator = torch.Generator().manual_seed(1)
    shallow, deep = (torch.randn(2, n, 6, 7, generator=generator) for n in (3, 4))
    found = pool(shallow.bfloat16(), deep).numpy()
    shallow = shallow.bfloat16().float().numpy()
    expected = [shallow.mean(axis=(2, 3)), np.log(shallow.std(axis=(2, 3), ddof=1) + 1e-3)]
    np.testing.assert_allclose(found[:, :6], np.concatenate(expected, axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[:, 6:], deep.mean(dim=(2, 3)), rtol=1e-5, atol=1e-6)


# Pictures of all sorts.


@cache
def galaxies(number, seed):
    """Discs and bulges on noise, as bytes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:240, :240] - 119.5
    stack = []
    for _ in range(number):
        scale, ratio, angle = rng.uniform(6, 20), rng.uniform(0.3, 1), rng.uniform(0, np.pi)
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        light = np.exp(-np.hypot(along, across / ratio) / scale)
        stack.append(rng.uniform(0.5, 1) * rng.uniform(0.7, 1, (3, 1, 1)) * light)
    stack = 0.03 + np.array(stack) + 0.015 * rng.standard_normal((number, 3, 240, 240))
    return (255 * stack.clip(0, 1)).round().astype(np.uint8)


def squares(width):
    rows, columns = np.indices((80, 80)) // width
    return np.broadcast_to(0.1 + 0.8 * ((rows + columns) % 2), (3, 80, 80))


def photograph(picture):
    """The middle of a picture as a stamp."""
    picture = np.atleast_3d(picture)[..., :3]
    side = min(picture.shape[:2])
    top, left = ((n - side) // 2 for n in picture.shape[:2])
    stamp = resize(
        picture[top : top + side, left : left + side] / 255, (80, 80), anti_aliasing=True
    )
    return np.broadcast_to(np.moveaxis(stamp, -1, 0), (3, 80, 80))


def stars(number):
    rng = np.random.default_rng(number)
    rows, columns = np.indices((80, 80))
    light = 0.03 + 0.02 * rng.standard_normal((3, 80, 80))
    for _ in range(number):
        row, column = rng.uniform(0, 80, 2)
        colour = (0.1 + rng.pareto(1)) * rng.uniform(0.6, 1, (3, 1, 1))
        light += colour * np.exp(-(np.hypot(rows - row, columns - column) ** 2) / 2.4)
    return light


def gradient():
    rows, columns = np.indices((80, 80))
    return np.array([0.9, 0.7, 0.5])[:, None, None] * (rows + 0.5 * columns) / 120


RNG = np.random.default_rng(7)
UNLIKE = {
    "uniform noise": RNG.random((3, 80, 80)),
    "grey noise": np.repeat(0.3 + 0.1 * RNG.standard_normal((1, 80, 80)), 3, axis=0),
    "pixels": squares(1),
    "squares": squares(8),
    "large squares": squares(16),
    "astronaut": photograph(data.astronaut()),
    "cat": photograph(data.cat()),
    "coffee": photograph(data.coffee()),
    "text": photograph(data.text()),
    "page": photograph(data.page()),
    "a few stars": stars(50),
    "many stars": stars(200),
    "gradient": gradient(),
}
PHOTOGRAPHS = {"astronaut", "cat", "coffee", "text", "page"}


def blends(number, seed=6):
    recipe = get_recipe("reiman2019")
    draw = recipe.draw(np.random.default_rng(9), number, 30)
    return Simulator(galaxies(30, seed), recipe)(draw)[0]


@cache
def stamps():
    unlike = {**UNLIKE, "a negative": 1 - blends(1)[0].numpy()}
    return {name: np.clip(stamp, 0, 1).astype(np.float32) for name, stamp in unlike.items()}


class Kept(BlendStream):
    """A stream that keeps its batches, for several networks."""

    kept = {}  # noqa: RUF012

    def __getitem__(self, k):
        if (self.final, k) not in self.kept:
            self.kept[self.final, k] = super().__getitem__(k)
        return self.kept[self.final, k]


@pytest.fixture(scope="module")
def stream():
    return Kept(galaxies(30, seed=6), "reiman2019", batch=16, seed=1), blends(100)


@pytest.mark.parametrize("name", ["unet", "reiman2019"])
def test_even_a_network_that_has_learned_nothing_can_tell(name, stream):
    torch.manual_seed(3)
    network = build(**NETWORKS[name]).eval()
    familiarity = familiarity_of(network, stream[0], blends=400)
    with torch.inference_mode():
        known = familiarity(network(stream[1], with_features=True)[2])
        unlike = torch.from_numpy(np.stack(list(stamps().values())))
        unknown = familiarity(network(unlike, with_features=True)[2])
    assert (known > familiarity.threshold).float().mean() <= 0.04
    missed = [name for name, d in zip(stamps(), unknown, strict=True) if d < familiarity.threshold]
    assert not missed


def test_too_few_blends_are_refused():
    stream = BlendStream(galaxies(8, 6), "varied", batch=16, seed=1)
    with pytest.raises(ValueError, match="blends=199 are too few; give at least 200"):
        familiarity_of(build(**NETWORKS["unet"]), stream, blends=199)


def test_blends_of_the_fit_follow_from_the_seed_alone(short_fits):
    network = build(**NETWORKS["unet"])
    streams = [BlendStream(galaxies(8, 6), "varied", batch=16, seed=seed) for seed in (1, 1, 2)]
    fits = [familiarity_of(network, stream, blends=64) for stream in streams]
    assert network.training
    for name, value in fits[0].state_dict().items():
        assert torch.equal(value, fits[1].state_dict()[name])
        if name != "whitening":
            assert not torch.equal(value, fits[2].state_dict()[name])


# crowded learned from stamps as busy as photographs, and does not tell: its card says so.
@pytest.mark.parametrize("name", sorted({*list_models()} - {"crowded"}))
def test_a_model_of_the_package_tells(name):
    network, _ = load_model(name)
    if network.familiarity is None:
        pytest.skip(f"{name} cannot tell what it was trained on")
    pictures = {name: np.rint(255 * stamp) / np.float32(255) for name, stamp in stamps().items()}
    with torch.inference_mode():
        batch = torch.from_numpy(np.stack(list(pictures.values())))
        distance = network.familiarity(network(batch, with_features=True)[2])
    limit = network.familiarity.threshold
    missed = {name: float(d) for name, d in zip(pictures, distance, strict=True) if d <= limit}
    # A smooth photograph may pass for a large galaxy, now and then.
    assert len(missed) <= 1, missed
    assert set(missed) <= PHOTOGRAPHS
