"""A trained model gets what it lacks, part by part; a part that fails spoils no other."""

import shutil
from functools import partial

import pytest

from astrodeblend import finish as module
from astrodeblend.finish import finish
from astrodeblend.weights import load_model, save_model


@pytest.fixture
def bare(tiny_model, tmp_path, monkeypatch, short_fits):
    """Return a model without any of it, to which little is enough."""
    network, card = load_model(tiny_model)
    network.familiarity = network.blend_score = None
    path = tmp_path / "bare.safetensors"
    save_model(path, network, card)
    for name, few in (
        ("add_familiarity", {"blends": 40}),
        ("add_blend_score", {"stamps": 40}),
        ("add_calibration", {"blends": 25}),
        ("add_scene_calibration", {"scenes": 2}),
    ):
        monkeypatch.setattr(module, name, partial(getattr(module, name), **few))
    return path


@pytest.fixture
def folder(galaxies, tmp_path):
    """Return a folder of pictures with a table of which are learned from."""
    to = tmp_path / "galaxies"
    to.mkdir()
    rows = ["file,split"]
    for path in sorted(galaxies.rglob("*.jpg")):
        for split in ("train", "val"):
            name = f"{split}_{path.name}"
            shutil.copy(path, to / name)
            rows.append(f"{name},{split}")
    (to / "splits.csv").write_text("\n".join(rows))
    return to


def test_a_model_for_pictures_gets_all(bare, folder):
    before = load_model(bare)[0].state_dict()
    failed = finish(bare, folder, progress=False)
    assert failed == dict.fromkeys(
        ["familiarity", "blend score", "error bars", "error bars of scenes"]
    )
    network, card = load_model(bare)
    assert network.familiarity is not None
    assert network.blend_score is not None
    assert card.calibration["fit"]["blends"] == 25
    assert card.calibration["in_scenes"]["fit"]["scenes"] == 2
    for name, value in before.items():
        assert (network.state_dict()[name] == value).all()


def test_a_part_that_fails_spoils_no_other(bare, folder, monkeypatch):
    done = []

    def fake(name):
        def fit(*_, **__):
            done.append(name)
            if name == "add_blend_score":
                raise ValueError("no")

        return fit

    for name in ("add_familiarity", "add_blend_score", "add_calibration", "add_scene_calibration"):
        monkeypatch.setattr(module, name, fake(name))
    failed = finish(bare, folder, progress=False)
    assert len(done) == 4
    assert str(failed.pop("blend score")) == "no"
    assert not any(failed.values())


def test_no_galaxies_to_judge_by(bare, galaxies, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(galaxies.rglob("*.jpg"))[:2]:
        shutil.copy(path, few)
    failed = finish(bare, few, progress=False)
    assert "has no galaxies for it; give more" in str(failed["error bars"])


def test_refusals(bare, tmp_path):
    with pytest.raises(ValueError, match=r"images is missing: .* is for pictures"):
        finish(bare)
    with pytest.raises(FileNotFoundError, match="not a folder"):
        finish(bare, tmp_path / "none")
    with pytest.raises(ValueError, match="'galaxyzoo' is a model of the package"):
        finish("galaxyzoo", tmp_path)
