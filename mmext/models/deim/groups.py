"""Parameter groups of every published size for `mmext.PatternOptimWrapperConstructor`: ours, and the published ones.

The shipped configs hold the lists of `default_groups`. The published configs come to other groups, in part by accident;
who wants to repeat their training exactly takes `published_groups`::

    _base_ = 'mmext::deim/deimv2_s_coco.py'

    from mmext.models.deim.groups import published_groups

    optim_wrapper = dict(paramwise_cfg=dict(patterns=published_groups('s', 2.5e-5)))

(`_base_` has to come first: mmengine decides by the first of the two lines what kind of config it is.)

To repeat the published schedule as well, set `lag=True` in `mmext.FlatCosineLR`.
"""

from mmext.models.deim.variants import VARIANTS


def default_groups(name: str, lr: float) -> list[dict]:
    """Groups of a size: what is pretrained has its own rate; scales, shifts and biases, all that is no matrix, never decay.

    Args:
        name: 'atto' .. 'hgx', see `VARIANTS`.
        lr: rate of what is pretrained. The rest has that of the optimizer.

    Returns:
        Entries of `paramwise_cfg=dict(patterns=...)`.

    Raises:
        ValueError: there is no such size.
    """
    # The batch norms of the adapter and of the lite encoder have numbers instead of names.
    if _has_transformer(name):
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
    """Groups that the published config of a size comes to, with its accidents.

    - s, m, l, x: norms of the spatial tuning adapter and of the fusion decay; so do LayerScales.
    - n, pico, femto, atto, hgl, hgx: the norms of the backbone decay.
    - hgs, hgm: the norms of the backbone have the rate of the rest.
    - atto, hgs .. hgx: biases of linear layers decay.

    Args:
        name: 'atto' .. 'hgx', see `VARIANTS`.
        lr: rate of the backbone. The rest has that of the optimizer.

    Returns:
        Entries of `paramwise_cfg=dict(patterns=...)`.

    Raises:
        ValueError: there is no such size.
    """
    if _has_transformer(name):
        return [
            dict(pattern=r'^backbone\.dinov3\.(?!.*(norm|bias))', lr=lr),
            dict(pattern=r'^backbone\.dinov3\.', lr=lr, weight_decay=0.0),
            dict(pattern=r'^(backbone\.sta|neck|decoder)\..*(norm|bias)', weight_decay=0.0),
        ]
    if name in ('hgs', 'hgm'):
        return [
            dict(pattern=r'^backbone\.(?!.*\bbn\b)', lr=lr),
            dict(pattern=r'norm|\bbn\b', weight_decay=0.0),
        ]
    biases = '|bias' if name in ('n', 'pico', 'femto') else ''
    return [
        dict(pattern=r'^backbone\.', lr=lr),
        dict(pattern=rf'^(neck|decoder)\..*(norm{biases})', weight_decay=0.0),
    ]


def _has_transformer(name: str) -> bool:
    if name not in VARIANTS:
        raise ValueError(f'got the size {name!r} of DEIMv2; expected one of {list(VARIANTS)}')
    return VARIANTS[name].backbone == 'dinov3_sta'
