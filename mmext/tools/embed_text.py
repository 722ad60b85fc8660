"""Descriptions of classes to a file of text embeddings: `embed_text.py DESCRIPTIONS MODEL OUT [--language es]`.

MODEL is the folder of a text model of transformers or sentence-transformers (CLIP, SigLIP, MiniLM, ...). Training and
deployment need only OUT. The table shows how alike the classes are to the text model, 1 for the same.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from terminaltables import AsciiTable
from torch import Tensor

from mmext.models.common.text_embeddings import (
    TextEmbeddings,
    read_text_embeddings,
    save_text_embeddings,
)
from mmext.models.common.text_encoder import embed_prompts
from mmext.models.common.text_model import check_model_folder
from mmext.structures.descriptions import read_descriptions
from mmext.structures.prompts import TEMPLATES, class_prompts
from mmext.tools.command import add_traceback_argument, run_command

# What text models of transformers consist of; not the copies for other frameworks beside them.
_DOWNLOADED = ('*.json', '*.txt', '*.model', '*.safetensors')
# Of models that have no other weights, such as openai/clip-vit-base-patch32.
_OLD_WEIGHTS = ('pytorch_model*.bin',)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog='embed_text',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('descriptions', type=Path, help='JSON file with the classes in words')
    parser.add_argument(
        'model', help='folder of a text model; a published name with --allow-download'
    )
    parser.add_argument('out', type=Path, help='file to write, ending in .safetensors')
    parser.add_argument('--language', default='en', help='of the descriptions (default: en)')
    parser.add_argument(
        '--templates',
        nargs='+',
        default=TEMPLATES,
        metavar='TEXT',
        help='of the prompts, with {name}, {description} or {keyword}, e.g. "{description}" "a close-up photo of '
        '{keyword}"; each has the same share (default: the description and the keywords alone)',
    )
    parser.add_argument('--name', help='of the model, for the record (default: from its folder)')
    parser.add_argument(
        '--similar',
        type=float,
        default=0.9,
        metavar='COSINE',
        help='warn of classes that are more alike than this (default: 0.9)',
    )
    parser.add_argument(
        '--allow-download', action='store_true', help='fetch MODEL if it is no folder'
    )
    add_traceback_argument(parser)
    return parser.parse_args(argv)


def embed(args: argparse.Namespace) -> None:
    """Writes the file and prints the table.

    Raises:
        FileNotFoundError: the descriptions or the model are missing.
        ValueError: wrong descriptions, settings or model, or OUT is a file of another kind.
    """
    _check_out(args.out)
    prompts = class_prompts(read_descriptions(args.descriptions), args.language, args.templates)
    folder = _model_folder(args.model, args.allow_download)
    # A fetched one lies in a folder that is named by a number.
    name = args.name or (None if Path(args.model).is_dir() else args.model)
    embeddings = embed_prompts(prompts, folder, language=args.language, name=name)
    save_text_embeddings(args.out, embeddings)
    similarities = embeddings.vectors @ embeddings.vectors.T
    print(similarity_table(embeddings.names, similarities))
    for warning in warnings(embeddings.names, similarities, args.similar):
        print(warning)
    print(report(embeddings, len(prompts), args.out))


def similarity_table(names: Sequence[str], similarities: Tensor) -> str:
    """Cosines between classes, (K, K), as a table; columns by number."""
    numbers = [f'{i}' for i in range(len(names))]
    rows = [['class', *numbers]]
    for number, name, values in zip(numbers, names, similarities.tolist(), strict=True):
        rows.append([f'{number} {name}', *(f'{value:.2f}' for value in values)])
    return AsciiTable(rows).table


def warnings(names: Sequence[str], similarities: Tensor, limit: float) -> list[str]:
    """A line for each pair of classes that are more alike than `limit`."""
    pairs = [(i, j) for i in range(len(names)) for j in range(i)]
    return [
        f'warning: {names[j]} and {names[i]} are nearly the same to the text model ({similarities[i, j]:.2f}): say in '
        'their descriptions what tells them apart'
        for i, j in pairs
        if similarities[i, j] > limit
    ]


def report(embeddings: TextEmbeddings, num_prompts: int, out: Path) -> str:
    """What was written."""
    num_classes, num_channels = embeddings.vectors.shape
    return (
        f'{out}: {num_classes} classes, {num_channels} channels, {num_prompts} prompts in {embeddings.language}, by '
        f'{embeddings.model}'
    )


def _model_folder(model: str, allow_download: bool) -> Path:
    if Path(model).is_dir() or not allow_download:
        return check_model_folder(model)
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(model, allow_patterns=list(_DOWNLOADED)))
        if not any(folder.glob('*.safetensors')):
            snapshot_download(model, allow_patterns=list(_OLD_WEIGHTS))
        return folder
    # Its errors of network, names and rights are of these.
    except (OSError, ValueError) as error:
        raise ValueError(f'text model {model} cannot be fetched: {error}') from error


def _check_out(out: Path) -> None:
    if out.suffix != '.safetensors':
        raise ValueError(f'{out} cannot be written: give a file that ends in .safetensors')
    if out.exists():
        try:
            read_text_embeddings(out)
        except (OSError, ValueError) as error:
            raise ValueError(
                f'{out} is there and no file of text embeddings; give a new file'
            ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(embed, parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
