"""`Deblender`: an image in, its galaxies out, one by one."""

import numbers
from pathlib import Path

import numpy as np
import torch
from astropy.coordinates import SkyCoord
from astropy.table import Table
from tqdm import tqdm

from astrodeblend import __version__
from astrodeblend.apportion import prepare
from astrodeblend.calibration import Calibration
from astrodeblend.images import read_image, to_original_shape
from astrodeblend.images.errors import restated
from astrodeblend.inference import Inference, find_device
from astrodeblend.results import Deblended, Flag
from astrodeblend.scene import LIGHTS, separate_scene
from astrodeblend.stamps import pixel_position
from astrodeblend.weights import list_models, load_model, read_card

__all__ = ["Deblender"]

_DEVIATIONS = ("calibrated", "predicted", "symmetries")


class Deblender:
    """A trained network that takes blends apart.

    Made by `from_pretrained` or `load`. It does not change, so that threads may share one.

    Parameters
    ----------
    network : torch.nn.Module
        Takes (n, bands, y, x), returns components and standard deviations.
    card : astrodeblend.weights.Card
        Its card.
    device : str or torch.device, optional
        ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; by default a GPU when there is one.
    dtype : {'float32', 'bfloat16'} or torch.dtype, optional
        Arithmetic of the network. By default bfloat16 for models of pictures on GPUs, and on
        CPUs that multiply it (AMX), several times as fast there: it changes components of a
        picture by about a thousandth of the blend, and fluxes of scenes by a few thousandths,
        far less than they are wrong by. Otherwise float32, which a model of linear flux needs,
        and flux that is shown to one of pictures is better off with.
    batch_size : int or 'auto', optional
        Stamps that go through the network at a time; by default as many as suit their size.

    Raises
    ------
    ValueError
        If there is no such device, ``dtype`` or ``batch_size`` is none of the above, or the
        network has more than two branches.
    """

    def __init__(self, network, card, *, device=None, dtype=None, batch_size="auto"):
        branches = card.network.get("branches", 2)
        if branches != 2:
            raise ValueError(
                f"model {card.name!r} has {branches} branches; a Deblender takes one with two, "
                "central and companion"
            )
        self._card = card
        self._calibration = Calibration(**card.calibration)
        self._of_scenes = self._calibration.of_scenes()
        # A model of linear flux sees the image's own pixels, in units of their noise.
        self._linear = card.scaling == "noise"
        self._size_rule = {**card.size_rule, "native": self._linear}
        options = {"device": device, "dtype": dtype, "batch_size": batch_size}
        self._inference = Inference(network, card, **options)

    @classmethod
    def from_pretrained(cls, name, *, device=None, dtype=None, batch_size="auto"):
        """Take a model out of the package.

        Parameters
        ----------
        name : str
            One of the names that `models` lists.
        device : str or torch.device, optional
            As for the class.
        dtype : {'float32', 'bfloat16'} or torch.dtype, optional
            As for the class.
        batch_size : int or 'auto', optional
            As for the class.

        Returns
        -------
        Deblender

        Raises
        ------
        ValueError
            If there is no model of that name, and as for the class.
        """
        if name not in list_models():
            raise ValueError(
                f"name={name!r} is not a model; choose one of "
                f"{', '.join(map(repr, list_models()))}, or load a file with Deblender.load(path)"
            )
        return cls._from(name, device=device, dtype=dtype, batch_size=batch_size)

    @classmethod
    def load(cls, path, *, device=None, dtype=None, batch_size="auto"):
        """Load a model from a file.

        Parameters
        ----------
        path : str or path-like
            A ``.safetensors`` file with its card, a ``.json`` file of the same name, beside it.
        device : str or torch.device, optional
            As for the class.
        dtype : {'float32', 'bfloat16'} or torch.dtype, optional
            As for the class.
        batch_size : int or 'auto', optional
            As for the class.

        Returns
        -------
        Deblender

        Raises
        ------
        FileNotFoundError
            If the file or its card does not exist.
        ValueError
            If the file is corrupt, and as for the class.
        """
        return cls._from(Path(path), device=device, dtype=dtype, batch_size=batch_size)

    @classmethod
    def _from(cls, model, *, device, **options):
        device = find_device(device)  # refused before the work
        network, card = load_model(model)
        return cls(network, card, device=device, **options)

    @staticmethod
    def models():
        """List the models in the package.

        Returns
        -------
        `~astropy.table.Table`
            Columns ``name``, ``bands``, ``modes`` and ``scores``: the mean PSNR of each score on
            the card, or the lowest and the highest of a band.
        """
        cards = [read_card(name) for name in list_models()]
        return _Models(
            {
                "name": [card.name for card in cards],
                "bands": [", ".join(card.bands) or "any" for card in cards],
                "modes": [", ".join(card.modes) for card in cards],
                "scores": [_in_words(card.scores) for card in cards],
            },
            dtype=[str] * 4,
        )

    @property
    def card(self):
        """What there is to know about the model, an `astrodeblend.weights.Card`."""
        return self._card

    @property
    def device(self):
        """Where the network runs, a `torch.device`."""
        return self._inference.device

    @property
    def dtype(self):
        """Arithmetic of the network, a `torch.dtype`."""
        return self._inference.dtype

    @property
    def arithmetic(self):
        """The name of that, such as ``"float32"``."""
        return str(self.dtype).removeprefix("torch.")

    def __repr__(self):
        bands = ", ".join(self._card.bands) or "any bands"
        return f"<Deblender {self._card.name!r} ({bands}) on {self.device}, {self.arithmetic}>"

    def __call__(self, image, position=None):
        """Take the galaxy at a position and the one that overlaps it apart.

        A stamp is cut around the position, as wide as the galaxy's Petrosian radius and the
        model's size rule say (and up to 1.4 times wider, if it takes that for the brightest
        source that touches the galaxy to lie where companions do in training), and resampled to
        the network's grid. What part of the light belongs to which galaxy is brought back to
        the image's own pixels and multiplied with them, so that the components keep its
        resolution, unit and flux. A position within half a pixel of the centre of an image of
        just the network's size (80x80) takes that image as it is; if the stamp would cover
        three quarters of a square image around its centre, it covers all of it.

        Parameters
        ----------
        image : path, array, Quantity, NDData, HDU, HDUList or sequence
            Whatever `astrodeblend.images.read_image` takes: as many bands as the model has, in
            the order of its card, or one, which is repeated. For a model of linear flux any
            bands in any order, but no picture.
        position : tuple of float or `~astropy.coordinates.SkyCoord`, optional
            Of the central galaxy: pixels (x, y), counted from 0 at the centre of the first, or
            a place on the sky. By default the centre of the image.

        Returns
        -------
        Deblended

        Raises
        ------
        ValueError
            If the number of bands is wrong, or the position is outside the image or on masked
            pixels only.
        TypeError
            If the image or the position is of no known kind.
        FileNotFoundError, OSError
            If a path names no file, or one that cannot be read.

        Notes
        -----
        Both components contain the sky, so that ``central + companion - background`` is about
        the image where light adds. Of flux, whatever the network takes away of the sky is given
        back: components less the background in ``meta`` are light. Of pictures the network's
        answer stays as it is. Over the outermost tenth of the stamp, where the image goes on,
        components fade into the level of their sky, which they hold outside.

        The uncertainty adds in quadrature the image's own (or, if it has none, the noise of
        its sky) in proportion to the light, and the error that the network expects of itself
        (or, if it does not, the spread of its answers over the eight symmetries of the stamp).

        A model of linear flux (its card's ``scaling`` is ``noise``) sees the image's own pixels,
        in units of the noise of each band: what the image's uncertainty says, else what is
        estimated; ``meta["noise_from"]`` says which. A galaxy that needs a wider stamp than the
        model's is seen at so many pixels to one. Its components are light without noise, over
        the sky's level, and their uncertainty is the error that the network expects.

        ``meta["familiarity"]`` says how far the stamp is from those that the model was trained
        on, and from which distance on it is flagged as unlike any of them
        (``OUT_OF_DISTRIBUTION`` of `astrodeblend.results.Flag`); it is None for a model that
        cannot tell. ``meta["blend_score"]`` is the probability that the stamp shows more than one
        galaxy, as `blend_scores` gives it, or None.
        """
        return self._deblend([self._cut(image, position)])[0]

    def deblend_stamps(self, images):
        """Deblend many images, each around its centre, with the network running in batches.

        Parameters
        ----------
        images : sequence
            Images of any kind and size that calling the deblender takes.

        Returns
        -------
        list of Deblended
            Each as if called alone, up to rounding in the network.

        Raises
        ------
        TypeError
            If ``images`` is no sequence of images.
        ValueError, FileNotFoundError, OSError
            As for a single image, with its index.
        """
        if isinstance(images, str | Path) or not hasattr(images, "__iter__"):
            raise TypeError(f"images is a {type(images).__name__}; give a list of images")
        cuts = []
        for i, image in enumerate(images):
            try:
                cuts.append(self._cut(image, None))
            except (ValueError, TypeError, OSError) as error:
                raise restated(error, f"images[{i}]: {error}") from error
        return self._deblend(cuts)

    def deblend_scene(
        self, image, *, positions=None, light="apportioned", rounds=8, progress=False
    ):
        """Find all sources of an image and take apart those that are blended.

        Every source that touches another one comes to the middle of a stamp of its own; its
        component is the network's central one. As the network knows blends of two, all
        neighbours but the one that gives most light to the stamp are taken out, as well as they
        are known from the round before, until what is taken out changes by less than the noise.
        Of flux, which adds, they are subtracted; a picture in which light does not add is dimmed
        where one of them outshines what is behind it. Isolated sources keep their light as it
        is.

        Parameters
        ----------
        image : path, array, Quantity, NDData, HDU, HDUList or sequence
            As for a single blend.
        positions : array_like, shape (n, 2), or `~astropy.coordinates.SkyCoord`, optional
            Of the sources, in pixels (x, y) or on the sky; they replace detection.
        light : {'apportioned', 'network'}, optional
            What components and catalogue hold: the light of the image, shared out among the
            sources in proportion to the network's own components, which keeps its flux and its
            noise; or the network's own components.
        rounds : int, optional
            The most rounds to take; sources whose neighbours still change are flagged.
        progress : bool, optional
            Show a progress bar.

        Returns
        -------
        Scene
            Its catalogue is empty if the image has no sources.

        Raises
        ------
        ValueError
            If the number of bands is wrong, a position is outside the image, two are in one
            pixel, or an option is none of the above.
        TypeError, FileNotFoundError, OSError
            As for a single blend.
        """
        if light not in LIGHTS:
            raise ValueError(f"light={light!r}: choose one of {', '.join(LIGHTS)}")
        if not isinstance(rounds, numbers.Integral) or isinstance(rounds, bool) or rounds < 1:
            raise ValueError(f"rounds={rounds!r}: give an integer of at least 1")
        image = self._read(image)
        if positions is not None:
            positions = _pixel_positions(image, positions)
        bar = tqdm(desc="deblending", unit="stamp", disable=not progress)

        def watch(sources):
            bar.reset(total=len(sources))
            for source in sources:
                yield source
                bar.update()

        meta = {
            "version": __version__,
            "model": self._card.name,
            "sha256": self._card.sha256,
            "dtype": self.arithmetic,
            "device": self.device.type,
            "positions": "detected" if positions is None else "given",
            "noise_from": self._noise_from(image),
            "blend_threshold": self.blend_threshold,
            "calibration": self._of_scenes.of_fluxes(),
        }
        score = None if self._inference.scorer is None else self._scores
        with bar:
            return separate_scene(
                *(image, self._size_rule, self._central, score),
                **{"positions": positions, "light": light, "rounds": rounds, "watch": watch},
                calibration=self._of_scenes,
                meta=meta,
            )

    def _central(self, blends):
        """Return components, deviations of the central, flags and blend scores, for a scene."""
        answer = self._answer(blends, self._of_scenes, judged=slice(0, 1))
        components, std, familiarity, scores = answer
        if blends.shape[1] < components.shape[2]:  # as in _result
            components, std = (a.mean(axis=2, keepdims=True) for a in (components, std))
        scores = [np.nan if score is None else score for score in scores]
        return components, std[:, 0], [_unfamiliar(each) for each in familiarity], scores

    def _scores(self, blends):
        """Return blend scores and flags of stamps with one source each, for a scene."""
        scores = self._inference.score(self._stacked(blends)).tolist()
        doubted = [score > self.blend_threshold for score in scores]
        return scores, [Flag.POSSIBLE_BLEND if doubt else Flag(0) for doubt in doubted]

    def deblend_arrays(self, batch, *, std=None):
        """Run the bare network: nothing is resampled, stretched or checked for sources.

        Parameters
        ----------
        batch : `numpy.ndarray` or `torch.Tensor`, shape (n, bands, y, x)
            Floats; y and x of at least 16. For colour models within [0, 1], bands R, G, B. For
            models of linear flux any bands in any order, sky subtracted, in units of the standard
            deviation of each band's sky noise.
        std : {None, 'calibrated', 'predicted', 'symmetries'}, optional
            Return standard deviations too: those that results come with; those that the network
            predicts, as they come; or those of its answers to the stamp turned and mirrored,
            which takes eight times as long.

        Returns
        -------
        components : `numpy.ndarray` or `torch.Tensor`, shape (n, 2, bands, y, x)
            Float32; central and companion, in the units of the batch. A tensor is answered
            with a tensor on its own device, without gradients.
        std : `numpy.ndarray` or `torch.Tensor`, shape (n, 2, bands, y, x)
            Only if it is asked for.

        Raises
        ------
        TypeError
            If ``batch`` is no array of floats.
        ValueError
            If its shape is not the above, a value is not finite or, for a colour model, outside
            [0, 1], or the network has no such standard deviations.
        """
        checked = self._inference.check(batch)
        answers = self._inference.run(checked)[:1] if std is None else self._with_std(checked, std)
        if not isinstance(batch, torch.Tensor):
            answers = tuple(answer.numpy() for answer in answers)
        return answers[0] if std is None else answers

    def _with_std(self, batch, kind):
        """Return components and standard deviations of a kind."""
        if kind not in _DEVIATIONS:
            raise ValueError(f"std={kind!r}: choose None, {', '.join(map(repr, _DEVIATIONS))}")
        components, std, *_ = self._inference.run(batch, bare=False)
        if kind == "predicted" and std is None:
            raise ValueError(
                f"std='predicted': the network of model {self._card.name!r} predicts none; "
                "choose 'calibrated' or 'symmetries'"
            )
        if kind == "symmetries" or std is None:
            std = self._inference.spread(batch)
        if kind == "calibrated":
            arrays = (each.cpu().numpy() for each in (std, components, batch[:, None]))
            std = torch.from_numpy(self._calibration.std(*arrays)).to(batch.device)
        return components, std

    def blend_scores(self, batch):
        """Say how likely stamps show more than one galaxy, without taking them apart.

        It is a probability where half of all stamps show one galaxy, and half two that are at
        most 17 of 80 stamp pixels apart, all separations as frequent, the fainter one with a
        tenth of the flux of the other or more.

        Parameters
        ----------
        batch : `numpy.ndarray` or `torch.Tensor`, shape (n, bands, y, x)
            As `deblend_arrays` takes it.

        Returns
        -------
        `numpy.ndarray` or `torch.Tensor`, shape (n,)
            Float32; NaN if the model has no blend score.

        Raises
        ------
        TypeError, ValueError
            As for `deblend_arrays`.
        """
        scores = self._inference.score(self._inference.check(batch))
        return scores if isinstance(batch, torch.Tensor) else scores.numpy()

    @property
    def blend_threshold(self):
        """The blend score that one in a hundred single galaxies exceeds; None without a score."""
        scorer = self._inference.scorer
        return None if scorer is None else float(scorer.threshold)

    def _cut(self, image, position):
        """Read an image and prepare its stamp."""
        image = self._read(image)
        valid = image.data if image.mask is None else image.data[~image.mask]
        if valid.min() == valid.max():
            raise ValueError(
                f"image is {valid.min():.4g} in every valid pixel: there is no light in it to take "
                "apart; give another one"
            )
        return prepare(image, position, self._size_rule)

    def _read(self, image):
        """Read an image, or refuse it."""
        image = read_image(image)
        bands, names = len(image.data), self._card.bands
        if self._linear:
            if image.meta["astrodeblend"]["full_scale"] is not None:
                raise ValueError(
                    f"image is a picture; the model {self._card.name!r} takes linear flux, such as "
                    "FITS files hold; for pictures choose a colour model, such as 'galaxyzoo'"
                )
            image.meta["astrodeblend"]["linear"] = True
        elif bands not in (1, len(names)):
            raise ValueError(
                f"image has {bands} bands; the model {self._card.name!r} takes {len(names)}, in "
                f"the order {', '.join(names)}, or a single one, which is repeated"
            )
        return image

    def _noise_from(self, image):
        """Say where the noise of the sky is known from."""
        return "uncertainty" if self._linear and image.uncertainty is not None else "image"

    def _deblend(self, cuts):
        """Separate prepared stamps and bring the components back to their images."""
        if not cuts:
            return []
        results = {}
        for bands in {len(cut.blend) for cut in cuts}:
            alike = {k: cut for k, cut in enumerate(cuts) if len(cut.blend) == bands}
            blends = [cut.blend for cut in alike.values()]
            answers = self._answer(blends, self._calibration)
            for k, cut, *answer in zip(alike, alike.values(), *answers, strict=True):
                results[k] = self._result(cut, *answer)
        return [results[k] for k in range(len(cuts))]

    def _answer(self, blends, calibration, judged=slice(None)):
        """Ask the network about stamps (bands, y, x), of one band or all.

        Returns components (n, 2, bands, y, x), the standard deviations of those that are judged,
        and of each stamp how familiar it is and its blend score, or None.
        """
        batch = self._stacked(blends)
        components, std, distance, scores = self._inference.run(batch, bare=False)
        if std is None:
            std = self._inference.spread(batch)
        familiarity = [None] * len(blends)
        if distance is not None:
            threshold = float(self._inference.network.familiarity.threshold)
            familiarity = [{"distance": d, "threshold": threshold} for d in distance.tolist()]
        scores = [None] * len(blends) if scores is None else scores.tolist()
        components, std = components.numpy(), std.numpy()[:, judged]
        std = calibration.std(std, components[:, judged], batch.numpy()[:, None])
        return components, std, familiarity, scores

    def _stacked(self, blends):
        """Return stamps (bands, y, x), of one band or all, as a tensor (n, bands, y, x)."""
        shape = (len(self._card.bands) or len(blends[0]), *blends[0].shape[-2:])
        return torch.from_numpy(np.stack([np.broadcast_to(blend, shape) for blend in blends]))

    def _result(self, cut, components, std, familiarity, score):
        """Bring both components (2, bands, y, x) back to the image and put them together."""
        flags = cut.flags | _unfamiliar(familiarity)
        if len(cut.blend) < components.shape[1]:  # repeated in the model's bands: average
            components, std = (a.mean(axis=-3, keepdims=True) for a in (components, std))
        factor = cut.regained(components)
        central, companion = (
            cut.component(*each, factor) for each in zip(components, std, strict=True)
        )
        deblending = np.zeros((2, *cut.image.data.shape), np.float32)
        for values, *answer in zip(deblending, components, std, strict=True):
            values[:, *cut.stamp.slices] = cut.deblending_std(*answer)
        x, y = cut.stamp.position
        meta = {
            "version": __version__,
            "model": self._card.name,
            "sha256": self._card.sha256,
            "stretch": cut.stretch.to_dict(),
            "stamp_width": cut.stamp.width,
            "stamp_pixels": cut.stamp.pixels,
            "stamp_box": [[part.start, part.stop] for part in cut.stamp.slices],
            "core": [[part.start, part.stop] for part in cut.core],
            "background": cut.level.ravel().tolist(),
            "noise": cut.noise.ravel().tolist(),
            "noise_from": self._noise_from(cut.image),
            "dtype": self.arithmetic,
            "device": self.device.type,
            "familiarity": familiarity,
            "blend_score": score,
            "calibration": self._calibration.of_fluxes(),
        }
        return Deblended(
            *(to_original_shape(cut.image), central, companion, (float(x), float(y)), flags, meta),
            deblending=deblending,
        )


def _unfamiliar(familiarity):
    """Return the flag of a stamp that is unlike anything in training, if it is."""
    # A distance that is no number is no small one.
    if familiarity is None or familiarity["distance"] <= familiarity["threshold"]:
        return Flag(0)
    return Flag.OUT_OF_DISTRIBUTION


def _pixel_positions(image, positions):
    """Return positions (n, 2) in pixels, each checked."""
    if isinstance(positions, SkyCoord):
        positions = np.atleast_1d(positions)
    return np.array([pixel_position(image, place) for place in positions]).reshape(-1, 2)


class _Models(Table):
    """A table that prints whole, however wide the terminal is."""

    def __str__(self):
        return "\n".join(self.pformat(align="<"))


def _in_words(scores):
    """Put the PSNRs of a card on one line: means, or from which to which that of a band is."""
    words = []
    for name, entry in scores.items():
        psnr = entry["psnr"]
        values = (
            [psnr["mean"]] if "mean" in psnr else sorted({min(psnr.values()), max(psnr.values())})
        )
        words.append(f"{name} {' to '.join(f'{value:.2f}' for value in values)} dB")
    return ", ".join(words)
