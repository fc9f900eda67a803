"""Training: configuration, losses, the stream of blends and the one loop."""

from .config import TrainingConfig, reiman2019
from .loop import train
from .stream import BlendStream

__all__ = ["BlendStream", "TrainingConfig", "reiman2019", "train"]
