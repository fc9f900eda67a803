"""Training on blends of surveys, in linear flux."""

import json
import math
import re

import numpy as np
import pytest
import torch
from astropy.io import fits
from click.testing import CliRunner

from astrodeblend.cli import main
from astrodeblend.training import TrainingConfig, train
from astrodeblend.training.losses import flux_loss
from astrodeblend.training.stream import FluxStream, StampStream
from astrodeblend.weights import load_model

TINY = {"kind": "band_unet", "band_widths": [4, 8], "widths": [8], "attention": 0}
OPTIONS = {"stamp": 24, "sources": {"2": 0.5, "3": 0.5}}


def configuration(**changes):
    choices = {
        "network": TINY, "surveys": ("lsst", "sdss"), "survey_options": OPTIONS, "steps": 3,
        "batch": 4, "loss": "flux", "precision": "float32", "validation_blends": 4, "warmup": 0,
    }  # fmt: skip
    return TrainingConfig(**{**choices, **changes})


def test_a_run_makes_a_model_and_goes_on_as_if_never_stopped(tmp_path):
    whole = train(configuration(), None, tmp_path / "whole", progress=False)
    network, card = load_model(whole)
    assert card.recipe == "survey"
    assert card.modes == ("sum",)
    assert card.training["config"]["surveys"] == ["lsst", "sdss"]
    assert (tmp_path / "whole" / "validation.png").exists()
    for steps in (2, 3):
        part = train(
            configuration(steps=steps, decay=0), None, tmp_path / "part", progress=False,
            resume=steps == 3,
        )  # fmt: skip
    level = train(configuration(decay=0), None, tmp_path / "level", progress=False)
    assert part.read_bytes() == level.read_bytes()
    # The configuration on the card makes the same run again.
    again = TrainingConfig(**json.loads(json.dumps(card.training["config"])))
    assert again == configuration()
    components, std = network(torch.ones(1, 4, 24, 24))
    assert components.shape == std.shape == (1, 2, 4, 24, 24)


def test_companions_are_all_but_the_central_galaxy_in_units_of_the_noise():
    options = {"batch": 3, "seed": 1, "stamp": 24, "sources": {3: 1.0}}
    stream = FluxStream(["lsst"], **options)
    blend, isolated, positions, present = stream[5]
    raw, apart, noise = stream.stream[5]
    scale = noise[:, None, :, None, None]
    torch.testing.assert_close(isolated[:, 0], apart[:, 0] / noise[..., None, None])
    torch.testing.assert_close(isolated.sum(dim=1), (apart / scale).sum(dim=1))
    torch.testing.assert_close(blend * noise[..., None, None], raw)
    np.testing.assert_allclose(positions, stream.stream.draw(5).position, rtol=1e-6)
    assert present.all()
    # What is no source is noise of deviation 1, or a little more under bright light.
    assert 0.9 < (blend - isolated.sum(dim=1)).std() < 1.5


def test_stamps_may_be_shown_in_part():
    options = {"batch": 2, "seed": 1, "stamp": 32, "bands": 2}
    whole = FluxStream(["lsst"], **options)
    parts = FluxStream(["lsst"], widths={19: 0.5, 32: 0.5}, **options)
    seen = set()
    for number in range(8):
        blend, isolated, positions, _ = parts[number]
        width = blend.shape[-1]
        seen.add(width)
        outside = (32 - width) // 2
        middle = (..., *2 * [slice(outside, outside + width)])
        torch.testing.assert_close(blend, whole[number][0][middle])
        torch.testing.assert_close(isolated, whole[number][1][middle])
        torch.testing.assert_close(positions + outside, whole[number][2])
    assert seen == {19, 32}
    with pytest.raises(ValueError, match="34 is more than 32"):
        FluxStream(["lsst"], widths=34, **options)


def test_the_flux_loss_is_that_of_its_formula():
    truth = torch.zeros(1, 2, 1, 5, 5)
    truth[..., 2, 2] = 100.0
    answer = truth.clone()
    answer[0, 0, 0, 2, 2] = 110.0
    error, flux = 100 / 25, 10.0
    expected = (math.log(error + 0.01) + math.log(0.01)) / 2
    expected += 0.1 * math.log1p(flux**2 / (64 + 2.0**2)) / 2
    assert float(flux_loss(answer, truth)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"loss": "log_mse"}, "loss"),
        ({"surveys": ()}, "loss"),
        ({"adversarial": "minimax"}, "adversarial"),
    ],
)
def test_choices_that_do_not_go_together(changes, named):
    with pytest.raises(ValueError, match=named):
        configuration(**changes)


