"""The fields of a configuration: each states its default, its meaning and its limits, once."""

import inspect
import math
import textwrap
from dataclasses import field, fields
from numbers import Real


def choice(default, text, *, among=(), kind=(), least=0, most=math.inf):
    """Return a field of a configuration: values among some or of a kind, or numbers within limits.

    A default that is a function makes the value anew every time. The first sentence of the text is
    the help of a command, all of it the reference.
    """
    name = "default_factory" if callable(default) else "default"
    first, stop, _ = text.partition(". ")
    about = {"text": text, "help": first + stop.strip(), "among": among, "kind": kind}
    about["limits"] = least, most
    return field(**{name: default}, metadata=about)


def check(configuration):
    """Refuse values that their fields do not allow."""
    for each in fields(configuration):
        name, value = each.name, getattr(configuration, each.name)
        among, (least, most) = each.metadata["among"], each.metadata["limits"]
        allowed = value in among or isinstance(value, each.metadata["kind"])
        if among and not allowed and (value is not None or each.default is not None):
            raise ValueError(f"{name}={value!r}: choose one of {', '.join(among)}")
        if each.type is bool and not isinstance(value, bool):
            raise ValueError(f"{name}={value!r}: give true or false")
        allowed = isinstance(value, Real) and least <= value <= most  # NaN is not
        if each.type in (int, float) and not allowed:
            limits = f"at least {least}" if most == math.inf else f"from {least} to {most:.4g}"
            raise ValueError(f"{name}={value!r}: give a number {limits}")


def documented(configuration):
    """Add its fields to the docstring of a configuration."""
    doc = f"{inspect.cleandoc(configuration.__doc__)}\n\nParameters\n----------\n"
    for each in fields(configuration):
        kind = each.type.__name__ if isinstance(each.type, type) else str(each.type)
        if among := each.metadata["among"]:
            kind = f"{{{', '.join(map(repr, among))}}}" + " or None" * (each.default is None)
        text = textwrap.fill(each.metadata["text"], 92, break_on_hyphens=False)
        doc += f"{each.name} : {kind}\n{textwrap.indent(text, '    ')}\n"
    configuration.__doc__ = doc
    return configuration
