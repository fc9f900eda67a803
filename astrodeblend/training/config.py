"""What makes a model: every choice of a training run, in one frozen object."""

from dataclasses import asdict, dataclass

from ..simulate.recipes import RECIPES, Recipe
from .choices import check, choice, documented

__all__ = ["FieldConfig", "TrainingConfig", "reiman2019"]

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
    recipe: str = choice("varied", "Blends to learn from.", **_BLENDS)
    surveys: tuple[str, ...] = choice((),
        "Surveys whose blends to learn from instead, in linear flux, in units of each band's "
        "noise: names, or YAML files, as `astrodeblend.simulate.get_survey` takes them; or the "
        "folder that isolated stamps of one's own were read from. Recipes count for nothing then.")
    survey_options: dict = choice(dict,
        "How these blends are, as `astrodeblend.simulate.SurveyStream` takes it; and ``widths``, "
        "how many pixels of the middle of a stamp are shown: a number, or chances of some. For "
        "stamps of one's own as ``astrodeblend.training.stream.StampStream`` takes it.")
    final_recipe: str | None = choice(None,
        "Blends to end on, while the trapezoid falls. None for the same.", **_BLENDS)
    validation_recipe: str = choice("reiman2019", "Blends to be judged by.", **_BLENDS)
    steps: int = choice(16_000, "Updates.", least=1)
    minutes: float = choice(0.0,
        "End after so many, learning rate and all; 0 for any. Learning rate, burn-in and final "
        "recipe follow the share of the updates done or of the minutes gone, whichever is larger; "
        "time counts from the first update, over all parts of a resumed run.")
    batch: int = choice(16, "Blends per update, over all processes.", least=1)
    loss: str = choice("log_mse",
        "Pixel loss; for surveys flux. See `astrodeblend.training.losses`.",
        among=("log_mse", "mse", "flux"))
    learning_rate: float = choice(6e-4, "The highest learning rate.", **_RATE)
    plan: str = choice("trapezoid",
        "Learning rate over time. Warm-up, level, linear fall to zero over the last ``decay`` of "
        "the steps; warm-up and half a cosine; or the paper's, level and a tenth of it for the "
        "second half.", among=("trapezoid", "cosine", "reiman2019"))
    warmup: int = choice(500, "Updates over which the learning rate rises.")
    decay: float = choice(0.3, "Share of the steps over which the trapezoid falls.", most=1)
    optimizer: str = choice("adamw",
        "Adam with weight decay, or without, as in the paper.", among=("adamw", "adam"))
    weight_decay: float = choice(1e-2, "For adamw.")
    average: float = choice(0.999,
        "Decay of the weights' running average, which is what is saved; 0 for none.", **_BELOW_ONE)
    keep: float = choice(0.0,
        "Share of the weights that it starts from in what is saved; it forgets less. 0.5 is the "
        "mean of both (Wortsman et al. 2022, arXiv:2109.01903).", **_BELOW_ONE)
    clip: float = choice(1.0, "Largest norm of the gradient; 0 for any.")
    adversarial: str = choice("none",
        "Loss against a discriminator: as the published code, or as the paper's equations. That is "
        "cross-entropy against \"real\", or the minimax form of equations 1 to 3.",
        among=("none", "nonsaturating", "minimax"))
    adversarial_weight: float = choice(1e-3, "Weight of the adversarial loss.")
    discriminator: dict = choice(dict,
        "Width and dense layer of the discriminator, if not the paper's, as "
        "`astrodeblend.networks.DiscriminatorConfig` takes them.")
    burn_in: int = choice(0,
        "Updates before that loss, on VGG19 features alone if there are weights for them. Those "
        "are ``vgg``; without, on the pixel loss alone.")
    vgg: str | None = choice(None,
        "VGG19 weights in torchvision's format, or torchvision to fetch its own.")
    vgg_preprocess: str = choice("torchvision",
        "Scale of images for VGG19. See `astrodeblend.networks.load_vgg19`.",
        among=("torchvision", "caffe"))
    std_weight: float = choice(0.1,
        "Weight of the loss from which standard deviations are learned.")
    precision: str = choice("auto",
        "Arithmetic of the network; auto is bfloat16 on a GPU, float32 on a CPU. Most CPUs have to "
        "emulate bfloat16, many times slower. Weights and losses are float32.",
        among=("auto", "float32", "bfloat16"))
    compile: bool = choice(False,
        "Have torch compile the networks, to be faster after a slow start; not for surveys. By "
        "`torch.compile`: it takes a minute, and a C++ compiler, or Triton on a GPU. Stamps of "
        "surveys come in too many shapes.")
    seed: int = choice(1, "Everything random follows from it.")
    validate_every: int = choice(1000, "Updates between validations.", least=1)
    checkpoint_every: int = choice(500, "Updates between checkpoints.", least=1)
    log_every: int = choice(50, "Updates between lines in the log.", least=1)
    validation_blends: int = choice(256, "Blends of a validation.", least=1)
    familiarity_blends: int = choice(4096,
        "Blends that tell in the end what is unlike any; 0 to finish later. See "
        "`astrodeblend.networks.Familiarity`. No more than it has learned from; with fewer than "
        "200 it does not learn to tell.")
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
        "Of kind ``field``, as `astrodeblend.networks.build` takes it.")
    surveys: tuple[str, ...] = choice(("lsst", "hsc", "des", "sdss"),
        "As `astrodeblend.simulate.FieldStream` takes them.")
    sizes: tuple[int, ...] = choice((128, 192, 256),
        "Widths of blocks in pixels; each update draws one.")
    bands: dict = choice(lambda: {1: 0.2, 2: 0.1, 3: 0.25, 4: 0.1, 5: 0.3, 6: 0.05},
        "Chances of numbers of bands.")
    options: dict = choice(lambda: {"wider": [1, 1, 1, 2, 4], "psf": [0.8, 8.0], "large": 0.4,
                                    "bright": 0.12, "counted": 0.08},
        "More of `astrodeblend.simulate.FieldStream`.")
    batch: int = choice(0,
        "Blocks per update, of the largest size; 0 for as many as fit. Of smaller ones as many "
        "more as fill the pixels. As many as fit take half of the memory of a GPU; 2 without one.")
    blocks: int = choice(100_000, "Blocks to learn from.", least=1)
    learning_rate: float = choice(5e-4, "The highest learning rate.", **_RATE)
    warmup: int = choice(2000, "Blocks over which the learning rate rises.")
    decay: float = choice(0.5,
        "Share of the run, its last, over which the learning rate falls.", least=1e-6, most=1)
    weight_decay: float = choice(1e-2, "Of AdamW.")
    average: float = choice(0.998,
        "Decay of the weights' running average, which is what is saved; 0 for none.", **_BELOW_ONE)
    clip: float = choice(1.0, "Largest norm of the gradient; 0 for any.")
    seed: int = choice(1, "Everything random follows from it.")
    bfloat16: bool | None = choice(None,
        "Whether the network's arithmetic is bfloat16; None for where the processor multiplies "
        "such.")
    # fmt: on

    def __post_init__(self):
        check(self)
