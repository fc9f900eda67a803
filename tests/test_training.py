import csv
import inspect
import math
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.distributions import Normal
from torch.nn import functional as F

from astrodeblend.networks import BranchedGenerator, Discriminator, build
from astrodeblend.simulate import Recipe, Simulator, get_recipe
from astrodeblend.training import (
    BlendStream,
    FieldConfig,
    TrainingConfig,
    add_familiarity,
    loop,
    reiman2019,
    train,
)
from astrodeblend.training.heads import familiarity_of
from astrodeblend.training.loop import _learning_rate, _update_average
from astrodeblend.training.losses import (
    adversarial_loss,
    discriminator_loss,
    feature_loss,
    pixel_loss,
    std_loss,
)
from astrodeblend.training.run import load_parent
from astrodeblend.weights import load_model, read_card, save_model, write_card

TINY = {"kind": "unet", "widths": (8, 16), "blocks": (1, 1), "attention": 0}
TINY_GAN = {
    "network": {"kind": "reiman2019", "width": 4, "root_blocks": 1, "branch_blocks": 1},
    "discriminator": {"width": 2, "dense": 4},
    "batch": 2,
    "burn_in": 1,
    "log_every": 1,
}
CONFIG = TrainingConfig(
    network=TINY, recipe="reiman2019", steps=6, batch=4, warmup=2, validation_blends=4,
    checkpoint_every=1, log_every=1, validate_every=3, precision="float32",
)  # fmt: skip


