"""Text models of transformers, from a folder: sentences to vectors of length 1.

What a model takes for the meaning of a sentence differs, and so does what it wants to be fed with:
- two towers with a shared space (CLIP, SigLIP, SigLIP 2, AltCLIP, ...): `get_text_features`; the tower for images is left out;
- CLIP's text tower alone: its projection where the folder has one, else the state at the end of the text;
- SigLIP's alone: its head. SigLIP was trained on texts filled up to its full length, and its vectors change without;
- others (BERT, MiniLM, MPNet, XLM-R, ...): the mean over tokens, or the first token where a folder of sentence-transformers says so.

N texts of at most T tokens; D channels.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from mmext.models.common.weight_files import transformers_folder

# Files that change what a model makes of a text.
_SUFFIXES = ('.json', '.txt', '.model', '.safetensors', '.bin')
_VOCABULARIES = ('tokenizer.json', 'vocab.txt', 'vocab.json', '*.model')
_POOLING = '1_Pooling/config.json'
# Beyond this, the length in a tokenizer's files means that nobody stated one.
_NO_LIMIT = 100_000
_WARNED_TEXT = 60
_BLOCK = 1 << 20


class TextModel(nn.Module):
    """Texts to vectors.

    Args:
        folder: of a model of transformers with its tokenizer, as `save_pretrained` writes both; or of sentence-transformers.

    Attributes:
        embed_dims: D.
        max_tokens: what the model can read of a text, with the marks at its beginning and end.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no text model, not all of its weights, or parts that are not supported.
    """

    # A model of transformers, whose classes have no common type for what is called here.
    network: Any

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        # Imported here, as embeddings that were computed before need no transformers.
        from transformers import AutoTokenizer

        path = check_model_folder(folder)
        self.folder = str(folder)
        self.network = _load_network(path)
        self.pooling = _pooling(path, self.network)
        # Of a folder without these, transformers would make a tokenizer that knows no word.
        if not any(list(path.glob(name)) for name in _VOCABULARIES):
            raise ValueError(
                f'{folder} has no tokenizer, expected one of {", ".join(_VOCABULARIES)}'
            )
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        except (OSError, ValueError, ImportError) as error:
            raise ValueError(
                f'{folder}: its tokenizer cannot be read: {_first_line(error)}'
            ) from error
        if self.tokenizer.pad_token is None:
            raise ValueError(f'{folder}: its tokenizer has no padding token; give a text encoder')
        self.fills_up = str(self.network.config.model_type).startswith('siglip')
        self.max_tokens = _max_tokens(path, self.tokenizer, self.network)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Tokens (N, T) as the model wants them; texts that are too long are cut, with a warning that shows them."""
        lengths = [len(ids) for ids in self.tokenizer(list(texts), verbose=False)['input_ids']]
        for text, length in zip(texts, lengths, strict=True):
            if length > self.max_tokens:
                shown = f'{text[:_WARNED_TEXT]}{"..." * (len(text) > _WARNED_TEXT)}'
                print_log(
                    f'text "{shown}" has {length} tokens, cut to the {self.max_tokens} that {self.folder} can read',
                    'current',
                    level=30,
                )
        encoded = self.tokenizer(
            list(texts),
            padding='max_length' if self.fills_up else True,
            truncation=True,
            max_length=self.max_tokens,
            return_tensors='pt',
            # Else as the tokenizer's files say: SigLIP's model is to see the padding.
            return_attention_mask=True if self.pooling in ('mean', 'cls') else None,
        )
        return dict(encoded)

    def forward(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Tokens of `tokenize` to (N, D) float32, of length 1."""
        if self.pooling == 'features':
            vectors = self.network.get_text_features(**tokens).pooler_output
        elif self.pooling == 'projection':
            vectors = self.network(**tokens).text_embeds
        elif self.pooling == 'pooled':
            vectors = self.network(**tokens).pooler_output
        elif self.pooling == 'cls':
            vectors = self.network(**tokens).last_hidden_state[:, 0]
        else:
            states = self.network(**tokens).last_hidden_state
            vectors = mean_of_tokens(states, tokens['attention_mask'])
        return F.normalize(vectors.float(), dim=-1)


def mean_of_tokens(states: Tensor, mask: Tensor) -> Tensor:
    """The mean over the tokens that are no padding.

    Args:
        states: (N, T, D).
        mask: (N, T), 1 for tokens and 0 for padding.

    Returns:
        (N, D).
    """
    shares = mask.to(states.dtype)
    return torch.einsum('ntd,nt->nd', states, shares / shares.sum(dim=1, keepdim=True))


def check_model_folder(folder: str | Path) -> Path:
    """The folder of a text model, if there is one.

    Raises:
        FileNotFoundError: there is none; the message says how to get one.
    """
    return transformers_folder(
        folder,
        also=' (a text model with its tokenizer); or fetch a published one, such as openai/clip-vit-base-patch32, with '
        '`python tools/embed_text.py DESCRIPTIONS NAME OUT --allow-download`',
    )


def hash_model(folder: str | Path) -> str:
    """SHA-256 of the files that decide about the vectors; those of weights take about a second per GB."""
    path = check_model_folder(folder)
    files = [file for file in path.iterdir() if file.suffix in _SUFFIXES and file.is_file()]
    if (path / _POOLING).is_file():
        files.append(path / _POOLING)
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f'{file.relative_to(path).as_posix()} {file.stat().st_size}\n'.encode())
        with file.open('rb') as opened:
            while block := opened.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def _load_network(path: Path) -> Any:
    import transformers

    try:
        settings = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
        if settings.is_encoder_decoder:
            raise ValueError('a model that writes text, not an encoder')
        name = (settings.architectures or [''])[0]
        # Of a tower alone: AutoModel would take CLIP's without its projection, and does not know SigLIP's.
        is_tower = name.endswith(('TextModel', 'TextModelWithProjection'))
        kind = getattr(transformers, name) if is_tower else transformers.AutoModel
        network, report = kind.from_pretrained(
            path, local_files_only=True, output_loading_info=True, dtype=torch.float32
        )
    # What transformers raises for unknown kinds, missing and damaged files, and weights of another shape.
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise ValueError(f'{path} cannot be read as a text model: {_first_line(error)}') from error
    if network.main_input_name != 'input_ids' and not hasattr(network, 'get_text_features'):
        raise ValueError(f'{path} is no text model: the {type(network).__name__} reads no text')
    if hasattr(network, 'vision_model'):
        del network.vision_model
    # BERT's layer for pairs of sentences, which many files lack; no kind of pooling here uses it.
    needed = {n for n, _ in network.named_parameters() if not n.startswith('pooler.')}
    missing = sorted(needed & set(map(str, report['missing_keys'])))
    if missing:
        raise ValueError(
            f'{path} does not fill the {type(network).__name__}: {len(missing)} entries are missing, such as {missing[0]}. '
            'Give the complete folder of the model.'
        )
    return network.eval()


def _pooling(path: Path, network: Any) -> str:
    """How the network's states become one vector: 'features', 'projection', 'pooled', 'cls' or 'mean'."""
    _check_modules(path)
    if hasattr(network, 'get_text_features'):
        return 'features'
    name = type(network).__name__
    if name.endswith('WithProjection'):
        return 'projection'
    if name.endswith('TextModel') and hasattr(network, 'final_layer_norm'):
        return 'pooled'
    stated = _json(path / _POOLING)
    modes = [
        key for key, value in stated.items() if key.startswith('pooling_mode_') and value is True
    ]
    if modes == ['pooling_mode_cls_token']:
        return 'cls'
    if modes in ([], ['pooling_mode_mean_tokens']):
        return 'mean'
    raise ValueError(
        f'{path}: {_POOLING} asks for {", ".join(modes)}, expected the mean or the first token'
    )


def _check_modules(path: Path) -> None:
    """A folder of sentence-transformers must have no layers behind the pooling."""
    listed = _json(path / 'modules.json')
    kinds = [str(entry['type']).rpartition('.')[2] for entry in listed]
    other = [kind for kind in kinds if kind not in ('Transformer', 'Pooling', 'Normalize')]
    if other:
        raise ValueError(
            f'{path}: its modules.json has {", ".join(other)}, expected Transformer, Pooling and Normalize only; give '
            'another model'
        )


def _max_tokens(path: Path, tokenizer: Any, network: nn.Module) -> int:
    """The least of what tokenizer, model and a folder of sentence-transformers state."""
    limits = [
        tokenizer.model_max_length,
        _json(path / 'sentence_bert_config.json').get('max_seq_length'),
    ]
    positions = [
        m
        for n, m in network.named_modules()
        if n.endswith(('position_embedding', 'position_embeddings'))
    ]
    for table in positions:
        if isinstance(table, nn.Embedding):
            # RoBERTa and its kin count positions from behind the padding's index.
            skipped = 0 if table.padding_idx is None else table.padding_idx + 1
            limits.append(table.num_embeddings - skipped)
    known = [int(limit) for limit in limits if limit is not None and limit < _NO_LIMIT]
    if not known:
        raise ValueError(
            f'{path}: nothing states how many tokens it can read; add model_max_length to tokenizer_config.json'
        )
    return min(known)


def _json(file: Path) -> Any:
    """The content of a file of sentence-transformers; {} if there is none, as in folders of transformers."""
    return json.loads(file.read_text(encoding='utf-8')) if file.is_file() else {}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
