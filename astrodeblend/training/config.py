"""The configurations of training runs: every choice is a field of one frozen object."""

import inspect
import math
import textwrap
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral, Real
from typing import get_args, get_origin

from ..simulate.populations import get_chances
from ..simulate.recipes import RECIPES, Recipe


def choice(default, text, *, among=(), kind=(), least=0, most=math.inf):
    """Return a field of a configuration: its default, its meaning and its limits.

    Values are one of ``among`` or an instance of ``kind``, numbers from ``least`` to ``most``. A
    default that is a function returns the default value. The first sentence of the text is the
    help of the command ``train``; the whole text is in the reference.
    """
    name = "default_factory" if callable(default) else "default"
    first, stop, _ = text.partition(". ")
    about = {"text": text, "help": first + stop.strip(), "among": among, "kind": kind}
    about["limits"] = least, most
    return field(**{name: default}, metadata=about)


def check(configuration):
    """Raise ValueError for a value that its field does not allow."""
    for each in fields(configuration):
        name, value = each.name, getattr(configuration, each.name)
        among, (least, most) = each.metadata["among"], each.metadata["limits"]
        allowed = value in among or isinstance(value, each.metadata["kind"])
        if among and not allowed and (value is not None or each.default is not None):
            raise ValueError(f"{name}={value!r}: choose one of {', '.join(among)}")
        kind, values = each.type, [value]
        if get_origin(kind) is tuple:
            if not isinstance(value, list | tuple):
                raise ValueError(f"{name}={value!r}: give a list")
            kind, values = get_args(kind)[0], value
        if kind == dict[int, float]:
            get_chances(value, name)
        if kind in (bool, bool | None) and type(value) not in (kind, *get_args(kind)):
            raise ValueError(f"{name}={value!r}: give true or false")
        if kind in (int, float) and not (
            values and all(_fits(v, kind, least, most) for v in values)
        ):
            limits = f"at least {least}" if most == math.inf else f"from {least} to {most:.4g}"
            whole = "whole " * (kind is int)
            raise ValueError(f"{name}={value!r}: give a {whole}number {limits}")


def _fits(value, kind, least, most):
    number = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    return number and least <= value <= most  # NaN is not


def documented(configuration):
    """Add the fields of a configuration to its docstring."""
    doc = f"{inspect.cleandoc(configuration.__doc__)}\n\nParameters\n----------\n"
    for each in fields(configuration):
        kind = each.type.__name__ if isinstance(each.type, type) else str(each.type)
        if among := each.metadata["among"]:
            kind = f"{{{', '.join(map(repr, among))}}}" + " or None" * (each.default is None)
        text = textwrap.fill(each.metadata["text"], 92, break_on_hyphens=False)
        doc += f"{each.name} : {kind}\n{textwrap.indent(text, '    ')}\n"
    configuration.__doc__ = doc
    return configuration


_BLENDS = {"among": tuple(RECIPES), "kind": Recipe}
_RATE = {"least": 1e-12, "most": 1}
_BELOW_ONE = {"most": 1 - 1e-9}


