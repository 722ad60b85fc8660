"""The benchmark of DEIMv2's forms: its subjects, one run, and its answers to mistakes."""

import pytest
import torch

from mmext.apis.profiling import count_parameters
from mmext.models.deim.variants import VARIANTS
from mmext.registry import MODELS
from mmext.tools import benchmark_deim
from mmext.tools.benchmark_deim import read_subjects, time_in_turn
from mmext.tools.deim_forms import PORTED, Subject, build_port, model_config


def test_read_subjects__the_port_has_no_convolutional_backbones():
    args = benchmark_deim.parse_args(['atto', 's'])
    forms = [(own.variant, own.form) for own in read_subjects(args)]
    assert forms == [
        ('atto', 'eval'),
        ('atto', 'deploy'),
        ('s', 'plain'),
        ('s', 'port'),
        ('s', 'eval'),
        ('s', 'deploy'),
    ]


def test_read_subjects__texts_only_where_they_are_asked_for():
    args = benchmark_deim.parse_args(['n', '--forms', 'eval', 'text'])
    assert [own.form for own in read_subjects(args)] == ['eval', 'text']


@torch.no_grad()
def test_subjects__with_texts_are_the_detector_and_the_fusion():
    fused, plain = (Subject('atto', form).build() for form in ('text-deploy', 'deploy'))
    names = [name for name, _ in fused.named_parameters() if not name.startswith('fusion.')]
    assert names == [name for name, _ in plain.named_parameters()]
    assert fused.fusion.context.folded is not None and fused.fusion.context.text_embeddings.any()
    queries, logits = Subject('atto', 'text').make_fusion_inputs()
    last = fused.decoder(fused.extract_feat(Subject('atto', 'text').make_images())).layers[-1]
    assert queries.shape == last.queries.shape and logits.shape == last.logits.shape


def test_time_in_turn__every_round_runs_all():
    calls = []
    works = [lambda: calls.append('a'), lambda: calls.append('b')]
    times = time_in_turn(works, repeat=3, warmup=1)
    assert ''.join(calls) == 'abababab'
    assert [own.wall.shape for own in times] == [(3,), (3,)]


@pytest.mark.slow
@pytest.mark.parametrize('name', VARIANTS)
def test_model_config__is_the_published_size(name):
    model = MODELS.build(model_config(VARIANTS[name]))
    # The table counts hgx without its frozen norms, which are learned here.
    frozen = 93_920 if name == 'hgx' else 0
    assert count_parameters(model) == VARIANTS[name].num_params + frozen


@pytest.mark.slow
@pytest.mark.parametrize('name', PORTED)
def test_build_port__has_the_size(name):
    port = count_parameters(build_port(VARIANTS[name], 'sdpa'))
    # It has a projection of the memory with its norm more, and a few norms and factors.
    assert 1 <= port / VARIANTS[name].num_params < 1.006


@pytest.mark.slow
def test_main__table(tmp_path, capsys):
    threads = torch.get_num_threads()
    out = tmp_path / 'out' / 'table.md'
    arguments = ['atto', '--repeat', '2', '--warmup', '1', '--threads', '1', '--train']
    arguments += ['--train-batch', '2']
    assert benchmark_deim.main([*arguments, '--out', str(out)]) == 0
    torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert printed.endswith(out.read_text())  # after the log
    header, _, *rows = (
        line.strip('| ').split(' | ')
        for line in out.read_text().splitlines()
        if line.startswith('|')
    )
    table = {row[1]: dict(zip(header, row, strict=True)) for row in rows}
    assert list(table) == ['eval', 'deploy']
    assert all(float(row['P50 (ms)']) > 0 for row in table.values())
    assert table['eval']['time / eval'] == '1.00'
    speed, processor, peak = (float(table['eval'][name]) for name in benchmark_deim.TRAIN_HEADER)
    assert min(speed, processor) > 0 and peak > float(table['eval']['peak of test (MB)']) > 0
    assert {table['deploy'][name] for name in benchmark_deim.TRAIN_HEADER} == {'-'}


@pytest.mark.slow
def test_main__cost_of_the_fusion(tmp_path):
    threads = torch.get_num_threads()
    out = tmp_path / 'table.md'
    forms = ['--forms', 'eval', 'text', 'deploy', 'text-deploy']
    arguments = ['atto', '--repeat', '2', '--warmup', '1', '--threads', '1', *forms]
    assert benchmark_deim.main([*arguments, '--out', str(out)]) == 0
    torch.set_num_threads(threads)
    lines = [line for line in out.read_text().splitlines() if line.startswith('|')]
    header, _, *rows = (line.strip('| ').split(' | ') for line in lines)
    first = header.index(benchmark_deim.FUSION_HEADER[0])
    cells = {row[1]: row[first : first + 4] for row in rows}
    assert all(len(row) == len(header) for row in rows)
    assert cells['eval'] == cells['deploy'] == ['-'] * 4
    for form in ('text', 'text-deploy'):
        parameters, ratio, middle, share = map(float, cells[form])
        # By hand, D = 128 of 64 and 512 channels: visual 64 D + D and its norm 2 D, texts 512 D + D, joined 2 D D + D, head D D + D,
        # and three numbers.
        assert parameters == round((64 + 1 + 2 + 512 + 1 + 2 * 128 + 1 + 128 + 1) * 128 / 1e3)
        assert min(ratio, middle) > 0 and 0 < share < 100


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['s', 'huge'], "got the variant 'huge', expected some of atto, femto"),
        (['s', '--repeat', '0'], '--repeat: got 0, expected at least 1'),
        (['s', '--train', '--train-batch', '0'], '--train-batch: got 0, expected at least 1'),
        (['s', '--forms', 'deploy', 'text'], '--forms: got text without eval, the detector alone'),
    ],
    ids=['variant', 'repeat', 'training batch', 'forms'],
)
def test_main__a_mistake_is_one_message(arguments, message, capsys):
    assert benchmark_deim.main(arguments) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert 'Traceback' not in errors
