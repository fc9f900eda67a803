"""Training: configuration, losses, streams of blends, and the training loops."""

from .blend_score import add_blend_score
from .calibration import add_calibration
from .config import TrainingConfig, reiman2019
from .familiarity import add_familiarity
from .fields import FieldConfig, train_fields
from .loop import train
from .stream import BlendStream

__all__ = [
    "BlendStream",
    "FieldConfig",
    "TrainingConfig",
    "add_blend_score",
    "add_calibration",
    "add_familiarity",
    "reiman2019",
    "train",
    "train_fields",
]
