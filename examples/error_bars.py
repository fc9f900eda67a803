"""Which error bars are best for their cost: predicted ones, or the spread over symmetries.

Each kind of deviation is taken as it comes, and calibrated on one half of the blends; what is
printed is of the other half: truths within the intervals that should hold 68.3 and 95.4 %, and
the interval score of the wider one (Gneiting & Raftery 2007, J. Am. Stat. Assoc. 102, 359), its
width and a fine for every truth outside, the smaller the better.

    python examples/error_bars.py FOLDER [SPLIT [BLENDS [MODEL]]]
"""

import sys
import time

import numpy as np

from astrodeblend import Deblender
from astrodeblend.blends import draw_blends
from astrodeblend.calibration import Calibration, Coverage
from astrodeblend.metrics import isophote
from astrodeblend.training.calibration import fit_calibration


def interval_score(error, std, multiple):
    """Return the mean score of central intervals of so many deviations to either side."""
    width = multiple * std
    return np.mean(2 * width + 2 / 0.0455 * np.maximum(np.abs(error) - width, 0))


folder, split, number, model = (sys.argv[1:] + [None] * 4)[:4]
if folder is None:
    raise SystemExit(__doc__)
number = int(number or 300)
name = model or "galaxyzoo"
deblender = (
    Deblender.load(name) if name.endswith(".safetensors") else Deblender.from_pretrained(name)
)
kinds = ("predicted", "symmetries")
parts, seconds = [], dict.fromkeys(kinds, 0.0)
for blend, isolated in draw_blends(folder, split=split or None, number=number).batches(
    16, progress=True
):
    std = {}
    for kind in kinds:
        start = time.process_time()
        components, std[kind] = deblender.deblend_arrays(blend, std=kind)
        seconds[kind] += time.process_time() - start
    parts.append((blend, isolated, components, std["predicted"], std["symmetries"]))
blend, isolated, components, *std = map(np.concatenate, zip(*parts, strict=True))
one, other = slice(number // 2), slice(number // 2, None)
footprint = np.broadcast_to(isophote(isolated[other])[:, :, None], isolated[other].shape)
print(
    f"{number - number // 2} blends, truths within 68.3 and 95.4 % intervals (%)\n"
    f"{'':24}{'pixels':>14}{'fluxes':>14}{'score, pixels':>15}{'fluxes':>9}{'CPU ms a stamp':>16}"
)
for kind, each in zip(kinds, std, strict=True):
    fitted = fit_calibration(blend[one], components[one], each[one], isolated[one])
    for how, calibration in (("as it comes", Calibration()), ("calibrated", fitted)):
        expected = calibration.std(each[other], components[other], blend[other, None])
        coverage = Coverage.of(components[other], expected, isolated[other], calibration)
        shares = "".join(
            f"{100 * row['within_68']:8.1f}{100 * row['within_95']:6.1f}"
            for row in coverage.rows()
            if row["of"] == "components"
        )
        error = (components[other] - isolated[other])[footprint]
        pixels = interval_score(error, expected[footprint], calibration.interval_95["pixel"])
        known = np.isfinite(coverage.flux_std)
        fluxes = interval_score(
            coverage.flux_error[known], coverage.flux_std[known], calibration.interval_95["flux"]
        )
        cost = 1000 * seconds[kind] / number
        print(f"{kind + ', ' + how:24}{shares}{pixels:15.4f}{fluxes:9.2f}{cost:16.0f}")
