"""Sources from the heat map of a network, and probability thresholds for a purity."""

import math

import numpy as np
import torch
from torch.nn import functional as F

__all__ = ["find_centres", "purity_thresholds", "threshold_of"]

#: Purities (shares of true sources among those found) for which thresholds are stored.
PURITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)


def find_centres(heat, offset, log_size, calibration=(1.0, 0.0), *, least=0.05):
    """Return sources: the local maxima of the heat map.

    Parameters
    ----------
    heat, offset, log_size : torch.Tensor
        As `FieldNet.find` returns them.
    calibration : torch.Tensor, optional
        Slope and offset from logit to calibrated logit; `FieldNet` has them.
    least : float, optional
        The smallest probability of the sources returned.

    Returns
    -------
    list of (position, probability, size)
        For each image, by decreasing probability: x and y in pixels, (m, 2); the probability of
        being a source, (m,); the half-light radius in pixels, (m,).
    """
    chance = (calibration[0] * heat[:, 0] + calibration[1]).sigmoid()
    highest = F.max_pool2d(heat, 3, stride=1, padding=1)[:, 0]
    image, row, column = ((heat[:, 0] == highest) & (chance >= least)).nonzero(as_tuple=True)
    position = torch.stack([column, row], dim=1) + offset[image, :, row, column].clamp(-1.5, 1.5)
    values = chance[image, row, column], log_size[image, 0, row, column].exp()
    found = []
    for k in range(len(heat)):
        of = (image == k).nonzero()[:, 0]
        of = of[values[0][of].argsort(descending=True)]
        found.append((position[of], *(value[of] for value in values)))
    return found


def purity_thresholds(probability, true):
    """Return the smallest probabilities above which samples have the purities ``PURITIES``.

    Parameters
    ----------
    probability : torch.Tensor
        Shape (m,): of the sources found in fields with known truth.
    true : torch.Tensor
        Shape (m,): whether each is a true source.

    Returns
    -------
    torch.Tensor
        One for each of ``PURITIES``; above 1 where such a sample has too few sources to measure.
    """
    surest, order = probability.sort(descending=True)
    number = torch.arange(1, len(order) + 1, device=order.device)
    share = true[order].float().cumsum(dim=0) / number
    thresholds = []
    for purity in PURITIES:
        good = ((share >= purity) & (number > 2 / (1 - purity))).nonzero()
        thresholds.append(surest[good[-1, 0]] if len(good) else surest.new_tensor(1.01))
    return torch.stack(thresholds).cummax(dim=0).values


def threshold_of(purity, thresholds):
    """Return the probability above which a sample has the given purity.

    Parameters
    ----------
    purity : float
        Share of true sources in the sample, between 0 and 1.
    thresholds : torch.Tensor
        As `purity_thresholds` returns them; between ``PURITIES`` they are interpolated.

    Returns
    -------
    float
    """
    if not 0 < purity < 1:
        raise ValueError(f"purity={purity!r}: give a share between 0 and 1, such as 0.98")
    known = torch.tensor(PURITIES, dtype=torch.float64).logit().numpy()
    return float(np.interp(math.log(purity / (1 - purity)), known, thresholds.cpu().numpy()))
