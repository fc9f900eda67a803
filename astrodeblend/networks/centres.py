"""Sources from the heat map of a network, how probable each is, and which make a pure sample."""

import torch
from torch.nn import functional as F

__all__ = ["HOLE", "UNCALIBRATED", "centre_probability", "find_centres", "least_probability"]

#: Calibration with which the heat map is the logit of the probability.
UNCALIBRATED = (1.0, 0.0)

#: Pixels without data, along each axis, across which sources are found.
HOLE = 4

_FEW = 5  # sources: fewer tell no share of false ones


def find_centres(heat, offset, log_size, calibration=UNCALIBRATED, *, least=0.05):
    """Return sources: the local maxima of the heat map.

    Parameters
    ----------
    heat, offset, log_size : torch.Tensor
        As `FieldNet.find` returns them.
    calibration : torch.Tensor, optional
        As for `centre_probability`.
    least : float, optional
        The smallest probability of the sources returned.

    Returns
    -------
    list of (position, probability, size)
        For each image, by decreasing probability: x and y in pixels, (m, 2); the probability of
        being a source, (m,); the half-light radius in pixels, (m,).
    """
    chance = centre_probability(heat, calibration)[:, 0]
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


def centre_probability(heat, calibration=UNCALIBRATED):
    """Return the probability that a maximum of the heat map is a source.

    Parameters
    ----------
    heat : torch.Tensor
        Logits, as `FieldNet.find` returns them.
    calibration : torch.Tensor, optional
        The network's: the logit is a times the heat, plus b (Platt 1999, "Probabilistic outputs for
        support vector machines").

    Returns
    -------
    torch.Tensor
        As ``heat``.
    """
    a, b = calibration
    return (a * heat + b).sigmoid()


def least_probability(probability, purity):
    """Return the probability from which on sources make a sample of the given purity.

    The expected number of false sources, the sum of 1 - ``probability``, is at most 1 - ``purity``
    times the number of sources; with fewer than five, times five: of a single source no share of
    false ones can be expected.

    Parameters
    ----------
    probability : torch.Tensor
        Shape (m,): of each source being true.
    purity : float
        Expected share of true sources in the sample, between 0 and 1.

    Returns
    -------
    float
    """
    if not 0 < purity < 1:
        raise ValueError(f"purity={purity!r}: give a share between 0 and 1, such as 0.98")
    surest = probability.double().sort(descending=True).values
    counted = torch.arange(1, len(surest) + 1, device=surest.device).clamp(min=_FEW)
    number = int(((1 - surest).cumsum(dim=0) <= (1 - purity) * counted).sum())
    return float(surest[number - 1]) if number else 1.0
