"""Features of VGG19 (Simonyan & Zisserman 2015), in which the burn-in compares images.

Built without torchvision, for weight files in torchvision's layout. Two families of weights
have that layout and take different inputs; the paper used the second.

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
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

__all__ = ["VGG19Features", "load_vgg19"]

# Features of the convolutions up to conv5_4, the deepest; M halves the grid.
_LAYERS = (64, 64, "M", 128, 128, "M", *4 * (256,), "M", *4 * (512,), "M", *4 * (512,))
_SIZE = 224

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

    Raises
    ------
    ValueError
        If ``preprocess`` is not one of these.
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
        """Compute the features of images.

        Parameters
        ----------
        images : torch.Tensor
            Shape (n, 3, y, x), bands R, G, B, values in [0, 1]. They are resized to 224x224
            (bilinear) first.

        Returns
        -------
        torch.Tensor
            Shape (n, 512, 14, 14).

        Raises
        ------
        ValueError
            If the images do not have three bands.
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
    FileNotFoundError
        If there is no file at ``path``.
    OSError
        If the weights cannot be fetched.
    ValueError
        If the file cannot be read, is not the one expected, or its weights do not fit.
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
