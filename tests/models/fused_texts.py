"""`mmext.DEIMMultimodal` with tiny text models: descriptions, embeddings, models with either, a training."""

import json
from pathlib import Path

import torch
from mmdet.structures import DetDataSample
from torch import Tensor

from mmext.models.common.text_embeddings import save_text_embeddings
from mmext.models.common.text_encoder import embed_prompts
from mmext.models.deim.multimodal import PARTS, DEIMMultimodal
from mmext.registry import MODELS
from mmext.structures.descriptions import read_descriptions
from mmext.structures.prompts import class_prompts
from tests.contract_kinds import Instances
from tests.models.text_models import write_bert, write_clip
from tests.systems import TEXT_CLASSES, deim_text

SIZE = (64, 96)
LAST_LAYER = r'encoder\.layer\.1\.'


def write_texts(folder: Path) -> None:
    """`bert` and `clip`, text models; `classes.json`, what the classes look like; `texts.safetensors`, of these by the first."""
    write_bert(folder / 'bert')
    write_clip(folder / 'clip', 'projected')
    sentences = ('a thin dark line', 'a shallow round hole', 'stain of oil')
    classes = [
        dict(name=name, description=dict(en=sentence, es='una grieta ' + name))
        for name, sentence in zip(TEXT_CLASSES, sentences, strict=True)
    ]
    classes[0]['keywords'] = dict(en=['crack', 'long scratch'])
    (folder / 'classes.json').write_text(json.dumps(dict(classes=classes)))
    prompts = class_prompts(read_descriptions(folder / 'classes.json'), 'en')
    found = embed_prompts(prompts, folder / 'bert', language='en')
    save_text_embeddings(folder / 'texts.safetensors', found)


def of_file(folder: Path, **changes: object) -> dict:
    """`text` with the file."""
    return dict(classes=TEXT_CLASSES, embeddings=str(folder / 'texts.safetensors')) | changes


def of_model(folder: Path, changes: dict | None = None, **encoder: object) -> dict:
    """`text` with a text model, `encoder` being changes of its config."""
    model = dict(type='mmext.TextEncoder', model=str(folder / 'bert'))
    descriptions = str(folder / 'classes.json')
    text = dict(classes=TEXT_CLASSES, descriptions=descriptions, encoder=model | encoder)
    return text | (changes or {})


def build(text: dict, text_dim: int = 16) -> DEIMMultimodal:
    """Always of the same weights, the detector frozen, with a gate that lets the texts through."""
    torch.manual_seed(0)
    config = deim_text() | dict(text=text, frozen=PARTS)
    model = MODELS.build(config | dict(fusion=config['fusion'] | dict(text_dim=text_dim)))
    # As a checkpoint would; nothing frozen may be random.
    model._filled.update(PARTS)
    with torch.no_grad():
        model.fusion.gate.fill_(0.5)
        # Else all queries are the same.
        for parameter in model.decoder.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return model


def images() -> Tensor:
    """A batch of two."""
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(2))


def samples() -> list[DetDataSample]:
    """Their objects, two and one."""
    return [Instances().sample(*SIZE, count) for count in (2, 1)]


def train(model: DEIMMultimodal, steps: int = 2, lr: float = 0.1) -> dict[str, Tensor]:
    """Steps that change what is trained by much; the losses of the last."""
    torch.manual_seed(1)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        losses = model.train().loss(images(), samples())
        torch.stack([*losses.values()]).sum().backward()
        optimizer.step()
    return losses


def held(model: DEIMMultimodal) -> Tensor:
    """The texts that a checkpoint would have."""
    return model.fusion.context.text_embeddings


@torch.no_grad()
def logits(model: DEIMMultimodal) -> Tensor:
    """What it finds."""
    return model.eval()(images(), mode='tensor').logits
