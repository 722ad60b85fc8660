"""Photos with mattes: a folder of images, a folder of alpha files of the same names."""

import os
from collections import defaultdict
from pathlib import Path

from mmengine.dataset import BaseDataset

from mmext.datasets.converters.files import SUFFIXES
from mmext.datasets.report import Report
from mmext.registry import DATASETS

# Folder of `data_prefix` -> key of the sample.
PATH_KEYS = {'img': 'img_path', 'alpha': 'alpha_path', 'foreground': 'foreground_path'}

# Name (the path below its folder, without suffix) -> the files of that name.
Files = dict[str, list[str]]


@DATASETS.register_module()
class MatteDataset(BaseDataset):
    """Images and their mattes, paired by their paths below two folders, without the suffix.

    `a/b.jpg` below the image folder belongs to `a/b.png` below the alpha folder; a name ends at its last dot. What
    the values of an alpha file mean is said in transforms/alpha_files.py.

    With `ann_file` only what the file lists is used: one image a line, relative to the image folder, with its suffix;
    after a tab there may be its alpha file, relative to the alpha folder. Empty lines and lines that start with `#`
    are skipped. Without it, both folders must hold the same names.

    `metainfo` has the classes `background` and `foreground`, for the metrics of mmseg.

    Args:
        data_root: Folder of the folders and of `ann_file`.
        data_prefix: `img` and `alpha`; also `foreground` for files of the foreground's own colours, without what
            shines through of the background, which `CompositeBackground` takes instead of the image.
        ann_file: The list; '' for all files of the folders.
        others: As mmengine's `BaseDataset`.

    Raises:
        ValueError: A folder is missing or empty, or images without matte, mattes without image, two files of one
            name, listed files that are not there: all of them in one report.
    """

    METAINFO = {
        'classes': ('background', 'foreground'),
        'palette': [[0, 0, 0], [255, 255, 255]],
    }

    def load_data_list(self) -> list[dict]:
        """Pair the files.

        Returns:
            One dict an image: `img_path`, `alpha_path` and, where that folder is given, `foreground_path`.
        """
        if not {'img', 'alpha'} <= set(self.data_prefix) <= set(PATH_KEYS):
            raise ValueError(
                f'data_prefix has the keys {sorted(self.data_prefix)}; expected img and alpha, and foreground where '
                'there is one.'
            )
        report = Report()
        files = {kind: _find(folder) for kind, folder in self.data_prefix.items()}
        if self.ann_file:
            files |= self._listed(files, report)
        else:
            for name in sorted(set(files['alpha']) - set(files['img'])):
                report.problem('alpha file without image', files['alpha'][name][0])
        data_list = [_sample(name, files, report) for name in sorted(files['img'])]
        if not data_list:
            report.problem('list that names no image', self.ann_file)
        if report.num_problems:
            raise ValueError(self._message(report))
        return data_list

    def _listed(self, files: dict[str, Files], report: Report) -> dict[str, Files]:
        """Images and alpha files of `ann_file`; mattes that it does not name are found by name."""
        images: Files = {}
        alphas = dict(files['alpha'])
        for number, line in enumerate(_read_list(self.ann_file), start=1):
            image, _, alpha = (part.strip() for part in line.partition('\t'))
            if not image or image.startswith('#'):
                continue
            name, where = Path(image).with_suffix('').as_posix(), f'line {number}'
            if name in images:
                report.problem('image listed twice', image, where)
            images[name] = [os.path.join(self.data_prefix['img'], image)]
            if alpha:
                alphas[name] = [os.path.join(self.data_prefix['alpha'], alpha)]
            for path in (*images[name], *(alphas[name] if alpha else ())):
                if not os.path.isfile(path):
                    report.problem('listed file is not there', path, where)
        return {'img': images, 'alpha': alphas}

    def _message(self, report: Report) -> str:
        folders = ', '.join(f'{kind}: {folder}' for kind, folder in self.data_prefix.items())
        listed = f', listed in {self.ann_file}' if self.ann_file else ''
        return (
            f'Images and mattes do not fit together ({folders}{listed}). Each image needs one alpha file of its '
            f'name in the other folder.\n{report.text()}'
        )


def _find(folder: str) -> Files:
    """All image files below a folder, by name."""
    if not os.path.isdir(folder):
        raise ValueError(
            f'The folder {folder} does not exist. Check `data_root` and `data_prefix` of the dataset.'
        )
    found = defaultdict(list)
    for path in sorted(Path(folder).rglob('*')):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            found[path.relative_to(folder).with_suffix('').as_posix()].append(str(path))
    if not found:
        raise ValueError(
            f'The folder {folder} holds no image files ({", ".join(sorted(SUFFIXES))}). Check `data_root` and '
            '`data_prefix` of the dataset.'
        )
    return dict(found)


def _read_list(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding='utf-8-sig').splitlines()
    except FileNotFoundError as error:
        raise ValueError(
            f'The list {path} does not exist. Check `data_root` and `ann_file` of the dataset.'
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f'The list {path} is no text file in UTF-8 ({error}). Write one image a line.'
        ) from error


def _sample(name: str, files: dict[str, Files], report: Report) -> dict:
    """The paths of one image; a missing or second file of any kind is a problem."""
    sample = {}
    for kind, by_name in files.items():
        paths = by_name.get(name, [])
        if not paths:
            report.problem(f'image without {kind} file', files['img'][name][0])
        elif len(paths) > 1:
            others = ', '.join(Path(path).name for path in paths[1:])
            report.problem('two files of one name', paths[0], others)
        sample[PATH_KEYS[kind]] = paths[0] if paths else ''
    return sample
