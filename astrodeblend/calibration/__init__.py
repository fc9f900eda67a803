"""Calibration of error bars: factors for a network's standard deviations, and their coverage."""

from .coverage import Coverage
from .factors import Calibration, log_peaks, pixel_features
from .fluxes import Fluxes, measure_segment
from .turns import ask_in_turn

__all__ = [
    "Calibration",
    "Coverage",
    "Fluxes",
    "ask_in_turn",
    "log_peaks",
    "measure_segment",
    "pixel_features",
]
