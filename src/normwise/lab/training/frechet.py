"""The quality of generated images: their Fréchet distance to real ones, and the number of classes that they cover.

Both come from the outputs of a classifier that was trained on the real images, as Heusel et al. 2017 do with
Inception's features. For features with mean m and covariance C the distance is that between two normal
distributions:

    |m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2))

It is 0 for equal moments; by chance it is larger the fewer images there are, so that real images have one too.

References:
    M. Heusel, H. Ramsauer, T. Unterthiner, B. Nessler and S. Hochreiter, GANs Trained by a Two Time-Scale Update Rule
    Converge to a Local Nash Equilibrium, 2017, arXiv:1706.08500.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from normwise.lab.data.splits import CLASSES, Digits, pixels
from normwise.lab.intervals import Numbers
from normwise.lab.networks.dense import draw, he
from normwise.lab.training.descent import train
from normwise.torch import BatchNorm1d

SURE = 0.9
"""An image counts for a class that the classifier gives at least this probability."""
SHARE = 0.2
"""A class is covered by at least this part of the images that each class would have if all had as many."""


def distance(ours: Numbers, theirs: Numbers) -> float:
    """Fréchet distance between two sets of features, each of shape (n, features); infinite where one is not finite.

    Example:
        >>> import numpy as np
        >>> corners = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> round(distance(corners, corners + 3), 6)
        18.0
    """
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return float("inf")  # of a generator that diverged
    ours_covariance, theirs_covariance = np.cov(ours.T), np.cov(theirs.T)
    values, vectors = np.linalg.eigh(ours_covariance)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    # the trace of (C1 C2)^(1/2) is that of (C1^(1/2) C2 C1^(1/2))^(1/2), whose matrix is symmetric
    common = np.sqrt(np.linalg.eigvalsh(root @ theirs_covariance @ root).clip(0)).sum()
    apart = np.square(ours.mean(axis=0) - theirs.mean(axis=0)).sum()
    return float(apart + np.trace(ours_covariance) + np.trace(theirs_covariance) - 2 * common)


class Examiner:
    """A classifier that was trained on real images, and what it finds in made ones.

    Args:
        data: it learns from the training part.
        seed: of its weights and of the order of the images.
        width: units of its first hidden layer.
        features: units of its second one, whose activations are the features.
        steps: of its training.
    """

    def __init__(self, data: Digits, seed: int, *, width: int = 64, features: int = 32, steps: int = 500) -> None:
        numbers = torch.Generator().manual_seed(seed)
        linear = [nn.Linear(pixels(), width), nn.Linear(width, features), nn.Linear(features, CLASSES)]
        for layer in linear:
            draw(layer, he(layer.in_features), numbers)
        first, second, readout = linear
        hidden = (first, BatchNorm1d(width), nn.ReLU(), second, BatchNorm1d(features), nn.ReLU())
        self.features, self.readout = nn.Sequential(*hidden), readout
        self.classifier = nn.Sequential(self.features, readout)
        train(self.classifier, data.train, rate=0.3, steps=steps, batch=60, seed=seed)
        self.classifier.eval()

    def seen(self, images: Tensor) -> Numbers:
        """The features of images, shape (n, features)."""
        with torch.no_grad():
            found: Numbers = self.features(images).double().numpy()
        return found

    def classes(self, images: Tensor) -> int:
        """The number of classes that the images cover; see ``SURE`` and ``SHARE``."""
        with torch.no_grad():
            sureness, label = self.classifier(images).softmax(dim=1).max(dim=1)
        counts = torch.bincount(label[sureness >= SURE], minlength=CLASSES)
        return int((counts >= SHARE * len(images) / CLASSES).sum())
