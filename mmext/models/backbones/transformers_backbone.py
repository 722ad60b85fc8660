"""Backbones of the library transformers: ResNet, ConvNeXt, Swin, DINOv2 and all others that its `AutoBackbone` knows."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor

from mmext.models.backbones.pretrained import refuse_pretrained, warn_of_random_weights
from mmext.registry import MODELS

# Norms of the maps that are handed on: classifiers, of which most published files are, have none.
NEW_PARTS = 'hidden_states_norms.'


@MODELS.register_module()
class TransformersBackbone(BaseModule):
    """Feature maps of a network of transformers.

        dict(type='mmext.TransformersBackbone', config='models/resnet-50', out_indices=(2, 3, 4), checkpoint='models/resnet-50')

    Nothing is downloaded. Parts behind the last of `out_indices` get no gradient: keep the last stage among them.

    Args:
        config: settings with `model_type`, such as dict(model_type='resnet', depths=[3, 4, 6, 3]); or a folder with the
            `config.json` of a published model.
        out_indices: the stages whose maps are returned, in their order; 0 is the stem, 1 the first stage.
        checkpoint: folder of a published model, `config.json` and `model.safetensors`, read by `init_weights`, which
            mmengine calls before training and not before testing. None leaves random weights.
        init_cfg: mmengine init config; not 'Pretrained', see `checkpoint`.

    Attributes:
        out_channels: of each map.

    Raises:
        FileNotFoundError: the folder has no config.json.
        ValueError: no such kind of model, no such stages, or `init_cfg` of type 'Pretrained'.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | str,
        *,
        out_indices: Sequence[int],
        checkpoint: str | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        # It takes seconds, and few configs want it.
        from transformers import AutoBackbone, AutoConfig

        refuse_pretrained(init_cfg)
        super().__init__(init_cfg)
        if isinstance(config, str):
            _check_folder(config, 'config.json')
            settings = AutoConfig.from_pretrained(config, local_files_only=True)
        else:
            settings = AutoConfig.for_model(**{'model_type': 'none given', **config})
        settings.out_indices = list(out_indices)
        self.network = AutoBackbone.from_config(settings)
        self.out_channels = tuple(self.network.channels)
        self.checkpoint = checkpoint

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) to the maps (B, C_l, h_l, w_l) of `out_indices`."""
        return tuple(self.network(x).feature_maps)

    def init_weights(self) -> None:
        """Load `checkpoint`, or leave the weights as they were drawn.

        Raises:
            FileNotFoundError: the folder does not exist.
            ValueError: it does not fill the network.
        """
        super().init_weights()
        if self.checkpoint is None:
            warn_of_random_weights(self)
            return
        _check_folder(self.checkpoint, 'config.json')
        filled, report = type(self.network).from_pretrained(
            self.checkpoint,
            config=self.network.config,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        missing = [str(name) for name in report['missing_keys'] if NEW_PARTS not in str(name)]
        mismatched = [str(entry[0]) for entry in report['mismatched_keys']]
        if missing or mismatched:
            raise ValueError(
                f'checkpoint {self.checkpoint} does not fill the {type(self.network).__name__}: {len(missing)} entries '
                f'are missing and {len(mismatched)} of another shape, such as {(missing + mismatched)[0]}. Give the '
                'folder of this model, or change config; nothing was loaded.'
            )
        self.network.load_state_dict(filled.state_dict())
        text = f'checkpoint {self.checkpoint}: {len(filled.state_dict())} entries are filled'
        print_log(text, 'current', level=logging.INFO)


def _check_folder(folder: str, name: str) -> None:
    if not (Path(folder) / name).is_file():
        raise FileNotFoundError(
            f'{folder} is no folder with a {name}, expected that of a model of transformers, as `save_pretrained` '
            'writes it. Nothing is downloaded: get it and give its path.'
        )
