"""Training on fields: the truth is the simulator's, and a run goes on as if never stopped."""

import math
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from astrodeblend.networks import UNCALIBRATED, FieldNet, build
from astrodeblend.simulate import FieldStream
from astrodeblend.training import FieldConfig, train_fields
from astrodeblend.training import field_losses as losses
from astrodeblend.training import fields as module
from astrodeblend.training.field_losses import (
    ask,
    field_losses,
    interval_loss,
    match,
    shown,
    snr,
)
from astrodeblend.weights import Card, load_model, save_model

TINY = {"kind": "field", "band_widths": [4, 8], "widths": [8, 8], "attention": 1}
FEW = {"density": 60, "large": 0, "bright": 0}


@pytest.fixture(scope="module")
def fields():
    return FieldStream(["lsst"], batch=2, seed=3, size=96, bands=2, **FEW | {"density": 300})[0]


def test_windows_are_the_light_of_each_alone(fields):
    most = fields.present.shape[1]
    source = int(fields.inside[1].nonzero()[0])
    alone = fields.light.alone(1, [source])[0]
    corner = fields.position[1, source].round().long() - 16
    cut = fields.light.windows(torch.tensor([most + source, -1]), torch.stack([corner, corner]), 32)
    padded = torch.nn.functional.pad(alone, (32, 32, 32, 32))
    x, y = (corner + 32).tolist()
    inside = torch.nn.functional.pad(torch.ones_like(alone), (32, 32, 32, 32))
    inside = inside[:, y : y + 32, x : x + 32]
    torch.testing.assert_close(cut[0] * inside, padded[:, y : y + 32, x : x + 32])
    assert cut[0].sum() > 0
    assert cut[1].abs().max() == 0


def test_what_is_asked(fields):
    question = ask(fields, 1)
    n, s = fields.present.shape
    assert question.present.shape == (n, 2 * s)
    assert (question.truth[:, s:] == -1).all()
    asked = question.present[:, :s]
    assert (fields.inside & (snr(fields) > 3))[asked].all()
    off = (question.positions[:, :s] - fields.position)[asked]
    assert 0.2 < off.std() < 0.4
    again = ask(fields, 1)
    assert (again.positions == question.positions).all()
    assert (ask(fields, 2).positions != question.positions).any()


def test_matches_are_mutual(fields):
    at = fields.position[0, fields.inside[0]]
    which = match(fields, 0, torch.cat([at + 0.3, at[:1] + 0.5, at[:1] - 900]))
    there = fields.inside[0].nonzero()[:, 0]
    near = torch.cdist(at, fields.position[0, fields.present[0]]).sort(dim=1).values[:, 1] > 2
    assert near.any()
    assert (which[: len(at)] == there)[near].all()
    assert which[-2:].tolist() == [-1, -1]


def test_the_truth_costs_least(fields):
    """Of the light that is the truth's the losses of light and flux are nothing."""

    class Knowing(torch.nn.Module):
        calibration = torch.tensor(UNCALIBRATED)

        def __init__(self, error):
            super().__init__()
            self.error = error

        def look(self, blend, *_, **__):
            return SimpleNamespace(total=fields.light.paint() + self.error, shape=blend.shape)

        def heat(self, seen):
            n, _, y, x = seen.shape
            return torch.full((n, 1, y, x), -9.0), torch.zeros(n, 2, y, x), torch.zeros(n, 1, y, x)

        def windows(self, _, positions, present, __):
            question = ask(fields, 5)
            s = question.present.shape[1]
            source = question.present.flatten().nonzero()[:, 0]
            truth = question.truth.flatten()[source]
            which = torch.where(truth >= 0, source // s * (s // 2) + truth, -1)
            corner = positions.flatten(0, 1)[source].round().long() - 16
            light = fields.light.windows(which, corner, 32) + self.error
            return [(source, corner, (light, torch.ones_like(light), torch.ones(light.shape[:2])))]

    right = field_losses(Knowing(0.0), fields, 5, autocast=nullcontext)
    wrong = field_losses(Knowing(0.1), fields, 5, autocast=nullcontext)
    assert right["pixel"] == right["flux"] == right["total"] == 0
    assert wrong["total"] > 0.01
    assert wrong["pixel"] > 0.3
    assert wrong["flux"] > 0.3
    assert right["ratio"] == 0
    assert wrong["ratio"] > 0.01


@pytest.mark.parametrize("logit", [-6.0, -1.0, 0.5, 2.0])
def test_ratios_teach_even_where_there_is_next_to_no_light(logit):
    """In proportion to what a share can change its logarithm, however far off it is."""
    truth = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(1)) * 100
    logit = torch.tensor(logit, requires_grad=True)
    losses.log_ratio(logit.sigmoid() * truth, truth).sum().backward()
    away = 1 - logit.sigmoid().item()
    assert 0.5 * away < -logit.grad.item() < 1.01 * away
    assert losses.log_ratio(truth, truth) == 0
    twice = losses.log_ratio(torch.cat([2 * truth, truth / 2]), truth.repeat(2, 1, 1, 1))
    torch.testing.assert_close(twice, torch.full((2, 1), np.log(2)), rtol=2e-3, atol=0)


