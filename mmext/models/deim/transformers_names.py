"""Weights of the DEIMv2 port in transformers (`Deimv2ForObjectDetection`) under the published names.

The port is not the same network: it scores a normalised memory, computes the queries' position in every layer and has
ReLU in its perceptrons. Weights that were converted to it from published ones give, converted back, the published
results; weights that were trained in it do not belong here.
"""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

_VIT = r'backbone\.dinov3\.(?:_model\.)?'
_THEIR_VIT = 'conv_encoder.backbone.'
_BLOCK, _THEIR_BLOCK = rf'{_VIT}blocks\.(\d+)\.', rf'{_THEIR_VIT}model.layer.\1.'
_STA, _THEIR_STA = r'backbone\.sta\.', 'conv_encoder.spatial_tuning_adapter.'
_AIFI, _THEIR_AIFI = r'encoder\.encoder\.0\.layers\.0\.', 'encoder.aifi.0.layers.0.'
_FUSION = r'encoder\.((?:fpn|pan)_blocks?(?:\.\d+)?)\.'
_LAYER, _THEIR_LAYER = r'decoder\.decoder\.layers\.(\d+)\.', r'decoder.layers.\1.'
_KIND = r'(weight|bias)'

# Published name -> theirs, the first that matches. {a,b} names several entries that stand below each other in one of
# the published; an empty name is a constant that they leave out.
_RULES = [
    (re.compile(pattern), theirs)
    for pattern, theirs in (
        (rf'{_VIT}rope_embed\.periods', ''),
        (rf'{_BLOCK}attn\.qkv\.bias_mask', ''),
        (rf'{_BLOCK}attn\.qkv\.{_KIND}', rf'{_THEIR_BLOCK}attention.{{q,k,v}}_proj.\2'),
        (rf'{_BLOCK}attn\.proj\.', rf'{_THEIR_BLOCK}attention.o_proj.'),
        (rf'{_BLOCK}ls([12])\.gamma', rf'{_THEIR_BLOCK}layer_scale\2.lambda1'),
        (rf'{_BLOCK}mlp\.fc1\.', rf'{_THEIR_BLOCK}mlp.up_proj.'),
        (rf'{_BLOCK}mlp\.fc2\.', rf'{_THEIR_BLOCK}mlp.down_proj.'),
        (rf'{_BLOCK}mlp\.w1\.', rf'{_THEIR_BLOCK}mlp.gate_proj.'),
        (rf'{_BLOCK}mlp\.w2\.', rf'{_THEIR_BLOCK}mlp.up_proj.'),
        (rf'{_BLOCK}mlp\.w3\.', rf'{_THEIR_BLOCK}mlp.down_proj.'),
        (_BLOCK, _THEIR_BLOCK),
        (rf'{_VIT}patch_embed\.proj\.', f'{_THEIR_VIT}embeddings.patch_embeddings.'),
        (rf'{_VIT}storage_tokens', f'{_THEIR_VIT}embeddings.register_tokens'),
        (rf'{_VIT}(cls|mask)_token', rf'{_THEIR_VIT}embeddings.\1_token'),
        (rf'{_VIT}norm\.', f'{_THEIR_VIT}norm.'),
        (rf'{_STA}stem\.0\.', f'{_THEIR_STA}stem_conv.conv.'),
        (rf'{_STA}stem\.1\.', f'{_THEIR_STA}stem_conv.norm.'),
        (rf'{_STA}conv2\.0\.', f'{_THEIR_STA}conv2.conv.'),
        (rf'{_STA}conv2\.1\.', f'{_THEIR_STA}conv2.norm.'),
        (rf'{_STA}conv([34])\.1\.', rf'{_THEIR_STA}conv\1.conv.'),
        (rf'{_STA}conv([34])\.2\.', rf'{_THEIR_STA}conv\1.norm.'),
        (r'backbone\.convs\.(\d+)\.', r'conv_encoder.fusion_proj.\1.conv.'),
        (r'backbone\.norms\.(\d+)\.', r'conv_encoder.fusion_proj.\1.norm.'),
        (r'backbone\.stem\.(.*)\.conv\.', r'conv_encoder.model.embedder.\1.convolution.'),
        (r'backbone\.stem\.(.*)\.bn\.', r'conv_encoder.model.embedder.\1.normalization.'),
        (r'backbone\.stem\.', 'conv_encoder.model.embedder.'),
        (r'backbone\.stages\.(.*)\.conv\.', r'conv_encoder.model.encoder.stages.\1.convolution.'),
        (r'backbone\.stages\.(.*)\.bn\.', r'conv_encoder.model.encoder.stages.\1.normalization.'),
        (r'backbone\.stages\.', 'conv_encoder.model.encoder.stages.'),
        (rf'{_AIFI}self_attn\.in_proj_{_KIND}', rf'{_THEIR_AIFI}self_attn.{{q,k,v}}_proj.\1'),
        (rf'{_AIFI}self_attn\.out_proj\.', f'{_THEIR_AIFI}self_attn.o_proj.'),
        (rf'{_AIFI}linear1\.', f'{_THEIR_AIFI}mlp.layers.0.'),
        (rf'{_AIFI}linear2\.', f'{_THEIR_AIFI}mlp.layers.1.'),
        (rf'{_AIFI}norm1\.', f'{_THEIR_AIFI}self_attn_layer_norm.'),
        (rf'{_AIFI}norm2\.', f'{_THEIR_AIFI}final_layer_norm.'),
        (rf'{_FUSION}cv1\.', r'encoder.\1.conv1.'),
        (rf'{_FUSION}cv4\.', r'encoder.\1.conv2.'),
        (rf'{_FUSION}cv2\.0\.', r'encoder.\1.csp_rep1.'),
        (rf'{_FUSION}cv3\.0\.', r'encoder.\1.csp_rep2.'),
        (rf'{_FUSION}cv2\.1\.', r'encoder.\1.csp_rep1.conv2.'),
        (rf'{_FUSION}cv3\.1\.', r'encoder.\1.csp_rep2.conv2.'),
        (r'encoder\.downsample_convs\.(\d+)\.0\.cv', r'encoder.downsample_convs.\1.conv'),
        (r'encoder\.down_sample(\d)\.1\.', r'encoder.down_conv\1.conv.'),
        (r'encoder\.down_sample(\d)\.2\.', r'encoder.down_conv\1.norm.'),
        (r'encoder\.bi_fusion\.cv\.', 'encoder.bi_fusion_conv.'),
        (rf'{_LAYER}self_attn\.in_proj_{_KIND}', rf'{_THEIR_LAYER}self_attn.{{q,k,v}}_proj.\2'),
        (rf'{_LAYER}self_attn\.out_proj\.', rf'{_THEIR_LAYER}self_attn.o_proj.'),
        (rf'{_LAYER}cross_attn\.', rf'{_THEIR_LAYER}encoder_attn.'),
        (rf'{_LAYER}norm1\.scale', rf'{_THEIR_LAYER}self_attn_layer_norm.weight'),
        (rf'{_LAYER}norm2\.scale', rf'{_THEIR_LAYER}encoder_attn_layer_norm.weight'),
        (rf'{_LAYER}norm3\.scale', rf'{_THEIR_LAYER}final_layer_norm.weight'),
        (rf'{_LAYER}gateway\.norm\.scale', rf'{_THEIR_LAYER}gateway.norm.weight'),
        (rf'{_LAYER}swish_ffn\.w12\.', rf'{_THEIR_LAYER}mlp.{{gate,up}}_proj.'),
        (rf'{_LAYER}swish_ffn\.w3\.', rf'{_THEIR_LAYER}mlp.down_proj.'),
        (r'decoder\.decoder\.', 'decoder.'),
        (r'decoder\.dec_score_head\.', 'decoder.class_embed.'),
        (r'decoder\.dec_bbox_head\.', 'decoder.bbox_embed.'),
        (r'decoder\.((?:enc_score|enc_bbox)_head|denoising_class_embed)\.', r'\1.'),
        (r'decoder\.input_proj\.', 'decoder_input_proj.'),
    )
]  # fmt: skip
_ALTERNATIVES = re.compile(r'\{(.*)\}')
_HEAD_ALIAS = re.compile(r'^(?=(?:class|bbox)_embed\.)')
_ENC_OUTPUT = 'model.enc_output.'
# Parts of their DINOv3 that the published tiny transformers do without.
_SURPLUS = re.compile(
    r'model\.conv_encoder\.backbone\.(?:norm\.|embeddings\.(?:mask_token|register_tokens)$'
    r'|model\.layer\.\d+\.layer_scale)'
)


