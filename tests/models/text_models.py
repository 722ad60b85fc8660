"""Folders of tiny random text models with tokenizers, as `save_pretrained` writes them."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    PreTrainedTokenizerFast,
    SiglipTextConfig,
    SiglipTextModel,
)

WORDS = (
    'a thin dark line long shallow round hole dent stain of oil crack scratch una grieta'.split()
)
SIZES = dict(
    hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=32
)
ENDS = dict(eos_token_id=31, bos_token_id=2, pad_token_id=0)


def write_tokenizer(folder: Path, max_tokens: int, *, with_mask: bool = True) -> None:
    """Whole words; 0 pads, 1 stands for all others, 2 begins a text and 31 ends it: CLIP wants the last word there."""
    marks = {'[PAD]': 0, '[UNK]': 1, '[CLS]': 2, '[SEP]': 31}
    vocabulary = marks | {word: index for index, word in enumerate(WORDS, start=3)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token='[UNK]'))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single='[CLS] $A [SEP]', special_tokens=[('[CLS]', 2), ('[SEP]', 31)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token='[PAD]',
        unk_token='[UNK]',
        cls_token='[CLS]',
        sep_token='[SEP]',
        model_max_length=max_tokens,
        model_input_names=['input_ids', 'attention_mask'] if with_mask else ['input_ids'],
    ).save_pretrained(folder)


def write_bert(folder: Path, *, max_tokens: int = 12, seed: int = 0) -> BertModel:
    torch.manual_seed(seed)
    model = BertModel(BertConfig(max_position_embeddings=max_tokens, **SIZES)).eval()
    return _save(model, folder, max_tokens)


def write_clip(folder: Path, kind: str) -> CLIPModel | CLIPTextModel | CLIPTextModelWithProjection:
    """`kind`: 'both' towers, the 'projected' text tower, or the 'plain' one."""
    torch.manual_seed(1)
    text = dict(max_position_embeddings=12, **ENDS, **SIZES)
    if kind == 'both':
        vision = CLIPVisionConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4
        )  # fmt: skip
        # Of another width than what the text's own settings state, as in published files.
        settings = CLIPConfig(text_config=text, vision_config=vision.to_dict(), projection_dim=24)
        return _save(CLIPModel(settings).eval(), folder, 12)
    settings = CLIPTextConfig(projection_dim=24, **text)
    model = CLIPTextModelWithProjection if kind == 'projected' else CLIPTextModel
    return _save(model(settings).eval(), folder, 12)


def write_siglip(folder: Path) -> SiglipTextModel:
    torch.manual_seed(2)
    settings = SiglipTextConfig(max_position_embeddings=10, projection_size=16, **ENDS, **SIZES)
    model = SiglipTextModel(settings).eval()
    model.save_pretrained(folder)
    write_tokenizer(folder, 10, with_mask=False)
    return model


def _save(model, folder, max_tokens):
    model.save_pretrained(folder)
    write_tokenizer(folder, max_tokens)
    return model
