"""Cross-entropy on softened labels, for heads whose labels may be ordered, rare or absent."""

import torch
from torch import Tensor
from torch.nn import functional as F


def soft_labels(count: int, smoothing: float, spread: float) -> Tensor:
    """What each label is turned into: (count, count), rows that sum to 1.

    Args:
        count: labels of the head.
        smoothing: the share that is spread evenly over all labels (Szegedy et al., CVPR 2016).
        spread: for ordered labels the standard deviation, in labels, of the bell that takes the place of the one
            label, so that an answer one bin off costs less than one that is five off; 0: not ordered.
    """
    places = torch.arange(count, dtype=torch.float32)
    if spread:
        bell = torch.exp(-((places[:, None] - places[None]) ** 2) / (2 * spread**2))
        rows = bell / bell.sum(1, keepdim=True)
    else:
        rows = torch.eye(count)
    return rows * (1 - smoothing) + smoothing / count


def soft_cross_entropy(logits: Tensor, labels: Tensor, soft: Tensor, shares: Tensor) -> Tensor:
    """The sum over the batch; rows whose label is -1 count nothing.

    Args:
        logits: (N, C).
        labels: (N,) int64, -1 where there is none.
        soft: (C, C), see :func:`soft_labels`.
        shares: (N,) what each row counts.
    """
    there = shares * (labels >= 0)
    rows = -(soft[labels.clamp(min=0)] * F.log_softmax(logits, 1)).sum(1)
    return (rows * there).sum()


def disagreement(logits: Tensor) -> Tensor:
    """The sum over pairs of rows (0 and 1, 2 and 3, ...) of the mean Kullback-Leibler divergence in both directions.

    Args:
        logits: (2 N, C).
    """
    pairs = F.log_softmax(logits, 1).view(-1, 2, logits.shape[1])
    first, second = pairs[:, 0], pairs[:, 1]
    return ((first.exp() - second.exp()) * (first - second)).sum() / 2