class Renamed(NamedTuple):
    """Weights of the port under published names.

    Attributes:
        tensors: Entries; constants and whatever else is absent in the file are left out.
        surplus: Names in the file that the published network does without.
        unknown: Names in the file that have no place.
    """

    tensors: dict[str, Tensor]
    surplus: list[str]
    unknown: list[str]


def their_names(name: str, *, hybrid: bool) -> tuple[str, ...]:
    """Names in transformers of the entries that make up a published one.

    Args:
        name: Published name.
        hybrid: Whether the encoder is the hybrid one, whose input projections they keep elsewhere.

    Returns:
        One name, or several whose rows stand below each other; none for constants.
    """
    if hybrid and name.startswith('encoder.input_proj.'):
        return (
            f'model.conv_encoder.encoder_input_proj.{name.removeprefix("encoder.input_proj.")}',
        )
    for pattern, theirs in _RULES:
        match = pattern.match(name)
        if match:
            renamed = f'{match.expand(theirs)}{name[match.end() :]}' if theirs else ''
            break
    else:
        renamed = name
    if not renamed:
        return ()
    parts = _ALTERNATIVES.search(renamed)
    if parts is None:
        return (f'model.{renamed}',)
    before, after = renamed[: parts.start()], renamed[parts.end() :]
    return tuple(f'model.{before}{part}{after}' for part in parts[1].split(','))


