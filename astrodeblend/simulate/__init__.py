"""Simulated blends with known truth.

Blends of pictures: `blend_pair` is a slow reference, `Simulator` (torch) is for training. Blends in
linear flux, as surveys observe them: `simulate_blends` (GalSim) is the reference, `SurveyStream`
(torch) is for training; whole fields: `FieldStream` and `simulate_fields` (torch). Each is
imported on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "batched": ["Simulator"],
        "defects": ["Defects"],
        "field_images": ["Fields", "Light"],
        "fields": ["FieldDraw", "FieldStream", "simulate_fields"],
        "morphology": [
            "Morphologies",
            "composite",
            "cut_galaxies",
            "cut_large_galaxies",
            "linear_light",
        ],
        "pictures": [
            "SCENE_MODES",
            "SimulatedScene",
            "blend_images",
            "blend_pair",
            "find_images",
            "image_width",
            "read_images",
            "reduce_image",
            "share_out",
            "simulate_scene",
        ],
        "populations": ["Sources", "draw_sources"],
        "recipes": ["BLENDING_MODES", "Draw", "RECIPES", "Recipe", "Rendering", "get_recipe"],
        "spirals": ["draw_spirals"],
        "survey": ["SurveyBlends", "draw_psfs", "simulate_blends"],
        "survey_batches": ["SurveyDraw", "SurveyStream"],
        "surveys": ["Band", "SURVEYS", "Survey", "get_survey"],
    },
)
