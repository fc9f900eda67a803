"""`Deblender`: deblends images, stamps and arrays by a trained network."""

from difflib import get_close_matches
from html import escape
from numbers import Real
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from astropy.coordinates import SkyCoord
from astropy.table import Table
from tqdm import tqdm

from astrodeblend.images import pixel_position, read_image
from astrodeblend.images.errors import restated
from astrodeblend.inference import find_device
from astrodeblend.light import LIGHTS
from astrodeblend.scaling import Flux, Picture
from astrodeblend.walk import Model, plan
from astrodeblend.weights import list_models, load_model, one_of_models, read_card

__all__ = ["Deblender"]

#: Default purity: expected share of true sources among those that a network finds.
_PURITY = 0.95
_DEVIATIONS = ("calibrated", "predicted", "symmetries")
#: Kind of image by the scaling of a model, and default model by kind.
_KINDS = {Picture.name: Picture.kind, Flux.name: Flux.kind}
_SUITED = {Picture.kind: "galaxyzoo", Flux.kind: "survey"}
_IN_WORDS = {Picture.kind: "a colour picture", Flux.kind: "linear flux"}


class Deblender:
    """Deblends images with trained networks.

    Made by `from_pretrained` or `load`. It is immutable, so that threads may share one.

    Parameters
    ----------
    network : torch.nn.Module
        As `astrodeblend.networks.build` makes it.
    card : astrodeblend.weights.Card
        Its card.
    device : str or torch.device, optional
        ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; by default a GPU when there is one.
    dtype : {'float32', 'bfloat16'} or torch.dtype, optional
        Arithmetic of the network. By default bfloat16 on GPUs and on CPUs that multiply it (AMX,
        AVX512_BF16), where it takes about half of the time: for models of pictures, whose
        components it changes by about 0.001 of the blend, and for those of fields, whose fluxes it
        changes by 0.01 of their errors. Otherwise float32, which other models of linear flux need.
    batch_size : int or 'auto', optional
        Stamps per batch of the network; by default it depends on their size.

    Raises
    ------
    ValueError
        If there is no such device, ``dtype`` or ``batch_size`` is not as above, or the network
        has more than two branches.
    TypeError
        If ``network`` is not a network but, for example, a name.

    Examples
    --------
    >>> from skimage.data import hubble_deep_field
    >>> from astrodeblend import Deblender
    >>> deblender = Deblender.from_pretrained(device="cpu")
    >>> deblender
    <Deblender 'galaxyzoo' for a colour picture or 'survey' for linear flux, on cpu>
    >>> deblender(hubble_deep_field(), position=(292, 108)).position
    (292.0, 108.0)
    """

    def __init__(self, network=None, card=None, *, device=None, dtype=None, batch_size="auto"):
        if not isinstance(network, torch.nn.Module) or card is None:
            raise TypeError(_meant(network))
        how = {"device": device, "dtype": dtype, "batch_size": batch_size}
        self._models = {_KINDS[card.scaling]: Model(network, card, **how)}
        self._how = None  # options for loading the default model of each kind of image

    @classmethod
    def from_pretrained(cls, name=None, *, device=None, dtype=None, batch_size="auto"):
        """Load a model of the package.

        Parameters
        ----------
        name : str, optional
            One of the names that `models` lists. By default it depends on the kind of each image:
            ``galaxyzoo`` for pictures, ``survey`` for linear flux.
        device, dtype, batch_size : optional
            As in `Deblender`.

        Returns
        -------
        Deblender

        Raises
        ------
        ValueError
            If there is no model of that name, and as in `Deblender`.
        """
        how = {"device": find_device(device), "dtype": dtype, "batch_size": batch_size}
        if name is None:
            deblender = cls.__new__(cls)
            deblender._models, deblender._how = {}, how
            return deblender
        if name not in list_models():
            raise ValueError(
                f"name={name!r} is not a model; {one_of_models(name)}, or load a .safetensors file "
                "with Deblender.load(path) (--model PATH on the command line)"
            )
        return cls(*load_model(name), **how)

    @classmethod
    def load(cls, path, *, device=None, dtype=None, batch_size="auto"):
        """Load a model from a file.

        Parameters
        ----------
        path : str or path-like
            A ``.safetensors`` file, with its card, a ``.json`` file of the same name, beside it.
        device, dtype, batch_size : optional
            As in `Deblender`.

        Returns
        -------
        Deblender

        Raises
        ------
        FileNotFoundError
            If the file or its card does not exist.
        ValueError
            If the file is corrupt, and as in `Deblender`.
        """
        if not isinstance(path, str | PathLike):
            raise TypeError(f"path={path!r}: give the path of a .safetensors file")
        device = find_device(device)  # raises before the work
        return cls(*load_model(Path(path)), device=device, dtype=dtype, batch_size=batch_size)

    @staticmethod
    def models():
        """Return a table of the models in the package.

        Returns
        -------
        `~astropy.table.Table`
            Columns ``name``, ``images`` (the kind), ``bands``, ``modes`` and ``scores``: the mean
            PSNR of each score on the card, or its lowest and highest value by band; for fields the
            completeness and the error of fluxes in noise limits.
        """
        cards = [read_card(name) for name in list_models()]
        return _Models(
            {
                "name": [card.name for card in cards],
                "images": [_KINDS[card.scaling] for card in cards],
                "bands": [", ".join(card.bands) or "any" for card in cards],
                "modes": [", ".join(card.modes) for card in cards],
                "scores": [_in_words(card.scores) for card in cards],
            },
            dtype=[str] * 5,
        )

    @property
    def _model(self):
        """The only model."""
        if self._how is not None:
            raise ValueError(
                "this Deblender selects the model by the kind of each image; here it takes a name: "
                f"Deblender.from_pretrained(name), one of {', '.join(list_models())}"
            )
        return next(iter(self._models.values()))

    @property
    def card(self):
        """The model's card, an `astrodeblend.weights.Card`."""
        return self._model.card

    @property
    def device(self):
        """Device of the network, a `torch.device`."""
        return self._model.inference.device

    @property
    def dtype(self):
        """Arithmetic of the network, a `torch.dtype`."""
        return self._model.inference.dtype

    @property
    def arithmetic(self):
        """Name of the dtype, such as ``"float32"``."""
        return self._model.arithmetic

    def __repr__(self):
        if self._how is not None:
            names = " or ".join(f"{name!r} for {_IN_WORDS[kind]}" for kind, name in _SUITED.items())
            return f"<Deblender {names}, on {self._how['device']}>"
        bands = ", ".join(self.card.bands) or "any bands"
        return f"<Deblender {self.card.name!r} ({bands}) on {self.device}, {self.arithmetic}>"

    def _repr_html_(self):
        known = [self.card.description, self.card.limits] if self._how is None else []
        return "<br>".join([f"<b>{escape(repr(self)[1:-1])}</b>", *map(escape, known)])

    def __call__(self, image, position=None, *, kind=None, psf=None):
        """Separate the galaxy at a position from all other light in its stamp.

        The result is that of `deblend_scene` with this position: the same light, and the same row
        in its catalogue.

        Parameters
        ----------
        image : path, array, Quantity, NDData, HDU, HDUList or sequence
            Any input of `astrodeblend.images.read_image`. A model for pictures takes its bands in
            the order of its card, or a single one, which is repeated; a model of linear flux takes
            any bands in any order.
        position : tuple of float or `~astropy.coordinates.SkyCoord`, optional
            Position of the central galaxy: pixels (x, y), the centre of the first being 0, or sky
            coordinates. By default the centre of the image.
        kind : {'picture', 'flux'}, optional
            Kind of the image, if not the one that `~astrodeblend.images.read_image` decides.
        psf : optional
            Full width at half maximum, image or model of the PSF, as in
            `~astrodeblend.images.read_image`; by default that of the header.

        Returns
        -------
        Deblended

        Raises
        ------
        ValueError
            If the model does not take this kind of image or its bands, or the position is outside
            the image or has no data around it.
        TypeError
            If the image or the position has an unknown type.
        FileNotFoundError, OSError
            If a path names no file, or one that cannot be read.

        Notes
        -----
        Both components contain the sky: in flux, ``central + companion - background`` is about the
        image. Components of pictures are the network's output; over the outermost tenth of the
        stamp, at edges inside the image, they fade into their sky level. Components of flux are
        noiseless.

        The uncertainty is the quadratic sum of the image's noise in proportion to the light (for
        pictures), and the network's estimate of its error (or, without one, the scatter of its
        output over the eight symmetries of the stamp).

        ``meta["familiarity"]`` holds the stamp's distance from those of the training, and the
        threshold above which it is flagged ``OUT_OF_DISTRIBUTION``. ``meta["blend_score"]`` is the
        probability that the stamp shows more than one galaxy; see `blend_scores`. Both are None for
        models without them.
        """
        return self._deblend([self._single(image, position, kind, psf)])[0]

    def deblend_stamps(self, images, positions=None, *, kind=None, psf=None, progress=False):
        """Deblend one source in each of many images, with the network running in batches.

        Parameters
        ----------
        images : sequence
            Images of any type and size that calling the deblender takes.
        positions : sequence, optional
            Position of the source in each; by default the centre.
        kind : {'picture', 'flux'}, optional
            As in calling the deblender.
        psf : optional
            PSF of every image, as in calling the deblender.
        progress : bool, optional
            Show progress bars.

        Returns
        -------
        list of Deblended
            The results of calling the deblender on each, up to rounding in the network.

        Raises
        ------
        TypeError
            If ``images`` is no sequence of images.
        ValueError, FileNotFoundError, OSError
            As for a single image, with its index; and if the number of ``positions`` differs.
        """
        if isinstance(images, str | Path) or not hasattr(images, "__iter__"):
            raise TypeError(f"images is a {type(images).__name__}; give a list of images")
        images = list(images)
        positions = [None] * len(images) if positions is None else list(positions)
        if len(positions) != len(images):
            raise ValueError(
                f"positions has {len(positions)} and images {len(images)}; give one of each"
            )
        tasks, pairs = [], list(zip(images, positions, strict=True))
        bar = tqdm(pairs, desc="reading", unit="image", disable=not progress)
        for i, (image, position) in enumerate(bar):
            try:
                tasks.append(self._single(image, position, kind, psf))
            except (ValueError, TypeError, OSError) as error:
                raise restated(error, f"images[{i}]: {error}") from error
        return self._deblend(tasks, progress)

    def deblend_scene(
        self, image, *, positions=None, light=None, kind=None, psf=None, purity=_PURITY,
        progress=False,
    ):  # fmt: skip
        """Find and deblend all sources of an image.

        With a model for stamps, every source is the central galaxy of a stamp whose width follows
        from its size; the positions of the others are given to the network. A model for fields
        finds and splits all sources in one pass. In flux, the sum of all components is made to
        agree with the image.

        Parameters
        ----------
        image : path, array, Quantity, NDData, HDU, HDUList or sequence
            As in calling the deblender.
        positions : array_like, shape (n, 2), or `~astropy.coordinates.SkyCoord`, optional
            Positions of the sources, in pixels (x, y) or on the sky; they replace detection. A
            single position counts as a list of one.
        light : {'apportioned', 'network'}, optional
            Kind of light in components and catalogue; see `Scene.with_light`. Default: the
            network's for a model that finds sources, which has less noise; else the image's.
        kind : {'picture', 'flux'}, optional
            As in calling the deblender.
        psf : optional
            As in calling the deblender.
        purity : float, optional
            For models that find sources: expected share of true sources among those found, the
            mean of their probabilities, with fewer than five sources as if there were five with
            the rest certain. A lower value finds more sources.
        progress : bool, optional
            Show a progress bar.

        Returns
        -------
        Scene
            Its catalogue is empty if the image has no sources.

        Raises
        ------
        ValueError
            If the model does not take this kind of image or its bands, a position is outside the
            image, two are in one pixel, or an option is not as above.
        TypeError, FileNotFoundError, OSError
            As in calling the deblender.

        Examples
        --------
        >>> from skimage.data import hubble_deep_field
        >>> from astrodeblend import Deblender
        >>> deblender = Deblender.from_pretrained()
        >>> scene = deblender.deblend_scene(hubble_deep_field()[60:130, 240:310])
        >>> scene.catalog.write("catalog.ecsv", overwrite=True)
        """
        if light not in (None, *LIGHTS):
            raise ValueError(f"light={light!r}: choose one of {', '.join(LIGHTS)}")
        if not (isinstance(purity, Real) and 0 < purity < 1):
            raise ValueError(f"purity={purity!r}: give a share between 0 and 1, such as {_PURITY}")
        image = read_image(image, kind=kind, psf=psf)
        if positions is not None:
            positions = [pixel_position(image, place) for place in _listed(positions)]
        with tqdm(desc="finding sources", disable=not progress) as bar:
            task = plan(image, self._model_for(image), positions, purity=purity)
            bar.reset(len(task))
            bar.set_description("deblending")
            (answers,) = task.model.answers([task], watch=bar.update)
        return task.scene(answers, light or ("network" if task.model.finds else "apportioned"))

    def _single(self, image, position, kind, psf):
        """Read an image and prepare the source at a position."""
        image = read_image(image, kind=kind, psf=psf)
        model = self._model_for(image)
        valid = image.data if image.mask is None else image.data[~image.mask]
        if valid.min() == valid.max():
            raise ValueError(
                f"image is {valid.min():.4g} in every valid pixel: there is no light to deblend; "
                "give another one"
            )
        x, y = pixel_position(image, position)
        task = plan(image, model, [(x, y)], purity=_PURITY)
        if not task.known:
            raise ValueError(
                f"position is ({x:.6g}, {y:.6g}), around which the image has no data; "
                "choose another one"
            )
        return task

    def _deblend(self, tasks, progress=False):
        """Deblend one source in each image."""
        results = [None] * len(tasks)
        with tqdm(total=len(tasks), desc="deblending", disable=not progress) as bar:
            for model in {id(task.model): task.model for task in tasks}.values():
                chosen = [k for k, task in enumerate(tasks) if task.model is model]
                answers = iter(model.answers([tasks[k] for k in chosen], watch=bar.update))
                for k in chosen:
                    results[k] = tasks[k].deblended(next(answers))
        return results

    def _model_for(self, image):
        """Return the model for an image; raise if it does not take its kind or bands."""
        known = image.meta["astrodeblend"]
        kind, bands = known["kind"], len(image.data)
        if kind not in self._models:
            suited = _SUITED[kind]
            if self._how is None:
                other = next(iter(self._models))
                raise ValueError(
                    f"image is {_IN_WORDS[kind]}; the model {self.card.name!r} takes "
                    f"{_IN_WORDS[other]}: choose {suited!r}, or, if the image is "
                    f"{_IN_WORDS[other]}, say so by kind={other!r} (--kind {other})"
                )
            self._models[kind] = Model(*load_model(suited), **self._how)
        model = self._models[kind]
        names = model.card.bands
        if names and bands not in (1, len(names)):
            raise ValueError(
                f"image has {bands} bands; the model {model.card.name!r} takes {len(names)}, in "
                f"the order {', '.join(names)}, or a single one, which is repeated"
            )
        return model

    def deblend_arrays(self, batch, positions=None, *, std=None):
        """Run the network on arrays, without resampling, scaling or detection.

        Parameters
        ----------
        batch : `numpy.ndarray` or `torch.Tensor`, shape (n, bands, y, x)
            Floats; y and x of at least 16. For models of pictures values in [0, 1] in the bands
            R, G, B. For models of linear flux any bands in any order, sky-subtracted, in units of
            the standard deviation of each band's sky noise.
        positions : `numpy.ndarray` or `torch.Tensor`, shape (n, sources, 2), optional
            Positions of sources, x and y in pixels; NaN for none. The first one is the central
            galaxy. By default it is in the middle, and no others are known.
        std : {None, 'calibrated', 'predicted', 'symmetries'}, optional
            Also return standard deviations: those of results; those of the network, without
            calibration; or the scatter of its output over rotations and reflections of the
            stamp, which takes eight times as long.

        Returns
        -------
        components : `numpy.ndarray` or `torch.Tensor`, shape (n, 2, bands, y, x)
            Float32; central and companion (all other light), in the units of the batch. For a
            tensor, a tensor on the same device, without gradients.
        std : `numpy.ndarray` or `torch.Tensor`, shape (n, 2, bands, y, x)
            If asked for.

        Raises
        ------
        TypeError
            If ``batch`` is not an array of floats.
        ValueError
            If a shape is not as above, a value is not finite or, for a model of pictures, outside
            [0, 1], or the network has no such standard deviations.
        """
        inference = self._model.inference
        checked = inference.check(batch)
        where = inference.check_positions(positions, checked)
        if std is None:
            answers = inference.run(checked, *where)[:1]
        else:
            answers = self._with_std(checked, where, std)
        if not isinstance(batch, torch.Tensor):
            answers = tuple(answer.numpy() for answer in answers)
        return answers[0] if std is None else answers

    def _with_std(self, batch, where, kind):
        """Return components and standard deviations of one kind."""
        inference = self._model.inference
        if kind not in _DEVIATIONS:
            raise ValueError(f"std={kind!r}: choose None, {', '.join(map(repr, _DEVIATIONS))}")
        components, std, *_ = inference.run(batch, *where, bare=False)
        if kind == "predicted" and std is None:
            raise ValueError(
                f"std='predicted': the network of model {self.card.name!r} predicts none; "
                "choose 'calibrated' or 'symmetries'"
            )
        if kind == "symmetries" or std is None:
            std = inference.spread(batch, *where)
        if kind == "calibrated":
            arrays = (each.cpu().numpy() for each in (std, components, batch[:, None]))
            std = torch.from_numpy(self._model.calibration.std(*arrays)).to(batch.device)
        return components, std

    def blend_scores(self, batch):
        """Return the probability that stamps show more than one galaxy, without deblending.

        It is calibrated for stamps of which half show one galaxy, and half show two, with uniform
        separations of up to 17 of 80 stamp pixels, and flux ratios of 0.1 or more.

        Parameters
        ----------
        batch : `numpy.ndarray` or `torch.Tensor`, shape (n, bands, y, x)
            As in `deblend_arrays`.

        Returns
        -------
        `numpy.ndarray` or `torch.Tensor`, shape (n,)
            Float32; NaN if the model has no blend score.

        Raises
        ------
        TypeError, ValueError
            As in `deblend_arrays`.
        """
        inference = self._model.inference
        scores = inference.score(inference.check(batch))
        return scores if isinstance(batch, torch.Tensor) else scores.numpy()

    @property
    def blend_threshold(self):
        """The blend score that 1 % of single galaxies exceed; None for a model without one."""
        return self._model.blend_threshold