def from_transformers(
    state_dict: Mapping[str, Tensor], names: Collection[str], *, hybrid: bool
) -> Renamed:
    """Rename entries, joining what transformers has split.

    Args:
        state_dict: Tensors under the names of transformers.
        names: Published names of the model's entries.
        hybrid: See `their_names`.

    Raises:
        ValueError: The weights were trained in the port, or it left out some that are needed.
    """
    # The heads appear twice, at the top and in the decoder; a file has either or both.
    theirs = {_HEAD_ALIAS.sub('model.decoder.', n): t for n, t in state_dict.items()}
    _check_not_trained(theirs)
    renamed: dict[str, Tensor] = {}
    used: set[str] = set()
    for name in names:
        sources = their_names(name, hybrid=hybrid)
        parts = {source: theirs[source] for source in sources if source in theirs}
        used.update(parts)
        if len(parts) == 2 and name.endswith('.qkv.bias'):
            parts = _with_bias_of_keys(parts, sources, masked=f'{name}_mask' in names)
        if parts and len(parts) == len(sources):
            joined = torch.cat(list(parts.values())) if len(parts) > 1 else parts[sources[0]]
            # Theirs has one dimension more.
            renamed[name] = joined.flatten(0, 1) if name.endswith('mask_token') else joined
    rest = [name for name in theirs if name not in used]
    surplus = [n for n in rest if n.startswith(_ENC_OUTPUT) or _SURPLUS.match(n)]
    return Renamed(renamed, surplus, [n for n in rest if n not in surplus])


def _with_bias_of_keys(
    parts: dict[str, Tensor], sources: tuple[str, ...], *, masked: bool
) -> dict[str, Tensor]:
    """Queries, keys and values with a bias of the keys of 0, which is right where it is masked anyway."""
    if not masked:
        raise ValueError(
            f'{sources[1]} is missing: transformers left out the bias of the keys, which the transformers of '
            'DEIMv2-S and DEIMv2-M need; give the published file instead'
        )
    zeros = torch.zeros_like(next(iter(parts.values())))
    return {source: parts.get(source, zeros) for source in sources}


def _check_not_trained(theirs: Mapping[str, Tensor]) -> None:
    """Their additional layer, which the published network lacks, must not have learned anything."""
    weight, bias = (theirs.get(f'{_ENC_OUTPUT}0.{kind}') for kind in ('weight', 'bias'))
    changed = weight is not None and not torch.equal(weight, torch.eye(*weight.shape).to(weight))
    if changed or (bias is not None and bias.any()):
        raise ValueError(
            f'{_ENC_OUTPUT}0 is no identity: the weights were trained in transformers, whose network differs from '
            'DEIMv2; give published weights, or those that were converted from them'
        )
