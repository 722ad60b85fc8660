"""Where pre-trained weights of the backbones are published, under which names, and how to tell them apart.

mmext ships none of these files: they have licences of their own, and DINOv3's are given out on request.
"""

from pathlib import Path
from typing import NamedTuple


class BackboneFile(NamedTuple):
    """A published file.

    Attributes:
        name: As published.
        source: Page or address that has it.
        first_entry: Name of one of its entries, by which it can be recognised; prefixes are fine.
        num_entries: Entries that a backbone with all stages takes from it. Counters of batch norms and constants of
            the transformers are left out of account: they may be absent.
    """

    name: str
    source: str
    first_entry: str
    num_entries: int


_DINOV3 = 'https://github.com/facebookresearch/dinov3'
_DEIMV2 = 'https://github.com/Intellindust-AI-Lab/DEIMv2'
_HGNETV2 = 'https://github.com/Peterande/storage/releases/download/dfinev1.0'


def _hgnetv2(size: str, num_entries: int) -> BackboneFile:
    name = f'PPHGNetV2_{size}_stage1.pth'
    return BackboneFile(name, f'{_HGNETV2}/{name}', 'stem.stem1.conv.weight', num_entries)


BACKBONE_FILES: dict[str, BackboneFile] = {
    'vit_tiny': BackboneFile('vitt_distill.pt', _DEIMV2, 'patch_embed.proj.weight', 147),
    'vit_tiny_plus': BackboneFile('vittplus_distill.pt', _DEIMV2, 'patch_embed.proj.weight', 147),
    'vits': BackboneFile(
        'dinov3_vits16_pretrain_lvd1689m-08c60483.pth', _DINOV3, 'blocks.0.mlp.fc1.weight', 175
    ),
    'vits_plus': BackboneFile(
        'dinov3_vits16plus_pretrain_lvd1689m-4057cbaa.pth', _DINOV3, 'blocks.0.mlp.w3.weight', 199
    ),
    # Never pre-trained themselves, but parts of B0; of atto's last stage 13 entries differ and stay random.
    'atto': _hgnetv2('B0', 152),
    'femto': _hgnetv2('B0', 165),
    'pico': _hgnetv2('B0', 215),
    'b0': _hgnetv2('B0', 270),
    'b2': _hgnetv2('B2', 382),
    'b4': _hgnetv2('B4', 400),
    'b5': _hgnetv2('B5', 650),
}


def check_exists(path: str | Path, arch: object) -> None:
    """Look for a file of pre-trained weights.

    Args:
        path: The file.
        arch: A name in `BACKBONE_FILES`; of other architectures nothing is known.

    Raises:
        FileNotFoundError: There is no such file; the message says which one is wanted and who has it.
    """
    if Path(path).expanduser().is_file():
        return
    wanted = 'the file of this architecture'
    if isinstance(arch, str) and arch in BACKBONE_FILES:
        wanted = f'{BACKBONE_FILES[arch].name} from {BACKBONE_FILES[arch].source}'
    raise FileNotFoundError(
        f'checkpoint {path} of the backbone does not exist. Get {wanted} and give its path, or set checkpoint=None: with '
        'load_from or resume, which bring all weights, or to start from random ones.'
    )
