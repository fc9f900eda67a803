"""The adapter to the Blending ToolKit: with the toolkit, or what of it is documented."""

import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from astropy.wcs import WCS

from astrodeblend.simulate import simulate_fields


@pytest.fixture
def adapter(monkeypatch):
    """Return the module, with a stand-in for the toolkit where that is not installed."""
    try:
        import btk  # noqa: F401
    except ImportError:

        @dataclass
        class DeblendExample:  # its fields, in its order
            max_n_sources: int
            catalog: object
            n_bands: int | None = None
            image_size: int | None = None
            segmentation: object = None
            deblended_images: object = None
            extra_data: dict | None = None

        class Deblender:
            def __init__(self, max_n_sources):
                self.max_n_sources = max_n_sources

        for name, content in (
            ("btk", {}),
            ("btk.blend_batch", {"DeblendExample": DeblendExample}),
            ("btk.deblend", {"Deblender": Deblender}),
        ):
            module = ModuleType(name)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "astrodeblend.btk", raising=False)
    import astrodeblend.btk

    yield astrodeblend.btk
    sys.modules.pop("astrodeblend.btk", None)


def test_a_batch_is_taken_apart(adapter):
    made = simulate_fields("lsst", 1, 4, size=100, density=100, large=0, bright=0, gaps=0, edges=0)
    wcs = WCS(naxis=2)
    wcs.wcs.crpix, wcs.wcs.cdelt = (50.5, 50.5), (-0.2 / 3600, 0.2 / 3600)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    y, x = np.mgrid[:41, :41] - 20
    sigma = made.psf[0][:, None, None] / 2.3548
    psf = np.exp(-0.5 * (x**2 + y**2) / sigma**2)
    batch = SimpleNamespace(
        blend_images=made.image, image_size=100, wcs=wcs, get_numpy_psf=lambda: psf
    )
    example = adapter.ModelDeblender(40).deblend(0, batch)
    bands = made.image.shape[1]
    number = len(example.catalog)
    assert (example.n_bands, example.image_size) == (bands, 100)
    assert example.deblended_images.shape == (40, bands, 100, 100)
    assert example.segmentation.shape == (40, 100, 100)
    assert example.segmentation.dtype == bool
    assert example.deblended_images.min() >= 0
    assert example.deblended_images[number:].max() == 0
    # each row's light is where the row is, and is the truth's for the brightest source
    at = np.stack([example.catalog["x_peak"], example.catalog["y_peak"]], axis=1)
    ra, dec = wcs.wcs_pix2world(at, 0).T
    np.testing.assert_allclose(np.cos(np.radians(example.catalog["ra"] / 3600 - ra)), 1)
    np.testing.assert_allclose(example.catalog["dec"] / 3600, dec)
    inner = made.inside[0] & (np.abs(made.position[0] - 49.5) < 30).all(axis=1)
    brightest = np.where(inner, made.snr[0, :, 2], 0).argmax()
    row = np.hypot(*(at - made.position[0, brightest]).T).argmin()
    flux = example.deblended_images[row].sum(axis=(1, 2))
    np.testing.assert_allclose(flux[2:5], made.flux[0, brightest, 2:5], rtol=0.15)
    few = adapter.ModelDeblender(2).deblend(0, batch)
    assert len(few.catalog) == 2
    assert few.extra_data == {"found": number}
