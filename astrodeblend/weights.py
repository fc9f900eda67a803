"""Names to weights: trained networks with their cards, saved, found, checked and loaded."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
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
    "read_card",
    "save_model",
    "stored_dtype",
    "write_card",
]

_SHIPPED = Path(__file__).parent / "models"
_FAMILIARITY = "familiarity."
#: Small modules that are fitted to a network when it is trained, and saved with it.
_HEADS = {"familiarity": Familiarity, "blend_score": BlendScore}


@dataclass(frozen=True)
class Card:
    """What there is to know about a model; kept as JSON beside its weights.

    Parameters
    ----------
    name, description : str
        What it is called, and one sentence on what it is.
    network : dict
        Kind and configuration, as `astrodeblend.networks.build` takes them.
    bands : tuple of str
        The bands it takes, in this order; none for any bands in any order.
    modes : tuple of str
        Blending modes it was trained on.
    recipe : str
        Recipe of the blends it was trained on.
    size_rule : dict
        Width of a stamp: ``petrosian_radii`` of the source over ``pixels`` of the network. Of
        linear flux it is at least that many pixels of the image.
    scaling : {'picture', 'noise'}
        What the network sees: light from 0 to 1, displayed as a survey displays it; or linear
        flux above the sky, in units of the noise of each band.
    training : dict
        The training configuration, the command that repeats it, and what it cost.
    data, licence : str
        What it was trained on and under which terms; credit.
    scores : dict
        What it scores, on which split, with which recipe and seed.
    calibration : dict
        What makes its standard deviations hold 68.3 % of the truths, as
        `astrodeblend.calibration.Calibration` takes it; empty if they are as they come.
    crowded : str
        The model that takes its place in scenes of several sources, or, if that finds sources
        itself, for every image; empty for none.
    limits : str
        What it is known to fail at.
    sha256 : str
        Of the weight file.
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

    Parameters
    ----------
    model : str or path-like
        A name out of `list_models`, or a path to a ``.safetensors`` file with its card (the
        same name, ``.json``) beside it.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ValueError
        If there is no model of that name.
    FileNotFoundError
        If the file or its card does not exist.
    """
    if isinstance(model, str) and model in list_models():
        return _SHIPPED / f"{model}.safetensors"
    path = Path(model)
    if path.suffix == ".safetensors":
        for needed in (path, path.with_suffix(".json")):
            if not needed.is_file():
                raise FileNotFoundError(
                    f"model={str(model)!r}: {str(needed)!r} does not exist; a model is a "
                    ".safetensors file with its card, a .json file of the same name, beside it"
                )
        return path
    raise ValueError(
        f"model={str(model)!r} is not known; choose one of {', '.join(list_models())}, "
        "or give a path that ends in .safetensors"
    )


def read_card(model):
    """Return the card of a model.

    Parameters
    ----------
    model : str or path-like
        As in `find_model`.

    Raises
    ------
    ValueError
        If there is no model of that name, or the card cannot be read.
    FileNotFoundError
        If the file or its card does not exist.
    """
    return _read_card(find_model(model).with_suffix(".json"))


def load_model(model, *, device="cpu"):
    """Load a model, its hash checked.

    Parameters
    ----------
    model : str or path-like
        As in `find_model`.
    device : str or torch.device, optional
        Where to.

    Returns
    -------
    network : torch.nn.Module
        In evaluation mode, float32; with its ``familiarity`` and ``blend_score`` if these are in
        the file.
    card : Card
        Its card.

    Raises
    ------
    ValueError
        If there is no model of that name, or the weights are not those of the card.
    FileNotFoundError
        If the file or its card does not exist.
    """
    path = find_model(model)
    card = _read_card(path.with_suffix(".json"))
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


def save_model(path, network, card, *, dtype=torch.float16, overwrite=False):
    """Save a model and its card beside it.

    Parameters
    ----------
    path : str or path-like
        Of the weight file, ``.safetensors``.
    network : torch.nn.Module
        A network that `astrodeblend.networks.build` can build; if it has a ``familiarity`` or a
        ``blend_score``, that is saved with it.
    card : Card
        Its card; network and sha256 are filled in.
    dtype : torch.dtype, optional
        What the weights are stored as; half the size of float32 by default. What is in the
        ``familiarity`` stays as it is, and so do single numbers.
    overwrite : bool, optional
        Replace files that are there already.

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
        kept = name.startswith(_FAMILIARITY) or not value.is_floating_point() or value.ndim == 0
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
    """Return what the weights in a file are stored as, to save them so again.

    Parameters
    ----------
    path : str or path-like
        A ``.safetensors`` file.

    Returns
    -------
    torch.dtype
        That of the largest tensor.
    """
    return max(load_tensors(Path(path).read_bytes()).values(), key=torch.Tensor.numel).dtype


def write_card(model, card):
    """Replace the card of a model.

    Parameters
    ----------
    model : str or path-like
        As in `find_model`.
    card : Card
        The new one, with the network and sha256 of the old one.

    Raises
    ------
    ValueError
        If the card is of other weights.
    """
    path = find_model(model).with_suffix(".json")
    old = _read_card(path)
    if (old.network, old.sha256) != (card.network, card.sha256):
        raise ValueError(f"card is not of the weights beside {str(path)!r}: their hashes differ")
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(plain(asdict(card)), indent=2) + "\n")


def check_model(card, what="blends"):
    """Refuse a model that is not for colour pictures, which ``what`` are made of.

    Raises
    ------
    ValueError
        If it is for other bands, or for linear flux.
    """
    if card.scaling != "picture" or len(card.bands) != 3:
        bands = ", ".join(card.bands) or "any bands"
        kind = "linear flux" if card.scaling == "noise" else card.scaling
        raise ValueError(
            f"model {card.name!r} works on {bands} ({kind}); these {what} are colour pictures, "
            "choose a model for R, G, B"
        )


def _read_card(path):
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
