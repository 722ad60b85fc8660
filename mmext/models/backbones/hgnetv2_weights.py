"""Published weights of HGNetv2: the files `PPHGNetV2_B*_stage1.pth`, or the backbone inside of a whole detector.

Sources: PaddlePaddle's PP-HGNetV2, converted for D-FINE (https://arxiv.org/abs/2410.13842). The names are those of
`HGNetv2`. The sizes atto, femto and pico were never pre-trained; DEIMv2 starts them from the file of B0, of which
they are a part, except for the last stage of atto, whose kernels and channels differ.
"""

import re
from pathlib import Path

from torch import nn

from mmext.models.backbones.pretrained import backbone_entries, fill_backbone
from mmext.models.common.weight_files import read_weight_file

_LAST_STAGE_OF_ATTO = re.compile(r'stages\.2\.blocks\.')


def load_pretrained(backbone: nn.Module, path: str | Path, *, is_atto: bool) -> None:
    """Fill an `HGNetv2` from a file.

    Args:
        backbone: Receives the weights.
        path: A .pth or .safetensors file, which is read without executing anything from it.
        is_atto: Whether the last stage may keep random values.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is damaged, or entries are missing, of another shape or not finite.
    """
    tensors = backbone_entries(read_weight_file(path).tensors)
    may_differ = _LAST_STAGE_OF_ATTO if is_atto else None
    fill_backbone(backbone, tensors, str(path), may_differ=may_differ)
