"""The networks, each a configuration and a module built from it alone. Only torch is needed."""

from dataclasses import asdict

from .band_unet import BandUNet, BandUNetConfig
from .blend_score import BlendScore
from .discriminator import Discriminator, DiscriminatorConfig
from .familiarity import Familiarity, fit_familiarity
from .reiman2019 import BranchedGenerator, BranchedGeneratorConfig
from .unet import UNet, UNetConfig
from .vgg import VGG19Features, load_vgg19

__all__ = [
    "BandUNet",
    "BandUNetConfig",
    "BlendScore",
    "BranchedGenerator",
    "BranchedGeneratorConfig",
    "Discriminator",
    "DiscriminatorConfig",
    "Familiarity",
    "UNet",
    "UNetConfig",
    "VGG19Features",
    "build",
    "describe",
    "fit_familiarity",
    "load_vgg19",
]

_KINDS = {
    "band_unet": (BandUNet, BandUNetConfig),
    "reiman2019": (BranchedGenerator, BranchedGeneratorConfig),
    "unet": (UNet, UNetConfig),
}


def build(kind, **config):
    """Build a generator from the name of its kind and its configuration.

    Parameters
    ----------
    kind : {'reiman2019', 'unet', 'band_unet'}
        The paper's branched generator, the U-shaped one for pictures, or that for linear flux
        in any bands.
    **config
        Fields of its configuration; those left out take their defaults.

    Returns
    -------
    torch.nn.Module
        Takes a blend (n, bands, y, x), returns components and their standard deviations,
        (n, branches, bands, y, x) each; the latter is None for a network that has none.

    Raises
    ------
    ValueError
        If there is no such kind.
    TypeError
        If the configuration has a field that the kind has not.
    """
    if kind not in _KINDS:
        raise ValueError(f"kind={kind!r} is not a network; choose one of {', '.join(_KINDS)}")
    module, configuration = _KINDS[kind]
    config = {key: tuple(v) if isinstance(v, list) else v for key, v in config.items()}
    return module(configuration(**config))


def describe(network):
    """Return what `build` needs to make the same network again.

    Parameters
    ----------
    network : torch.nn.Module
        A network that `build` made.

    Returns
    -------
    dict
        Kind and configuration, as plain values.

    Raises
    ------
    ValueError
        If the network is of no kind that `build` knows.
    """
    for kind, (module, _) in _KINDS.items():
        if type(network) is module:
            return {"kind": kind, **asdict(network.config)}
    raise ValueError(f"network is a {type(network).__name__}, none of the kinds {list(_KINDS)}")
