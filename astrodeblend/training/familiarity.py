"""Fitting a trained network's `Familiarity` to blends of its own recipes."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from ..networks import fit_familiarity
from ..networks.familiarity import FALSE_ALARMS
from ..weights import load_model, save_model, stored_dtype
from .stream import BlendStream

__all__ = ["FEWEST_BLENDS", "add_familiarity", "familiarity_of", "on_card"]

_BATCH = 16
#: Smallest number of blends: one of them is beyond the threshold.
FEWEST_BLENDS = round(1 / FALSE_ALARMS)


def familiarity_of(network, stream, *, blends, progress=False):
    """Fit a network's familiarity to new blends, as many of each recipe.

    Parameters
    ----------
    network : torch.nn.Module
        A trained generator, on the device of the stream.
    stream : BlendStream
        Stream of its training blends.
    blends : int
        Number of blends, at least 200.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    astrodeblend.networks.Familiarity
        On the device of the stream.

    Raises
    ------
    ValueError
        If there are too few blends.
    """
    if blends < FEWEST_BLENDS:
        raise ValueError(f"blends={blends} are too few; give at least {FEWEST_BLENDS}")
    was_training = network.training
    network.eval()
    others = []
    for final in (math.inf, 0):  # each recipe; the seed is none of training
        other = copy.copy(stream)
        other.seed, other.final, other.batch = 2**40 + stream.seed, final, _BATCH
        other.share = slice(None)
        others.append(other)
    features = []
    with (
        torch.inference_mode(),
        tqdm(total=blends, desc="familiarity", unit="blend", disable=not progress) as bar,
    ):
        for k in range(-(-blends // _BATCH)):  # recipes in turn, as the fit is cross-validated
            blend, _, *marks = others[k % 2][k]
            blend = blend.contiguous(memory_format=torch.channels_last)
            features.append(network(blend, *marks, with_features=True)[2].cpu())
            bar.update(min(_BATCH, bar.total - bar.n))
    network.train(was_training)
    return fit_familiarity(torch.cat(features)[:blends]).to(blend.device)


def on_card(blends):
    """Return the card's entry on the fit of the familiarity."""
    return {"blends": blends, "false_alarms": FALSE_ALARMS}


def add_familiarity(model, images, *, blends=4096, seed=1, device="cpu", progress=True):
    """Fit the familiarity of a trained model, which flags blends that differ from its training.

    Its files are replaced atomically: the weights of the network stay the same, and the card has
    the new hash and its old scores. `train` does the same at the end of a run.

    Parameters
    ----------
    model : str or path-like
        A ``.safetensors`` file with its card beside it.
    images : numpy.ndarray
        Galaxies it was trained on, or many of them, (n, bands, y, x), for blends of the recipes on
        the card.
    blends : int, optional
        Number of blends, at least 200.
    seed : int, optional
        Seed of the random numbers.
    device : str or torch.device, optional
        Device of the network.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    Card
        The card as it was saved.

    Raises
    ------
    FileNotFoundError
        If the file or its card does not exist.
    ValueError
        If the path does not end in ``.safetensors``, the file is corrupt, there are too few
        blends, or the images do not suit the recipes.
    """
    path = Path(model)
    if path.suffix != ".safetensors":
        raise ValueError(f"model={str(model)!r}: give the path of a .safetensors file")
    network, card = load_model(path, device=device)
    final = card.training.get("config", {}).get("final_recipe")
    stream = BlendStream(
        images, card.recipe, batch=_BATCH, seed=seed, device=device, final_recipe=final,
        marks=card.network.get("marks", False),
    )  # fmt: skip
    network.familiarity = familiarity_of(network, stream, blends=blends, progress=progress)
    card = replace(card, training={**card.training, "familiarity": on_card(blends)})
    return save_model(path, network, card, dtype=stored_dtype(path), overwrite=True)
