"""What the READMEs tell the reader to type: tools, options, configs and make targets are there."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob('*.md'), *(ROOT / 'configs').glob('*/*.md')])
TOOL = re.compile(r'python tools/(\w+)\.py([^`\n|]*)')
CONFIG = re.compile(r'(?<![\w/])configs/[\w/.-]+\.py')
TARGET = re.compile(r'`make ([\w-]+)')
# These read no options with a function of their own.
WITHOUT_PARSER = ('check_env', 'benchmark_ops')


def commands() -> list[tuple[str, str]]:
    """Tool and arguments of every command, those in sentences as well; each once."""
    found = [each for page in PAGES for each in TOOL.findall(page.read_text(encoding='utf-8'))]
    return sorted({(tool, ' '.join(words(arguments))) for tool, arguments in found})


def words(arguments: str) -> list[str]:
    """As a shell splits them, without a comment behind and what a sentence leaves open (`...`)."""
    return [word for word in shlex.split(arguments, comments=True) if word != '...']


def test_commands__are_found():
    tools = {tool for tool, _ in commands()}
    assert {'train', 'test', 'predict', 'convert_dataset', 'convert_weights'} <= tools


@pytest.mark.parametrize(
    ('tool', 'arguments'), commands(), ids=[' '.join(each)[:60] for each in commands()]
)
def test_command__its_tool_knows_the_options(tool, arguments, capsys):
    assert (ROOT / 'tools' / f'{tool}.py').is_file()
    if not arguments or tool in WITHOUT_PARSER:
        return
    module = importlib.import_module(f'mmext.tools.{tool}')
    try:
        module.parse_args(arguments.split())
    except SystemExit:
        pytest.fail(capsys.readouterr().err)


@pytest.mark.parametrize('page', PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_page__names_configs_and_targets_that_exist(page):
    text = page.read_text(encoding='utf-8')
    missing = [name for name in CONFIG.findall(text) if not (ROOT / name).is_file()]
    makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
    missing += [name for name in TARGET.findall(text) if f'\n{name}:' not in makefile]
    assert missing == []


@pytest.mark.parametrize('page', PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_page__its_links_lead_somewhere(page):
    links = re.findall(r'\]\(([^)#]+)[^)]*\)', page.read_text(encoding='utf-8'))
    local = [link for link in links if '://' not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []
