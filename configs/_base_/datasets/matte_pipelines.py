"""How photos with mattes are scored, at 256 and at 512 pixels, with and without test-time augmentation."""


def test_steps(size: int) -> list:
    """The whole picture; LoadAlpha behind the resizing keeps the truth at the original size."""
    return [
        dict(type='mmext.LoadImage'),
        dict(type='mmext.AlphaResize', scale=(size, size), keep_ratio=True),
        dict(type='mmext.LoadAlpha'),
        dict(type='mmext.PackMatteInputs'),
    ]


def tta_steps(size: int, larger: int) -> list:
    """For `tools/test.py --tta`: the photo as it is and mirrored, each at two sizes."""
    return [
        dict(type='mmext.LoadImage'),
        dict(
            type='TestTimeAug',
            transforms=[
                [
                    dict(type='mmext.AlphaResize', scale=(size, size), keep_ratio=True),
                    dict(type='mmext.AlphaResize', scale=(larger, larger), keep_ratio=True),
                ],
                [
                    dict(type='mmext.AlphaFlip', prob=0.0),
                    dict(type='mmext.AlphaFlip', prob=1.0, direction='horizontal'),
                ],
                # Behind the mirror: predictions are turned back.
                [dict(type='mmext.LoadAlpha')],
                [
                    dict(
                        type='mmext.PackMatteInputs',
                        meta_keys=(
                            'img_path',
                            'ori_shape',
                            'img_shape',
                            'scale_factor',
                            'flip',
                            'flip_direction',
                        ),
                    )
                ],
            ],
        ),
    ]


test_pipeline = test_steps(256)
test_pipeline_512 = test_steps(512)
tta_pipeline = tta_steps(256, 320)
tta_pipeline_512 = tta_steps(512, 640)
