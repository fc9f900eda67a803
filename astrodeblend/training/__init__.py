"""Training: configuration, losses, streams of blends, and the training loops.

Each is imported on first use: configurations need no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "calibration": ["add_calibration"],
        "config": ["FieldConfig", "TrainingConfig", "reiman2019"],
        "fields": ["train_fields"],
        "heads": ["add_blend_score", "add_familiarity"],
        "loop": ["train"],
        "stream": ["BlendStream"],
    },
)
