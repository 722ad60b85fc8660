"""What the texts of a `DEIMMultimodal` bring, class by class: scores, confusions and ablations from one run over the test data."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from numpy.typing import NDArray
from torch import nn

from mmext.apis.fusion_outputs import (
    DecodedBatch,
    DecoderRecorder,
    ImageQueries,
    detector_logits,
    found_objects,
    fused_logits,
    predict_again,
    text_logits,
)
from mmext.apis.fusion_texts import TextChange, changed_texts, other_texts, text_similarity
from mmext.engine.checkpoint import bare_model, read_checkpoint, state_dict_of
from mmext.evaluation.detection_confusion import (
    ObjectTruth,
    confusion_matrix,
    count_found,
    objects_and_queries,
    threshold_of_count,
)
from mmext.models.deim.clip_fusion import MultimodalFusion
from mmext.models.deim.multimodal import DEIMMultimodal

# Name in a report -> name in the results of `mmext.InstanceCocoMetric`.
PRECISIONS = {'AP': 'mAP', 'AP50': 'mAP_50', 'AP75': 'mAP_75'}
ALL = 'all classes'
# The four detectors of a report.
WITHOUT, WITH, TEXTS_ALONE, VISION = 'without texts', 'with texts', 'texts alone', 'vision only'

# By class, and for `ALL`, the averages of `PRECISIONS`; None where there is no object of the class.
Scores = dict[str, dict[str, float | None]]


class FusionRun(NamedTuple):
    """A run over the test data.

    Attributes:
        model: with its checkpoint, in eval mode.
        batches: what its decoder gave.
        samples: what it found.
        scores: as `tools/test.py` has them.
        evaluator: of the run, which scores other detections of the same data.
    """

    model: Any
    batches: list[DecodedBatch]
    samples: list[DetDataSample]
    scores: Scores
    evaluator: Evaluator


def check_model(model: nn.Module) -> DEIMMultimodal:
    """The model of a config that can be analysed.

    Raises:
        ValueError: it has no texts.
    """
    if not isinstance(model, DEIMMultimodal):
        raise ValueError(
            f'got a {type(model).__name__}, which knows no texts; expected the config of a mmext.DEIMMultimodal, such as '
            'configs/deim/deimv2-text_*.py'
        )
    return model


def check_checkpoint_texts(path: str) -> None:
    """A checkpoint must hold texts: those of the config would not be the ones it was trained with.

    Raises:
        FileNotFoundError, ValueError: it cannot be read, or holds none.
    """
    content = read_checkpoint(path)
    weights = state_dict_of(content) if isinstance(content, dict) else {}
    texts = weights.get('fusion.context.text_embeddings')
    if texts is None or not texts.any():
        raise ValueError(
            f'checkpoint {path} has no texts; expected one of a training with texts (mmext.DEIMMultimodal). A detector '
            'without texts can be compared as --vision-only.'
        )


def run_detector(runner: Runner) -> FusionRun:
    """Test a model of `mmext.DEIM` or `mmext.DEIMMultimodal`, and keep what its decoder gives.

    Args:
        runner: with `mmext.InstanceCocoMetric(metric='bbox', classwise=True)` as its only metric.

    Raises:
        ValueError: the model has texts of other classes than those it was trained with; or what the run raises.
    """
    recorder = DecoderRecorder()
    runner.register_hook(recorder, priority='VERY_LOW')
    results = runner.test()
    model: Any = bare_model(runner.model)
    if isinstance(model, DEIMMultimodal) and model.vocabulary != model.classes:
        raise ValueError(
            f'got texts of {", ".join(model.vocabulary)}, expected those of the training, {", ".join(model.classes)}: '
            'the detector has no logits of its own to compare others with. Take VocabularyHook out of custom_hooks.'
        )
    evaluator = runner.test_evaluator
    scores = read_scores(results, evaluator.dataset_meta['classes'])
    return FusionRun(model, recorder.batches, recorder.samples, scores, evaluator)


def read_scores(results: dict[str, float], classes: Sequence[str]) -> Scores:
    """Averages by class from the results of `mmext.InstanceCocoMetric`, which has -1 for none."""

    def value(name: str) -> float | None:
        found = float(results[f'coco/bbox_{name}'])
        return None if found < 0 else found

    scores: Scores = {ALL: {own: value(key) for own, key in PRECISIONS.items()}}
    for name in classes:
        scores[name] = {own: value(f'{name}_{key}') for own, key in PRECISIONS.items()}
    return scores


def score(run: FusionRun, samples: Sequence[DetDataSample]) -> Scores:
    """Score other detections of the data of a run."""
    with _silent_log():
        run.evaluator.process(data_samples=samples)
        results = run.evaluator.evaluate(len(samples))
    return read_scores(results, run.evaluator.dataset_meta['classes'])


def difference(scores: Scores, before: Scores) -> Scores:
    """By how much averages have risen; None where there is none."""
    return {
        name: {
            key: None if value is None else value - float(before[name][key] or 0)
            for key, value in own.items()
        }
        for name, own in scores.items()
    }


def compare_scores(run: FusionRun) -> tuple[dict[str, Scores], dict[str, list[DetDataSample]]]:
    """The averages of the model with its texts, without, and of its texts alone; and what they found."""
    samples = {WITHOUT: predict_again(run.model, run.batches, detector_logits)}
    samples[WITH] = run.samples
    if isinstance(run.model.fusion, MultimodalFusion):  # the other head has no text logits
        samples[TEXTS_ALONE] = predict_again(run.model, run.batches, text_logits)
    scores = {
        name: run.scores if name == WITH else score(run, own) for name, own in samples.items()
    }
    return scores, samples


def ablate(run: FusionRun, changes: Sequence[TextChange]) -> dict[TextChange, dict[str, Scores]]:
    """The averages under changed texts, by change and detector: of the model, and of its texts alone where it has those
    logits. Afterwards it has its own texts again."""
    held = run.model.fusion.context.text_embeddings
    chosen = {WITH: fused_logits}
    if isinstance(run.model.fusion, MultimodalFusion):
        chosen[TEXTS_ALONE] = text_logits
    scores = {}
    for change in changes:
        with other_texts(run.model, changed_texts(held, run.model.classes, change)):
            scores[change] = {
                name: score(run, predict_again(run.model, run.batches, choose))
                for name, choose in chosen.items()
            }
    return scores


def count_confusions(
    samples: Mapping[str, Sequence[DetDataSample]],
    truth: Mapping[int, ObjectTruth],
    num_classes: int,
    score_thr: float,
) -> tuple[dict[str, NDArray[np.int64]], dict[str, float]]:
    """`confusion_matrix` of several detectors, each with its surest detections, equally many.

    Texts may raise or lower all scores as a whole; at one threshold for all, that alone would look like a difference.

    Args:
        samples: by detector; one of them is `WITHOUT`.
        truth: by image.
        num_classes: K.
        score_thr: of `WITHOUT`. The others' is where they have as many detections; the same where that one has none.

    Returns:
        Matrices and thresholds by detector.
    """
    found = {name: [found_objects(one) for one in own] for name, own in samples.items()}
    count = count_found(found[WITHOUT], score_thr)
    thresholds = {
        name: threshold_of_count(own, count) if count and name != WITHOUT else score_thr
        for name, own in found.items()
    }
    # Each with its own order of the images: a sampler may shuffle.
    objects = {name: [truth[one.img_id] for one in own] for name, own in samples.items()}
    matrices = {
        name: confusion_matrix(
            zip(own, objects[name], strict=True), num_classes, score_thr=thresholds[name]
        )
        for name, own in found.items()
    }
    return matrices, thresholds


def object_similarity(
    images: Sequence[ImageQueries], truth: Mapping[int, ObjectTruth], num_classes: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """What the queries on the objects have in common with the texts, whatever was found there.

    Of each object the query counts whose box overlaps it most, by an IoU of at least 0.5.

    Returns:
        (K, K) mean cosine by class of the object (row) and text (column), NaN where no object has a query; (K,) how many have
        one, and for how many of them the text of their own class is the most similar.
    """
    sums = np.zeros((num_classes, num_classes))
    counts, own_first = (np.zeros(num_classes, dtype=np.int64) for _ in range(2))
    for image in images:
        own = truth[image.img_id]
        objects, queries = objects_and_queries(image.boxes, own)
        labels, cosines = own.labels[objects], image.similarity[queries]
        np.add.at(sums, labels, cosines)
        np.add.at(counts, labels, 1)
        np.add.at(own_first, labels, (cosines.argmax(axis=1) == labels).astype(np.int64))
    with np.errstate(invalid='ignore'):
        means = sums / np.where(counts, counts, np.nan)[:, None]
    return means, counts, own_first


def choose_images(
    images: Sequence[ImageQueries], truth: Mapping[int, ObjectTruth], number: int
) -> list[ImageQueries]:
    """Images to look at: always the one that shows most classes not shown yet, the first of several."""
    rest = [image for image in images if len(truth[image.img_id].labels)]
    chosen: list[ImageQueries] = []
    shown: set[int] = set()
    while rest and len(chosen) < number:
        news = [len(set(truth[image.img_id].labels.tolist()) - shown) for image in rest]
        if not max(news) and shown:
            shown = set()
            continue
        best = rest.pop(int(np.argmax(news)))
        shown |= set(truth[best.img_id].labels.tolist())
        chosen.append(best)
    return chosen


@torch.no_grad()
def describe_fusion(model: DEIMMultimodal) -> dict[str, Any]:
    """`gate`, `temperature` and `bias` (None where the head has none), and the cosines between its texts: `embeddings`, as the
    text model made them, and `projected`, as the head sees them."""
    fusion, context = model.fusion, model.fusion.context
    queries = context.visual_projection[0].weight[None, :1]  # any will do
    numbers = {
        name: getattr(fusion, name).item() if hasattr(fusion, name) else None
        for name in ('gate', 'bias')
    }
    return dict(
        kind=type(fusion).__name__,
        **numbers,
        temperature=1 / context.scale.item(),
        embeddings=text_similarity(context.text_embeddings).tolist(),
        projected=text_similarity(context(queries).texts).tolist(),
    )


@contextmanager
def _silent_log() -> Iterator[None]:
    """Without the metric's table of every variant."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')
    try:
        yield
    finally:
        logger.setLevel(level)
