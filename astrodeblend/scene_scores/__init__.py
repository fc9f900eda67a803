"""How well whole scenes with known truth are taken apart, beside photutils in the same run."""

from .calibrating import add_field_calibration, add_scene_calibration
from .real import RealScores, real_files, score_real_blends
from .result import FILES, SceneScores
from .scoring import match_sources, score_scenes
from .sets import SceneSet, draw_scenes

__all__ = [
    "FILES",
    "RealScores",
    "SceneScores",
    "SceneSet",
    "add_field_calibration",
    "add_scene_calibration",
    "draw_scenes",
    "match_sources",
    "real_files",
    "score_real_blends",
    "score_scenes",
]
