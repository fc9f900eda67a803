"""Familiarity: the distance of a blend from the blends that a network was trained on."""

import torch
from torch import nn

__all__ = ["FALSE_ALARMS", "Familiarity", "fit_familiarity", "pool"]

#: Share of training blends beyond the threshold, and so flagged as unfamiliar.
FALSE_ALARMS = 0.005
_FOLDS = 4
_LEAST_SHRINKAGE = 0.01  # share of the identity in the covariance: bounds the whitening to 10
_FAINT = 1e-3  # units of activations: standard deviation of a feature taken as constant


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
        """Return the distances of blends.

        Parameters
        ----------
        features : torch.Tensor
            Shape (n, features), as the network returns them ``with_features``.

        Returns
        -------
        torch.Tensor
            Shape (n,), in standard deviations.
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

    Raises
    ------
    ValueError
        If ``false_alarms`` is not between 0 and 1, there are fewer than 1 / ``false_alarms``
        blends, or a feature is not finite.
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
