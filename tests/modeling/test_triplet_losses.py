"""Triplet losses against the formulas, written out in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from qabert.modeling.triplet_losses import TRIPLET_LOSSES, distances, equation1, hinge_zero_share, ranking
from qabert.training import arguments


def frames(seed: int, anchors: int = 6, negatives: int = 4, hidden: int = 5, spread: float = 1.0):
    """Random embeddings in float64: anchor, positive, negatives."""
    draw = torch.Generator().manual_seed(seed)
    shapes = [(anchors, hidden), (anchors, hidden), (anchors, negatives, hidden)]
    return [spread * torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]


def distance(a, b) -> float:
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def cosine(a, b) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (distance(a, [0.0] * len(a)) * distance(b, [0.0] * len(b)))


def hinge(x, y, z) -> float:
    return distance(x, y) - math.log(sum(math.exp(distance(x, one)) for one in z))


def plain_equation1(anchor, positive, negatives) -> float:
    return sum(max(0.0, hinge(*frame)) for frame in zip(anchor, positive, negatives, strict=True))


def plain_ranking(anchor, positive, negatives, texts) -> float:
    """Candidates as a set of texts: its own positive, its own negatives, the others' positives, never itself."""
    total = 0.0
    for i, x in enumerate(anchor):
        candidates = {texts[i][1]: positive[i]}
        for text, z in zip(texts[i][2:], negatives[i], strict=True):
            candidates.setdefault(text, z)
        for j, y in enumerate(positive):
            if texts[j][1] != texts[i][0]:
                candidates.setdefault(texts[j][1], y)
        scores = {text: 20 * cosine(x, vector) for text, vector in candidates.items()}
        total += math.log(sum(math.exp(score) for score in scores.values())) - scores[texts[i][1]]
    return total


@pytest.mark.parametrize("negatives", [1, 5])
@pytest.mark.parametrize("seed", range(3))
def test_equation_1_is_the_papers(seed, negatives):
    parts = frames(seed, anchors=24, negatives=negatives)
    parts[1] *= 1 + negatives / 4  # else no hinge is open
    expected = plain_equation1(*(part.tolist() for part in parts))
    assert expected > 0.5
    assert equation1(*parts).item() == pytest.approx(expected, rel=1e-12)
    shut = np.mean([hinge(*frame) <= 0 for frame in zip(*(part.tolist() for part in parts), strict=True)])
    assert 0 < shut < 1
    assert hinge_zero_share(*parts).item() == pytest.approx(shut)


def test_equation_1_does_not_overflow():
    parts = frames(0, spread=1e4)
    parts[1] *= 50
    value = equation1(*parts)
    assert math.isfinite(value.item()) and value > 0
    # log Σ exp of distances in the ten thousands is their largest
    far = [max(distance(x, z) for z in of) for x, of in zip(parts[0].tolist(), parts[2].tolist(), strict=True)]
    near = [distance(x, y) for x, y in zip(parts[0].tolist(), parts[1].tolist(), strict=True)]
    assert value.item() == pytest.approx(sum(max(0.0, n - f) for n, f in zip(near, far, strict=True)), rel=1e-6)


def texts_with_repeats() -> torch.Tensor:
    """Six frames of four negatives: shared positives, positives that are anchors, negatives or repeated negatives."""
    texts = torch.arange(36).view(6, 6)
    texts[1, 1] = texts[0, 1]  # the same positive
    texts[2, 1] = texts[0, 1]  # a third time
    texts[3, 1] = texts[4, 0]  # an anchor's positive is another anchor
    texts[5, 1] = texts[4, 2]  # a positive that another anchor has for a negative already
    texts[2, 4] = texts[2, 3]  # the same negative twice
    return texts


@pytest.mark.parametrize("repeats", [False, True])
def test_ranking_counts_each_text_once_and_no_false_negative(repeats):
    texts = texts_with_repeats() if repeats else torch.arange(36).view(6, 6)
    vectors = torch.randn(36, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)[texts]
    parts = vectors[:, 0], vectors[:, 1], vectors[:, 2:]
    expected = plain_ranking(*(part.tolist() for part in parts), texts.tolist())
    assert ranking(*parts, texts).item() == pytest.approx(expected, rel=1e-12)
    unmasked = ranking(*parts).item()
    assert (unmasked == pytest.approx(expected)) is not repeats


def test_ranking_of_equal_frames_has_no_negatives_left():
    """Two anchors with one positive between them: nothing to tell apart, so nothing to learn."""
    vectors = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
    texts = torch.tensor([[0, 1], [2, 1]])
    assert ranking(vectors[[0, 2]], vectors[[1, 1]], vectors.new_zeros(2, 0, 4), texts).item() == 0


@pytest.mark.parametrize("name", TRIPLET_LOSSES)
def test_gradients(name):
    parts = frames(3)
    parts[1] *= 3
    texts = texts_with_repeats()
    for part in parts:
        part.requires_grad_()
    assert torch.autograd.gradcheck(lambda *given: TRIPLET_LOSSES[name](*given, texts), parts)


@pytest.mark.parametrize("name", TRIPLET_LOSSES)
def test_equal_embeddings_have_finite_gradients(name):
    """Equal texts, or an encoder that maps all to one point: distance 0, where a square root's slope is infinite."""
    anchor = torch.randn(3, 4).requires_grad_()
    TRIPLET_LOSSES[name](anchor, anchor.clone(), anchor[:, None].expand(3, 2, 4).clone(), None).backward()
    assert torch.isfinite(anchor.grad).all()
    # an open hinge: the positive far away, one negative exactly on the anchor
    anchor, far = torch.zeros(1, 4, requires_grad=True), torch.full((1, 4), 9.0)
    TRIPLET_LOSSES[name](anchor, far, anchor[:, None] + 0.0, None).backward()
    assert torch.isfinite(anchor.grad).all()


def test_a_shut_hinge_has_no_gradient_and_counts_as_zero():
    parts = [torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.tensor([[[3.0, 0.0]]])]
    for part in parts:
        part.requires_grad_()
    equation1(*parts).backward()
    assert all(not part.grad.any() for part in parts)
    assert hinge_zero_share(*parts).item() == 1


def test_a_loss_is_a_sum_over_anchors():
    parts, cut = frames(4), 2
    parts[1] *= 3
    halves = [equation1(*(part[chosen] for part in parts)) for chosen in (slice(cut), slice(cut, None))]
    assert equation1(*parts).item() == pytest.approx(sum(halves).item())
    # In `ranking` the anchors are each other's negatives: twice the texts are no twice the loss, but never less.
    halves = [ranking(*(part[chosen] for part in parts)) for chosen in (slice(cut), slice(cut, None))]
    assert ranking(*parts).item() > sum(halves).item()


def test_distances_are_exact_where_texts_are_equal():
    x = torch.randn(2, 300) * 100
    assert distances(x, x[:, None]).tolist() == [[0.0], [0.0]]


def test_the_flag_knows_every_loss():
    assert ("none", *TRIPLET_LOSSES) == arguments.TRIPLET_LOSSES
