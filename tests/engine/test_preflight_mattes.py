"""Preflight of mattes: what is said of alpha files that cannot be right."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mmext.engine.preflight import check_loaders
from mmext.engine.preflight_mattes import NUM_MATTES, check_mattes, matte_facts, matte_indices


class Loader:
    """A step that reads `alpha_path`, as a transform does."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        alpha = cv2.imread(results['alpha_path'], cv2.IMREAD_GRAYSCALE)
        if alpha is None:
            raise ValueError(f'{results["alpha_path"]} is no image')
        return dict(results, gt_alpha=alpha.astype(np.float32) / 255)


class Mattes:
    """What the preflight asks of a data set."""

    metainfo: dict[str, Any] = dict(classes=('background', 'foreground'))
    _fully_initialized = True

    def __init__(self, paths: list[Path], *steps: object) -> None:
        self.records = [dict(img_path=str(p), alpha_path=str(p)) for p in paths]
        self.pipeline = type('Pipeline', (), dict(transforms=steps or (Loader(),)))()

    def __len__(self) -> int:
        return len(self.records)

    def get_data_info(self, index: int) -> dict[str, Any]:
        return dict(self.records[index])


def write_mattes(folder: Path, *values: int) -> list[Path]:
    """One matte a value: its left half has the value, its right half 0, or all of it where it is negative."""
    paths = []
    for index, value in enumerate(values):
        alpha = np.full((8, 10), abs(value), np.uint8)
        if value > 0:
            alpha[:, 5:] = 0
        paths.append(folder / f'{index}.png')
        cv2.imwrite(str(paths[-1]), alpha)
    return paths


def test_check__sound_mattes_have_no_findings(tmp_path):
    assert check_mattes('train', Mattes(write_mattes(tmp_path, 255, 255, 102))) == []
    facts = matte_facts('a.png', np.array([[0, 1, 0.5, 0.1]], np.float32))
    assert facts.foreground == pytest.approx(0.4) and facts.soft == pytest.approx(0.5)


def test_check__some_empty_or_full_mattes_are_a_warning(tmp_path):
    findings = check_mattes('train', Mattes(write_mattes(tmp_path, 255, 0, -255)))
    assert [finding.is_error for finding in findings] == [False, False]
    assert '1 of 3' in findings[0].text and 'empty' in findings[0].text
    assert '1.png' in findings[0].text
    assert 'full' in findings[1].text and '2.png' in findings[1].text


@pytest.mark.parametrize(('value', 'text'), [(0, 'nothing'), (-255, 'everything')], ids=str)
def test_check__all_empty_or_all_full_is_an_error(tmp_path, value, text):
    (finding,) = check_mattes('train', Mattes(write_mattes(tmp_path, value, value)))
    assert finding.is_error and f'learns that {text}' in finding.text


def test_check__files_that_cannot_be_read_are_named(tmp_path):
    paths = write_mattes(tmp_path, 255, 255)
    paths[1].write_text('no picture')
    (finding,) = check_mattes('train', Mattes(paths))
    assert finding.is_error and '1 of 2' in finding.text and '1.png is no image' in finding.text


def test_check__a_pipeline_without_a_loader_is_an_error(tmp_path):
    (finding,) = check_mattes('train', Mattes(write_mattes(tmp_path, 255), lambda results: results))
    assert finding.is_error and 'mmext.LoadAlpha' in finding.text


def test_indices__of_large_data_sets_are_spread(tmp_path):
    dataset = Mattes([tmp_path / str(index) for index in range(1000)])
    indices = matte_indices(dataset)
    assert len(indices) == NUM_MATTES and indices[0] == 0 and indices[-1] == 999
    assert matte_indices(Mattes([])) == []


def test_loaders__mattes_are_looked_at(tmp_path):
    datasets = dict(train_dataloader=Mattes(write_mattes(tmp_path, 0)))
    assert any('empty' in finding.text for finding in check_loaders(datasets))
