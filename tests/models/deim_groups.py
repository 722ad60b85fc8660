"""Parameter groups of DEIMv2 as a config states them: ours, and those of the published code with its accidents.

In a config `paramwise_cfg=dict(patterns=...)` with one of the two lists, for `mmext.PatternOptimWrapperConstructor`,
decides between them.
"""

from mmext.models.deim.variants import VARIANTS


def default_groups(name: str, lr: float) -> list[dict]:
    """What is pretrained at the rate `lr`; scales, shifts and biases, all that is no matrix, never decay."""
    # The batch norms of the adapter and of the lite encoder have numbers instead of names.
    if VARIANTS[name].backbone == 'dinov3_sta':
        return [
            dict(pattern=r'^backbone\.dinov3\..*(norm|bias|gamma)', lr=lr, weight_decay=0.0),
            dict(pattern=r'^backbone\.dinov3\.', lr=lr),
            dict(pattern=r'norm|bias|sta\.(stem\.1|conv2\.1|conv[34]\.2)\.', weight_decay=0.0),
        ]
    groups = [
        dict(pattern=r'^backbone\..*\.(bn|lab)\.', lr=lr, weight_decay=0.0),
        dict(pattern=r'^backbone\.', lr=lr),
        dict(pattern=r'norm|bias|down_sample\d\.2\.', weight_decay=0.0),
    ]
    # The norm layers of hgx's backbone are frozen.
    return groups[1:] if name == 'hgx' else groups


def published_groups(name: str, lr: float) -> list[dict]:
    """What the published configs come to; `lr` is the rate of the backbone."""
    if VARIANTS[name].backbone == 'dinov3_sta':
        return [
            dict(pattern=r'^backbone\.dinov3\.(?!.*(norm|bias))', lr=lr),
            dict(pattern=r'^backbone\.dinov3\.', lr=lr, weight_decay=0.0),
            dict(pattern=r'^(backbone\.sta|neck|decoder)\..*(norm|bias)', weight_decay=0.0),
        ]
    if name in ('hgs', 'hgm'):
        # Norm layers of the backbone at the rate of the rest; biases of linear layers decay.
        return [
            dict(pattern=r'^backbone\.(?!.*\bbn\b)', lr=lr),
            dict(pattern=r'norm|\bbn\b', weight_decay=0.0),
        ]
    # Norm layers of the backbone decay, too.
    biases = '|bias' if name in ('n', 'pico', 'femto') else ''
    return [
        dict(pattern=r'^backbone\.', lr=lr),
        dict(pattern=rf'^(neck|decoder)\..*(norm{biases})', weight_decay=0.0),
    ]
