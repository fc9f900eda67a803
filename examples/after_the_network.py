"""Measure the PSNR that is gained by changing a network's components afterwards.

By averaging over the eight symmetries of a stamp (self-ensembling), and by lifting the brighter
component to the blend: under a maximum one of the two galaxies has to be as bright as the blend.

    python examples/after_the_network.py FOLDER [SPLIT [BLENDS [MODEL]]]
"""

import sys

import numpy as np

from astrodeblend import Deblender
from astrodeblend.blends import draw_blends
from astrodeblend.metrics import psnr


def symmetric(deblender, blend):
    """Average the answers over quarter turns and reflections of the stamp."""
    answers = []
    for turns in range(4):
        for axes in ((), (-1,)):
            seen = np.flip(np.rot90(blend, turns, (-2, -1)), axes)
            answer = np.flip(deblender.deblend_arrays(np.ascontiguousarray(seen)), axes)
            answers.append(np.rot90(answer, -turns, (-2, -1)))
    return np.mean(answers, axis=0)


def decided(blend, components):
    """Lift the brighter component to the blend."""
    brighter = components == components.max(axis=1, keepdims=True)
    return np.where(brighter, blend[:, None], components)


folder, split, number, model = (sys.argv[1:] + [None] * 4)[:4]
if folder is None:
    raise SystemExit(__doc__)
deblender = Deblender.from_pretrained(model or "galaxyzoo", dtype="bfloat16")
scores = {"as it comes": [], "eight symmetries": [], "brighter one lifted to the blend": []}
for blend, isolated in draw_blends(folder, split=split or None, number=int(number or 300)).batches(
    progress=True
):
    plain = deblender.deblend_arrays(blend)
    for name, components in zip(
        scores, (plain, symmetric(deblender, blend), decided(blend, plain)), strict=True
    ):
        scores[name].append(psnr(components, isolated))
for name, values in scores.items():
    values = np.concatenate(values)
    print(f"{name:34} {values.mean():6.2f} dB, 1st percentile {np.percentile(values, 1):6.2f}")
