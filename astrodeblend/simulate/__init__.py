"""Simulated blends with known truth.

Blends of pictures: `blend_pair` is a slow reference, `Simulator` (torch) is for training. Blends in
linear flux, as surveys observe them: `simulate_blends` (GalSim) is the reference, `SurveyStream`
(torch) is for training; whole fields: `FieldStream` and `simulate_fields` (torch). torch and
GalSim are imported on first use.
"""

from importlib import import_module

from .plain import blend_images, blend_pair, reduce_image
from .populations import Sources, draw_sources
from .recipes import BLENDING_MODES, RECIPES, Draw, Recipe, Rendering, get_recipe
from .scenes import SCENE_MODES, SimulatedScene, simulate_scene
from .sources import find_images, image_width, read_images, share_out
from .surveys import SURVEYS, Band, Survey, get_survey

__all__ = [
    "BLENDING_MODES",
    "RECIPES",
    "SCENE_MODES",
    "SURVEYS",
    "Band",
    "Draw",
    "FieldDraw",
    "FieldStream",
    "Fields",
    "Light",
    "Morphologies",
    "Recipe",
    "Rendering",
    "SimulatedScene",
    "Simulator",
    "Sources",
    "Survey",
    "SurveyBlends",
    "SurveyDraw",
    "SurveyStream",
    "blend_images",
    "blend_pair",
    "composite",
    "cut_galaxies",
    "cut_large_galaxies",
    "draw_psfs",
    "draw_sources",
    "find_images",
    "get_recipe",
    "get_survey",
    "image_width",
    "linear_light",
    "read_images",
    "reduce_image",
    "share_out",
    "simulate_blends",
    "simulate_fields",
    "simulate_scene",
]

_LAZY = {
    "FieldDraw": "fields",
    "FieldStream": "fields",
    "Fields": "fields",
    "Light": "fields",
    "Morphologies": "morphology",
    "Simulator": "batched",
    "SurveyBlends": "survey",
    "SurveyDraw": "survey_batches",
    "SurveyStream": "survey_batches",
    "composite": "morphology",
    "cut_galaxies": "morphology",
    "cut_large_galaxies": "large_galaxies",
    "draw_psfs": "survey",
    "linear_light": "morphology",
    "simulate_blends": "survey",
    "simulate_fields": "fields",
}


def __getattr__(name):
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