def test_the_best_ratio_is_the_median():
    right = (torch.randn(2001, 1, 1, 1, generator=torch.Generator().manual_seed(2)) - 2).exp()
    tried = torch.linspace(0.02, 1, 491)
    loss = [losses.log_ratio(light.expand_as(right), right).sum() for light in tried]
    assert tried[np.argmin(loss)] == pytest.approx(right.median().item(), abs=0.005)


def test_an_error_is_that_of_two_thirds():
    errors = torch.randn(100_001, generator=torch.Generator().manual_seed(1)) * 3
    deviations = torch.linspace(1, 6, 501)
    losses = [interval_loss(errors, std).mean() for std in deviations]
    assert deviations[np.argmin(losses)] == pytest.approx(3, abs=0.05)


def test_one_batch_is_learned():
    options = {"batch": 1, "seed": 4, "size": 64, "bands": 1, "edges": 0, "gaps": 0}
    fields = FieldStream(["lsst"], **options, **FEW | {"density": 500})[0]
    seed = next(seed for seed in range(20) if not ask(fields, seed).found.any())
    torch.manual_seed(1)
    network = build(**{**TINY, "band_widths": [8, 16], "widths": [16, 16]})
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    history = []
    for _ in range(60):
        losses = field_losses(network, fields, seed, autocast=nullcontext)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        history.append({k: v.item() for k, v in losses.items()})
    for name in ("pixel", "flux", "total", "heat", "std"):
        assert min(each[name] for each in history[-5:]) < history[0][name] - 0.3, name
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_how_large_errors_are_changes_no_light(fields):
    torch.manual_seed(1)
    network = build(**TINY)
    losses = field_losses(network, fields, 5, autocast=nullcontext)
    losses["flux_std"].backward()
    learning = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None}
    assert learning == {"flux_query", "flux_sums", "flux_told", "log_flux_std"}


def configuration(**changes):
    values = {
        "network": TINY, "surveys": ("lsst", "des"), "sizes": (32, 48), "bands": {2: 1.0},
        "batch": 1, "blocks": 10**6, "warmup": 4, "options": FEW,
    }  # fmt: skip
    return FieldConfig(**{**values, **changes})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decay": 0}, "decay=0: give a number from 1e-06 to 1"),
        ({"blocks": 0}, "blocks=0: give a whole number at least 1"),
        ({"sizes": 64}, "sizes=64: give a list"),
        ({"sizes": ()}, r"sizes=\(\): give a whole number at least 16"),
        ({"sizes": (64, 8)}, r"sizes=\(64, 8\): give a whole number at least 16"),
        ({"bands": {2.5: 1}}, "bands={2.5: 1}: give whole numbers from 1 up"),
        ({"bands": {2: -1}}, "bands={2: -1}: give chances from 0 up"),
        ({"bfloat16": 1}, "bfloat16=1: give true or false"),
        ({"observed": 0.7, "pairs": 0.4}, "observed=0.7 with pairs=0.4: give shares whose sum is"),
    ],
)
def test_wrong_choices_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        configuration(**change)


