"""How well galaxies are taken apart: blends, surveys, fields, scenes and real images.

Everything that takes images apart is a `Method`, and everything that scores gives a `Report`.
"""

from .blends import Entry, benchmark, by_position, kindest, tune
from .calibrating import add_field_calibration, add_scene_calibration
from .coverage import Coverage
from .detection import score_detection
from .evaluation import Examples, evaluate, summary_of
from .fields import FieldEntry, FieldTruth, benchmark_fields
from .methods import Catalogue, Conditions, Found, Method, Model, Package, Seen
from .pairs import Truth
from .peers import PEERS, SEP, SURVEY_PEERS, Photutils, Scarlet2
from .real import real_files, score_real_blends
from .report import Report
from .scene_set import SceneSet, draw_scenes
from .scenes import match_sources, score_scenes

__all__ = [
    "FILES",
    "PEERS",
    "SEP",
    "SURVEY_PEERS",
    "Catalogue",
    "Conditions",
    "Coverage",
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

#: Names of a report's files, by what is scored.
FILES = {
    "pictures": ("benchmark.ecsv", "benchmark.json", "benchmark.png", "panels.png"),
    "survey": (
        *("benchmark.ecsv", "bins.ecsv", "colours.ecsv"),
        *("benchmark.json", "benchmark.png", "panels.png"),
    ),
    "blends": (
        *("table.ecsv", "bins.ecsv", "texture.ecsv", "coverage.ecsv", "blends.ecsv"),
        *("scores.json", "distributions.png", "bins.png", "power.png", "calibration.png"),
        *("successes.png", "failures.png"),
    ),
    "scenes": (
        *("sources.ecsv", "table.ecsv", "coverage.ecsv", "detections.ecsv"),
        *("scores.json", "errors.png"),
    ),
    "detection": ("table.ecsv", "reliability.ecsv", "stamps.ecsv", "scores.json"),
    "fields": ("fields.ecsv", "fields.json", "fields.png"),
}
