"""Package definition of mmext. Tool settings (ruff, pytest, mypy) live in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

# The OpenMMLab stack is an extra: upstream (mmdet 3.3.0 ...) and the maintained onedl forks share their
# import names, so an unconditional requirement would write one family over the other. With none of
# them installed, `import mmext` says which command is missing.
ONEDL = [
    'onedl-mmengine>=0.10.12,<0.11',
    'onedl-mmcv>=2.3.6,<2.4',
    'onedl-mmdetection>=3.5.1,<3.6',
    'onedl-mmsegmentation>=1.4.2,<1.5',
    # onedl-mmcv and onedl-mmdetection both ask for OpenCV without saying which build; 4.13 breaks numpy < 2.3
    'opencv-python-headless<4.13',
]
DEV = ['pytest>=8', 'ruff>=0.17,<0.18', 'mypy>=2.4,<2.5', 'scikit-image']

setup(
    name='mmext',
    version='0.1.0',
    description='Modern vision systems as plugins for OpenMMLab: YOLO segmentation, DEIMv2, SegFormer and more',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10,<3.13',
    packages=find_packages(include=['mmext', 'mmext.*']),
    include_package_data=True,
    install_requires=[
        'torch>=2.4',
        'numpy>=2',
        'scipy',
        'pycocotools',
        'matplotlib',
        'transformers>=5,<6',
    ],
    extras_require={
        'onedl': ONEDL,
        'dev': DEV,
        'coco': ['faster-coco-eval'],
        'export': ['onnx', 'onnxscript', 'onnxruntime'],
    },
)
