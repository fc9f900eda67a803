"""Deblend a simulated field of LSST: linear flux, five bands, known positions and noise.

    python examples/deblend_survey_images.py

Prints the catalogue and the errors of its fluxes, and draws the components.
"""

import numpy as np
from astropy.nddata import NDData, StdDevUncertainty

from astrodeblend import Deblender
from astrodeblend.simulate import SurveyStream

BANDS = "grizy"


def simulate():
    """Return an image, the positions of its sources, and the flux of each in every band."""
    stream = SurveyStream(
        ["lsst"], batch=1, seed=8, bands=BANDS, stamp=256, sources=20, separations=(2, 25),
        magnitudes=(-6, -5), contrast=3, vary=0,
    )  # fmt: skip
    draw = stream.draw(0)
    flux, isolated, noise = (array[0].numpy() for array in stream.render(draw))
    deviation = np.broadcast_to(noise[:, None, None], flux.shape)
    image = NDData(flux, uncertainty=StdDevUncertainty(deviation), unit="nJy")
    return image, draw.position[0], isolated.sum(axis=(2, 3))


def main():
    """Run the example."""
    image, positions, truth = simulate()
    deblender = Deblender.from_pretrained()
    scene = deblender.deblend_scene(image, positions=positions, light="network")
    print(scene)
    print(scene.catalog["label", "segment_flux", "segment_flux_err", "n_blended", "flag_names"])

    found = np.array([component.data.sum(axis=(1, 2)) for component in scene.components])
    blended = scene.catalog["n_blended"] > 1
    error = np.median(np.abs(found / truth - 1)[blended], axis=0)
    print(f"median error of the flux of the {blended.sum()} that are blended:")
    for band, value in zip(BANDS, error, strict=True):
        print(f"{band}: {100 * value:.1f} %")
    scene.plot(bands=BANDS).savefig("field.png")


if __name__ == "__main__":
    main()
