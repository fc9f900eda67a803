"""
Your own survey, end to end
===========================

The models in the package know LSST, HSC, DES and SDSS, and what lies between. Is that good enough
for your survey, and if not, what then? Describe it, measure, tune, calibrate, measure again.
"""

# %%
# **Describe it**: pixels, and for each band PSF, depth, zero point and exposure. This one is sharp
# as from space, unlike all that the model has seen.

# sphinx_gallery_thumbnail_number = 2

import shlex
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from astropy.io import fits

from astrodeblend.simulate import simulate_blends

folder = Path(tempfile.mkdtemp())
survey = folder / "sharp.yaml"
survey.write_text("""\
pixel_scale: 0.1
bands:
  - {name: I, wavelength: 715, psf_fwhm: 0.16, depth: 26.0, zero_point: 25.5, exposure: 2000}
""")
blends = simulate_blends(survey, 16, rng=1)
figure, panels = plt.subplots(1, 6, figsize=(11, 2), layout="constrained")
for panel, blend in zip(panels, blends.blend, strict=False):
    shown = np.arcsinh(blend[0, 12:52, 12:52] / blends.noise[0, 0])
    panel.imshow(shown, vmin=0, vmax=4, cmap="gray", origin="lower")
    panel.set_axis_off()

# %%
# **Measure** what the model of the package does on such blends, whose truth is known, beside
# photutils: the median error of the flux, and which share of pixels and fluxes is within the stated
# errors, which should be 0.68. This tutorial takes a few blends; take a few hundred.

from astrodeblend import Deblender
from astrodeblend.score import SURVEY_PEERS, benchmark


def show(report):
    """Print the columns that matter most."""
    columns = "flux_median", "flux_bias", "psnr", "pixels_68", "fluxes_68"
    table = report.tables["benchmark"]["deblender", *columns]
    for name in columns:
        table[name].info.format = ".3f"
    table.pprint_all()


shipped = Deblender.from_pretrained("survey", device="cpu")
before = benchmark(blends, models=[shipped], peers=[SURVEY_PEERS["photutils"]])
show(before)

# %%
# **Stamps** of isolated sources out of your images, each in the middle of its own: 300 are a good
# number, 20 the least. Here they are simulated too.

alone = simulate_blends(survey, 30, sources=1, rng=2)
(folder / "stamps").mkdir()
for k, stamp in enumerate(alone.blend):
    fits.writeto(folder / "stamps" / f"{k:03}.fits", stamp, fits.Header({"BUNIT": "nJy"}))

# %%
# **Tune**: the model goes on from where it was, on blends made of these stamps. This is the command
# line, with far fewer and smaller steps than a model to use takes: 500 of 16 blends each.

from astropy.table import Table

from astrodeblend.cli import main

command = f"""
train --from survey --survey {folder / "stamps"} --out {folder / "sharp"} --quiet
--steps 16 --batch 4 --warmup 4 --learning-rate 2e-4 --average 0.8
--log-every 8 --validation-blends 8 --familiarity-blends 0
"""
main(shlex.split(command), standalone_mode=False)
rate = Table.read(folder / "sharp" / "log.csv")["blends_per_second"][-1]
print(f"{rate:.1f} blends a second: 500 steps of 16 would take {500 * 16 / rate / 60:.0f} minutes")

# %%
# **Error bars** have to be fitted anew after any training, on blends of the survey.

from astrodeblend.training import add_calibration

model = folder / "sharp" / "model.safetensors"
card = add_calibration(model, None, surveys=[survey], blends=20, progress=False)

# %%
# **Measure again**, on the same blends. What so few steps and blends say is largely chance; after
# 300 steps on 300 stamps, judged by 300 blends, the median error was lower by a quarter
# (:doc:`/lab_notes`).

tuned = Deblender.load(model, device="cpu")
after = benchmark(blends, models=[tuned], peers=[])
show(after)

snr = after.measured.truth.snr.ravel()
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for entry, marker in zip(
    (*before.measured.entries, after.measured.entries[-1]), "x+o^", strict=True
):
    off = np.abs(entry.scores["flux"]).ravel()
    axes.plot(snr, 100 * off, marker, label=entry.name, mfc="none")
axes.plot(np.sort(snr), 100 / np.sort(snr), color="gray", label="noise alone")
axes.set(xscale="log", yscale="log", xlabel="signal to noise", ylabel="flux error (%)")
axes.legend()

# %%
# **Good enough?** Look at three things, on some hundred blends:
#
# - the median flux error against what the noise allows (the line), in bins of signal to noise. If
#   the model of the package is near it, leave it at that;
# - the bias: it should be small against the error you can bear in a mean over many sources;
# - the shares within errors, near 0.68 (``pixels_68``, ``fluxes_68``).
#
# If tuning no longer lowers the error, more steps will not: more stamps may. In the end look at
# real blends of your survey, where nothing is simulated: ``astrodeblend deblend --plot``, and the
# residuals. How the package's models were made is in :doc:`/training`, surveys in :doc:`/surveys`.
