"""Losses of networks with two outputs: the paper's, and the ones used by default.

Components, standard deviations and isolated images have the shape (n, branches, bands, y, x);
losses are scalars.
"""

import torch
from torch.nn import functional as F

__all__ = [
    "adversarial_loss",
    "discriminator_loss",
    "feature_loss",
    "flux_loss",
    "pixel_loss",
    "std_loss",
]


def pixel_loss(components, isolated, *, kind="log_mse"):
    """Return the distance of components from the truth, pixel by pixel.

    Parameters
    ----------
    components, isolated : torch.Tensor
        The components and the truth.
    kind : {'log_mse', 'mse', 'flux'}, optional
        ``mse``: mean squared error of images scaled to [-1, 1], averaged over the branches
        (Reiman & Goehre 2019, equation 4). ``log_mse``: mean over all components of the
        logarithm of the mean squared error, as in the mean PSNR, so that small and large
        galaxies have the same weight. ``flux``: as `flux_loss`.
    """
    if kind == "flux":
        return flux_loss(components, isolated)
    error = (components - isolated).square().mean(dim=(2, 3, 4))
    if kind == "mse":
        return 4 * error.mean()
    # The floor is 50 dB: without it a stamp that is white throughout, whose components equal
    # the blend, outweighs all others and drives fractions to 1.
    return (error + 1e-5).log().mean()


def flux_loss(components, isolated):
    """Return the distance of components in linear flux from the truth.

    The mean over components and bands of the logarithm of the mean squared error, so that faint and
    bright galaxies have the same weight and the flux is unbiased in the mean; plus 0.1 times
    log(1 + e^2), e the error of the total flux over its tolerance: 2 % of the flux and the noise of
    64 pixels, in quadrature.

    Parameters
    ----------
    components, isolated : torch.Tensor
        The components and the truth, in units of the sky noise.
    """
    error = (components - isolated).square().mean(dim=(3, 4))
    flux, true = components.sum(dim=(3, 4)), isolated.sum(dim=(3, 4))
    unit = 64 + (0.02 * true).square()
    whole = ((flux - true).square() / unit).log1p()
    return (error + 1e-2).log().mean() + 0.1 * whole.mean()


def std_loss(components, std, isolated):
    """Return minus the Gaussian log-likelihood of the errors, given the standard deviations.

    Its gradient reaches the standard deviations only: with that of the components the mean
    would get worse (Seitzer et al. 2022).

    Parameters
    ----------
    components, std, isolated : torch.Tensor
        The components, their standard deviations and the truth.
    """
    variance = std.square() + 1e-8
    # Errors are clipped at ten deviations, so that a single one cannot dominate an update.
    error = (components.detach() - isolated).square().clamp(max=100 * variance.detach())
    return (0.5 * (error / variance + variance.log())).mean()


def discriminator_loss(real, fake):
    """Return the discriminator's cross-entropy.

    Parameters
    ----------
    real, fake : torch.Tensor
        Logits of isolated images and of components.
    """
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def adversarial_loss(fake, *, form="nonsaturating"):
    """Return the generator's adversarial loss.

    Parameters
    ----------
    fake : torch.Tensor
        The discriminator's logits of components.
    form : {'nonsaturating', 'minimax'}, optional
        -log D, as in the code published with Reiman & Goehre (2019), or log(1 - D), as in their
        equations 1 to 3.
    """
    if form == "minimax":
        return -F.softplus(fake).mean()
    return F.softplus(-fake).mean()


def feature_loss(features, components, isolated):
    """Return the mean squared distance of deep features of components and truth.

    Parameters
    ----------
    features : callable
        From images (n, 3, y, x) in [0, 1] to features; `astrodeblend.networks.VGG19Features`.
    components, isolated : torch.Tensor
        The components and the truth, in three bands.
    """
    with torch.no_grad():
        wanted = features(isolated.flatten(0, 1))
    return F.mse_loss(features(components.flatten(0, 1)), wanted)
