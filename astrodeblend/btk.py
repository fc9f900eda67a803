"""Our models as a deblender of the Blending ToolKit (`btk <https://lsstdesc.org/BlendingToolKit>`_)."""

import numpy as np
from astropy.nddata import NDData
from astropy.table import Table
from btk.blend_batch import DeblendExample
from btk.deblend import Deblender as BaseDeblender

from astrodeblend.deblender import Deblender

__all__ = ["ModelDeblender"]


class ModelDeblender(BaseDeblender):
    """Deblends batches of the Blending ToolKit with a model.

    Call it with a ``btk.blend_batch.BlendBatch``, like every deblender there. The result for each
    blend has a catalogue with ``ra`` and ``dec`` in arcsec, the scalar columns of
    `astrodeblend.Scene.catalog`, and ``x_peak`` and ``y_peak``; segments, which may overlap; and
    the light of each source in each band. The model uses the PSFs of the batch.

    Parameters
    ----------
    max_n_sources : int
        Largest number of sources of a blend; the brightest are kept. ``extra_data`` of a blend
        holds the number ``found``.
    model : str or astrodeblend.Deblender, optional
        A name or file, as `astrodeblend.Deblender.from_pretrained` and
        `astrodeblend.Deblender.load` take it.
    **options
        Options of `astrodeblend.Deblender.deblend_scene`, such as ``purity``.

    Raises
    ------
    ImportError
        On import, if the package ``blending_toolkit`` is not installed.

    Examples
    --------
    >>> from astrodeblend.btk import ModelDeblender  # doctest: +SKIP
    >>> deblended = ModelDeblender(max_n_sources=10)(next(draw_generator))  # doctest: +SKIP
    """

    def __init__(self, max_n_sources, model="survey", **options):
        super().__init__(max_n_sources)
        if not isinstance(model, Deblender):
            of = (
                Deblender.load if str(model).endswith(".safetensors") else Deblender.from_pretrained
            )
            model = of(model)
        self.model, self.options = model, options

    def deblend(self, ii, blend_batch):
        """Deblend one blend of a batch.

        Parameters
        ----------
        ii : int
            Index of the blend.
        blend_batch : btk.blend_batch.BlendBatch
            The batch.

        Returns
        -------
        btk.blend_batch.DeblendExample
        """
        image = np.asarray(blend_batch.blend_images[ii], float)
        psf = blend_batch.get_numpy_psf()
        scene = self.model.deblend_scene(NDData(image), **{"psf": psf, **self.options})
        catalog = scene.catalog
        flux = np.nansum(np.asarray(catalog["segment_flux"]), axis=-1)
        brightest = np.argsort(-flux, kind="stable")[: self.max_n_sources]
        segments = np.zeros((self.max_n_sources, *image.shape[1:]), bool)
        lights = np.zeros((self.max_n_sources, *image.shape))
        for k, row in enumerate(brightest):
            light = np.nan_to_num(scene.component(catalog["label"][row]).data)
            segments[k], lights[k] = (light > 0).any(axis=0), light.clip(0)
        catalog = catalog[brightest]
        one = [name for name in catalog.colnames if catalog[name].ndim == 1]
        table = Table({name: getattr(catalog[name], "value", catalog[name]) for name in one})
        table["x_peak"], table["y_peak"] = table["x_centroid"], table["y_centroid"]
        ra, dec = blend_batch.wcs.pixel_to_world_values(table["x_peak"], table["y_peak"])
        table["ra"], table["dec"] = 3600 * ra, 3600 * dec
        return DeblendExample(
            self.max_n_sources, table, len(image), blend_batch.image_size, segments, lights,
            {"found": len(flux)},
        )  # fmt: skip
