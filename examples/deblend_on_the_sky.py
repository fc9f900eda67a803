"""Deblend the galaxy at a place on the sky, and go on with it in astropy.

    python examples/deblend_on_the_sky.py

New beside the five lines of README: a FITS image with units and a WCS, a SkyCoord for the
position, components that astropy reads back, and a figure.
"""

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.wcs import WCS
from skimage.data import hubble_deep_field

from astrodeblend import Deblender


def write_image(path):
    """Write a part of the Hubble Deep Field as FITS, with a WCS made up for this example."""
    picture = hubble_deep_field()[9:209, 193:393]
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = 53.16, -27.79
    wcs.wcs.crpix = 100.5, 100.5
    wcs.wcs.cdelt = -0.06 / 3600, 0.06 / 3600
    header = wcs.to_header()
    header.update(BUNIT="adu", BAND1="R", BAND2="G", BAND3="B")
    data = np.moveaxis(picture, -1, 0).astype(np.float32)
    fits.writeto(path, data, header, overwrite=True)


def main():
    """Run the example."""
    write_image("field.fits")

    deblender = Deblender.from_pretrained()
    position = SkyCoord(53.16 * u.deg, -27.79 * u.deg)
    result = deblender("field.fits", position)
    print(result)
    print(result.to_table()["component", "sky_centroid", "segment_flux", "flag_names"])

    result.write("galaxies.fits", overwrite=True)
    companion = CCDData.read("galaxies.fits", hdu="COMPANION", hdu_uncertainty="COMPANION_UNCERT")
    print("companion:", companion.shape, companion.unit, companion.wcs.celestial.wcs.crval)
    result.plot().savefig("galaxies.png")


if __name__ == "__main__":
    main()
