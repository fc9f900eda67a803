"""Write FITS stamps of isolated sources of a survey of one's own, to tune a model on.

Here they are simulated; of a real survey they would be cut out around isolated sources. No preset
resembles the survey, which is sharp as from space: a PSF of 0.16 arcsec on pixels of 0.1 arcsec.

    python examples/isolated_stamps.py [FOLDER [NUMBER]]
    astrodeblend train --from survey --survey stamps --out runs/sharp --steps 300
    astrodeblend benchmark --survey sharp.yaml --model survey --model runs/sharp/model.safetensors

FOLDER holds real galaxies (split train, if it has one); without it all are parametric. Writes
sharp.yaml and the folder stamps.
"""

import sys
from pathlib import Path

from astropy.io import fits

from astrodeblend.simulate import cut_galaxies, find_images, simulate_blends

SURVEY = """\
pixel_scale: 0.1
bands:
  - {name: I, wavelength: 715, psf_fwhm: 0.16, depth: 26.0, zero_point: 25.5, exposure: 2000}
"""


def main(folder=None, number=300):
    """Run the example."""
    Path("sharp.yaml").write_text(SURVEY, encoding="utf-8")
    images = None
    if folder:  # each source is another galaxy
        files = find_images(folder, split="train")
        images = cut_galaxies(files[:: max(1, len(files) // int(number))], progress=True)
    alone = simulate_blends(
        "sharp.yaml", int(number), sources=1, images=images, rng=1, progress=True
    )
    stamps = Path("stamps")
    stamps.mkdir()
    for k, image in enumerate(alone.blend):
        fits.writeto(stamps / f"{k:04}.fits", image, fits.Header({"BUNIT": "nJy"}))
    print(f"wrote sharp.yaml and {len(alone)} stamps in {stamps}")


if __name__ == "__main__":
    main(*sys.argv[1:])
