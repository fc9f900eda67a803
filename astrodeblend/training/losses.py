"""Losses: the paper's, and those that work better."""

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
        Shape (n, branches, bands, y, x).
    kind : {'log_mse', 'mse'}, optional
        ``mse``: mean squared error of images scaled to [-1, 1], averaged over the branches
        (Reiman & Goehre 2019, equation 4). ``log_mse``: mean over all components of the
        logarithm of the mean squared error of each, which is what the mean PSNR measures, so
        that a small galaxy counts as much as a large one.

    Returns
    -------
    torch.Tensor
        A number.
    """
    error = (components - isolated).square().mean(dim=(2, 3, 4))
    if kind == "mse":
        return 4 * error.mean()
    # Below 50 dB there is nothing to gain: without a floor a stamp that is white all over,
    # whose components are the blend itself, outweighs all others and drives fractions to 1.
    return (error + 1e-5).log().mean()


def flux_loss(components, isolated):
    """Return the distance of components in linear flux from the truth.

    Of every component and band the logarithm of the mean squared error, so that a faint galaxy
    counts as much as a bright one and the mean of the flux is without bias; and, a tenth of it,
    the logarithm of the squared error of the whole flux in units of what is no error: two
    percent, and the noise in an aperture of 64 pixels.

    Parameters
    ----------
    components, isolated : torch.Tensor
        Shape (n, branches, bands, y, x), in units of the sky's noise.

    Returns
    -------
    torch.Tensor
        A number.
    """
    error = (components - isolated).square().mean(dim=(3, 4))
    flux, true = components.sum(dim=(3, 4)), isolated.sum(dim=(3, 4))
    unit = 64 + (0.02 * true).square()
    whole = ((flux - true).square() / unit).log1p()
    return (error + 1e-2).log().mean() + 0.1 * whole.mean()


def std_loss(components, std, isolated):
    """Return minus the Gaussian log-likelihood of the errors, given the standard deviations.

    Only the standard deviations learn from it: the components are taken as they are (Seitzer
    et al. 2022 show how the plain likelihood spoils the mean).

    Parameters
    ----------
    components, std, isolated : torch.Tensor
        Shape (n, branches, bands, y, x).
    """
    variance = std.square() + 1e-8
    # Errors beyond ten deviations count as ten, or a single one could turn the whole update.
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
    """Return what the generator gains by deceiving the discriminator, to be made small.

    Parameters
    ----------
    fake : torch.Tensor
        The discriminator's logits of components.
    form : {'nonsaturating', 'minimax'}, optional
        -log D, as in the code published with Reiman & Goehre (2019), or log(1 - D), as their
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
        Images (n, 3, y, x) from 0 to 1 to features, such as `astrodeblend.networks.VGG19Features`.
    components, isolated : torch.Tensor
        Shape (n, branches, 3, y, x).
    """
    with torch.no_grad():
        wanted = features(isolated.flatten(0, 1))
    return F.mse_loss(features(components.flatten(0, 1)), wanted)