def _listed(positions):
    """Return positions as a list; a single one is a list of one."""
    each = list(positions) if np.iterable(positions) else [positions]
    several = not each or isinstance(each[0], SkyCoord | list | tuple) or np.ndim(each[0]) > 0
    return each if several else [positions]


def _meant(network):
    """Return advice on making a Deblender from a name, a file or nothing."""
    if isinstance(network, torch.nn.Module):
        return "card is missing; give the network's, an astrodeblend.weights.Card"
    if str(network).endswith(".safetensors"):
        right = f"Deblender.load({str(network)!r})"
    else:
        near = get_close_matches(str(network), list_models(), n=1)
        right = f"Deblender.from_pretrained({', '.join(map(repr, near))})"
    return f"network={network!r} is no network; you may want {right}"


class _Models(Table):
    """A table that prints in full, regardless of the terminal's width."""

    def __str__(self):
        return "\n".join(self.pformat(align="<"))


def _in_words(scores):
    """Return the scores of a card in one line: PSNRs, or completeness and flux errors in fields."""
    words = []
    for name, entry in scores.items():
        if "r" in entry:
            complete, error = 100 * entry["r"]["complete"], entry["r"]["error"]
            words.append(f"{name} {complete:.0f} % complete, {error:.1f} noise limits")
            continue
        psnr = entry["psnr"]
        values = [psnr["mean"]] if "mean" in psnr else psnr.values()
        ends = sorted({min(values), max(values)})
        words.append(f"{name} {' to '.join(f'{value:.2f}' for value in ends)} dB")
    return ", ".join(words)
