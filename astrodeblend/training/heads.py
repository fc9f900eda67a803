"""Fitting a trained network's `Familiarity` and `BlendScore`, and adding them to its file."""

import copy
import math
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from ..networks import BlendScore, fit_familiarity
from ..networks.heads import FALSE_ALARMS
from ..simulate.doubles import FAINTEST, FARTHEST, make_doubles
from ..weights import load_own, save_model, stored_dtype
from .stream import BlendStream

_BATCH = 16  # stamps that the network takes at a time

#: Smallest number of blends for a familiarity: one of them is beyond the threshold.
FEWEST_BLENDS = round(1 / FALSE_ALARMS)

_SINGLES_ABOVE = 0.01  # share of single galaxies with a blend score above the threshold
_FEWEST_STAMPS = 2 * round(1 / _SINGLES_ABOVE)  # one single galaxy is above the threshold
_FOLDS = 4  # parts of the cross-validation of blend scores
# Fit of the blend score: least passes over the stamps and updates, stamps per update, learning
# rate, weight decay and dropout.
_EPOCHS, _FEWEST_STEPS, _LEARN_BATCH, _RATE, _DECAY, _DROPOUT = 20, 500, 128, 2e-3, 0.3, 0.2


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
        If ``model`` is a name, the file is corrupt, there are too few blends, or the images do not
        suit the recipes.
    """
    path, network, card = load_own(model, device=device)
    final = card.training.get("config", {}).get("final_recipe")
    stream = BlendStream(
        images, card.recipe, batch=_BATCH, seed=seed, device=device, final_recipe=final,
        marks=card.network.get("marks", False),
    )  # fmt: skip
    network.familiarity = familiarity_of(network, stream, blends=blends, progress=progress)
    entry = {"blends": blends, "false_alarms": FALSE_ALARMS}
    return _save(path, network, card, familiarity=entry)


def add_blend_score(model, images, *, stamps=12288, seed=1, device="cpu", progress=True):
    """Fit the blend score of a trained model: the probability of more than one galaxy in a stamp.

    Its files are replaced as by `add_familiarity`.

    Parameters
    ----------
    model : str or path-like
        A ``.safetensors`` file with its card beside it.
    images : numpy.ndarray
        Isolated galaxies, (n, bands, y, x), like those of its training. Pictures with other
        galaxies would bias the score low.
    stamps : int, optional
        Number of stamps for the fit, at least 200; half of them of two galaxies.
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
        If ``model`` is a name, the file is corrupt, the network is not one for pictures, there are
        too few stamps or images, or they have other bands.
    """
    path, network, card = load_own(model, device=device)
    if not hasattr(network, "blend_features"):
        raise ValueError(f"model={str(model)!r} is a {card.network['kind']}; give one for pictures")
    if images.shape[1] != len(card.bands):
        raise ValueError(
            f"images has shape {images.shape}; the model takes {len(card.bands)} bands, "
            f"{', '.join(card.bands)}"
        )
    network.blend_score = fit_blend_score(
        network, images, stamps=stamps, seed=seed, progress=progress
    )
    entry = {
        "stamps": stamps,
        "galaxies": len(images),
        "separation": [0, FARTHEST],
        "flux_ratio": [FAINTEST, 1],
        "false_alarms": _SINGLES_ABOVE,
    }
    return _save(path, network, card, blend_score=entry)


def _save(path, network, card, **entry):
    """Replace a model's files, with one more entry on its training."""
    card = replace(card, training={**card.training, **entry})
    return save_model(path, network, card, dtype=stored_dtype(path), overwrite=True)


def familiarity_of(network, stream, *, blends, progress=False):
    """Return a network's familiarity, fitted to new blends, half of each recipe of a stream."""
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


def fit_blend_score(network, images, *, stamps, seed=1, progress=False):
    """Fit a blend score to a network's features of simulated stamps.

    Stamps are those of `astrodeblend.simulate.doubles.make_doubles`. Calibration and threshold
    come from four-fold cross-validation over galaxies; the final fit uses all stamps. Calibrated
    (a factor and an offset of the logit; Platt 1999), four in five of the stamps with a score of
    0.8 have two galaxies, where half of all stamps have.

    Parameters
    ----------
    network : torch.nn.Module
        A trained generator with ``blend_features``.
    images, stamps, seed, progress
        As in `add_blend_score`.

    Returns
    -------
    BlendScore
        On the device of the network.
    """
    if stamps < _FEWEST_STAMPS:
        raise ValueError(f"stamps={stamps} are too few; give at least {_FEWEST_STAMPS}")
    if len(images) < 2 * _FOLDS:
        raise ValueError(
            f"images holds {len(images)} galaxies; give at least {2 * _FOLDS}: a blend takes two, "
            f"and they are shared out in {_FOLDS} parts"
        )
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    parts, labels = [], []
    with tqdm(total=stamps, desc="blend score", unit="stamp", disable=not progress) as bar:
        for part in range(_FOLDS):
            galaxies = images[part::_FOLDS]
            number = len(range(part, stamps, _FOLDS))
            features, label = [], []
            for start in range(0, number, _BATCH):
                size = min(_BATCH, number - start)
                doubles = make_doubles(
                    galaxies, size, rng=np.random.default_rng([seed, part, start])
                )
                if len(doubles):
                    picture = doubles.picture.to(device, memory_format=torch.channels_last)
                    with torch.inference_mode():
                        features.append(network.blend_features(picture).cpu())
                    label.append(torch.from_numpy(doubles.blended))
                bar.update(size)
            parts.append(torch.cat(features))
            labels.append(torch.cat(label).float())
    network.train(was_training)

    left_out = []
    for k in range(_FOLDS):
        score = _fit(parts[:k] + parts[k + 1 :], labels[:k] + labels[k + 1 :], seed)
        left_out.append(score.logit(score.standardised(parts[k])))
    logit, label = torch.cat(left_out), torch.cat(labels)
    factor, offset = _calibration(logit, label)
    score = _fit(parts, labels, seed)
    with torch.no_grad():
        score.out.weight *= factor
        score.out.bias *= factor
        score.out.bias += offset
        single = (factor * logit + offset).sigmoid()[label == 0]
        score.threshold.copy_(single.quantile(1 - _SINGLES_ABOVE))
    return score.to(device)


def _fit(parts, labels, seed):
    """Return a blend score fitted to features and labels."""
    features, label = torch.cat(parts), torch.cat(labels)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        score = BlendScore(features.shape[1]).train()
        scale, mean = torch.std_mean(features, dim=0)
        score.mean.copy_(mean)
        score.scale.copy_(scale.clamp(min=1e-3))
        standard = score.standardised(features)
        optimizer = torch.optim.AdamW(score.parameters(), lr=_RATE, weight_decay=_DECAY)
        batches = -(-len(label) // _LEARN_BATCH)
        epochs = max(_EPOCHS, -(-_FEWEST_STEPS // batches))
        plan = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, epochs * batches)
        for _ in range(epochs):
            order = torch.randperm(len(label), generator=generator)
            for batch in order.split(_LEARN_BATCH):
                logit = score.logit(standard[batch], dropout=_DROPOUT)
                loss = F.binary_cross_entropy_with_logits(logit, label[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                plan.step()
    return score.eval().requires_grad_(False)


def _calibration(logit, label):
    """Return the factor and the offset that turn logits into log odds (Platt 1999)."""
    line = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    logit, label = logit.double(), label.double()
    optimizer = torch.optim.LBFGS([line], max_iter=100, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(line[0] * logit + line[1], label)
        value.backward()
        return value

    optimizer.step(loss)
    return line.detach().float()
