"""Completing a trained model: familiarity, blend score, probabilities, error bars."""

from pathlib import Path

from astrodeblend.score import add_field_calibration, add_scene_calibration
from astrodeblend.simulate import Morphologies, read_images, share_out
from astrodeblend.simulate.pictures import blended_images
from astrodeblend.training import add_blend_score, add_calibration, add_familiarity
from astrodeblend.weights import list_models, load_model

__all__ = ["finish"]


def finish(model, images=None, *, progress=True, **parts):
    """Fit familiarity, blend score and error bars of a trained model.

    For a model of pictures the familiarity (unless it has one) and the blend score are fitted to
    its training galaxies, and the error bars of blends and of scenes to others. For a model of
    linear flux the error bars, and for one of fields also probabilities, are fitted to
    simulated images of its surveys. Files are replaced after each part; the network's weights do
    not change.

    Parameters
    ----------
    model : str or path-like
        A ``.safetensors`` file with its card beside it.
    images : str or path-like, optional
        For pictures the folder of its training galaxies, split as by
        `astrodeblend.simulate.share_out`. For linear flux an ``.npz`` file of galaxies that it was
        not trained on, from `astrodeblend.simulate.cut_galaxies`; without it, all galaxies are
        parametric.
    progress : bool, optional
        Show progress bars.
    **parts
        ``split``, ``validation_images`` and ``validation_split`` of
        `astrodeblend.simulate.share_out`.

    Returns
    -------
    dict of str to (ValueError or None)
        For each part None, or the reason why it was not fitted.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such model or no such images, the model is one of the package, or a model
        for pictures is given no images.
    """
    if model in list_models():
        raise ValueError(
            f"model={model!r} is a model of the package, which stays as it is; give the "
            ".safetensors file of your own"
        )
    network, card = load_model(model)
    if card.scaling == "noise":
        galaxies = None if images is None else Morphologies.read(images)
        if hasattr(network, "find"):
            fits = {
                "probabilities and error bars": lambda: add_field_calibration(
                    model, images=(galaxies, None), progress=progress
                )
            }
        else:
            fits = {"error bars": lambda: add_calibration(model, galaxies, progress=progress)}
        return _done(fits)
    if images is None:
        raise ValueError(
            f"images is missing: the model {card.name!r} is for pictures; give the folder of "
            "galaxies that it was trained on (--images DIR on the command line)"
        )
    learned, others = share_out(images, **parts)
    blended = blended_images(images)
    folder = parts.get("validation_images", images)
    has_table = (Path(folder) / "splits.csv").is_file()
    split = parts.get("validation_split", "val" if has_table else None)

    def read(paths):
        if not paths:
            raise ValueError(f"images={str(images)!r} has no galaxies for it; give more of them")
        return read_images(paths, progress=progress)

    fits = {
        "familiarity": lambda: add_familiarity(model, read(learned), progress=progress),
        "blend score": lambda: add_blend_score(
            model, read([p for p in learned if p not in blended]), progress=progress
        ),
        "error bars": lambda: add_calibration(model, read(others), progress=progress),
        "error bars of scenes": lambda: add_scene_calibration(
            model, folder, split=split, progress=progress
        ),
    }
    if network.familiarity is not None:
        del fits["familiarity"]
    return _done(fits)


def _done(fits):
    """Run the fits in turn; return the errors of those that failed."""
    failed = dict.fromkeys(fits)
    for name, fit in fits.items():
        try:
            fit()
        except ValueError as error:
            failed[name] = error
    return failed
