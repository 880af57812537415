"""Chains of normalized layers with remedies for gradients that explode: shortcuts, and how normalization begins."""

from __future__ import annotations

from torch import Tensor, nn

from normwise.lab.networks.stack import Normalization, Stack
from normwise.torch import BatchNorm1d


class Shortcuts(Stack):
    """A stack with a shortcut around every hidden layer but the first: h + normalize(W activate(h)) follows on h.

    Without the shortcuts it computes what a ``Stack`` of the same seed does.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (members, classes, n) from images of shape (n, pixels)."""
        h = self._layer(0, images.T.expand(self.members, *images.T.shape))
        for i in range(1, self.depth):
            h = h + self._layer(i, self.activate(h))
        return self._linear(-1, self.activate(h))

    def _layer(self, i: int, x: Tensor) -> Tensor:
        return self.normalized(i, self.weighted(i, x))


def beginning(*, eps: float = 1e-5, scale: float = 1.0, shift: float = 0.0) -> Normalization:
    """Makes batch normalization whose scales and shifts begin at other values than 1 and 0.

    Args:
        eps: that is added to the variance.
        scale: where every scale begins.
        shift: where every shift begins.
    """

    def make(channels: int) -> nn.Module:
        layer = BatchNorm1d(channels, eps=eps)
        nn.init.constant_(layer.weight, scale)
        nn.init.constant_(layer.bias, shift)
        return layer

    return make
