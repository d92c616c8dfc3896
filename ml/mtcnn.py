"""The three networks of MTCNN in torch, filled with the weights of the `mtcnn` package.

Each takes what `ml.faces` cuts out of a photo, RGB 0..255 (N, H, W, 3), and gives (N, …) arrays in its order.
"""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ml.mtcnn_weights import read_weights


def load_net(name: str) -> nn.Module:
    """Build "pnet", "rnet" or "onet" in eval mode.

    Raises DetectorError where the weights are missing or altered.
    """
    net = NETS[name]()
    _fill(net, read_weights(name))
    _take_bytes(net)
    return net.eval()


class ProposalNet(nn.Module):
    """(N, H, W, 3) -> (N, h, w, 6): a cell's four box offsets, and the logits of no face and of a face.

    In one array: what is left to do, a cell in a hundred needs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 10, 3), nn.PReLU(10), nn.MaxPool2d(2, 2, ceil_mode=True)),
            *(nn.Conv2d(10, 16, 3), nn.PReLU(16)),
            *(nn.Conv2d(16, 32, 3), nn.PReLU(32)),
        )
        self.offsets = nn.Conv2d(32, 4, 1)
        self.classes = nn.Conv2d(32, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        x = self.features(x.permute(0, 3, 1, 2))
        heads = zip(self.offsets.parameters(), self.classes.parameters(), strict=True)
        weight, bias = (torch.cat(parts) for parts in heads)
        return (F.conv2d(x, weight, bias).permute(0, 2, 3, 1),)


class RefineNet(nn.Module):
    """(N, 24, 24, 3) -> box offsets (N, 4) and face probabilities (N,)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 28, 3), nn.PReLU(28), nn.MaxPool2d(3, 2, ceil_mode=True)),
            *(nn.Conv2d(28, 48, 3), nn.PReLU(48), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(48, 64, 2), nn.PReLU(64)),
            *(FlattenByColumn(), nn.Linear(576, 128), nn.PReLU(128)),
        )
        self.offsets = nn.Linear(128, 4)
        self.classes = nn.Linear(128, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.features(x.permute(0, 3, 1, 2))
        return self.offsets(x), self.classes(x).softmax(dim=1)[:, 1]


class OutputNet(nn.Module):
    """(N, 48, 48, 3) -> box offsets (N, 4), face probabilities (N,) and five x, then five y (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 32, 3), nn.PReLU(32), nn.MaxPool2d(3, 2, ceil_mode=True)),
            *(nn.Conv2d(32, 64, 3), nn.PReLU(64), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 64, 3), nn.PReLU(64), nn.MaxPool2d(2, 2, ceil_mode=True)),
            *(nn.Conv2d(64, 128, 2), nn.PReLU(128)),
            *(FlattenByColumn(), nn.Linear(1152, 256), nn.PReLU(256)),
        )
        self.offsets = nn.Linear(256, 4)
        self.landmarks = nn.Linear(256, 10)
        self.classes = nn.Linear(256, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.features(x.permute(0, 3, 1, 2))
        return self.offsets(x), self.classes(x).softmax(dim=1)[:, 1], self.landmarks(x)


class FlattenByColumn(nn.Module):
    """(N, C, H, W) -> (N, W * H * C): the order the dense weights were trained in."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 2, 1).flatten(1)


NETS: Final[dict[str, type[nn.Module]]] = {"pnet": ProposalNet, "rnet": RefineNet, "onet": OutputNet}


@torch.no_grad()
def _fill(net: nn.Module, weights: list[NDArray[np.float32]]) -> None:
    """Copy Keras weights into a network whose layers are declared in the same order."""
    for parameter, array in zip(net.parameters(), weights, strict=True):
        if array.ndim == 4:  # a kernel: height, width, in, out -> out, in, height, width
            array = array.transpose(3, 2, 0, 1)
        elif array.ndim == 2:  # a dense layer: in, out -> out, in
            array = array.T
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(array)).reshape(parameter.shape))


@torch.no_grad()
def _take_bytes(net: nn.Module) -> None:
    """Let the first layer scale 0..255 to (x - 127.5) / 128, what the weights were trained on."""
    weight, bias = list(net.parameters())[:2]
    bias.sub_(weight.sum(dim=(1, 2, 3)) * (127.5 / 128))
    weight.div_(128)
