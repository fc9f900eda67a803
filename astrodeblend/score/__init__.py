"""How well galaxies are taken apart: blends, surveys, fields, scenes and real images.

Everything that takes images apart is a `Method`, and everything that scores gives a `Report`.
"""

from .blends import PEERS, SURVEY_PEERS, Entry, benchmark, tune
from .calibrating import add_field_calibration, add_scene_calibration
from .choice import by_position, kindest
from .detection import score_detection
from .evaluation import Examples, evaluate, summary_of
from .field_runs import FieldEntry, FieldTruth
from .fields import benchmark_fields
from .methods import Catalogue, Conditions, Method, Model, Package, Seen
from .photutils import Photutils
from .real import real_files, score_real_blends
from .report import Report, files
from .scarlet2 import Scarlet2
from .scene_set import SceneSet, draw_scenes
from .scenes import match_sources, score_scenes
from .sep import SEP
from .shares import Found
from .surveys import Truth

__all__ = [
    "FILES",
    "PEERS",
    "SEP",
    "SURVEY_PEERS",
    "Catalogue",
    "Conditions",
    "Entry",
    "Examples",
    "FieldEntry",
    "FieldTruth",
    "Found",
    "Method",
    "Model",
    "Package",
    "Photutils",
    "Report",
    "Scarlet2",
    "SceneSet",
    "Seen",
    "Truth",
    "add_field_calibration",
    "add_scene_calibration",
    "benchmark",
    "benchmark_fields",
    "by_position",
    "draw_scenes",
    "evaluate",
    "kindest",
    "match_sources",
    "real_files",
    "score_detection",
    "score_real_blends",
    "score_scenes",
    "summary_of",
    "tune",
]

#: Files of reports, by what is scored.
FILES = {
    name: files(*map(str.split, kinds))
    for name, kinds in {
        "pictures": ("benchmark", "benchmark", "benchmark panels"),
        "survey": ("benchmark bins colours", "benchmark", "benchmark panels"),
        "blends": (
            "table bins texture coverage blends", "scores",
            "distributions bins power calibration successes failures",
        ),
        "scenes": ("sources table coverage detections", "scores", "errors"),
        "detection": ("table reliability stamps", "scores", ""),
        "fields": ("fields", "fields", "fields"),
    }.items()
}  # fmt: skip
