"""Split images into train, val and test so that groups stay whole and classes keep their shares."""

from collections import defaultdict

import numpy as np

from mmext.datasets.converters.records import ImageRecord

SPLITS = ('train', 'val', 'test')
# Orders of dealing that are tried; fewer for very many groups, so that it takes about a second.
MAX_ORDERS = 100
MAX_DEALT = 50_000


def assign_splits(images: list[ImageRecord], fractions: tuple[float, ...], seed: int) -> None:
    """Fill in the split of every image that has none.

    Groups are dealt out roughly from the largest to the smallest, each to the split where it brings the
    shares of its classes closest to `fractions`.

    Args:
        images: Changed in place. Images without `group` are groups of their own.
        fractions: Shares of train, val and test, which sum to 1; a share of 0 leaves the split empty.
        seed: Of the orders in which groups are dealt out.

    Raises:
        ValueError: The fractions are not three shares that sum to 1.
    """
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f'Got split fractions {fractions}, expected three shares that sum to 1.')
    groups: dict[str, list[ImageRecord]] = defaultdict(list)
    for index, image in enumerate(images):
        if image.split is None:
            groups[image.group or f'image {index}'].append(image)
    strata = sorted({_stratum(image) for group in groups.values() for image in group})
    counts = np.array(
        [[sum(_stratum(i) == s for i in group) for s in strata] for group in groups.values()],
        dtype=float,
    ).reshape(len(groups), len(strata))
    dealt = _deal(counts, np.array(fractions, dtype=float), seed)
    for group, split in zip(groups.values(), dealt, strict=True):
        for image in group:
            image.split = SPLITS[split]


def _stratum(image: ImageRecord) -> str:
    return image.stratum or (image.objects[0].category if image.objects else '')


def _deal(counts: np.ndarray, fractions: np.ndarray, seed: int) -> np.ndarray:
    """Split index of each group, from images of each class in each group (G, C) and the shares (3,).

    The best of several greedy deals: with few groups the order of dealing decides how well the shares are
    met, with many groups any order meets them.
    """
    if not len(counts):
        return np.zeros(0, dtype=int)
    # Of each class in each group, so that rare classes weigh as much.
    shares = counts / counts.sum(axis=0)
    rng = np.random.default_rng(seed)
    best, best_cost = np.zeros(len(counts), dtype=int), np.inf
    for _ in range(max(1, min(MAX_ORDERS, MAX_DEALT // len(counts)))):
        order = np.argsort(-shares.sum(axis=1) * rng.uniform(0.5, 1.5, len(shares)))
        chosen, missing = _deal_in_order(shares, fractions, order)
        cost = float((missing**2).sum())
        if cost < best_cost:
            best, best_cost = chosen, cost
    return best


def _deal_in_order(
    shares: np.ndarray, fractions: np.ndarray, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Split index of each group (G,) and the shares that each split lacks of each class (3, C)."""
    missing = np.repeat(fractions[:, None], shares.shape[1], axis=1)
    chosen = np.zeros(len(shares), dtype=int)
    for group in order:
        # How much nearer the split comes to its shares: missing^2 - (missing - share)^2, summed.
        gain = (2 * missing * shares[group] - shares[group] ** 2).sum(axis=1)
        chosen[group] = int(np.argmax(np.where(fractions > 0, gain, -np.inf)))
        missing[chosen[group]] -= shares[group]
    return chosen, missing
