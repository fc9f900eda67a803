"""From what a network says of every pixel to sources."""

import torch
from torch.nn import functional as F

__all__ = ["find_centres", "keep_pure"]


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


def keep_pure(probability, purity=0.98):
    """Keep as many sources as there can be if a share is to be true.

    Parameters
    ----------
    probability : torch.Tensor
        Shape (m,): of each that it is a source.
    purity : float, optional
        Share of true ones to be expected among those that are kept.

    Returns
    -------
    torch.Tensor
        Shape (m,), bool.
    """
    if not 0 < purity < 1:
        raise ValueError(f"purity={purity!r}: give a share between 0 and 1, such as 0.98")
    surest, order = probability.sort(descending=True)
    mean = surest.cumsum(dim=0) / torch.arange(1, len(surest) + 1, device=surest.device)
    return torch.zeros_like(order, dtype=torch.bool).scatter(0, order, mean >= purity)
