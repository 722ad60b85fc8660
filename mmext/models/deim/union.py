"""The union of several matchings, on the CPU.

Source: "Go" of D-FINE (https://arxiv.org/abs/2410.13842), section "localization self-distillation": all layers refine
boxes towards one set of pairs, so that the last layer can teach the others.
"""

import numpy as np


def merge_pairs(queries: np.ndarray, objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give every query that occurs the object it occurs with most often.

    An object may end up with several queries. Of objects that occur equally often with a query the higher index wins:
    the original leaves this to an unstable sort, and its reference numbers came out that way.

    Args:
        queries: (m,) int64, at least 0.
        objects: (m,) int64, at least 0.

    Returns:
        The distinct queries (u,) in ascending order, and their objects (u,).
    """
    if len(queries) == 0:
        return queries, objects
    num_objects = objects.max() + 1
    pairs, counts = np.unique(queries * num_objects + objects, return_counts=True)
    ranked = pairs[np.argsort(counts, kind='stable')[::-1]]
    merged, first = np.unique(ranked // num_objects, return_index=True)
    return merged, ranked[first] % num_objects
