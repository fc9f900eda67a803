"""Fitting a trained network's `BlendScore` to simulated stamps."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from ..networks import BlendScore
from ..simulate.doubles import FAINTEST, FARTHEST, make_doubles
from ..weights import load_model, save_model, stored_dtype

__all__ = ["FALSE_ALARMS", "add_blend_score", "fit_blend_score"]

#: Share of single galaxies with a score above the threshold.
FALSE_ALARMS = 0.01
_FEWEST = 2 * round(1 / FALSE_ALARMS)  # smallest number of stamps: one is above the threshold
_FOLDS = 4
_BATCH = 16
_EPOCHS, _FEWEST_STEPS = 20, 500
_LEARN_BATCH, _RATE, _DECAY, _DROPOUT = 128, 2e-3, 0.3, 0.2


def add_blend_score(model, images, *, stamps=12288, seed=1, device="cpu", progress=True):
    """Fit the blend score of a trained model: the probability of more than one galaxy in a stamp.

    Its files are replaced atomically: the weights of the network stay the same, and the card has
    the new hash and its old scores.

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
        If the path does not end in ``.safetensors``, the file is corrupt, the network is not one
        for pictures, there are too few stamps or images, or they have other bands.
    """
    path = Path(model)
    if path.suffix != ".safetensors":
        raise ValueError(f"model={str(model)!r}: give the path of a .safetensors file")
    network, card = load_model(path, device=device)
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
        "false_alarms": FALSE_ALARMS,
    }
    card = replace(card, training={**card.training, "blend_score": entry})
    return save_model(path, network, card, dtype=stored_dtype(path), overwrite=True)


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
    images : numpy.ndarray
        Isolated galaxies, (n, bands, y, x), at least 8.
    stamps : int
        Number of stamps, at least 200.
    seed : int, optional
        Seed of the random numbers.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    BlendScore
        On the device of the network.

    Raises
    ------
    ValueError
        If there are too few stamps or images.
    """
    if stamps < _FEWEST:
        raise ValueError(f"stamps={stamps} are too few; give at least {_FEWEST}")
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
                    features.append(_features(network, doubles.picture, device))
                    label.append(torch.from_numpy(doubles.blended))
                bar.update(size)
            parts.append(torch.cat(features))
            labels.append(torch.cat(label).float())
    network.train(was_training)

    logit = torch.cat(
        [
            _fit([*parts[:k], *parts[k + 1 :]], [*labels[:k], *labels[k + 1 :]], seed)[1](parts[k])
            for k in range(_FOLDS)
        ]
    )
    score, _ = _fit(parts, labels, seed)
    label = torch.cat(labels)
    factor, offset = _calibration(logit, label)
    with torch.no_grad():
        score.out.weight *= factor
        score.out.bias *= factor
        score.out.bias += offset
        single = (factor * logit + offset).sigmoid()[label == 0]
        score.threshold.copy_(single.quantile(1 - FALSE_ALARMS))
    return score.to(device)


@torch.inference_mode()
def _features(network, picture, device):
    picture = picture.to(device, memory_format=torch.channels_last)
    return network.blend_features(picture).cpu()


def _fit(parts, labels, seed):
    """Return a fitted score, and the function of its logits."""
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
    score.eval().requires_grad_(False)
    return score, lambda features: score.logit(score.standardised(features))


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
