"""The networks, each a configuration and a module built from it alone; torch is all they need.

All generators have one signature, ``network(blend, positions=None, present=None, *,
with_features=False, with_blend_score=False)``, and return light and its standard deviation:

- ``blend``, shape (n, bands, y, x), y and x of at least 16.
- ``positions``, shape (n, s, 2): x and y of sources in pixels, the centre of the first pixel at
  0. ``present``, shape (n, s), bool: which of them exist; by default all. Without positions
  there is one source, in the middle.
- light, shape (n, slots, bands, y, x), in the units of the blend, and the standard deviation of
  its error, the same shape, or None from a network that does not estimate it.

Networks of two slots return the source at ``positions[:, 0]``, the target, and the sum of all
others, whose positions networks with marks also use. The order of the others does not matter, and
positions that are not present are ignored. `FieldNet` also finds sources and splits light among
all of them at once; NaN in its blends marks missing data.

Networks for pictures also return, if asked for, ``with_features`` those that `Familiarity` takes,
shape (n, features), and ``with_blend_score`` the probability of more than one galaxy, shape (n,),
which `BlendScore` estimates; ``blend_features(blend, positions, present)`` returns what that takes
at a fraction of the cost of deblending.
"""

from dataclasses import asdict

from .band_unet import BandUNet, BandUNetConfig
from .centres import HOLE, UNCALIBRATED, centre_probability, find_centres, least_probability
from .field import FieldNet, FieldNetConfig, Pixels, Seen, Sources
from .heads import BlendScore, Familiarity, fit_familiarity
from .reiman2019 import (
    BranchedGenerator,
    BranchedGeneratorConfig,
    Discriminator,
    DiscriminatorConfig,
    VGG19Features,
    load_vgg19,
)
from .unet import UNet, UNetConfig

__all__ = [
    "HOLE",
    "UNCALIBRATED",
    "BandUNet",
    "BandUNetConfig",
    "BlendScore",
    "BranchedGenerator",
    "BranchedGeneratorConfig",
    "Discriminator",
    "DiscriminatorConfig",
    "Familiarity",
    "FieldNet",
    "FieldNetConfig",
    "Pixels",
    "Seen",
    "Sources",
    "UNet",
    "UNetConfig",
    "VGG19Features",
    "build",
    "centre_probability",
    "describe",
    "find_centres",
    "fit_familiarity",
    "least_probability",
    "load_vgg19",
    "register",
]

# name: module, configuration
_KINDS = {
    "band_unet": (BandUNet, BandUNetConfig),
    "field": (FieldNet, FieldNetConfig),
    "reiman2019": (BranchedGenerator, BranchedGeneratorConfig),
    "unet": (UNet, UNetConfig),
}


def register(kind, configuration):
    """Return a decorator that registers a generator under a name.

    Parameters
    ----------
    kind : str
        The name.
    configuration : type
        The dataclass that the generator is built from.
    """

    def decorate(module):
        _KINDS[kind] = module, configuration
        return module

    return decorate


def build(kind, **config):
    """Build a generator from the name of its kind and its configuration.

    Parameters
    ----------
    kind : {'reiman2019', 'unet', 'band_unet', 'field'}
        The paper's branched generator, the U-shaped one for pictures, that for linear flux in
        any bands, or that for fields of any number of sources; or what else is registered.
    **config
        Fields of its configuration; those left out take their defaults.

    Returns
    -------
    torch.nn.Module
        With the signature that `astrodeblend.networks` states.
    """
    if kind not in _KINDS:
        raise ValueError(f"kind={kind!r} is not a network; choose one of {', '.join(_KINDS)}")
    module, configuration = _KINDS[kind]
    config = {key: tuple(v) if isinstance(v, list) else v for key, v in config.items()}
    return module(configuration(**config))


def describe(network):
    """Return the arguments with which `build` makes the same network, as a dict of plain values.

    Parameters
    ----------
    network : torch.nn.Module
        A network that `build` made.
    """
    for kind, (module, _) in _KINDS.items():
        if type(network) is module:
            return {"kind": kind, **asdict(network.config)}
    raise ValueError(f"network is a {type(network).__name__}, none of the kinds {list(_KINDS)}")
