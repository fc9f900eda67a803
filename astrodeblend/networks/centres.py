"""From what a network says of every pixel to sources."""

import math

import numpy as np
import torch
from torch.nn import functional as F

__all__ = ["find_centres", "purity_thresholds", "threshold_of"]

#: Shares of true sources for which thresholds are kept.
PURITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)


def find_centres(heat, offset, log_size, calibration=(1.0, 0.0), *, least=0.05):
    """Turn maps into sources: the maxima of the heat map.

    Parameters
    ----------
    heat, offset, log_size : torch.Tensor
        As `FieldNet.find` returns them.
    calibration : torch.Tensor, optional
        The network's.
    least : float, optional
        The smallest probability.

    Returns
    -------
    list of (position, probability, size)
        For each image, the surest first: (m, 2), x and y in pixels; (m,), that it is a source; (m,)
        half-light radius in pixels.
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
    """Return the probabilities from which on shares ``PURITIES`` of sources are true.

    Parameters
    ----------
    probability : torch.Tensor
        Shape (m,): of what was found in fields with known truth.
    true : torch.Tensor
        Shape (m,): whether it is a source.

    Returns
    -------
    torch.Tensor
        A number for each of ``PURITIES``; above 1 where so pure a sample is too small to tell.
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
    """Return the probability from which on a share of sources is true.

    Parameters
    ----------
    purity : float
        That share, between 0 and 1.
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
