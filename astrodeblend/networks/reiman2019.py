"""The networks of Reiman & Goehre (2019, MNRAS 485, 2617): generator, discriminator, VGG19.

The generator has one root and a branch per galaxy. The discriminator judges its images. VGG19
(Simonyan & Zisserman 2015) gives the features in which the burn-in compares images; it is built
without torchvision, for weight files in torchvision's layout. Two families of weights have that
layout and take different inputs; the paper used the second:

===========  ======================================================  ==================
preprocess   weights                                                 input
===========  ======================================================  ==================
torchvision  trained by torchvision; the default                     RGB in [0, 1], less
                                                                     mean, over deviation
caffe        trained by Simonyan & Zisserman; in Keras and the       BGR in [0, 255],
             paper, here converted to torchvision's layout           less mean
===========  ======================================================  ==================

The paper's "images in [0, 255] less the ImageNet means" is the second; the first has the same
means to 1 % and divides by the standard deviation. With the wrong input every feature is far from
its trained range; with the right one both give features of the same depth and meaning, on
different scales, to which Adam is indifferent.
"""

import hashlib
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from .blocks import draw_marks
from .heads import look_around, pool


@dataclass(frozen=True)
class BranchedGeneratorConfig:
    """Shape of a `BranchedGenerator`; the network is built from this alone.

    The defaults are the paper's, except ``distance``: 1.72 million parameters, 10.9 billion
    multiplications for a stamp of 80x80 pixels.

    Parameters
    ----------
    bands : int
        Number of bands of blend and components.
    width : int
        Features of every layer in between.
    root_blocks : int
        Residual blocks that all branches share, M in the paper.
    branch_blocks : int
        Residual blocks of each branch, N in the paper.
    branches : int
        Number of components: the central one first.
    distance : bool
        Whether the distance from the centre is one more input band; in the paper it is not.
    """

    bands: int = 3
    width: int = 64
    root_blocks: int = 10
    branch_blocks: int = 6
    branches: int = 2
    distance: bool = True

    def __post_init__(self):
        for name, value in vars(self).items():
            least = 0 if name.endswith("_blocks") or name == "distance" else 1
            if value < least:
                raise ValueError(f"{name}={value} is too few; give {least} or more")


class _ResidualBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(
            # Batch normalisation subtracts the mean, so a bias before it would have no effect.
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width, init=0.0),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x):
        return x + self.layers(x)


class BranchedGenerator(nn.Module):
    """The paper's branched residual generator, derived from SRGAN (Ledig et al. 2017).

    Parameters
    ----------
    config : BranchedGeneratorConfig
        The shape of the network.

    Attributes
    ----------
    familiarity : Familiarity or None
        Flags blends that differ from those of training, if fitted.
    blend_score : BlendScore or None
        Estimates the probability of more than one galaxy, if fitted.

    Notes
    -----
    The blend is in [0, 1]. The paper's outputs t are in [-1, 1] (tanh); here they are (t + 1) / 2,
    so the paper's pixel loss is four times the mean squared error of these outputs. Weights
    start as in the published code (Glorot & Bengio 2010, uniform; biases and the slopes of the
    PReLUs at zero).

    The published code has a PReLU slope for every pixel of an 80x80 grid, nine million in all,
    which also encode the position of the middle. Here there is one per feature, as in SRGAN, so
    that the network takes any size, and the distance from the centre is one more input band.
    With neither (``distance=False``), both branches were equal after 500 updates of 16 blends
    and improved no further.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.familiarity = self.blend_score = None
        width = config.width
        self.first = nn.Sequential(
            nn.Conv2d(config.bands + config.distance, width, 9, padding=4),
            nn.PReLU(width, init=0.0),
        )
        self.root = nn.Sequential(
            *(_ResidualBlock(width) for _ in range(config.root_blocks)),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.branches = nn.ModuleList(
            nn.Sequential(
                *(_ResidualBlock(width) for _ in range(config.branch_blocks)),
                nn.Conv2d(width, config.bands, 9, padding=4),
                nn.Tanh(),
            )
            for _ in range(config.branches)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(
        self, blend, positions=None, present=None, *, with_features=False, with_blend_score=False
    ):
        """Take blends apart, as `astrodeblend.networks` states.

        Blends and components are in [0, 1]; of the positions only the first is used. This network
        does not estimate its errors: the standard deviation is None.

        Parameters
        ----------
        blend, positions, present : torch.Tensor
            As every generator takes them.
        with_features, with_blend_score : bool, optional
            Also return features, and the probability of more than one galaxy.
        """
        shallow = self._shallow(blend, positions)  # (n, width, y, x)
        x = shallow + self.root(shallow)
        more = (pool(shallow, x),) if with_features else ()
        more += (self.blend_score(look_around(blend, shallow, x)),) if with_blend_score else ()
        components = torch.stack([branch(x) for branch in self.branches], dim=1)
        return (components.float() + 1) / 2, None, *more

    def blend_features(self, blend, positions=None, present=None):
        """Return the features that `BlendScore` takes, without deblending.

        Parameters
        ----------
        blend, positions, present : torch.Tensor
            As every generator takes them.
        """
        shallow = self._shallow(blend, positions)
        return look_around(blend, shallow, shallow + self.root(shallow))

    def _shallow(self, blend, positions):
        """Return the first features; distance is in half widths of the paper's 80-pixel stamps."""
        if self.config.distance:
            blend = torch.cat([blend, draw_marks(blend, positions)[0] / 40], dim=1)
        return self.first(blend)


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
        layers = [nn.Conv2d(config.bands, config.width, 3, padding=1), nn.LeakyReLU(0.2)]
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
        """Return the logits of the probability that images are real, shape (n,).

        Parameters
        ----------
        images : torch.Tensor
            Shape (n, bands, pixels, pixels), values in [0, 1].
        """
        expected = (self.config.bands, self.config.pixels, self.config.pixels)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(
                f"images have shape {tuple(images.shape)}; this discriminator takes "
                f"(n, {', '.join(map(str, expected))})"
            )
        return self.judge(self.features(2 * images - 1)).squeeze(1)