def test_an_unknown_survey_is_refused_before_there_is_a_folder(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        train(configuration(surveys=("nowhere",)), None, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_the_command_trains_on_surveys_and_goes_on(tmp_path):
    out = tmp_path / "run"
    choices = tmp_path / "choices.json"
    choices.write_text(json.dumps({"network": TINY, "survey_options": OPTIONS}))
    begin = [
        "train", "--survey", "lsst", "--survey", "des", "--config", choices, "--out", out,
        "--steps", "2", "--batch", "2", "--precision", "float32", "--validation-blends", "2",
    ]  # fmt: skip
    for arguments in (begin, ["train", "--out", out, "--resume", "--steps", "3"]):
        done = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output
    _, card = load_model(out / "model.safetensors")
    assert card.training["steps"] == 3
    assert card.training["config"]["surveys"] == ["lsst", "des"]
    assert "--survey lsst --survey des" in card.training["command"]
    # And from there on to a survey of one's own.
    more = [
        "train", "--from", out / "model.safetensors", "--survey", "hsc", "--out", tmp_path / "mine",
        "--steps", "1", "--batch", "2", "--precision", "float32", "--validation-blends", "2",
    ]  # fmt: skip
    done = CliRunner().invoke(main, [str(argument) for argument in more])
    assert done.exit_code == 0, done.output
    assert load_model(tmp_path / "mine" / "model.safetensors")[1].network == card.network


class TestStampsOfOnesOwn:
    @pytest.fixture
    def light(self):
        """Return stamps with one bright pixel each, off the middle so that turns are seen."""
        light = np.zeros((5, 2, 20, 20), np.float32)
        for k, stamp in enumerate(light):
            stamp[:, 9, 9] = 100 * (k + 1)
            stamp[1, 9, 12] = 10
        return light

    def test_light_is_moved_whole_and_noise_is_new(self, light):
        stream = StampStream(light, batch=40, seed=3, separations=(2, 6), sources={2: 0.5, 3: 0.5})
        blend, isolated, positions, _ = stream[7]
        assert torch.equal(blend, stream[7][0])
        assert not torch.equal(blend, stream[8][0])
        noise = blend - isolated.sum(dim=1)
        assert float(noise.std()) == pytest.approx(1, abs=0.02)
        assert abs(float(noise.mean())) < 0.02
        # The first is in the middle, whichever way it is turned; all of its light is there.
        middle = isolated[:, 0, 0, 9:11, 9:11].sum(dim=(1, 2))
        assert torch.equal(middle, isolated[:, 0, 0].sum(dim=(1, 2)))
        assert set(middle.tolist()) <= {100.0, 200.0, 300.0, 400.0, 500.0}
        assert torch.equal(isolated[:, 0, 1].sum(dim=(1, 2)), middle + 10)
        assert (positions[:, 0] == 9.5).all()
        # The others are as far as was asked for, one or two of them.
        for others, where in zip(isolated[:, 1, 0], positions, strict=True):
            y, x = np.nonzero(others.numpy())
            nearest = np.abs(np.stack([x, y], axis=1)[:, None] - where[1:].numpy()).max(axis=2)
            assert (nearest.min(axis=1) <= 0.5).all()
            assert len(y) in (1, 2)
            away = np.hypot(y - 9.5, x - 9.5)
            assert (away > 2 - 1.5).all()
            assert (away < 6 + 1.5).all()

    def test_processes_share_a_batch(self, light):
        whole = StampStream(light, batch=4, seed=7)[5]
        parts = [StampStream(light, batch=4, seed=7, rank=r, world=2)[5] for r in (0, 1)]
        for k in (0, 1):
            assert torch.equal(whole[k], torch.cat([part[k] for part in parts]))

    def test_what_cannot_be(self, light):
        with pytest.raises(ValueError, match="light holds 1 stamps"):
            StampStream(light[:1], batch=4, seed=1)
        with pytest.raises(ValueError, match="batch=3 cannot be shared"):
            StampStream(light, batch=3, seed=1, world=2)

    def test_the_command_goes_on_from_a_model(self, tmp_path):
        model = train(configuration(), None, tmp_path / "model", progress=False)
        folder = tmp_path / "stamps"
        folder.mkdir()
        y, x = np.indices((31, 31)) - 15
        rng = np.random.default_rng(1)
        for k in range(20):
            star = 500 * np.exp(-np.hypot(x, y) / rng.uniform(1, 2)) + rng.normal(0, 1, (2, 31, 31))
            fits.writeto(folder / f"stamp{k}.fits", star.astype(np.float32))
        (folder / "broken.fits").write_text("no FITS")
        command = [
            "train", "--from", model, "--survey", folder, "--out", tmp_path / "mine",
            "--steps", "2", "--batch", "2", "--validation-blends", "2", "--precision", "float32",
        ]  # fmt: skip
        done = CliRunner().invoke(main, [str(argument) for argument in command])
        assert done.exit_code == 0, done.output
        assert "learning from 18 galaxies, validated on 2 others" in done.output
        assert re.search(r"left out .*broken\.fits: .", done.output)  # and the others are used
        (folder / "broken.fits").unlink()
        _, card = load_model(tmp_path / "mine" / "model.safetensors")
        assert card.scaling == "noise"
        assert card.data == "18 images of stamps"
        for wrong, named in (
            (command[:1] + command[3:], "and a model to start from"),
            ([*command, "--survey", "lsst"], "give no other --survey"),
        ):
            wrong = [str(argument) for argument in wrong]
            wrong[wrong.index("--out") + 1] += "2"
            done = CliRunner().invoke(main, wrong)
            assert done.exit_code == 2
            assert named in " ".join(done.output.split())
        for path in list(folder.iterdir())[:3]:
            path.unlink()
        command[command.index("--out") + 1] = tmp_path / "fewer"
        done = CliRunner().invoke(main, [str(argument) for argument in command])
        assert done.exit_code == 2
        assert "holds 17 FITS files; give at least 20" in " ".join(done.output.split())
