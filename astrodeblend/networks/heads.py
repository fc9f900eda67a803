"""Diagnostics of a trained network: familiarity, blend score, scatter over symmetries.

`Familiarity` and `BlendScore` are small modules on the activations of a trained network, fitted to
it afterwards and saved with it.
"""

import torch
from torch import nn
from torch.nn import functional as F

#: Share of training blends beyond the threshold of familiarity.
FALSE_ALARMS = 0.005
_FOLDS = 4  # parts of the cross-validation
_LEAST_SHRINKAGE = 0.01  # share of the identity in the covariance: bounds the whitening to 10
_FAINT = 1e-3  # units of activations: standard deviation of a feature taken as constant

#: Radii of the discs around the middle in which features are pooled, in half widths of the stamp.
_DISCS = {
    "picture": (0.05, 0.1, 0.18, 0.28, 0.4, 0.55, 0.75),
    "shallow": (0.1, 0.2, 0.4, 0.75),
    "deep": (0.2, 0.5, 2.0),
}
_HIDDEN = 56  # features of the hidden layer
_MOST = 5.0  # standard deviations from the mean at which features are clipped


def pool(shallow, deep):
    """Summarise a network's activations: means, and standard deviations of early features.

    Means over all positions describe the objects; the standard deviations describe noise and fine
    structure, which average out in late layers.

    Parameters
    ----------
    shallow, deep : torch.Tensor
        Shape (n, features, y, x) each: activations of an early and of a late layer.

    Returns
    -------
    torch.Tensor
        Shape (n, 2 * shallow features + deep features), float32.
    """
    variance, mean = torch.var_mean(shallow.float(), dim=(2, 3))
    spread = (variance.sqrt() + _FAINT).log()
    return torch.cat([mean, spread, deep.float().mean(dim=(2, 3))], dim=1)


class Familiarity(nn.Module):
    """Distance of the features of a blend from those of the training blends.

    The Mahalanobis distance: standard deviations from the mean, along directions in which the
    features vary independently (Lee et al. 2018, NeurIPS, "A simple unified framework for
    detecting out-of-distribution samples and adversarial attacks"). `fit_familiarity` makes it;
    the class itself is a container for weights to load.

    Parameters
    ----------
    features : int
        Number of features.

    Attributes
    ----------
    threshold : torch.Tensor
        The distance above which a blend is flagged as unfamiliar.
    """

    def __init__(self, features):
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        # The largest tensor; half precision suffices, as features are in units of their scale.
        self.register_buffer("whitening", torch.eye(features, dtype=torch.float16))
        self.register_buffer("threshold", torch.tensor(torch.inf))

    def forward(self, features):
        """Return the distances of blends in standard deviations, shape (n,).

        Parameters
        ----------
        features : torch.Tensor
            Shape (n, features), as the network returns them ``with_features``.
        """
        with torch.autocast(features.device.type, enabled=False):
            standard = (features.float() - self.mean) / self.scale
            return (standard @ self.whitening.float()).norm(dim=1)


def fit_familiarity(features, *, false_alarms=FALSE_ALARMS):
    """Fit a `Familiarity` to the features of training blends.

    The correlation matrix is shrunk towards the identity by the amount of Ledoit & Wolf (2004,
    J. Multivar. Anal. 88, 365), at least 0.01. The threshold is a quantile of the distances of
    blends left out of the fit (four-fold cross-validation).

    Parameters
    ----------
    features : torch.Tensor
        Shape (n, features): the network's ``with_features`` for blends like those of training, in
        random order.
    false_alarms : float, optional
        Share of such blends that lie beyond the threshold.

    Returns
    -------
    Familiarity
    """
    if not 0 < false_alarms < 1:
        raise ValueError(f"false_alarms={false_alarms}: give a share between 0 and 1")
    if len(features) * false_alarms < 1:
        raise ValueError(
            f"features are of {len(features)} blends; for a threshold that one in "
            f"{1 / false_alarms:.0f} exceeds it takes at least as many"
        )
    if not torch.isfinite(features).all():
        raise ValueError("features are not all finite; the network's weights are of no use")
    features = features.detach().double().cpu()
    left_out = torch.cat([
        _fit(torch.cat([*parts[:k], *parts[k + 1 :]]))(parts[k])
        for parts in [features.tensor_split(_FOLDS)]
        for k in range(_FOLDS)
    ])  # fmt: skip
    familiarity = _fit(features)
    familiarity.threshold.fill_(left_out.quantile(1 - false_alarms))
    return familiarity


def _fit(features):
    """Return mean, scale and whitening of features (n, features), float64."""
    n, width = features.shape
    mean, scale = features.mean(dim=0), features.std(dim=0)
    scale = scale.clamp(min=max(1e-3 * float(scale.mean()), torch.finfo(torch.float32).tiny))
    standard = (features - mean) / scale
    covariance = standard.T @ standard / n
    identity = torch.eye(width, dtype=features.dtype)
    # Error of the covariance over its distance from the identity (Ledoit & Wolf, lemma 3.4).
    error = (standard.square().sum(dim=1).square().sum() / n - covariance.square().sum()) / n
    distance = (covariance - identity).square().sum()
    shrinkage = float((error / distance.clamp(min=1e-12)).clamp(_LEAST_SHRINKAGE, 1))
    covariance = (1 - shrinkage) * covariance + shrinkage * identity
    familiarity = Familiarity(width)
    familiarity.mean.copy_(mean)
    familiarity.scale.copy_(scale)
    # The inverse of L L' is W W' with W the inverse of L'.
    lower = torch.linalg.cholesky(covariance)
    familiarity.whitening.copy_(torch.linalg.solve_triangular(lower.T, identity, upper=True))
    return familiarity


def look_around(picture, shallow, deep):
    """Summarise a network's activations in discs around the middle of a stamp.

    Parameters
    ----------
    picture : torch.Tensor
        Shape (n, views, y, x): the network's input. Its asymmetry is pooled, the absolute
        difference between opposite sides of the middle.
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
        """Return the probability that stamps show more than one galaxy, shape (n,).

        Parameters
        ----------
        features : torch.Tensor
            Shape (n, features), as ``look_around`` returns them.
        """
        with torch.autocast(features.device.type, enabled=False):
            return self.logit(self.standardised(features)).sigmoid()


def symmetric_std(run, batch, positions=None):
    """Return the standard deviation of light over the eight symmetries of a stamp.

    ``run`` takes blends (n, bands, y, x) and positions (n, s, 2) or None, and returns light
    (n, slots, bands, y, x).
    """
    answers = []
    for turns in range(4):
        for flipped in ((), (-1,)):
            turned = batch.rot90(turns, (-2, -1)).flip(flipped)
            answer = run(turned, _turned(positions, batch.shape[-2:], turns, flipped))
            answers.append(answer.flip(flipped).rot90(-turns, (-2, -1)))
    return torch.stack(answers).std(dim=0)


def _turned(positions, shape, turns, flipped):
    """Return positions in images of shape (y, x) after rotation and reflection."""
    if positions is None:
        return None
    (height, width), (x, y) = shape, positions.unbind(dim=-1)
    for _ in range(turns):
        x, y, height, width = y, width - 1 - x, width, height
    return torch.stack([width - 1 - x if flipped else x, y], dim=-1)
