"""The networks, each a configuration and a module built from it alone. Only torch is needed."""

from dataclasses import asdict

from .unet import UNet, UNetConfig

__all__ = ["UNet", "UNetConfig", "build", "describe"]

_KINDS = {"unet": (UNet, UNetConfig)}


def build(kind, **config):
    """Build a generator from the name of its kind and its configuration.

    Parameters
    ----------
    kind : {'unet'}
        Which network.
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
    """Return what `build` needs to make the same network again, as a dict of plain values."""
    for kind, (module, _) in _KINDS.items():
        if type(network) is module:
            return {"kind": kind, **asdict(network.config)}
    raise ValueError(f"network is a {type(network).__name__}, none of the kinds {list(_KINDS)}")
