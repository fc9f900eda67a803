"""Training: configuration, losses, streams of blends, and the training loops.

Each is imported on first use: configurations need no torch.
"""

from importlib import import_module

# Public name -> the module that defines it.
_HOME = {
    "BlendStream": "stream",
    "FieldConfig": "config",
    "TrainingConfig": "config",
    "add_blend_score": "heads",
    "add_calibration": "calibration",
    "add_familiarity": "heads",
    "reiman2019": "config",
    "train": "loop",
    "train_fields": "fields",
}

__all__ = list(_HOME)


def __getattr__(name):
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(_HOME)
