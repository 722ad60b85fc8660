"""Tiny networks of transformers."""

from typing import Any

STAGES = dict(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
VIT = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2)
NETWORKS: dict[str, dict[str, Any]] = {
    'resnet': dict(model_type='resnet', embedding_size=8, **STAGES),
    'convnext': dict(model_type='convnext', **STAGES),
    'swin': dict(
        model_type='swin', embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4], window_size=4
    ),
    'dinov2': dict(model_type='dinov2', image_size=28, patch_size=14, **VIT),
    'dinov3': dict(model_type='dinov3_vit', patch_size=16, **VIT),
}
STRIDES = {
    'resnet': (4, 8, 16, 32),
    'convnext': (4, 8, 16, 32),
    'swin': (4, 8, 16, 32),
    'dinov2': (14, 14, 14, 14),
    'dinov3': (16, 16, 16, 16),
}
CHANNELS = {
    'resnet': (8, 16, 24, 32),
    'convnext': (8, 16, 24, 32),
    'swin': (8, 16, 32, 64),
    'dinov2': (16,) * 4,
    'dinov3': (16,) * 4,
}
