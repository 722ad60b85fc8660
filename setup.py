"""Package definition of mmext. Tool settings (ruff, pytest, mypy) live in pyproject.toml."""

import os
import runpy
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# mmengine looks for `mmext::...` configs below `.mim` in the installed package.
MIM = ('configs', 'tools', 'model-index.yml')
# What Python runs at its start, so that mmext is there before scripts of others need it.
STARTUP = ('_mmext_startup.pth', '_mmext_startup.py')

# Both files import nothing but the standard library, so they can run before anything is installed.
VERSION = runpy.run_path(str(ROOT / 'mmext' / 'version.py'))['__version__']
GUARD = runpy.run_path(str(ROOT / 'mmext' / '_stack.py'))

# The OpenMMLab stack is an extra: upstream (mmdet 3.3.0 ...) and the maintained onedl forks share their
# import names, so an unconditional requirement would write one family over the other. With none of
# them installed, `import mmext` says which command is missing.
# onedl-mmcv and onedl-mmdetection both ask for OpenCV without saying which build; OPENCV says it.
ONEDL = [*map(str, GUARD['STACK']), GUARD['OPENCV']]
# Cut-outs, videos and augmentation; albumentations exactly, as its later releases changed licence and name.
APP = ['albumentations==2.0.8', 'av>=14', 'pillow', 'pymatting>=1.1.13', 'scikit-image']
DEV = [
    *APP,
    'pytest>=8',
    'pytest-xdist>=3.6,<4',
    'ruff>=0.17,<0.18',
    'mypy>=2.4,<2.5',
    'torchmetrics>=1.4,<2',
]


class BuildPackage(build_py):
    """Adds what packages of OpenMMLab have in `.mim`, and what Python runs at its start."""

    def run(self) -> None:
        super().run()
        self.add_mim()
        self.add_startup()

    def add_mim(self) -> None:
        """Adds `mmext/.mim`: copies in a wheel, links in an editable checkout, so that edits there show at once."""
        package = ROOT if self.editable_mode else Path(self.build_lib)
        folder = package / 'mmext' / '.mim'
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in MIM:
            if self.editable_mode:
                (folder / name).symlink_to(os.path.relpath(ROOT / name, folder))
            elif (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns('__pycache__')
                shutil.copytree(ROOT / name, folder / name, ignore=ignored)
            else:
                shutil.copy2(ROOT / name, folder / name)

    def add_startup(self) -> None:
        """Adds the files beside the package, where Python reads .pth files; both ways of installing copy them."""
        # An editable wheel takes over nothing of `build_lib`; this is where it is put together.
        editable = self.get_finalized_command('install').install_lib
        folder = Path(editable if self.editable_mode else self.build_lib)
        for name in STARTUP:
            shutil.copy2(ROOT / 'startup' / name, folder)


setup(
    name='mmext',
    version=VERSION,
    description='Modern vision systems as plugins for OpenMMLab: YOLO segmentation, DEIMv2, SegFormer and more',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10,<3.13',
    packages=find_packages(include=['mmext', 'mmext.*']),
    include_package_data=True,
    cmdclass={'build_py': BuildPackage},
    install_requires=[
        f'torch>={GUARD["TORCH_MINIMUM"]}',
        'numpy>=2',
        'scipy',
        'pycocotools',
        'matplotlib',
        'tqdm',
        'transformers>=5,<6',
    ],
    extras_require={
        'onedl': ONEDL,
        'app': APP,
        'dev': DEV,
        'coco': ['faster-coco-eval'],
        'export': ['onnx', 'onnxscript', 'onnxruntime'],
    },
)
