"""Simulated blends with known truth.

Blends of pictures: `blend_pair` is a slow reference, `Simulator` (torch) is for training. Blends in
linear flux, as surveys observe them: `simulate_blends` (GalSim) is the reference, `SurveyStream`
(torch) is for training; whole fields: `FieldStream` and `simulate_fields` (torch). Each is
imported on first use.
"""

from importlib import import_module

# Public name -> the module that defines it.
_HOME = {
    "BLENDING_MODES": "recipes",
    "RECIPES": "recipes",
    "SCENE_MODES": "pictures",
    "SURVEYS": "surveys",
    "Band": "surveys",
    "Draw": "recipes",
    "FieldDraw": "fields",
    "FieldStream": "fields",
    "Fields": "field_images",
    "Light": "field_images",
    "Morphologies": "morphology",
    "Recipe": "recipes",
    "Rendering": "recipes",
    "SimulatedScene": "pictures",
    "Simulator": "batched",
    "Sources": "populations",
    "Survey": "surveys",
    "SurveyBlends": "survey",
    "SurveyDraw": "survey_batches",
    "SurveyStream": "survey_batches",
    "blend_images": "pictures",
    "blend_pair": "pictures",
    "composite": "morphology",
    "cut_galaxies": "morphology",
    "cut_large_galaxies": "morphology",
    "draw_psfs": "survey",
    "draw_sources": "populations",
    "find_images": "sources",
    "get_recipe": "recipes",
    "get_survey": "surveys",
    "image_width": "sources",
    "linear_light": "morphology",
    "read_images": "sources",
    "reduce_image": "pictures",
    "share_out": "sources",
    "simulate_blends": "survey",
    "simulate_fields": "fields",
    "simulate_scene": "pictures",
}

__all__ = list(_HOME)


def __getattr__(name):
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(_HOME)
