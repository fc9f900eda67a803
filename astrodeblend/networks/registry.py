"""The networks by name."""

from dataclasses import asdict

__all__ = ["build", "describe", "register"]

_KINDS = {}  # name -> module, configuration


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
