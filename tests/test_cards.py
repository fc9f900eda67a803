"""Cards as text: what they say is on the page, nothing of it is lost or taken for markup."""

import re
import shlex
from dataclasses import replace

import pytest
import torch

from astrodeblend.blends import PUBLISHED
from astrodeblend.cards import card_text
from astrodeblend.cli import main
from astrodeblend.networks import build
from astrodeblend.weights import list_models, read_card, save_model, write_card

STATISTICS = {"mean": 30.124, "median": 31.0, "max": 40.0, "min": 9.5, "variance": 4.25}
FULL = {
    "description": "A model of `odd` *names*, under_scores_ and |bars|, and \\ too",
    "data": "50 galaxies_ of *mine*",
    "licence": "CC-BY",
    "training": {
        "command": "astrodeblend train --images FOLDER --split train --recipe varied "
        "--final-recipe reiman2019 --steps 12000 --out runs/mine",
        "config": {
            "final_recipe": "reiman2019",
            "batch": 16,
            "loss": "mse",
            "adversarial": "non_saturating",
            "adversarial_weight": 0.001,
            "seed": 0,
        },
        "steps": 12000,
        "hours": 1.5,
        "threads": 4,
        "note": "The learning rate fell twice.",
    },
    "scores": {
        "reiman2019 on val": {
            "blends": 1234,
            "seed": 3,
            "psnr": {**STATISTICS, "p1": 20.0},
            "ssim_reiman2019": STATISTICS,
        },
        "sum on folder mine": {
            "blends": 10,
            "seed": 1,
            "arithmetic": "float32",
            "data": "mine",
            "psnr": STATISTICS,
        },
    },
    "limits": "Stars are not known to it. Nor are rings, e.g. of 1.5 arcsec! It is slow.",
}


@pytest.fixture(scope="module")
def full_model(tiny_model, tmp_path_factory):
    """Return the path of a model whose card says everything."""
    path = tmp_path_factory.mktemp("full") / "full.safetensors"
    card = read_card(tiny_model)
    torch.manual_seed(1)
    save_model(path, build(**card.network), replace(card, name="full", **FULL))
    return path


def with_training(model, **training):
    """Return a model's text once its training says something else."""
    card = read_card(model)
    write_card(model, replace(card, training={**card.training, **training}))
    try:
        return card_text(model)
    finally:
        write_card(model, card)


def flat(text):
    """Return text as one line, without what it is laid out with."""
    return " ".join(text.replace(" \\\n", " ").split())


def test_everything_is_said(full_model):
    text, card = card_text(full_model), read_card(full_model)
    told = flat(text)
    for words in (
        *(FULL[name] for name in ("description", "data", "licence")),
        FULL["training"]["command"],
        FULL["training"]["note"],
        card.sha256,
        "5.8 Petrosian radii of the source on 80 pixels",
        "12,000 of 16 blends",
        "6.00 core-hours (1.50 hours of 4 threads)",
        "mse, 0.001 of adversarial non_saturating",
        "seed 0",
        "1,234 blends, seed 3",
        "--recipe reiman2019 --split val --seed 3 -n 1234",
        "--recipe sum --seed 1 --dtype float32 -n 10",
        "- Stars are not known to it. - Nor are rings, e.g. of 1.5 arcsec! - It is slow.",
    ):
        assert words in told
    state = build(**card.network).state_dict()
    assert f"weights {sum(value.numel() for value in state.values()):,}" in told
    assert f"full.safetensors, {full_model.stat().st_size / 1e6:.1f} MB" in told


def test_it_fits_a_terminal(full_model):
    lines = card_text(full_model).splitlines()
    # A path cannot be broken, however long it is.
    assert max(len(line) for line in lines if str(full_model) not in line) <= 79


def rows_under(text, title):
    """Return the cells of the first table after a title, by the name of the row."""
    lines = text.split(f"\n{title}\n")[1].splitlines()
    rules = [k for k, line in enumerate(lines) if line.startswith("===")]
    return [line.split() for line in lines[rules[0] + 1 : rules[2]] if not line.startswith("=")]


