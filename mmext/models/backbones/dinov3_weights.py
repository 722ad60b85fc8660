"""Published weights of DINOv3 transformers, under Meta's names or those of transformers.

Meta's names are those of `VisionTransformer`. transformers has separate queries, keys and values, and
neither the mask of the bias nor the periods of the rotary encoding, which are constants.
The weights have a licence of their own; mmext ships none.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mmext.models.backbones.pretrained import fill_backbone
from mmext.models.common.weight_files import read_weight_file

# Constants, which have the right value from the start. All else must be in the file.
OPTIONAL = re.compile(r'rope_embed\.periods|blocks\.\d+\.attn\.qkv\.bias_mask')
_PREFIX = 'backbone.dinov3.'

_SCOPE = re.compile(r'^(?:_model\.|model\.(?=layer\.))')
_FROM_TRANSFORMERS = (
    (re.compile(r'^embeddings\.register_tokens$'), 'storage_tokens'),
    (re.compile(r'^embeddings\.patch_embeddings\.'), 'patch_embed.proj.'),
    (re.compile(r'^embeddings\.'), ''),
    (re.compile(r'^layer\.'), 'blocks.'),
    (re.compile(r'\.attention\.o_proj\.'), '.attn.proj.'),
    (re.compile(r'\.attention\.'), '.attn.'),
    (re.compile(r'\.layer_scale([12])\.lambda1$'), r'.ls\1.gamma'),
)
_GATED_MLP = {'gate_proj': 'w1', 'up_proj': 'w2', 'down_proj': 'w3'}
_PLAIN_MLP = {'up_proj': 'fc1', 'down_proj': 'fc2'}


def load_pretrained(vit: nn.Module, path: str | Path) -> None:
    """Fill a `VisionTransformer` from a file, completely or not at all.

    Args:
        vit: Receives the weights.
        path: A .pth file, which is read without executing anything from it, or a .safetensors file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is damaged, or entries are missing, of another shape or not finite.
    """
    found = rename_entries(_without_prefix(read_weight_file(path).tensors), vit.state_dict())
    fill_backbone(vit, found, str(path), constants=OPTIONAL)


def rename_entries(
    state_dict: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Entries of a published file under the names of a `VisionTransformer`.

    Args:
        state_dict: Entries under Meta's names or those of transformers.
        expected: State dict of the transformer.

    Returns:
        Renamed entries; what belongs to no entry of the transformer keeps its name.
    """
    entries = {_SCOPE.sub('', name): value for name, value in state_dict.items()}
    if not any(name.startswith('embeddings.') for name in entries):
        return entries
    mlp_names = _GATED_MLP if any('.gate_proj.' in name for name in entries) else _PLAIN_MLP
    renamed = {}
    for name, value in entries.items():
        for pattern, replacement in _FROM_TRANSFORMERS:
            name = pattern.sub(replacement, name)
        for theirs, ours in mlp_names.items():
            name = name.replace(f'.mlp.{theirs}.', f'.mlp.{ours}.')
        renamed[name] = value
    if 'mask_token' in renamed:
        renamed['mask_token'] = renamed['mask_token'].flatten(0, 1)  # (1, 1, E) to (1, E)
    return _join_projections(renamed, expected)


def _join_projections(
    entries: dict[str, Tensor], expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Stack queries, keys and values; a bias of the keys that has no effect may be absent."""
    joined = dict(entries)
    for name in expected:
        if '.qkv.' not in name or name.endswith('bias_mask'):
            continue
        block, leaf = name.split('.qkv.')
        names = [f'{block}.{part}_proj.{leaf}' for part in 'qkv']
        parts = {n: entries[n] for n in names if n in entries}
        if f'{name}_mask' in expected and set(names) - set(parts) == {names[1]}:
            parts[names[1]] = torch.zeros_like(parts[names[0]])
        if len(parts) == len(names):
            joined[name] = torch.cat([parts[n] for n in names])
            for n in names:
                joined.pop(n, None)
    return joined


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The transformer's entries of a whole detector's file; all of a file that holds nothing else."""
    own = {n.removeprefix(_PREFIX): t for n, t in tensors.items() if n.startswith(_PREFIX)}
    return own or tensors