# fmt: off
@documented
@dataclass(frozen=True)
class TrainingConfig:
    """Every choice of a training run."""

    network: dict = choice(lambda: {"kind": "unet", "marks": True},
        "Kind and configuration of the generator, as `astrodeblend.networks.build` takes them.")
    recipe: str = choice("varied", "Recipe of the training blends.", **_BLENDS)
    surveys: tuple[str, ...] = choice((),
        "Surveys of the training blends, in linear flux in units of each band's sky noise. Names "
        "or YAML files, as `astrodeblend.simulate.get_survey` takes them, or the folder of "
        "isolated stamps of your own. Recipes are then not used.")
    survey_options: dict = choice(dict,
        "Options of blends of surveys. Parameters of ``astrodeblend.training.stream.FluxStream`` "
        "and `astrodeblend.simulate.SurveyStream`; for stamps of your own of "
        "``astrodeblend.training.stream.StampStream``.")
    final_recipe: str | None = choice(None,
        "Recipe of the last training blends, while the learning rate of plan trapezoid falls. "
        "None: the same recipe.", **_BLENDS)
    validation_recipe: str = choice("reiman2019", "Recipe of the validation blends.", **_BLENDS)
    steps: int = choice(16_000, "Number of updates.", least=1)
    minutes: float = choice(0.0,
        "Minutes after which the run ends, with all phases of the learning rate; 0 for no limit. "
        "Learning rate, burn-in and final recipe follow the share of updates done or of minutes "
        "gone, whichever is larger. Time counts from the first update, over all parts of a "
        "resumed run.")
    batch: int = choice(16, "Number of blends per update, over all processes.", least=1)
    loss: str = choice("log_mse",
        "Loss of pixel values; flux is that for surveys. See `astrodeblend.training.losses`.",
        among=("log_mse", "mse", "flux"))
    learning_rate: float = choice(6e-4, "The highest learning rate.", **_RATE)
    plan: str = choice("trapezoid",
        "Learning rate as a function of time. ``trapezoid``: warm-up, constant, linear fall to "
        "zero over the last ``decay`` of the updates; ``cosine``: warm-up, half a cosine; "
        "``reiman2019``: constant, then a tenth of it in the second half.",
        among=("trapezoid", "cosine", "reiman2019"))
    warmup: int = choice(500, "Number of updates over which the learning rate rises.")
    decay: float = choice(0.3,
        "Share of the updates, the last, over which the learning rate of plan trapezoid falls.",
        most=1)
    optimizer: str = choice("adamw",
        "Adam with weight decay (adamw), or without, as in the paper.", among=("adamw", "adam"))
    weight_decay: float = choice(1e-2, "Weight decay of adamw.")
    average: float = choice(0.999,
        "Decay per update of the running average of the weights, which is saved; 0 for no "
        "average.", **_BELOW_ONE)
    keep: float = choice(0.0,
        "Share of the initial weights in the saved ones, for a run that starts from a model. A "
        "larger share keeps more of what that model learned; 0.5 is the mean of both (Wortsman et "
        "al. 2022, arXiv:2109.01903).", **_BELOW_ONE)
    clip: float = choice(1.0, "Largest norm of the gradient; 0 for no limit.")
    adversarial: str = choice("none",
        "Adversarial loss: nonsaturating, as in the published code, or minimax, as in the paper's "
        "equations 1 to 3. That is -log D, or log(1 - D), of the discriminator D.",
        among=("none", "nonsaturating", "minimax"))
    adversarial_weight: float = choice(1e-3, "Weight of the adversarial loss.")
    discriminator: dict = choice(dict,
        "Fields of `astrodeblend.networks.DiscriminatorConfig` that differ from the paper's.")
    burn_in: int = choice(0,
        "Number of first updates without adversarial loss, on VGG19 features alone if vgg is "
        "given. Else they have the pixel loss.")
    vgg: str | None = choice(None,
        "File of VGG19 weights in torchvision's layout, or torchvision to download them.")
    vgg_preprocess: str = choice("torchvision",
        "Scale of the images that VGG19 takes. See `astrodeblend.networks.load_vgg19`.",
        among=("torchvision", "caffe"))
    std_weight: float = choice(0.1,
        "Weight of the loss of standard deviations.")
    precision: str = choice("auto",
        "Arithmetic of the network; auto: bfloat16 on a GPU, float32 on a CPU. Most CPUs emulate "
        "bfloat16, many times slower. Weights and losses are float32.",
        among=("auto", "float32", "bfloat16"))
    compile: bool = choice(False,
        "Compile the networks: updates are faster after a slow start; not for surveys. "
        "`torch.compile` takes a minute, and a C++ compiler, or Triton on a GPU. Stamps of surveys "
        "have too many shapes.")
    seed: int = choice(1, "Seed of all random numbers.")
    validate_every: int = choice(1000, "Number of updates between validations.", least=1)
    checkpoint_every: int = choice(500, "Number of updates between checkpoints.", least=1)
    log_every: int = choice(50, "Number of updates between lines of the log.", least=1)
    validation_blends: int = choice(256, "Number of validation blends.", least=1)
    familiarity_blends: int = choice(4096,
        "Number of blends to which the familiarity is fitted after training; 0 for none. See "
        "`astrodeblend.networks.Familiarity`. It is at most the number of training blends; fewer "
        "than 200 are too few for a fit.")
    # fmt: on

    def __post_init__(self):
        check(self)
        object.__setattr__(self, "surveys", tuple(self.surveys))
        if (self.loss == "flux") != bool(self.surveys):
            raise ValueError(
                f"loss={self.loss!r} with surveys={self.surveys!r}: 'flux' is the loss for "
                "surveys, and for nothing else"
            )
        if self.surveys and self.compile:
            raise ValueError(
                "compile=True: surveys have blends of many shapes, each of which would be compiled"
            )
        if self.surveys and self.adversarial != "none":
            raise ValueError(
                f"adversarial={self.adversarial!r}: the discriminator is for pictures, not surveys"
            )
        if self.final_recipe is not None and self.plan != "trapezoid":
            raise ValueError(
                f"final_recipe={self.final_recipe!r}: only plan='trapezoid' has a final part"
            )

    def to_dict(self):
        """Return the configuration as a dict of plain values, from which it can be made again."""
        return asdict(self)


