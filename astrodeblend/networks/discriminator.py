"""The discriminator of Reiman & Goehre (2019, MNRAS 485, 2617)."""

from dataclasses import dataclass
from math import ceil

from torch import nn

__all__ = ["Discriminator", "DiscriminatorConfig"]


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Shape of a `Discriminator`; the network is built from this alone.

    Parameters
    ----------
    bands : int
        Number of bands of the images.
    pixels : int
        Width and height of the images, on which the size of the dense layer depends.
    width : int
        Features of the first layer; the last has eight times as many.
    dense : int
        Features of the hidden dense layer.

    Raises
    ------
    ValueError
        If a number is below 1.
    """

    bands: int = 3
    pixels: int = 80
    width: int = 64
    dense: int = 1024

    def __post_init__(self):
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name}={value} is too few; give 1 or more")


class Discriminator(nn.Module):
    """The paper's discriminator, that of SRGAN (Ledig et al. 2017).

    Eight 3x3 convolutions with strides 1 and 2 in turn and 1, 1, 2, 2, 4, 4, 8, 8 times the
    width in features, batch normalisation after all but the first, leaky ReLUs of slope 0.2,
    then two dense layers. One discriminator judges the images of all branches.

    Parameters
    ----------
    config : DiscriminatorConfig
        The shape of the network.

    Notes
    -----
    Normalisation comes before the ReLU, as in SRGAN; in the published code after it, with a
    slope of 0.3. Images in [0, 1] are rescaled to [-1, 1], as in the paper.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        layers = [
            nn.Conv2d(config.bands, config.width, 3, padding=1),
            nn.LeakyReLU(0.2),
        ]
        before = config.width
        for i in range(1, 8):
            after, stride = config.width * 2 ** (i // 2), 1 + i % 2
            layers += [
                nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.LeakyReLU(0.2),
            ]
            before = after
        self.features = nn.Sequential(*layers)
        self.judge = nn.Sequential(
            nn.Flatten(),
            nn.Linear(before * ceil(config.pixels / 16) ** 2, config.dense),
            nn.LeakyReLU(0.2),
            nn.Linear(config.dense, 1),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images):
        """Classify images as real or generated.

        Parameters
        ----------
        images : torch.Tensor
            Shape (n, bands, pixels, pixels), values in [0, 1].

        Returns
        -------
        torch.Tensor
            Shape (n,): the logit of the probability that the image is real.

        Raises
        ------
        ValueError
            If the images are not of the size of the configuration.
        """
        expected = (self.config.bands, self.config.pixels, self.config.pixels)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(
                f"images have shape {tuple(images.shape)}; this discriminator takes "
                f"(n, {', '.join(map(str, expected))})"
            )
        return self.judge(self.features(2 * images - 1)).squeeze(1)
