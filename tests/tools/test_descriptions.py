"""`tools/test.py --descriptions`: what is told the model, and when."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.logging import MMLogger
from torch import nn

from mmext.engine.hooks import PreflightHook, VocabularyHook
from mmext.models.deim.multimodal import DEIMMultimodal
from mmext.registry import HOOKS, MODELS
from mmext.tools.test import use_descriptions
from tests.systems import TEXT_CLASSES, TEXT_EMBEDDINGS, deim_text


def runner_of(model: nn.Module, classes: tuple[str, ...]) -> SimpleNamespace:
    dataset = SimpleNamespace(metainfo=dict(classes=classes))
    return SimpleNamespace(
        model=model,
        test_dataloader=SimpleNamespace(dataset=dataset),
        logger=MMLogger.get_instance('descriptions'),
    )


def test_vocabulary_hook__the_texts_of_the_test_data() -> None:
    model = MODELS.build(deim_text())
    assert isinstance(model, DEIMMultimodal)
    names = TEXT_CLASSES[::-1][:2]
    VocabularyHook(str(TEXT_EMBEDDINGS)).before_test(runner_of(model, names))
    assert len(model.vocabulary) == 2 and model.fusion.own_classes == [2, 1]


@pytest.mark.parametrize(
    ('classes', 'message'),
    [((), 'without class names'), (('crack', 'hole'), 'no text embedding of hole')],
    ids=['no classes', 'no text'],
)
def test_vocabulary_hook__classes_without_texts(classes: tuple, message: str) -> None:
    model = MODELS.build(deim_text())
    with pytest.raises(ValueError, match=message):
        VocabularyHook(str(TEXT_EMBEDDINGS)).before_test(runner_of(model, classes))


def test_vocabulary_hook__model_without_texts_is_refused() -> None:
    hook = VocabularyHook(str(TEXT_EMBEDDINGS))
    with pytest.raises(ValueError, match='got a Linear, which knows no texts'):
        hook.before_test(runner_of(nn.Linear(1, 1), TEXT_CLASSES))


def test_descriptions__stand_before_the_preflight_and_without_an_average(tmp_path: Path) -> None:
    cfg = Config(
        dict(custom_hooks=[dict(type='mmext.StepEMAHook'), dict(type='mmext.PreflightHook')])
    )
    use_descriptions(cfg, str(TEXT_EMBEDDINGS))
    first, second = (HOOKS.build(hook) for hook in cfg.custom_hooks)
    assert isinstance(first, VocabularyHook) and isinstance(second, PreflightHook)
    # Of equal priority: the Runner keeps the order of the list.
    assert first.priority == second.priority
    with pytest.raises(FileNotFoundError, match='--descriptions: .*nowhere'):
        use_descriptions(cfg, str(tmp_path / 'nowhere.safetensors'))
