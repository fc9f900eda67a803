"""Weights and their cards: saved, found, checked, loaded."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from astrodeblend.networks import build, describe, fit_familiarity
from astrodeblend.weights import (
    Card,
    list_models,
    load_model,
    read_card,
    save_model,
    write_card,
)

CARD = Card(name="tiny", description="for the tests", network={}, modes=("max", "sum"))
SHIPPED = Path(save_model.__code__.co_filename).parent / "models"


@pytest.fixture
def network():
    torch.manual_seed(4)
    return build("unet", widths=(8, 16), blocks=(1, 1), attention=1).eval()


@pytest.fixture
def path(tmp_path, network):
    path = tmp_path / "tiny.safetensors"
    save_model(path, network, CARD)
    return path


def test_a_saved_model_comes_back(path, network):
    loaded, card = load_model(path)
    assert describe(loaded) == describe(network)
    assert (card.name, card.modes, card.bands) == ("tiny", ("max", "sum"), ("R", "G", "B"))
    assert not loaded.training
    blend = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        for ours, theirs in zip(loaded(blend), network(blend), strict=True):
            # half precision: 11 bits
            torch.testing.assert_close(ours, theirs, rtol=5e-3, atol=5e-3)
    assert path.stat().st_size < 2.2 * sum(p.numel() for p in network.parameters()) + 10_000


def test_full_precision_can_be_kept(tmp_path, network):
    path = tmp_path / "full.safetensors"
    save_model(path, network, CARD, dtype=torch.float32)
    state = load_model(path)[0].state_dict()
    for name, value in network.state_dict().items():
        assert torch.equal(state[name], value)


def test_counts_of_batches_survive_half_precision(tmp_path):
    network = build("reiman2019", width=2, root_blocks=1, branch_blocks=1)
    state = network.state_dict()
    counts = [name for name in state if name.endswith("num_batches_tracked")]
    for name in counts:
        state[name].fill_(200_000)  # more than float16 can hold
    save_model(tmp_path / "paper.safetensors", network, CARD)
    loaded = load_model(tmp_path / "paper.safetensors")[0].state_dict()
    assert counts
    assert all(loaded[name] == 200_000 for name in counts)


def test_what_is_familiar_travels_with_the_weights(tmp_path, network):
    blends = torch.rand((200, 3, 16, 16), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        features = network(blends, with_features=True)[2]
    network.familiarity = fit_familiarity(features)
    path = tmp_path / "knows.safetensors"
    save_model(path, network, CARD)
    loaded, _ = load_model(path)
    saved = network.familiarity.state_dict()
    assert {name: value.dtype for name, value in loaded.familiarity.state_dict().items()} == {
        name: value.dtype for name, value in saved.items()
    }
    assert torch.equal(loaded.familiarity(features), network.familiarity(features))
    names = set(load_file(path))
    assert {f"familiarity.{name}" for name in saved} < names

    bare = tmp_path / "bare.safetensors"
    network.familiarity = None
    save_model(bare, network, CARD)
    assert load_model(bare)[0].familiarity is None
    assert names - set(load_file(bare)) == {f"familiarity.{name}" for name in saved}


def test_half_of_it_is_refused(tmp_path, network):
    network.familiarity = torch.nn.Module()
    network.familiarity.register_buffer("scale", torch.ones(3))
    path = tmp_path / "half.safetensors"
    save_model(path, network, CARD)
    with pytest.raises(ValueError, match="does not fit its card"):
        load_model(path)


def test_corrupt_weights_are_refused(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is corrupt: its sha256 is .*; install"):
        load_model(path)
    path.write_bytes(content[:100])
    with pytest.raises(ValueError, match="is corrupt"):
        load_model(path)


def test_weights_that_do_not_fit_their_card_are_refused(path):
    values = json.loads(path.with_suffix(".json").read_text())
    values["network"]["widths"] = [8, 24]
    path.with_suffix(".json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="does not fit its card"):
        load_model(path)


def test_a_scaling_that_is_none_is_refused(path):
    values = json.loads(path.with_suffix(".json").read_text()) | {"scaling": "flux"}
    path.with_suffix(".json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="scaling is 'flux', neither 'picture' nor 'noise'"):
        load_model(path)


@pytest.mark.parametrize("text", ["{", "[1]", '{"name": "x"}', "\xff", "null"])
def test_a_card_that_cannot_be_read_is_named(path, text):
    path.with_suffix(".json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"the card .*tiny\.json' cannot be read"):
        read_card(path)


def test_missing_models_are_named(path, tmp_path):
    with pytest.raises(ValueError, match=r"'galaxyzo' is not known; did you mean 'galaxyzoo'"):
        load_model("galaxyzo")
    with pytest.raises(FileNotFoundError, match=r"other\.safetensors' does not exist"):
        load_model(tmp_path / "other.safetensors")
    path.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tiny\.json' does not exist; a model is a"):
        load_model(path)


def test_nothing_is_replaced_unasked(path, network):
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="exists; choose another name"):
        save_model(path, build("unet", widths=(8, 8), blocks=(1, 1), attention=0), CARD)
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["tiny.json", "tiny.safetensors"]
    with pytest.raises(ValueError, match=r"ends in \.safetensors"):
        save_model(path.with_suffix(".pt"), network, CARD)


def test_a_card_can_be_replaced_but_not_mixed_up(path):
    card = read_card(path)
    write_card(path, replace(card, description="better"))
    assert load_model(path)[1].description == "better"
    with pytest.raises(ValueError, match="their hashes differ"):
        write_card(path, replace(card, sha256="0" * 64))


@pytest.mark.parametrize("name", list_models())
def test_every_shipped_model_loads_and_says_what_it_is(name):
    network, card = load_model(name)
    assert (SHIPPED / f"{name}.safetensors").stat().st_size < 16e6
    assert card.name == name
    assert card.description
    assert card.data
    assert card.licence
    assert card.limits
    assert card.scores
    of_fields = card.network["kind"] == "field"
    command = "python examples/train_fields.py run " if of_fields else "astrodeblend train "
    assert card.training["command"].startswith(command)
    assert card.training["config"]["seed"] is not None
    if not of_fields:  # these run by the clock
        assert card.training["steps"] == card.training["config"]["steps"]
    blend = torch.rand((1, 3, 80, 80), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        components, _ = network(blend)
    assert components.shape == (1, 2, 3, 80, 80)
    assert torch.isfinite(components).all()