@pytest.fixture(scope="module")
def images():
    """Six elliptical Gaussian galaxies on a little noise, as bytes."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:240, :240] - 119.5
    stack = []
    for _ in range(6):
        sigma, ratio, angle = rng.uniform(8, 25), rng.uniform(0.3, 1), rng.uniform(0, np.pi)
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        profile = np.exp(-0.5 * ((along / sigma) ** 2 + (across / sigma / ratio) ** 2))
        stack.append(rng.uniform(0.4, 1, (3, 1, 1)) * profile)
    stack = np.array(stack) + 0.01 * rng.standard_normal((6, 3, 240, 240))
    return (255 * stack.clip(0, 1)).round().astype(np.uint8)


def read_log(out):
    return list(csv.DictReader((out / "log.csv").read_text().splitlines()))


def same_weights(one, other):
    one, other = load_file(one), load_file(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


class TestLosses:
    pair = torch.rand((2, 5, 2, 3, 8, 8), generator=torch.Generator().manual_seed(1))

    def test_pixel_losses_are_what_they_say(self):
        components, isolated = self.pair
        error = np.square(components.numpy() - isolated.numpy())
        scaled = np.square(2 * components.numpy() - 2 * isolated.numpy())  # in [-1, 1]
        assert pixel_loss(components, isolated, kind="mse").item() == pytest.approx(scaled.mean())
        psnr = -10 * np.log10(error.mean(axis=(2, 3, 4)))
        found = pixel_loss(components, isolated).item()
        assert -10 / math.log(10) * found == pytest.approx(psnr.mean(), abs=1e-3)

    def test_std_loss_is_the_likelihood_and_teaches_the_std_alone(self):
        components, isolated = self.pair
        components = components.clone().requires_grad_()
        std = torch.full_like(isolated, 0.3, requires_grad=True)
        loss = std_loss(components, std, isolated)
        expected = -Normal(components, 0.3).log_prob(isolated).mean() - math.log(2 * math.pi) / 2
        assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
        loss.backward()
        assert components.grad is None
        assert std.grad.abs().sum() > 0

    def test_std_loss_is_least_at_the_true_std(self):
        noise = 0.1 * torch.randn(100_000, generator=torch.Generator().manual_seed(2))
        losses = [std_loss(noise, torch.tensor(s), torch.zeros(1)) for s in (0.08, 0.1, 0.12)]
        assert losses[1] < min(losses[0], losses[2])

    def test_adversarial_losses_are_the_papers(self):
        real, fake = torch.randn((2, 20, 1), generator=torch.Generator().manual_seed(1))
        ones, zeros = torch.ones_like(fake), torch.zeros_like(fake)
        cross_entropy = F.binary_cross_entropy_with_logits
        expected = cross_entropy(real, ones) + cross_entropy(fake, zeros)
        torch.testing.assert_close(discriminator_loss(real, fake), expected)
        torch.testing.assert_close(adversarial_loss(fake), cross_entropy(fake, ones))
        # equation 1: the generator makes log(1 - D) small
        minimax = torch.log(1 - torch.sigmoid(fake)).mean()
        torch.testing.assert_close(adversarial_loss(fake, form="minimax"), minimax)

    def test_feature_loss_compares_each_image(self):
        components, isolated = self.pair

        def features(images):
            return images.mean(dim=(2, 3))

        expected = (components.mean(dim=(3, 4)) - isolated.mean(dim=(3, 4))).square().mean()
        torch.testing.assert_close(feature_loss(features, components, isolated), expected)


class TestStream:
    def test_a_batch_follows_from_its_number_alone(self, images):
        one, other = (BlendStream(images, "varied", batch=4, seed=7) for _ in range(2))
        _ = one[0], one[1]
        for ours, theirs in zip(one[2], other[2], strict=True):
            assert torch.equal(ours, theirs)
        assert not torch.equal(one[2][0], one[3][0])
        assert not torch.equal(one[2][0], BlendStream(images, "varied", batch=4, seed=8)[2][0])

    def test_processes_share_a_batch(self, images):
        whole = BlendStream(images, "varied", batch=4, seed=7)[5][0]
        parts = [
            BlendStream(images, "varied", batch=4, seed=7, rank=rank, world=2)[5][0]
            for rank in (0, 1)
        ]
        torch.testing.assert_close(torch.cat(parts), whole)
        with pytest.raises(ValueError, match="batch=5 cannot be shared by 2 processes"):
            BlendStream(images, "varied", batch=5, seed=7, world=2)

    def test_the_end_may_have_a_recipe_of_its_own(self, images):
        options = {"batch": 4, "seed": 7}
        mixed = BlendStream(images, "varied", final_recipe="sum", final=3, **options)
        for number in range(6):
            recipe = "varied" if number < 3 else "sum"
            expected = BlendStream(images, recipe, **options)[number][0]
            assert torch.equal(mixed[number][0], expected)


class TestConfig:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"loss": "l1"}, "loss='l1': choose one of log_mse, mse"),
            ({"plan": "flat"}, "plan='flat'"),
            ({"steps": 0}, "steps=0: give a whole number at least 1"),
            ({"steps": 10.5}, r"steps=10\.5: give a whole number at least 1"),
            ({"batch": True}, "batch=True: give a whole number at least 1"),
            ({"clip": True}, "clip=True: give a number at least 0"),
            ({"surveys": "lsst"}, "surveys='lsst': give a list"),
            ({"average": 1.0}, r"average=1\.0"),
            ({"steps": "many"}, "steps='many': give a whole number at least 1"),
            ({"decay": math.nan}, "decay=nan: give a number from 0 to 1"),
            ({"keep": -0.5}, r"keep=-0\.5: give a number from 0 to 1"),
            ({"compile": 1}, "compile=1: give true or false"),
            ({"recipe": "galfit"}, "recipe='galfit': choose one of reiman2019, sum"),
            ({"final_recipe": "galfit"}, "final_recipe='galfit': choose one of"),
            ({"recipe": ["sum"]}, r"recipe=\['sum'\]: choose one of"),
            ({"plan": "cosine", "final_recipe": "sum"}, "only plan='trapezoid' has a final part"),
        ],
    )
    def test_wrong_choices_are_named(self, change, message):
        with pytest.raises(ValueError, match=message):
            TrainingConfig(**change)

    def test_a_recipe_may_be_of_ones_own(self):
        own = replace(get_recipe("sum"), name="own")
        assert TrainingConfig(recipe=own, validation_recipe=own).recipe is own

    def test_the_docstring_has_every_field(self):
        for kind in (TrainingConfig, FieldConfig):
            documented = inspect.getdoc(kind).partition("Parameters\n----------\n")[2]
            names = re.findall(r"^(\w+) : ", documented, flags=re.MULTILINE)
            assert names == list(inspect.signature(kind).parameters)
        loss = "\nloss : {'log_mse', 'mse', 'flux'}\n    Loss of pixel values"
        assert loss in TrainingConfig.__doc__

    def test_the_papers_plan(self):
        config = reiman2019()
        assert _learning_rate(config, 0, 0) == 1e-4
        assert _learning_rate(config, 99_999, 99_999) == 1e-4
        assert _learning_rate(config, 100_000, 100_000) == pytest.approx(1e-5)
        assert (config.steps, config.batch, config.burn_in) == (200_000, 16, 2000)

    def test_the_trapezoid(self):
        config = TrainingConfig(steps=1000, warmup=100, decay=0.25, learning_rate=1.0)
        rates = np.array([_learning_rate(config, k, k) for k in range(1000)])
        np.testing.assert_allclose(rates[:100], np.arange(1, 101) / 100)
        assert (rates[100:751] == 1).all()
        np.testing.assert_allclose(rates[751:], np.arange(249, 0, -1) / 250)

    def test_the_cosine(self):
        config = TrainingConfig(steps=1000, warmup=0, plan="cosine", learning_rate=1.0)
        assert _learning_rate(config, 500, 500) == pytest.approx(0.5)
        assert _learning_rate(config, 999, 999) < 1e-5


def test_the_average_follows_the_weights():
    network, average = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        average.weight.fill_(0.0)
        network.weight.fill_(1.0)
    for _ in range(3):
        _update_average(average, network, 0.9, 10_000)
    assert average.weight.item() == pytest.approx(1 - 0.9**3)


def test_training_learns(images, tmp_path):
    config = replace(
        CONFIG, steps=60, checkpoint_every=1000, validate_every=60, learning_rate=3e-3, batch=8
    )
    path = train(config, images, tmp_path, progress=False)
    network, card = load_model(path)
    assert card.training["steps"] == 60
    assert (card.recipe, card.modes) == ("reiman2019", ("max",))
    assert card.training["config"]["seed"] == config.seed
    recipe = Recipe()
    blend, isolated = Simulator(images, recipe)(recipe.draw(np.random.default_rng(9), 16, 6))
    with torch.inference_mode():
        components, std = network(blend)
    blend = blend[:, None].expand_as(isolated)
    before = pixel_loss(blend, isolated, kind="log_mse")
    after = pixel_loss(components, isolated, kind="log_mse")
    assert 10 / math.log(10) * (before - after) > 3  # dB gained over the blend itself
    assert (std > 0).all()
    # 60 batches of 8: fewer than the configuration would take
    assert card.training["familiarity"] == {"blends": 480, "false_alarms": 0.005}
    familiarity = network.familiarity
    noise = torch.rand((1, 3, 80, 80), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        known, unknown = (
            familiarity(network(x, with_features=True)[2]) for x in (blend[:, 0], noise)
        )
    assert (known <= familiarity.threshold).float().mean() > 0.9
    assert unknown > familiarity.threshold


class TestFamiliarity:
    @pytest.fixture
    def model(self, images, tmp_path):
        """A model that scored, and cannot tell yet; its run ended on blends of another kind."""
        config = replace(CONFIG, steps=1, final_recipe="sum")
        path = train(config, images, tmp_path / "run", progress=False)
        write_card(path, replace(read_card(path), scores={"sum on val": {"blends": 9}}))
        assert load_model(path)[0].familiarity is None  # from one batch there is nothing to tell
        return path

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
    def test_it_is_added_to_a_model_that_is_trained(self, images, model, dtype, short_fits):
        network, card = load_model(model)
        save_model(model, network, card, dtype=dtype, overwrite=True)
        before = load_file(model)
        card = add_familiarity(model, images, blends=40, progress=False)
        network, saved = load_model(model)  # which checks the hash
        assert saved.sha256 == card.sha256
        assert card.scores == {"sum on val": {"blends": 9}}
        assert card.training["familiarity"] == {"blends": 40, "false_alarms": 0.005}
        after = load_file(model)
        for name, value in before.items():
            assert value.dtype is after[name].dtype
            assert torch.equal(value, after[name])
        # half of the blends are of the recipe it ended on
        stream = BlendStream(images, "reiman2019", batch=16, seed=1, final_recipe="sum")
        expected = familiarity_of(network, stream, blends=40)
        assert torch.equal(network.familiarity.mean, expected.mean)

    def test_what_cannot_be_is_refused_and_nothing_is_touched(self, images, model):
        before = model.read_bytes()
        with pytest.raises(ValueError, match="blends=20 are too few; give at least 200"):
            add_familiarity(model, images, blends=20, progress=False)
        assert model.read_bytes() == before
        with pytest.raises(ValueError, match=r"give the path of a \.safetensors file"):
            add_familiarity("galaxyzoo", images)

    def test_ctrl_c_meanwhile_loses_nothing(self, images, tmp_path, monkeypatch):
        config = replace(CONFIG, steps=5, batch=40)

        def stop(*args, **kwargs):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(loop, "familiarity_of", stop)
            assert train(config, images, tmp_path, progress=False) is None
        path = train(config, images, tmp_path, resume=True, progress=False)
        assert load_model(path)[0].familiarity is not None


@pytest.fixture(scope="module")
def parent(images, tmp_path_factory):
    """A model to start from."""
    out = tmp_path_factory.mktemp("models") / "parent"
    return train(replace(CONFIG, steps=2, seed=5), images, out, progress=False)


class TestStart:
    def test_its_first_losses_are_those_of_the_model(self, images, parent, tmp_path):
        path = train(replace(CONFIG, steps=1), images, tmp_path, start=parent, progress=False)
        network, card = load_model(parent)
        blend, isolated, *_ = BlendStream(images, "reiman2019", batch=4, seed=CONFIG.seed)[0]
        with torch.no_grad():
            components, std = network(blend)
        (row,) = read_log(tmp_path)
        expected = pixel_loss(components, isolated, kind="log_mse").item()
        assert float(row["pixel"]) == pytest.approx(expected, rel=1e-4)
        expected = std_loss(components, std, isolated).item()
        assert float(row["std"]) == pytest.approx(expected, rel=1e-4)
        assert read_card(path).training["from"] == {"name": card.name, "sha256": card.sha256}

    def test_a_deeper_network_starts_as_the_model(self, images, parent, tmp_path):
        network, _ = load_model(parent)
        blend, *_ = BlendStream(images, "reiman2019", batch=4, seed=CONFIG.seed)[0]
        for blocks in ((3, 1), (1, 2), (2, 4)):
            deeper = build(**{**TINY, "blocks": blocks})
            load_parent(parent, deeper, weights=True)
            assert sum(1 for _ in deeper.parameters()) > sum(1 for _ in network.parameters())
            with torch.no_grad():
                for ours, theirs in zip(deeper(blend), network(blend), strict=True):
                    torch.testing.assert_close(ours, theirs)
        config = replace(CONFIG, network={**TINY, "blocks": (2, 1)}, steps=1)
        deeper = train(config, images, tmp_path, start=parent, progress=False)
        with pytest.raises(ValueError, match=r"another network .*: blocks=\(1, 1\)"):
            load_parent(deeper, build(**TINY), weights=True)

    def test_what_the_parent_was_familiar_with_is_forgotten(self, images, parent, tmp_path):
        for suffix in (".safetensors", ".json"):
            shutil.copy(parent.with_suffix(suffix), tmp_path / f"knows{suffix}")
        add_familiarity(tmp_path / "knows.safetensors", images, blends=200, progress=False)
        config = replace(CONFIG, steps=1)
        path = train(
            config, images, tmp_path / "run", start=tmp_path / "knows.safetensors", progress=False
        )
        assert load_model(path)[0].familiarity is None

    def test_what_is_kept_is_a_share_of_the_weights_at_the_start(self, images, parent, tmp_path):
        config = replace(CONFIG, steps=3)
        learned = train(config, images, tmp_path / "learned", start=parent, progress=False)
        kept = replace(config, keep=0.75)
        mixed = train(kept, images, tmp_path / "mixed", start=parent, progress=False)
        ours, new, old = (load_model(path)[0].state_dict() for path in (mixed, learned, parent))
        assert any((new[name] != old[name]).any() for name in old)
        for name, value in ours.items():
            expected = 0.75 * old[name] + 0.25 * new[name]
            torch.testing.assert_close(value, expected, atol=2e-4, rtol=2e-3)  # saved in 16 bits
        with pytest.raises(ValueError, match=r"keep=0.75: give a model to start from"):
            train(kept, images, tmp_path / "none", progress=False)

    def test_a_run_taken_up_again_keeps_its_start(self, images, parent, tmp_path, monkeypatch):
        through, stopped = tmp_path / "through", tmp_path / "stopped"
        options = {"progress": False, "device": "cpu"}
        train(CONFIG, images, through, start=parent, **options)
        interrupt(monkeypatch, 3, crash)
        with pytest.raises(RuntimeError, match="the lights went out"):
            train(CONFIG, images, stopped, start=parent, **options)
        other = train(replace(CONFIG, steps=1), images, tmp_path / "other", **options)
        with pytest.raises(ValueError, match=r"start is 'other' \(.*started from 'parent"):
            train(CONFIG, images, stopped, start=other, resume=True, **options)
        with pytest.raises(ValueError, match=r"start is 'other' \(.*from random weights"):
            train(CONFIG, images, tmp_path / "other", start=other, resume=True, **options)
        train(CONFIG, images, stopped, start=parent, resume=True, **options)
        again = train(CONFIG, images, stopped, resume=True, **options)
        same_weights(through / "model.safetensors", stopped / "model.safetensors")
        assert (
            read_card(again).training["from"]
            == read_card(through / "model.safetensors").training["from"]
        )

    def test_another_network_is_refused(self, images, parent, tmp_path):
        out = tmp_path / "run"
        config = replace(CONFIG, network=TINY_GAN["network"])
        message = r"another network .*: kind='reiman2019' \(it has 'unet'\); configure the same"
        with pytest.raises(ValueError, match=message):
            train(config, images, out, start=parent, progress=False)
        config = replace(CONFIG, network={**TINY, "widths": (8, 12)})
        with pytest.raises(ValueError, match=r"train: widths=\(8, 12\) \(it has \(8, 16\)\); "):
            train(config, images, out, start=parent, progress=False)
        with pytest.raises(FileNotFoundError, match=r"no\.safetensors' does not exist"):
            train(config, images, out, start="no.safetensors", progress=False)
        assert not out.exists()


def interrupt(monkeypatch, step, action):
    """Do something at the beginning of a step, once."""
    original = BlendStream.__getitem__
    done = []

    def act(self, number):
        if number == step and self.seed == CONFIG.seed and not done:
            done.append(number)
            action()
        return original(self, number)

    monkeypatch.setattr(BlendStream, "__getitem__", act)


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def crash():
    raise RuntimeError("the lights went out")


@pytest.mark.parametrize("action", [ctrl_c, crash])
@pytest.mark.parametrize("network", ["unet", "reiman2019"])
def test_a_run_taken_up_again_ends_as_if_never_stopped(
    images, tmp_path, monkeypatch, action, network
):
    if network == "unet":
        config = replace(CONFIG, recipe="varied", final_recipe="sum", checkpoint_every=2)
    else:  # with everything that has a state: discriminator, batch normalisation
        config = reiman2019(
            **TINY_GAN, steps=5, checkpoint_every=2, validate_every=3, validation_blends=2
        )
    through, stopped = tmp_path / "through", tmp_path / "stopped"
    options = {"validation": images, "progress": False, "device": "cpu"}
    train(config, images, through, **options)
    interrupt(monkeypatch, 3, action)
    handler = signal.getsignal(signal.SIGINT)
    if action is crash:
        with pytest.raises(RuntimeError, match="the lights went out"):
            train(config, images, stopped, **options)
    else:
        assert train(config, images, stopped, **options) is None
        assert signal.getsignal(signal.SIGINT) is handler
    train(config, images, stopped, resume=True, **options)
    for name in ("model.safetensors", "checkpoint.safetensors"):
        same_weights(through / name, stopped / name)
    logs = [read_log(out) for out in (through, stopped)]
    for row in (*logs[0], *logs[1]):
        del row["blends_per_second"]
    assert logs[0] == logs[1]
    assert [int(row["step"]) for row in logs[0]] == list(range(1, config.steps + 1))
    assert (stopped / "validation.png").is_file()


def test_a_run_can_be_made_longer(images, tmp_path):
    config = replace(CONFIG, plan="reiman2019", decay=0.0)
    train(replace(config, steps=2), images, tmp_path, progress=False)
    train(replace(config, steps=3), images, tmp_path, resume=True, progress=False)
    rows = read_log(tmp_path)
    assert [int(row["step"]) for row in rows] == [1, 2, 3]


@pytest.fixture
def places(monkeypatch):
    """Return where in its plan each update of a run was, each of which takes six seconds."""
    places, rate = [], loop._learning_rate
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: 6.0 * len(places)))
    monkeypatch.setattr(loop, "_learning_rate", lambda *a: (places.append(a[2]), rate(*a))[1])
    return places


def test_a_run_of_a_minute_has_a_whole_plan(images, tmp_path, monkeypatch, places):
    config = replace(
        CONFIG, steps=1000, minutes=1, warmup=2, decay=0.5, final_recipe="sum", learning_rate=0.01,
        checkpoint_every=1000, validate_every=1000, familiarity_blends=0,
    )  # fmt: skip
    monkeypatch.setattr(loop, "_KEEP", 25)
    recipes, exports, blends, export = [], [], Simulator.__call__, loop._export
    monkeypatch.setattr(
        Simulator,
        "__call__",
        lambda self, draw: (recipes.append(self.recipe.name), blends(self, draw))[1],
    )
    monkeypatch.setattr(loop, "_export", lambda *a: (exports.append(len(places)), export(*a))[1])
    options = {"progress": False, "device": "cpu", "state": tmp_path / "elsewhere.safetensors"}
    path = train(config, images, tmp_path / "run", **options)
    assert places == pytest.approx(range(0, 1000, 100))
    rates = [float(row["learning_rate"]) for row in read_log(tmp_path / "run")]
    assert rates == pytest.approx([0.005] + [0.01] * 5 + [0.008, 0.006, 0.004, 0.002])
    assert recipes == 6 * ["reiman2019"] + 5 * ["sum"]  # one batch is made ahead
    assert exports == [5, 10, 10]
    assert read_card(path).training["steps"] == 10
    assert not (tmp_path / "run/checkpoint.safetensors").exists()

    train(config, images, tmp_path / "run", resume=True, **options)
    assert len(places) == 10  # it was over
    longer = replace(config, minutes=1.5)
    train(longer, images, tmp_path / "run", resume=True, **options)
    assert places[10:] == pytest.approx([1000 * k / 15 for k in range(10, 15)])


def test_a_run_that_is_faster_than_its_minutes_ends_by_its_updates(images, tmp_path, places):
    train(replace(CONFIG, minutes=60), images, tmp_path, progress=False)
    assert places == pytest.approx(range(6), abs=0.01)


def test_the_burn_in_is_a_share_of_the_minutes(images, tmp_path, places):
    gan = {**TINY_GAN, "burn_in": 150}
    config = reiman2019(**gan, steps=200, minutes=0.4, checkpoint_every=200, validate_every=200)
    train(config, images, tmp_path, progress=False)
    assert [bool(row["adversarial"]) for row in read_log(tmp_path)] == [False] * 3 + [True]


def test_runs_are_not_mixed_up(images, tmp_path):
    config = replace(CONFIG, steps=1)
    with pytest.raises(FileNotFoundError, match="train without resume first"):
        train(config, images, tmp_path, resume=True, progress=False)
    train(config, images, tmp_path, progress=False)
    with pytest.raises(FileExistsError, match="holds a run already"):
        train(config, images, tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"other choices: batch=2 \(was 4\)"):
        train(replace(config, batch=2), images, tmp_path, resume=True, progress=False)
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"the checkpoint .* does not fit"):
        train(config, images, tmp_path, resume=True, progress=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named(images, tmp_path):
    with pytest.raises(ValueError, match="device='cuda': torch sees no GPU here"):
        train(CONFIG, images, tmp_path, device="cuda", progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["nonsaturating", "minimax"])
def test_the_adversarial_phase_trains_both_networks(images, tmp_path, form):
    config = reiman2019(**TINY_GAN, steps=2, adversarial=form)
    train(config, images, tmp_path, progress=False)
    first, second = read_log(tmp_path)
    assert first["adversarial"] == first["discriminator"] == ""
    state = load_file(tmp_path / "checkpoint.safetensors")
    dense = [v.shape for k, v in state.items() if k.startswith("discriminator/") and v.ndim == 2]
    assert (1, 4) in dense  # as wide as the configuration says
    assert float(second["discriminator"]) == pytest.approx(2 * math.log(2), abs=1)
    assert math.isfinite(float(second["adversarial"]))


def test_burn_in_compares_deep_features(images, tmp_path):
    from astrodeblend.networks import VGG19Features

    weights = tmp_path / "vgg.pth"
    torch.manual_seed(0)
    torch.save(VGG19Features().state_dict(), weights)
    config = reiman2019(**{**TINY_GAN, "batch": 1}, steps=2, vgg=str(weights))
    train(config, images, tmp_path / "run", progress=False)
    first, second = read_log(tmp_path / "run")
    assert float(first["features"]) > 0
    assert first["pixel"] == second["features"] == ""


SCRIPT = """
import sys
from dataclasses import replace

