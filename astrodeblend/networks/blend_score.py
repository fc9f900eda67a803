"""The probability that a stamp shows more than one galaxy, from a network's activations."""

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["BlendScore", "look_around"]

#: Radii of the discs around the middle in which features are pooled, in half widths of the stamp.
_DISCS = {
    "picture": (0.05, 0.1, 0.18, 0.28, 0.4, 0.55, 0.75),
    "shallow": (0.1, 0.2, 0.4, 0.75),
    "deep": (0.2, 0.5, 2.0),
}
_HIDDEN = 56
_MOST = 5.0  # standard deviations from the mean at which features are clipped


def look_around(picture, shallow, deep):
    """Summarise a network's activations in discs around the middle of a stamp.

    Parameters
    ----------
    picture : torch.Tensor
        Shape (n, views, y, x): the network's input, of which the difference between opposite
        sides of the middle is taken.
    shallow, deep : torch.Tensor
        Shape (n, features, y, x) each: activations of an early and of a late layer, centred on
        the middle of the stamp.

    Returns
    -------
    torch.Tensor
        Shape (n, 14 * views + 8 * shallow features + 6 * deep features), float32: mean and
        maximum in discs around the middle, from the smallest up, compressed to
        sign(x) log(1 + abs(x)).
    """
    pooled = []
    maps = {"picture": (picture - picture.rot90(2, (2, 3))).abs(), "shallow": shallow, "deep": deep}
    for name, x in maps.items():
        height, width = x.shape[-2:]
        row, column = (
            (torch.arange(n, device=x.device) - (n - 1) / 2) / (n / 2) for n in (height, width)
        )
        radius = torch.hypot(row[:, None], column[None])
        for disc in _DISCS[name]:
            inside = x[:, :, radius <= max(disc, float(radius.min()))].float()
            pooled += [inside.mean(dim=2), inside.amax(dim=2)]
    pooled = torch.cat(pooled, dim=1)
    return pooled.sign() * pooled.abs().log1p()


class BlendScore(nn.Module):
    """The probability that a stamp shows more than one galaxy: a perceptron on pooled features.

    Parameters
    ----------
    features : int
        Number of features that ``look_around`` returns.

    Attributes
    ----------
    threshold : torch.Tensor
        The score that few single galaxies exceed.
    """

    def __init__(self, features):
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.hidden = nn.Linear(features, _HIDDEN)
        self.out = nn.Linear(_HIDDEN, 1)
        self.register_buffer("threshold", torch.tensor(1.0))

    def standardised(self, features):
        """Return features in standard deviations from their mean, clipped at 5.

        Parameters
        ----------
        features : torch.Tensor
            Shape (n, features).
        """
        return ((features.float() - self.mean) / self.scale).clamp(-_MOST, _MOST)

    def logit(self, standardised, *, dropout=0.0):
        """Return the log odds that stamps show more than one galaxy, shape (n,).

        Parameters
        ----------
        standardised : torch.Tensor
            Shape (n, features), as `standardised` gives them.
        dropout : float, optional
            Share of the activations that are set to 0 in training.
        """
        x = F.dropout(standardised, dropout, self.training)
        x = F.dropout(F.relu(self.hidden(x)), dropout, self.training)
        return self.out(x)[:, 0]

    def forward(self, features):
        """Return the probability that stamps show more than one galaxy.

        Parameters
        ----------
        features : torch.Tensor
            Shape (n, features), as ``look_around`` returns them.

        Returns
        -------
        torch.Tensor
            Shape (n,), from 0 to 1.
        """
        with torch.autocast(features.device.type, enabled=False):
            return self.logit(self.standardised(features)).sigmoid()
