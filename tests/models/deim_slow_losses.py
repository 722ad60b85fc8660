"""The losses of DEIM as slow loops over numbers, from the formulas of the papers; for tests to compare with."""

from collections import Counter
from collections.abc import Sequence
from math import exp, log, sqrt

import numpy as np
from scipy.optimize import linear_sum_assignment
from torch import Tensor

Box = Sequence[float]
Pair = tuple[int, int, int]  # image, query, object of the image

WEIGHTS = dict(mal=1.0, bbox=5.0, giou=2.0, fgl=0.15, ddf=1.5)


def sigmoid(logit: float) -> float:
    return 1 / (1 + exp(-logit))


def corners(box: Box) -> Box:
    x, y, width, height = box
    width, height = max(width, 0), max(height, 0)
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def areas(box: Box, other: Box) -> tuple[float, float, float]:
    """Intersection, union and hull of two boxes cxcywh."""
    (a, b, c, d), (e, f, g, h) = corners(box), corners(other)
    intersection = max(min(c, g) - max(a, e), 0) * max(min(d, h) - max(b, f), 0)
    union = (c - a) * (d - b) + (g - e) * (h - f) - intersection
    return intersection, union, (max(c, g) - min(a, e)) * (max(d, h) - min(b, f))


def iou(box: Box, other: Box) -> float:
    intersection, union, _ = areas(box, other)
    return intersection / union


def giou(box: Box, other: Box) -> float:
    intersection, union, hull = areas(box, other)
    return intersection / union - (hull - union) / hull


def l1(box: Box, other: Box) -> float:
    return sum(abs(a - b) for a, b in zip(box, other, strict=True))


def early_cost(logits: Sequence[float], box: Box, label: int, truth: Box) -> float:
    p = sigmoid(logits[label])
    focal = 0.25 * (1 - p) ** 2 * -log(p + 1e-8) - 0.75 * p**2 * -log(1 - p + 1e-8)
    return 2 * focal + 5 * l1(box, truth) - 2 * giou(box, truth)


def late_cost(logits: Sequence[float], box: Box, label: int, truth: Box) -> float:
    return -sigmoid(logits[label]) * iou(box, truth) ** 4


def match(logits: Tensor, boxes: Tensor, targets: Sequence, *, late: bool) -> list[Pair]:
    """Pairs of one output: logits (B, Q, C), boxes (B, Q, 4)."""
    cost = late_cost if late else early_cost
    pairs = []
    for image, (labels, truths) in enumerate(targets):
        objects = list(zip(labels.tolist(), truths.tolist(), strict=True))
        queries = list(zip(logits[image].tolist(), boxes[image].tolist(), strict=True))
        matrix = [[cost(*query, *thing) for thing in objects] for query in queries]
        rows, columns = linear_sum_assignment(np.array(matrix).reshape(len(queries), len(objects)))
        pairs += [(image, int(q), int(g)) for q, g in zip(rows, columns, strict=True)]
    return pairs


def merge(outputs: Sequence[Sequence[Pair]]) -> list[Pair]:
    """Every query of any output with the object that it has most often, the higher one among equals."""
    counts: dict[tuple[int, int], Counter] = {}
    for pairs in outputs:
        for image, query, thing in pairs:
            counts.setdefault((image, query), Counter())[thing] += 1
    return [
        (image, query, max(own, key=lambda thing: (own[thing], thing)))
        for (image, query), own in sorted(counts.items())
    ]


def mal(logits: Tensor, boxes: Tensor, pairs: Sequence[Pair], targets: Sequence) -> float:
    found = {
        (image, query): (targets[image].labels[g].item(), targets[image].boxes[g].tolist())
        for image, query, g in pairs
    }
    total = 0.0
    for image, own in enumerate(logits.tolist()):
        for query, scores in enumerate(own):
            label, truth = found.get((image, query), (None, None))
            for index, logit in enumerate(scores):
                p = sigmoid(logit)
                if index == label:
                    target = iou(boxes[image, query].tolist(), truth) ** 1.5
                    total -= target * log(p) + (1 - target) * log(1 - p)
                else:
                    total -= p**1.5 * log(1 - p)
    return total


def box_losses(boxes: Tensor, pairs: Sequence[Pair], targets: Sequence) -> tuple[float, float]:
    """Sums of L1 and 1 - GIoU."""
    both = [(boxes[i, q].tolist(), targets[i].boxes[g].tolist()) for i, q, g in pairs]
    return sum(l1(*pair) for pair in both), sum(1 - giou(*pair) for pair in both)


def log_softmax(logits: Sequence[float]) -> list[float]:
    normaliser = log(sum(exp(logit) for logit in logits))
    return [logit - normaliser for logit in logits]


def fgl_of_edge(distance: float, logits: Sequence[float], bins: Sequence[float]) -> float:
    log_probs = log_softmax(logits)
    if distance <= bins[0]:
        return -log_probs[0]
    if distance >= bins[-1]:
        return -log_probs[-1]
    k = sum(value <= distance for value in bins) - 1
    right = (distance - bins[k]) / (bins[k + 1] - bins[k])
    return -(1 - right) * log_probs[k] - right * log_probs[k + 1]


def fgl(layer, pairs: Sequence[Pair], targets: Sequence, bins: Tensor, scale: float) -> float:
    """Sum of one layer."""
    total = 0.0
    for image, query, g in pairs:
        x, y, width, height = layer.refs[image, query].tolist()
        truth = targets[image].boxes[g].tolist()
        x1, y1, x2, y2 = corners(truth)
        distances = [
            (x - x1) * scale / width - scale / 2,
            (y - y1) * scale / height - scale / 2,
            (x2 - x) * scale / width - scale / 2,
            (y2 - y) * scale / height - scale / 2,
        ]
        edges = layer.corners[image, query].reshape(4, -1).tolist()
        overlap = iou(layer.boxes[image, query].tolist(), truth)
        for distance, logits in zip(distances, edges, strict=True):
            total += overlap * fgl_of_edge(distance, logits, bins.tolist())
    return total


def ddf(layer, teacher, pairs: Sequence[Pair], targets: Sequence, counts: tuple[int, int]) -> float:
    """Of one layer, with the temperature 5."""
    found = {(image, query): targets[image].boxes[g].tolist() for image, query, g in pairs}
    values: dict[bool, list[float]] = {True: [], False: []}
    for image, own in enumerate(layer.corners):
        for query, edges in enumerate(own.unflatten(1, (4, -1)).tolist()):
            truth = found.get((image, query))
            if truth is None:
                weight = max(sigmoid(logit) for logit in teacher.logits[image, query].tolist())
            else:
                weight = iou(layer.boxes[image, query].tolist(), truth)
            taught = teacher.corners[image, query].reshape(4, -1).tolist()
            for logits, goal in zip(edges, taught, strict=True):
                student = log_softmax([logit / 5 for logit in logits])
                aim = log_softmax([logit / 5 for logit in goal])
                kl = sum(exp(t) * (t - s) for t, s in zip(aim, student, strict=True))
                values[truth is not None].append(25 * weight * kl)
    means = [sum(own) / max(len(own), 1) for own in (values[True], values[False])]
    roots = [sqrt(count * 8 / len(targets)) for count in counts]
    return (means[0] * roots[0] + means[1] * roots[1]) / sum(roots)
