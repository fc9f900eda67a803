"""Trained networks with their cards: names, saving, checking and loading."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as to_bytes

from .calibration import Calibration
from .files import atomic_path, plain
from .networks import BlendScore, Familiarity, build, describe

__all__ = [
    "Card",
    "find_model",
    "list_models",
    "load_model",
    "load_own",
    "one_of_models",
    "read_card",
    "save_model",
    "stored_dtype",
    "write_card",
]

#: Folder of the models in the package.
_SHIPPED = Path(__file__).parent / "models"
#: Modules that are fitted to a trained network and saved with it.
_HEADS = {"familiarity": Familiarity, "blend_score": BlendScore}


@dataclass(frozen=True)
class Card:
    """Description of a model, stored as JSON beside its weights.

    Parameters
    ----------
    name, description : str
        Name of the model, and one sentence on what it is.
    network : dict
        Kind and configuration, as `astrodeblend.networks.build` takes them.
    bands : tuple of str
        Bands of its input, in order; empty for any bands in any order.
    modes : tuple of str
        Blending modes of its training.
    recipe : str
        Recipe of its training blends.
    size_rule : dict
        Width of a stamp: ``petrosian_radii`` of the source on ``pixels`` of the network; for
        linear flux at least that many pixels of the image.
    scaling : {'picture', 'noise'}
        The network's input: a picture, from 0 to 1; or sky-subtracted linear flux in units of the
        noise of each band.
    training : dict
        Configuration of the training, the command that repeats it, and its cost.
    data, licence : str
        Training data with credit, and their licence.
    scores : dict
        Scores, with split, recipe and seed.
    calibration : dict
        Parameters of `astrodeblend.calibration.Calibration`, with which one standard deviation
        holds 68.3 % of the truths; empty if not calibrated.
    crowded : str
        The model that replaces it in scenes of several sources or, if that model finds sources
        itself, for every image; empty for none.
    limits : str
        Known failures.
    sha256 : str
        Hash of the weight file.
    """

    name: str
    description: str
    network: dict
    bands: tuple[str, ...] = ("R", "G", "B")
    modes: tuple[str, ...] = ("max",)
    recipe: str = "reiman2019"
    size_rule: dict = field(default_factory=lambda: {"petrosian_radii": 5.8, "pixels": 80})
    scaling: str = "picture"
    training: dict = field(default_factory=dict)
    data: str = ""
    licence: str = ""
    scores: dict = field(default_factory=dict)
    calibration: dict = field(default_factory=dict)
    crowded: str = ""
    limits: str = ""
    sha256: str = ""


def list_models():
    """Return the names of the models in the package, in alphabetical order, as a tuple."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.safetensors")))


def find_model(model):
    """Return the path of a model's weight file.

    ``model`` is a name from `list_models`, or the path of a ``.safetensors`` file with its card
    (the same name, ``.json``) in the same folder.
    """
    if isinstance(model, str) and model in list_models():
        return _SHIPPED / f"{model}.safetensors"
    path = Path(model)
    if path.suffix == ".safetensors":
        for needed in (path, path.with_suffix(".json")):
            if not needed.is_file():
                raise FileNotFoundError(
                    f"model: {str(needed)!r} does not exist; a model is a .safetensors file with "
                    "its card, a .json file of the same name, beside it"
                )
        return path
    raise ValueError(
        f"model={str(model)!r} is not known; {one_of_models(model)}, or give a path that ends in "
        ".safetensors"
    )


def one_of_models(name):
    """Return advice on a name that is not a model's: the nearest name, and all of them."""
    near = get_close_matches(str(name), list_models(), n=1)
    names = ", ".join(map(repr, list_models()))
    return f"did you mean {near[0]!r}? Choose one of {names}" if near else f"choose one of {names}"


def read_card(model):
    """Return the card of a model, as `find_model` takes it."""
    path = find_model(model).with_suffix(".json")
    try:
        values = json.loads(path.read_text())
        for name in ("bands", "modes"):
            values[name] = tuple(values[name])
        card = Card(**values)
        _ = card.network["kind"], card.size_rule["petrosian_radii"], card.size_rule["pixels"]
        Calibration(**card.calibration)
        if card.scaling not in ("picture", "noise"):
            raise ValueError(f"scaling is {card.scaling!r}, neither 'picture' nor 'noise'")
    except (ValueError, KeyError, TypeError) as error:
        lacking = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"the card {str(path)!r} cannot be read ({lacking}); copy it again from where the "
            "weights are from"
        ) from error
    return card


