"""How well galaxies are taken apart: blends, surveys, fields, scenes and real images.

Everything that takes images apart is a `Method`, and everything that scores gives a `Report`. Each
is imported on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "blends": ["Entry", "benchmark", "by_position", "kindest", "tune"],
        "calibrating": ["add_field_calibration", "add_scene_calibration"],
        "coverage": ["Coverage"],
        "detection": ["score_detection"],
        "evaluation": ["Examples", "evaluate", "summary_of"],
        "fields": ["FieldEntry", "FieldTruth", "benchmark_fields"],
        "methods": ["Catalogue", "Conditions", "Found", "Method", "Model", "Package", "Seen"],
        "pairs": ["Truth"],
        "peers": ["PEERS", "SEP", "SURVEY_PEERS", "Photutils", "Scarlet2"],
        "real": ["real_files", "score_real_blends"],
        "report": ["Report"],
        "scenes": ["SceneSet", "draw_scenes", "match_sources", "score_scenes"],
    },
)
__all__ += ["FILES"]

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