def test_a_clip_of_zero_is_none(tmp_path):
    free, wide = (
        load_model(train_fields(configuration(blocks=4, clip=clip), tmp_path / str(clip)))
        for clip in (0, 1e9)
    )
    assert all(map(torch.equal, free[0].parameters(), wide[0].parameters()))


@pytest.mark.parametrize("only", [None, "splitting"])
def test_a_run_goes_on_as_if_never_stopped(tmp_path, monkeypatch, only):
    def run(name, blocks=8, **options):
        config = configuration(blocks=blocks, only=only)
        return train_fields(config, tmp_path / name, device="cpu", **options)

    monkeypatch.setattr(module, "_KEPT", 2)
    monkeypatch.setattr(module, "_AGAIN", 2)
    whole = run("whole")
    # Stop the other one after some updates, as SIGTERM does.
    steps = []
    real = module._interruptible

    @contextmanager
    def after_three():
        with real():
            yield lambda *_: len(steps) >= 3 or steps.append(0)

    monkeypatch.setattr(module, "_interruptible", after_three)
    part = run("part")
    assert part.read_bytes() != whole.read_bytes()
    monkeypatch.setattr(module, "_interruptible", real)
    with pytest.raises(FileExistsError, match="holds a run already"):
        run("part")
    with pytest.raises(ValueError, match="other choices"):
        run("part", blocks=9, resume=True)
    part = run("part", resume=True)
    assert part.read_bytes() == whole.read_bytes()
    network, card = load_model(part)
    assert card.scaling == "noise"
    assert network.split(torch.ones(1, 3, 32, 32), torch.full((1, 1, 2), 9.0))[0].shape[2] == 3


def test_it_starts_from_a_model(tmp_path):
    torch.manual_seed(2)
    parent = build(**TINY)
    for value in parent.parameters():
        value.data.normal_(std=0.1)
    path = tmp_path / "parent.safetensors"
    save_model(path, parent, Card("parent", "", {}, bands=(), scaling="noise"))
    still = configuration(blocks=1, learning_rate=1e-12)
    out = train_fields(still, tmp_path / "same", start=path, device="cpu")
    network, card = load_model(out)
    assert card.training["from"]["name"] == "parent"
    for name, value in network.named_parameters():
        torch.testing.assert_close(value, parent.get_parameter(name), rtol=1e-3, atol=1e-4)
    other = {"kind": "field", "band_widths": [8, 8], "widths": [8]}
    with pytest.raises(ValueError, match="another network"):
        train_fields(configuration(network=other), tmp_path / "other", start=path, device="cpu")


@pytest.mark.parametrize(
    ("only", "some"), [("splitting", {"key", "query"}), ("errors", {"log_std"})]
)
def test_only_some_layers_are_trained(tmp_path, only, some):
    path = train_fields(configuration(blocks=2), tmp_path / "first", device="cpu")
    part = configuration(blocks=6, only=only, asked=2, learning_rate=0.01)
    out = train_fields(part, tmp_path / "part", start=path, device="cpu")
    (before, _), (after, _) = load_model(path), load_model(out)
    weights = before.state_dict()
    changed = {
        name.split(".")[0] for name, w in after.state_dict().items() if (w != weights[name]).any()
    }
    assert some <= changed <= set(getattr(after, only))
    assert set(after.errors) < set(after.splitting) < {name for name, _ in after.named_children()}


def test_held_layers_look_once_at_each_block(tmp_path, monkeypatch):
    looks, real = [], FieldNet.look
    monkeypatch.setattr(FieldNet, "look", lambda *a, **k: looks.append(0) or real(*a, **k))
    train_fields(configuration(blocks=33, only="splitting", sizes=(32,)), tmp_path, device="cpu")
    assert len(looks) == math.ceil(33 / module._AGAIN)


def test_what_was_seen_before_has_the_same_losses(fields):
    torch.manual_seed(1)
    network = build(**TINY)
    seen = network.look(*shown(fields))
    want, got = (field_losses(network, fields, 5, autocast=nullcontext, seen=s)
                 for s in (None, seen))  # fmt: skip
    torch.testing.assert_close(got, want)