def reiman2019(**changes):
    """Return the paper's configuration: its network, loss, plan and data.

    One thing is not as published: the network is told the distance from the centre (see
    `astrodeblend.networks.BranchedGenerator`), which ``network={"kind": "reiman2019",
    "distance": False}`` undoes.

    Parameters
    ----------
    **changes
        Fields of `TrainingConfig` to set otherwise.
    """
    paper = {
        "network": {"kind": "reiman2019"},
        "recipe": "reiman2019",
        "steps": 200_000,
        "loss": "mse",
        "learning_rate": 1e-4,
        "plan": "reiman2019",
        "warmup": 0,
        "optimizer": "adam",
        "weight_decay": 0.0,
        "average": 0.0,
        "clip": 0.0,
        "adversarial": "nonsaturating",
        "burn_in": 2000,
        "precision": "float32",
    }
    return TrainingConfig(**{**paper, **changes})


# fmt: off
@documented
@dataclass(frozen=True)
class FieldConfig:
    """Every choice of a training run on fields."""

    network: dict = choice(lambda: {"kind": "field"},
        "Kind, ``field``, and configuration, as `astrodeblend.networks.build` takes them.")
    surveys: tuple[str, ...] = choice(("lsst", "hsc", "des", "sdss"),
        "Surveys of the training fields, as `astrodeblend.simulate.FieldStream` takes them.")
    sizes: tuple[int, ...] = choice((128, 192, 256),
        "Widths of blocks, in pixels; one is drawn for each update.", least=16)
    bands: dict[int, float] = choice(lambda: {1: 0.2, 2: 0.1, 3: 0.25, 4: 0.1, 5: 0.3, 6: 0.05},
        "Probabilities of numbers of bands.")
    options: dict = choice(lambda: {"wider": [1, 1, 2, 4], "psf": [0.8, 8.0], "large": 0.6,
                                    "bright": 0.12, "counted": 0.08, "slope": 0.24, "alike": 0.7,
                                    "growth": 4.0, "close": 0.5, "residual": 0.1, "front": 0.5,
                                    "thin": 0.3, "holes": 0.4, "trails": 0.1, "uneven": 0.1,
                                    "bleeds": 0.5},
        "Further parameters of `astrodeblend.simulate.FieldStream`.")
    observed: float = choice(0.0,
        "Share of updates whose fields are as surveys show them: their number counts, PSFs and "
        "sizes, without ``options``.", most=1)
    pairs: float = choice(0.0,
        "Share of updates whose fields are bright pairs: few sources, most of them with a "
        "neighbour of like brightness; else ``options``.", most=1)
    batch: int = choice(0,
        "Number of blocks of the largest size per update; smaller blocks in proportion to their "
        "number of pixels. 0: as many as fit in half of the memory of a GPU; 2 without a GPU.")
    blocks: int = choice(100_000, "Number of training blocks.", least=1)
    learning_rate: float = choice(5e-4, "The highest learning rate.", **_RATE)
    warmup: int = choice(2000, "Number of blocks over which the learning rate rises.")
    decay: float = choice(0.5,
        "Share of the blocks, the last, over which the learning rate falls.", least=1e-6, most=1)
    weight_decay: float = choice(1e-2, "Weight decay of AdamW.")
    average: float = choice(0.998,
        "Decay per update of the running average of the weights, which is saved; 0 for no "
        "average.", **_BELOW_ONE)
    clip: float = choice(1.0, "Largest norm of the gradient; 0 for no limit.")
    asked: int = choice(2,
        "Sets of positions among which the light of a block is split in an update; to see a block "
        "costs more than to split it.", least=1)
    only: str | None = choice(None,
        "The layers to train, all others held: those that split the light, or those that estimate "
        "its errors; what the others see of a block is then used in 8 updates. None: all layers.",
        among=("splitting", "errors"))
    seed: int = choice(1, "Seed of all random numbers.")
    bfloat16: bool | None = choice(None,
        "Whether the arithmetic of the network is bfloat16. None: where the processor multiplies "
        "bfloat16 numbers.")
    # fmt: on

    def __post_init__(self):
        check(self)
        if self.observed + self.pairs > 1:
            raise ValueError(
                f"observed={self.observed!r} with pairs={self.pairs!r}: give shares whose sum is "
                "at most 1"
            )