def load_model(model, *, device="cpu"):
    """Load a model after checking its hash.

    Parameters
    ----------
    model : str or path-like
        As in `find_model`.
    device : str or torch.device, optional
        Device of the network.

    Returns
    -------
    network : torch.nn.Module
        In evaluation mode, float32; with the ``familiarity`` and ``blend_score`` in the file.
    card : Card
        Its card.

    Raises
    ------
    ValueError
        If there is no model of that name, or the weights are not those of the card.
    FileNotFoundError
        If the file or its card does not exist.
    """
    path, card = find_model(model), read_card(model)
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != card.sha256:
        raise ValueError(
            f"the weight file {str(path)!r} is corrupt: its sha256 is {found[:12]}..., its card "
            f"says {card.sha256[:12]}...; install the package again, or copy the file again"
        )
    try:
        state = load_tensors(content)
        network = build(**card.network)
        for name, kind in _HEADS.items():
            if f"{name}.mean" in state:
                setattr(network, name, kind(len(state[f"{name}.mean"])))
        network.load_state_dict(state)  # which takes them to float32
    except (SafetensorError, RuntimeError, TypeError, KeyError) as error:
        raise ValueError(f"the weight file {str(path)!r} does not fit its card: {error}") from error
    return network.to(device).eval(), card


def load_own(model, *, device="cpu"):
    """Load a model whose files may be replaced: one of yours, not one of the package.

    Return the path of its ``.safetensors`` file, and network and card as `load_model` does.
    """
    path = Path(model)
    if path.suffix != ".safetensors":
        raise ValueError(f"model={str(model)!r}: give the path of a .safetensors file")
    return path, *load_model(path, device=device)


def save_model(path, network, card, *, dtype=torch.float16, overwrite=False):
    """Save a model, and its card in the same folder.

    Parameters
    ----------
    path : str or path-like
        The weight file, ``.safetensors``.
    network : torch.nn.Module
        A network of `astrodeblend.networks.build`; its ``familiarity`` and ``blend_score`` are
        saved with it.
    card : Card
        Its card; network and sha256 are filled in.
    dtype : torch.dtype, optional
        Type of the stored weights, by default of half the size of float32. The ``familiarity`` and
        scalars keep their type.
    overwrite : bool, optional
        Replace files that exist.

    Returns
    -------
    Card
        The card as it was saved.

    Raises
    ------
    ValueError
        If ``path`` does not end in ``.safetensors``.
    FileExistsError
        If one of the files exists and ``overwrite`` is false.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path={str(path)!r}: the name of a weight file ends in .safetensors")
    state = {}
    for name, value in network.state_dict().items():
        kept = name.startswith("familiarity.") or not value.is_floating_point() or value.ndim == 0
        state[name] = value.detach().to("cpu", None if kept else dtype).contiguous()
    with (
        atomic_path(path.with_suffix(".json"), overwrite=overwrite) as beside,
        atomic_path(path, overwrite=overwrite) as temporary,
    ):
        content = to_bytes(state)
        temporary.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        card = Card(**{**asdict(card), "network": describe(network), "sha256": digest})
        beside.write_text(json.dumps(asdict(card), indent=2) + "\n")
    return card


def stored_dtype(path):
    """Return the type of the largest tensor in a ``.safetensors`` file, a `torch.dtype`."""
    return max(load_tensors(Path(path).read_bytes()).values(), key=torch.Tensor.numel).dtype


def write_card(model, card):
    """Replace the card of a model, as `find_model` takes it.

    The new card has to have the same network and sha256.
    """
    path, old = find_model(model).with_suffix(".json"), read_card(model)
    if (old.network, old.sha256) != (card.network, card.sha256):
        raise ValueError(f"card is not of the weights beside {str(path)!r}: their hashes differ")
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(plain(asdict(card)), indent=2) + "\n")


def check_model(card, what="blends"):
    """Raise ValueError if a model is not for colour pictures."""
    if card.scaling != "picture" or len(card.bands) != 3:
        bands = ", ".join(card.bands) or "any bands"
        kind = "linear flux" if card.scaling == "noise" else card.scaling
        raise ValueError(
            f"model {card.name!r} works on {bands} ({kind}); these {what} are colour pictures, "
            "choose a model for R, G, B"
        )