# Features of the convolutions up to conv5_4, the deepest; M halves the grid.
_LAYERS = (64, 64, "M", 128, 128, "M", *4 * (256,), "M", *4 * (512,), "M", *4 * (512,))
_SIZE = 224  # pixels: width of the images that VGG19 was trained on

# Mean and standard deviation of R, G, B in [0, 1] for each kind of weights.
_PREPROCESS = {
    "torchvision": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "caffe": (tuple(v / 255 for v in (123.68, 116.779, 103.939)), 3 * (1 / 255,)),
}

_NAME = "vgg19-dcbb9e9d.pth"
_URL = f"https://download.pytorch.org/models/{_NAME}"
_SHA256 = "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44"


class VGG19Features(nn.Module):
    """VGG19 up to its deepest convolution, conv5_4, with the ReLU after it.

    The output is that of layer ``block5_conv4`` in Keras, which the published code of Reiman
    & Goehre (2019) compares, and of ``features[35]`` in torchvision; the weights of the
    convolution are ``features.34``. Parameters have torchvision's names and start at random;
    `load_vgg19` returns the trained network.

    Parameters
    ----------
    preprocess : {'torchvision', 'caffe'}, optional
        How images are scaled for the weights; see the module.
    """

    def __init__(self, preprocess="torchvision"):
        super().__init__()
        if preprocess not in _PREPROCESS:
            raise ValueError(f"preprocess={preprocess!r}; choose one of {', '.join(_PREPROCESS)}")
        self.preprocess = preprocess
        mean, scale = (torch.tensor(v).view(3, 1, 1) for v in _PREPROCESS[preprocess])
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        layers, before = [], 3
        for width in _LAYERS:
            if width == "M":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True)]
                before = width
        self.features = nn.Sequential(*layers)

    def forward(self, images):
        """Return the features of images, shape (n, 512, 14, 14).

        Parameters
        ----------
        images : torch.Tensor
            Shape (n, 3, y, x), bands R, G, B, values in [0, 1]. They are resized to 224x224
            (bilinear) first.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images have shape {tuple(images.shape)}; VGG19 takes (n, 3, y, x), "
                "for other bands leave out the burn-in"
            )
        x = nn.functional.interpolate(
            images, size=(_SIZE, _SIZE), mode="bilinear", align_corners=False
        )
        x = (x - self.mean) / self.scale
        return self.features(x.flip(1) if self.preprocess == "caffe" else x)


def load_vgg19(path=None, *, preprocess="torchvision"):
    """Load the trained features of VGG19, frozen.

    Parameters
    ----------
    path : str or path-like, optional
        A file in torchvision's layout (``features.0.weight`` and so on; the classifier is not
        needed), safetensors or what `torch.save` writes. By default torchvision's own file
        of 548 MB is fetched once to the cache of `torch.hub` (under ``TORCH_HOME``); its
        sha256 is checked every time.
    preprocess : {'torchvision', 'caffe'}, optional
        How images are scaled for these weights; see the module.

    Returns
    -------
    VGG19Features
        In evaluation mode; gradients pass through it but its weights have none.

    Raises
    ------
    OSError, ValueError
        If there is no such file, it cannot be fetched, or it does not hold these weights.
    """
    network = VGG19Features(preprocess)
    path = _fetch() if path is None else Path(path)
    weights = _read(path)
    for name, parameter in network.state_dict().items():
        if name not in weights or weights[name].shape != parameter.shape:
            found = tuple(weights[name].shape) if name in weights else "nothing"
            raise ValueError(
                f"{str(path)!r} has {found} for {name!r} where VGG19 has "
                f"{tuple(parameter.shape)}; give the weights of VGG19 without batch "
                "normalisation in torchvision's layout"
            )
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    return network.eval().requires_grad_(False)


def _read(path):
    """Return the tensors of a weight file by name, without running code from it."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no weight file {str(path)!r}; give the path of VGG19's")
    hint = "give VGG19's weights as safetensors or as a .pth file that holds tensors only"
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{str(path)!r} is not a weight file that can be read; {hint}") from error
    if not isinstance(weights, dict):
        raise ValueError(f"{str(path)!r} holds a {type(weights).__name__}, not weights; {hint}")
    return {name: value for name, value in weights.items() if torch.is_tensor(value)}


def _fetch():
    path = Path(torch.hub.get_dir()) / "checkpoints" / _NAME
    if path.is_file():
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != _SHA256:
            raise ValueError(
                f"{str(path)!r} differs from the published file (its sha256 is {digest}, not "
                f"{_SHA256}); delete it, and it is fetched again"
            )
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(_URL, str(path), hash_prefix=_SHA256)
    except (OSError, RuntimeError) as error:  # RuntimeError: wrong sha256
        raise OSError(
            f"the weights of VGG19 could not be fetched from {_URL} to {str(path)!r} ({error}); "
            "fetch that file on a machine that can and give its path, or leave out the burn-in"
        ) from error
    return path
