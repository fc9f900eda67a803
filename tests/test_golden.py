"""What the shipped models answer to two pictures drawn by formulas.

After new weights: PYTHONPATH=. python tests/test_golden.py writes the answers anew.
"""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from safetensors.numpy import load_file, save_file

from astrodeblend import Deblender

FILE = Path(__file__).with_name("golden.safetensors")
MODELS = ("crowded", "field", "galaxyzoo", "reiman2019", "survey")
FULL_SCALE = {"field": 50.0, "survey": 50.0}  # of pictures, in units of the noise; 1 of others


def pictures():
    """Return two blends (2, 3, 40, 40) from 0 to 1: by the maximum, and light that adds."""
    y, x = np.mgrid[:40, :40] - 19.5
    disc = 0.7 * np.exp(-np.hypot(x, 1.5 * y) / 4)
    round_one = 0.5 * np.exp(-((x - 9) ** 2 + (y + 6) ** 2) / 18)
    colours = np.array([[0.9, 0.7, 0.5], [0.5, 0.7, 0.9]])[..., None, None]
    light = colours * np.stack([disc, round_one])[:, None]
    ripple = 0.01 * np.sin(1.7 * x + 0.3) * np.sin(2.3 * y)
    blends = np.stack([light.max(axis=0), light[:, :, ::-1].sum(axis=0)])
    return (blends + 0.02 + ripple).clip(0, 1).astype(np.float32)


def answers(model):
    """Return every other pixel of the components, as parts of full scale."""
    scale = FULL_SCALE.get(model, 1.0)
    deblender = Deblender.from_pretrained(model, dtype="float32")
    components = deblender.deblend_arrays(np.float32(scale) * pictures())
    return np.ascontiguousarray(components[..., ::2, ::2]) / np.float32(scale)


@pytest.mark.parametrize("model", MODELS)
def test_answers(model):
    expected = load_file(FILE)[model]
    assert np.ptp(expected, axis=(-2, -1)).min() > 0.04  # there is a galaxy in every plane
    assert_allclose(answers(model), expected, rtol=0, atol=1e-3)


def test_no_model_is_left_out():
    assert sorted(Deblender.models()["name"]) == sorted(load_file(FILE)) == sorted(MODELS)


if __name__ == "__main__":
    save_file({model: answers(model) for model in MODELS}, FILE)
