"""What makes a model: every choice of a training run, in one frozen object."""

import math
from dataclasses import asdict, dataclass, field

from ..simulate.recipes import get_recipe

__all__ = ["TrainingConfig"]

LOSSES = ("log_mse", "mse", "flux")
PLANS = ("trapezoid", "cosine", "reiman2019")
ADVERSARIAL = ("none", "nonsaturating", "minimax")
PRECISIONS = ("auto", "float32", "bfloat16")
_COUNTS = (
    "steps",
    "batch",
    "validate_every",
    "checkpoint_every",
    "log_every",
    "validation_blends",
)


@dataclass(frozen=True)
class TrainingConfig:
    """Every choice of a training run.

    Parameters
    ----------
    network : dict
        Kind and configuration of the generator, as `astrodeblend.networks.build` takes them.
    recipe : str
        Recipe of the blends it learns from.
    surveys : tuple of str
        Surveys whose blends it learns from instead, in linear flux, in units of each band's
        noise: names, or YAML files, as `astrodeblend.simulate.get_survey` takes them; or the
        folder that isolated stamps of one's own were read from. Recipes count for nothing then.
    survey_options : dict
        How these blends are, as `astrodeblend.simulate.SurveyStream` takes it; and ``widths``,
        how many pixels of the middle of a stamp are shown: a number, or chances of some. For
        stamps of one's own as ``astrodeblend.training.stream.StampStream`` takes it.
    final_recipe : str or None
        Recipe while the learning rate of the trapezoid falls, to end on what matters most;
        None for the same.
    validation_recipe : str
        Recipe of the blends it is judged by, during training.
    steps : int
        Updates of the generator.
    minutes : float
        The run ends after so many, before all updates are done if need be; 0 for any. Learning
        rate, burn-in and final recipe follow the share of the updates done or of the minutes gone,
        whichever is larger; time counts from the first update, over all parts of a resumed run.
    batch : int
        Blends per update, over all processes together.
    loss : {'log_mse', 'mse', 'flux'}
        Pixel loss, see `astrodeblend.training.losses`.
    learning_rate : float
        The highest learning rate.
    plan : {'trapezoid', 'cosine', 'reiman2019'}
        Learning rate over time: warm-up, level, linear fall to zero over the last ``decay``
        of the steps; warm-up and half a cosine; or the paper's, level and a tenth of it for
        the second half.
    warmup : int
        Updates over which the learning rate rises.
    decay : float
        Share of the steps over which the trapezoid falls.
    optimizer : {'adamw', 'adam'}
        Adam as in the paper, or with weight decay.
    weight_decay : float
        For AdamW.
    average : float
        Decay of the running average of the weights, which is what ships; 0 for none.
    keep : float
        Share of the weights it started from in those that are saved; 0.5 is the mean of both, which
        forgets less of what the first model knew (Wortsman et al. 2022, arXiv:2109.01903).
    clip : float
        Largest norm of the gradient; 0 for no limit.
    adversarial : {'none', 'nonsaturating', 'minimax'}
        Generator's adversarial loss: cross-entropy against "real" (as the published code) or
        the minimax form (as the paper's equations 1 to 3).
    adversarial_weight : float
        Its weight; 1e-3 in the paper.
    discriminator : dict
        Width and dense layer of the discriminator, if not the paper's, as
        `astrodeblend.networks.DiscriminatorConfig` takes them.
    burn_in : int
        Updates before that, on the distance of deep VGG19 features alone if there are
        weights for it (``vgg``), otherwise on the pixel loss alone.
    vgg : str or None
        File with VGG19 weights in torchvision's format, or ``torchvision`` to fetch
        torchvision's own.
    vgg_preprocess : {'torchvision', 'caffe'}
        How images are scaled for them, see `astrodeblend.networks.load_vgg19`.
    std_weight : float
        Weight of the likelihood from which the standard deviations are learned.
    precision : {'auto', 'float32', 'bfloat16'}
        Arithmetic of the network (weights and losses stay float32). ``auto`` is bfloat16 on a
        GPU, and float32 on a CPU, most of which have to emulate it, many times slower.
    compile : bool
        Have torch write code of its own for the networks, by `torch.compile`: a minute at the
        start, then faster updates. Takes a C++ compiler, or Triton on a GPU. Not for surveys,
        whose stamps come in too many shapes.
    seed : int
        Everything random follows from it.
    validate_every, checkpoint_every, log_every : int
        Updates between validations, checkpoints and lines in the log.
    validation_blends : int
        How many blends a validation takes.
    familiarity_blends : int
        How many blends tell, in the end, what the network is familiar with (see
        `astrodeblend.networks.Familiarity`), though no more than it has learned from; with
        fewer than 200 it does not learn to tell.
    """

    network: dict = field(default_factory=lambda: {"kind": "unet", "marks": True})
    recipe: str = "varied"
    surveys: tuple[str, ...] = ()
    survey_options: dict = field(default_factory=dict)
    final_recipe: str | None = None
    validation_recipe: str = "reiman2019"
    steps: int = 16_000
    minutes: float = 0.0
    batch: int = 16
    loss: str = "log_mse"
    learning_rate: float = 6e-4
    plan: str = "trapezoid"
    warmup: int = 500
    decay: float = 0.3
    optimizer: str = "adamw"
    weight_decay: float = 1e-2
    average: float = 0.999
    keep: float = 0.0
    clip: float = 1.0
    adversarial: str = "none"
    adversarial_weight: float = 1e-3
    discriminator: dict = field(default_factory=dict)
    burn_in: int = 0
    vgg: str | None = None
    vgg_preprocess: str = "torchvision"
    std_weight: float = 0.1
    precision: str = "auto"
    compile: bool = False
    seed: int = 1
    validate_every: int = 1000
    checkpoint_every: int = 500
    log_every: int = 50
    validation_blends: int = 256
    familiarity_blends: int = 4096

    def __post_init__(self):
        for name, allowed in (
            ("loss", LOSSES),
            ("plan", PLANS),
            ("adversarial", ADVERSARIAL),
            ("precision", PRECISIONS),
            ("optimizer", ("adamw", "adam")),
            ("vgg_preprocess", ("torchvision", "caffe")),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name}={value!r}: choose one of {', '.join(allowed)}")
        for names, low, high in (
            (_COUNTS, 1, math.inf),
            (("warmup", "burn_in", "seed", "familiarity_blends"), 0, math.inf),
            (("minutes", "clip", "weight_decay", "adversarial_weight", "std_weight"), 0, math.inf),
            (("learning_rate",), 1e-12, 1),
            (("decay",), 0, 1),
            (("average", "keep"), 0, 1 - 1e-9),
        ):
            for name in names:
                if not low <= getattr(self, name) <= high:  # nor is NaN
                    limits = f"at least {low}" if high == math.inf else f"from {low} to {high:.4g}"
                    raise ValueError(f"{name}={getattr(self, name)}: give a number {limits}")
        object.__setattr__(self, "surveys", tuple(self.surveys))
        if (self.loss == "flux") != bool(self.surveys):
            raise ValueError(
                f"loss={self.loss!r} with surveys={self.surveys!r}: 'flux' is the loss for "
                "surveys, and for nothing else"
            )
        if not isinstance(self.compile, bool):
            raise ValueError(f"compile={self.compile!r}: give true or false")
        if self.surveys and self.compile:
            raise ValueError(
                "compile=True: surveys have blends of many shapes, each of which would be compiled"
            )
        if self.surveys and self.adversarial != "none":
            raise ValueError(
                f"adversarial={self.adversarial!r}: the discriminator is for pictures, not surveys"
            )
        get_recipe(self.recipe)
        get_recipe(self.validation_recipe)
        if self.final_recipe is not None:
            if self.plan != "trapezoid":
                raise ValueError(
                    f"final_recipe={self.final_recipe!r}: only plan='trapezoid' has a final part"
                )
            get_recipe(self.final_recipe)

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
