"""Preflight of the network input: pre-trained weights know images of one normalisation and one order of channels."""

from typing import Any

from torch import nn

from mmext.engine.preflight_checks import Finding, warning

# Grey levels. Published numbers are rounded, 123.68 for 123.675.
_TOLERANCE = 1.0


def check_pixel_range(model: nn.Module) -> list[Finding]:
    """What the `data_preprocessor` makes of images against what pre-trained parts were trained with.

    Args:
        model: whose parts with a `pixel_range` (mean and std of red, green and blue, pixels in [0, 255]) are looked at.
    """
    findings = []
    preprocessor = getattr(model, 'data_preprocessor', None)
    for path, module in model.named_modules():
        expected = getattr(module, 'pixel_range', None)
        if expected is None or preprocessor is None:
            continue
        found = _pixel_range_of(preprocessor)
        remedy = f'mean={_rounded(expected[0])}, std={_rounded(expected[1])}'
        if any(_differ(*pair) for pair in zip(found, expected, strict=True)):
            findings.append(
                warning(
                    f'model.data_preprocessor normalises with mean={_rounded(found[0])}, std={_rounded(found[1])}, the '
                    f'weights of model.{path} were trained with {remedy}; set that, or train long enough to forget it'
                )
            )
        if not _converts_channels(preprocessor):
            findings.append(
                warning(
                    f'the weights of model.{path} were trained on red, green, blue, and model.data_preprocessor does not '
                    'reorder channels, which LoadImageFromFile gives as blue, green, red; set bgr_to_rgb=True'
                )
            )
    return findings


def _pixel_range_of(preprocessor: Any) -> tuple[list[float], list[float]]:
    """Mean and std of a data_preprocessor of mmdet or mmseg; 0 and 1 where it does not normalise."""
    if getattr(preprocessor, 'mean', None) is None:
        return [0.0] * 3, [1.0] * 3
    mean, std = (value.flatten().tolist() for value in (preprocessor.mean, preprocessor.std))
    return mean, std


def _converts_channels(preprocessor: Any) -> bool:
    # Of mmengine and mmdet, and of mmseg.
    return any(
        getattr(preprocessor, name, False) for name in ('_channel_conversion', 'channel_conversion')
    )


def _differ(found: Any, expected: Any) -> bool:
    # One number may stand for three channels.
    found = list(found) * (3 // len(found)) if len(found) in (1, 3) else found
    return len(found) != len(expected) or any(
        abs(own - other) > _TOLERANCE for own, other in zip(found, expected, strict=True)
    )


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 3) for value in values]
