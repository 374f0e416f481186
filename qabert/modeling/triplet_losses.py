"""Losses over frames: an anchor sentence, one positive, several negatives.  They shape the encoder, before any head.

A loss takes the embeddings `anchor (A, h)`, `positive (A, h)`, `negatives (A, n, h)` of a batch of `A` frames and
`texts (A, 2 + n)`, the number of each frame's sentences in the same order (equal numbers are equal texts; without them
all count as different).  It returns the sum over the anchors.  A new loss is one function and its name in
`TRIPLET_LOSSES`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

#: Cosines are multiplied by this before the softmax, as sentence-transformers does: from -1 to 1 they'd be too flat.
SCALE = 20.0

TripletLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def distances(anchor: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Euclidean distances `(A, n)` of each anchor `(A, h)` to its own others `(A, n, h)`.

    Between equal embeddings the distance is exactly 0, and its gradient 0 instead of NaN.
    """
    return torch.linalg.vector_norm(anchor[:, None] - others, dim=-1)


def equation1(
    anchor: torch.Tensor, positive: torch.Tensor, negatives: torch.Tensor, texts: torch.Tensor | None = None
) -> torch.Tensor:
    """`Σ_i max(0, d(x_i, y_i) − log Σ_j exp d(x_i, z_j))`, d Euclidean (paper, equation 1).

    The sum over `i` is over the batch's anchors, that over `j` over an anchor's own negatives, so no anchor depends on
    another one.  The logarithm follows the farthest negative: an anchor whose positive is nearer than that one adds
    nothing to the gradient (see `hinge_zero_share`).
    """
    return _hinge(anchor, positive, negatives).relu().sum()


def hinge_zero_share(anchor: torch.Tensor, positive: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """Share of the anchors, a scalar from 0 to 1, at which equation 1 is 0 and has no gradient."""
    return (_hinge(anchor, positive, negatives) <= 0).float().mean()


def _hinge(anchor: torch.Tensor, positive: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    return distances(anchor, positive[:, None])[:, 0] - distances(anchor, negatives).logsumexp(dim=-1)


def ranking(
    anchor: torch.Tensor, positive: torch.Tensor, negatives: torch.Tensor, texts: torch.Tensor | None = None
) -> torch.Tensor:
    """Multiple-negatives ranking loss (Henderson et al., 2017, section 4.4), with the frame's own negatives.

    Cross entropy of picking an anchor's positive, by cosine × 20, among its own negatives and the positives of the
    batch's other anchors.  These are counted as a set of texts: one that occurs twice counts once, and the anchor
    itself or its own positive, where they occur again, are no negatives.
    """
    frames, negative = negatives.shape[:2]
    if texts is None:
        texts = torch.arange(frames * (2 + negative), device=anchor.device).view(frames, -1)
    anchor, positive, negatives = (F.normalize(part, dim=-1) for part in (anchor, positive, negatives))
    # Each row: the own positive, the own negatives, then every positive of the batch (the own one again: masked).
    own = torch.cat([positive[:, None], negatives], dim=1)
    scores = SCALE * torch.cat([torch.einsum("ah,anh->an", anchor, own), anchor @ positive.T], dim=1)
    names = torch.cat([texts[:, 1:], texts[:, 1].expand(frames, -1)], dim=1)
    repeated = (names[:, :, None] == names[:, None, :]).tril(-1).any(dim=-1)
    no_negative = repeated | (names == texts[:, :1])
    no_negative[:, 0] = False
    scores = scores.masked_fill(no_negative, float("-inf"))
    return -scores.log_softmax(dim=-1)[:, 0].sum()


TRIPLET_LOSSES: dict[str, TripletLoss] = {"equation1": equation1, "ranking": ranking}