def test_scores_stand_beside_the_published_ones(full_model):
    head, psnr, published, ssim, published_ssim = rows_under(
        card_text(full_model), "reiman2019 on val"
    )
    assert head == ["score", "mean", "median", "max", "min", "variance", "p1"]
    assert psnr == ["psnr", "(dB)", "30.12", "31.00", "40.00", "9.50", "4.25", "20.00"]
    assert published == ["published", *(f"{v:.2f}" for v in PUBLISHED["psnr"].values()), "-"]
    assert ssim[:2] == ["ssim_reiman2019", "30.1240"]
    assert ssim[-1] == "-"
    assert published_ssim[1] == "0.928"


def test_other_recipes_are_not_those_of_the_paper(full_model):
    head, psnr = rows_under(card_text(full_model), "sum on folder mine")
    assert "p1" not in head
    assert psnr[2] == "30.12"
    text = flat(card_text(full_model).replace("\\\n", ""))
    assert "--images mine --recipe sum --seed 1 --dtype float32 -n 10" in text
    assert "--images FOLDER --recipe reiman2019 --split val --seed 3 -n 1234" in text


@pytest.mark.parametrize("name", list_models())
def test_the_commands_of_a_card_are_commands(name):
    text = card_text(name).replace("\\\n", "")
    commands = [shlex.split(line) for line in re.findall("^    astrodeblend (.*)", text, re.M)]
    assert commands
    for command, *words in commands:
        main.commands[command].make_context(command, words)  # raises for what it does not take


def test_an_empty_card_says_what_it_can(tiny_model):
    text = card_text(tiny_model)
    assert "has learned nothing" in text
    assert "None are stated." in text
    assert f"evaluate --model {tiny_model} --images FOLDER --card" in flat(text)
    for absent in ("cost", "licence", "updates", "None\n", "::\n\n\n"):
        assert absent not in text


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"hours": 2.0, "threads": 1}, "2.00 core-hours (2.00 hours of 1 thread)"),
        ({"hours": 2.0, "device": "cpu", "threads": 2}, "4.00 core-hours (2.00 hours of 2"),
        ({"hours": 0.5, "device": "NVIDIA H200"}, "0.50 GPU-hours (NVIDIA H200)"),
    ],
)
def test_cost(tiny_model, training, words):
    assert words in flat(with_training(tiny_model, **training))


def test_what_it_started_from_and_knows(tiny_model):
    parent = {"name": "older", "sha256": 64 * "a"}
    known = {"blends": 4096, "false_alarms": 0.01}
    text = flat(with_training(tiny_model, hours=1.0, **{"from": parent}, familiarity=known))
    assert "(1.00 hours of 1 thread), in addition to that of its start" in text
    assert "started from older (sha256 aaaaaaaaaaaa...)" in text
    assert "familiarity blends 4096, false_alarms 0.01" in text


@pytest.mark.parametrize("markup", [False, True])
@pytest.mark.parametrize("name", ["full", "tiny", *list_models()])
def test_it_is_sound_markup(request, name, markup):
    """The page in the documentation shows every character, and raises no complaint."""
    nodes = pytest.importorskip("docutils.nodes")
    core = pytest.importorskip("docutils.core")
    model = name if name in list_models() else request.getfixturevalue(f"{name}_model")
    if name == "full" and not markup:
        pytest.skip("characters with a meaning are only escaped for markup")
    settings = {"report_level": 2, "halt_level": 2, "_disable_config": True}
    tree = core.publish_doctree(card_text(model, markup=markup), settings_overrides=settings)
    shown = flat(tree.astext())
    card = read_card(model)
    for words in (card.description, card.data, card.sha256):
        assert flat(words) in shown
    assert len(list(tree.findall(nodes.table))) >= 2


@pytest.mark.parametrize("name", list_models())
def test_shipped_cards_say_all(name):
    card = read_card(name)
    for field in ("description", "data", "licence", "scores", "limits"):
        assert getattr(card, field), f"{name} has no {field}"
    assert {"command", "config", "hours", "threads"} <= set(card.training)


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="model='galaxyzo' is not known"):
        card_text("galaxyzo")