TOGETHER = """
import sys

import torch
import torch.distributed as dist

import astrodeblend.training.fields as module
from astrodeblend.training import FieldConfig

average, met = module._average, []


def recorded(parameters, world):
    before = [p.detach().clone() for p in parameters]
    average(parameters, world)
    met.append((before, [p.detach().clone() for p in parameters]))


module._average, module._APART = recorded, 2
config = FieldConfig(
    network={network}, surveys=("lsst",), sizes=(32,), bands={{1: 1.0}}, batch=1, blocks=7,
    warmup=1, options={few},
)
module.train_fields(config, sys.argv[1], device="cpu")
torch.save(met, sys.argv[1] + f"/met{{dist.get_rank()}}.pt")
"""


def test_two_processes_average_what_they_learn(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(TOGETHER.format(network=TINY, few=FEW))
    runner = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*runner, script, tmp_path / "two"], capture_output=True, text=True,
                          timeout=240)  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, other = (torch.load(tmp_path / "two" / f"met{k}.pt") for k in range(2))
    assert len(one) == len(other) == 3  # at steps 0, 2 and 4, of two blocks each
    for step, ((mine, after), (its, same)) in enumerate(zip(one, other, strict=True)):
        for a, b, mean, again in zip(mine, its, after, same, strict=True):
            torch.testing.assert_close(mean, (a + b) / 2)
            assert torch.equal(mean, again)
        assert any((a != b).any() for a, b in zip(mine, its, strict=True)) == (step > 0)
    assert load_model(tmp_path / "two" / "model.safetensors")[1].training["blocks"] == 8


def test_shares_of_the_fields_are_as_observed_and_pairs(tmp_path, monkeypatch):
    drawn = []

    class Recorded(FieldStream):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            observed = "slope" not in options and "thin" not in options
            self.recorded = "observed" if observed else options.get("slope")

        def draw(self, number):
            drawn.append(self.recorded)
            return super().draw(number)

    monkeypatch.setattr(module, "FieldStream", Recorded)
    config = configuration(
        blocks=60, observed=0.3, pairs=0.3, sizes=(32,), options={**FEW, "thin": 0.1}
    )
    train_fields(config, tmp_path, device="cpu")
    assert len(drawn) >= 30  # each used twice
    assert set(drawn) == {"observed", 0.0, None}
    assert all(0.1 < np.mean([d == kind for d in drawn]) < 0.6 for kind in set(drawn))


def test_training_needs_no_astropy(tmp_path):
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['astropy', 'photutils', 'reproject']))\n"
        "from astrodeblend.training import FieldConfig, train_fields\n"
        f"config = FieldConfig(network={TINY}, surveys=('lsst',), sizes=(32,), bands={{2: 1.0}},"
        f" batch=1, blocks=2, options={FEW})\n"
        "train_fields(config, 'run', device='cpu')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(("width", "matters"), [(5, True), (41, False)])
def test_what_is_hidden_is_learned_near_data_only(fields, width, matters):
    """Light and centres in the middle 3 pixels of a hole count, those of a wide gap do not."""
    light = fields.light.paint()
    y = light.shape[2] // 2
    gap, middle = (
        torch.zeros_like(fields.mask).index_fill_(2, rows, True)
        for rows in (torch.arange(y - width // 2, y + width // 2 + 1), torch.arange(y - 1, y + 2))
    )
    fields = replace(fields, mask=gap)
    cold = torch.full_like(light[:, :1], -5.0)
    off, size = torch.zeros(len(light), 2, *light.shape[2:]), torch.zeros_like(cold)
    heat = [
        losses._finding_losses((h, off, size), fields)["heat"]
        for h in (cold, cold.masked_fill(middle[:, :1], 5.0))
    ]
    total = [losses._total_loss(t, fields) for t in (light, light + 9.0 * middle)]
    assert (heat[1] != heat[0]) == matters
    assert (total[1] > total[0]) == matters