import numpy as np
import torch

from astrodeblend.training import TrainingConfig, train

images = np.load(sys.argv[1])
config = TrainingConfig(
    network={"kind": "unet", "widths": (8, 16), "blocks": (1, 1), "attention": 0},
    recipe="reiman2019", steps=3, batch=4, warmup=0, precision="float32", validation_blends=2,
)
train(config, images, sys.argv[2], device="cpu", progress=False)
config = replace(config, adversarial="nonsaturating", discriminator={"width": 2, "dense": 4})
train(config, images, sys.argv[2] + "-gan", device="cpu", progress=False)
"""


def test_two_processes_train_as_one(images, tmp_path, monkeypatch):
    script, data = tmp_path / "script.py", tmp_path / "images.npy"
    script.write_text(SCRIPT)
    np.save(data, images)
    runner = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments, changes = [script, data], {}
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [str(each) for each in (*arguments, tmp_path / "one")])
        runpy.run_path(str(script))
    done = subprocess.run(
        [*runner, *arguments, tmp_path / "two"], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    for out in ("one", "two"):
        torch.manual_seed(TrainingConfig().seed)
        start = build(**TINY).state_dict()
        end = load_file(tmp_path / out / "checkpoint.safetensors")
        changes[out] = torch.cat([(end[f"network/{k}"] - v).flatten() for k, v in start.items()])
        assert (tmp_path / f"{out}-gan" / "model.safetensors").is_file()
    # the same but for rounding, which Adam enlarges where a gradient is next to nothing
    difference = (changes["two"] - changes["one"]).norm() / changes["one"].norm()
    assert changes["one"].norm() > 0
    assert difference < 0.02


@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own, of itself
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_compiled_networks_learn_the_same(images, tmp_path, monkeypatch):
    compiled, compile_it = [], torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module,
        "compile",
        lambda self, **options: compiled.append(type(self)) or compile_it(self, **options),
    )
    graphs = torch._dynamo.utils.counters["stats"]
    graphs.clear()
    config = replace(CONFIG, **TINY_GAN, adversarial="nonsaturating", steps=3)
    weights = [
        load_file(train(replace(config, compile=choice), images, tmp_path / name, progress=False))
        for name, choice in (("eager", False), ("compiled", True))
    ]
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-5)
    assert compiled == [BranchedGenerator, Discriminator]
    assert graphs["unique_graphs"] >= 3  # of both, and of the check for a compiler


def test_what_cannot_be_compiled_is_refused(images, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="compile='false': give true or false"):
        replace(CONFIG, compile="false")
    with pytest.raises(ValueError, match="blends of many shapes"):
        TrainingConfig(surveys=("lsst",), loss="flux", compile=True)

    def broken(*arguments, **options):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda *arguments, **options: broken)
    with pytest.raises(ValueError, match=r"compile=True takes a C\+\+ compiler"):
        train(replace(CONFIG, compile=True), images, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_run_may_go_on_compiled_or_not():
    loop._check_same(replace(CONFIG, compile=True).to_dict(), CONFIG)
    loop._check_same(CONFIG.to_dict(), replace(CONFIG, compile=True))


def test_a_cpu_does_not_emulate_bfloat16_unless_it_is_told_to():
    from astrodeblend.training.loop import _autocast

    product = {}
    for precision in ("auto", "float32", "bfloat16"):
        with _autocast(TrainingConfig(precision=precision), torch.device("cpu")):
            product[precision] = (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    assert product == {
        "auto": torch.float32,
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
    }
