"""Calibration of error bars: factors for a network's standard deviations, and their coverage."""

from .coverage import Coverage, Fluxes, ask_in_turn, measure_segment
from .factors import Calibration, log_peaks, pixel_features

__all__ = [
    "Calibration",
    "Coverage",
    "Fluxes",
    "ask_in_turn",
    "log_peaks",
    "measure_segment",
    "pixel_features",
]
