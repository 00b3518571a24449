"""What a command says of an error in the user's own code, and of a package that is missing."""

import pickle
import sys
from pathlib import Path

import pytest

from mmfixnorm import cli
from mmfixnorm.cli._parser import CommandParser
from mmfixnorm.failures import explain_missing

OWN = """
from mmengine.model import BaseModel
from mmengine.registry import MODELS

@MODELS.register_module()
class OwnNet(BaseModel):
    def __init__(self, depth, **kwargs):
        super().__init__()
        {body}

    def forward(self, inputs):
        return inputs
"""
# Needs no toolbox but names one, as the audit and the converter ask for.
CONFIG = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['own_net'], allow_failed_imports=False)
model = dict(type='mmengine.OwnNet', depth=18, head=dict(alpha=1.0))
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
train_cfg = dict(by_epoch=True, max_epochs=10, val_interval=1)
train_dataloader = dict(dataset=dict(type='Any'))
val_dataloader = dict(dataset=dict(type='Any'))
val_cfg = dict()
val_evaluator = dict(type='Accuracy')
test_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
search = dict(lr_range=(0.2, 3.2))
"""
BUILDING = {  # the commands that build a model
    'train': ['train', 'config.py'],
    'test': ['test', 'config.py', 'weights.pth'],
    'audit': ['audit', 'config.py'],
    'convert': ['convert', 'config.py', '-o', 'new.py'],
    'fold': ['fold', 'config.py', 'weights.pth', 'out.pth'],
    'plan': ['search', 'plan', 'config.py'],
    'run': ['search', 'run', 'config.py'],
}
MISSING = [  # as toolboxes say it
    'raise RuntimeError("nltk is not installed, please install it by: pip install nltk.")',
    'raise NotImplementedError("If you want this, please install nltk by executing: pip install nltk.")',
    'raise ImportError(\'X requires nltk, please install it by `pip install "nltk>=3"`.\')',
    'import nltk_of_nowhere as nltk',
]


@pytest.fixture
def command(tmp_path, monkeypatch, capsys, forget_runs):
    """Run a command on a config whose model has this line; return its status and stderr."""
    pytest.importorskip('mmpretrain')
    from mmengine.registry import MODELS

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv('PYTHONPATH', f'{tmp_path}:{Path(__file__).parents[2]}')
    monkeypatch.setenv('LOCAL_RANK', '0')

    def run(argv: list[str], body: str) -> tuple[int, str]:
        sys.modules.pop('own_net', None)
        MODELS.module_dict.pop('OwnNet', None)
        Path('own_net.py').write_text(OWN.format(body=body))
        Path('config.py').write_text(CONFIG)
        Path('weights.pth').write_bytes(pickle.dumps({}))
        capsys.readouterr()
        return cli.main(argv), capsys.readouterr().err

    yield run
    sys.modules.pop('own_net', None)
    MODELS.module_dict.pop('OwnNet', None)


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


@pytest.mark.slow  # `search` builds the model in a process of its own
@pytest.mark.parametrize('name', BUILDING)
def test_each_command_names_a_missing_package_in_one_line(command, name) -> None:
    # The data of `search run` are checked before; there are none to miss.
    status, err = command(BUILDING[name], MISSING[0])
    assert status == 2
    assert 'Traceback' not in err
    assert 'the package nltk is missing: nltk is not installed' in last_line(err)


@pytest.mark.parametrize('body', MISSING)
def test_a_package_is_named_however_its_lack_is_told(command, body) -> None:
    status, err = command(BUILDING['audit'], body)
    assert status == 2
    assert 'nltk' in last_line(err)
    assert 'Traceback' not in err


@pytest.mark.parametrize(
    'text, package',
    [
        ('albumentations is not installed', 'albumentations'),
        ('Please run "pip install -U neptune" to install neptune', 'neptune'),
        ('Package lvis is not installed. Please run "pip install git+https://github.com/x/lvis.git".', 'lvis'),
        ('skimage is not installed,  please install it by: pip install scikit-image', 'scikit-image'),
        ('X requires extra, install it by `pip install "mmpretrain[multimodal]"`', 'mmpretrain[multimodal]'),
        ('Please install Detectron2 first', 'Detectron2'),
    ],
)
def test_the_package_of_a_message_is_found(text, package) -> None:
    assert explain_missing(RuntimeError(text)) == f'the package {package} is missing: {" ".join(text.split())}'


@pytest.mark.parametrize('text', ['mat1 and mat2 shapes cannot be multiplied', 'CUDA out of memory'])
def test_any_other_error_is_about_no_package(text) -> None:
    assert explain_missing(RuntimeError(text)) is None


@pytest.mark.parametrize(
    'body, said',
    [
        ('dict()[depth]', 'KeyError: 18 (raised in {own})'),
        ('assert depth < 18', 'AssertionError (raised in {own})'),
        ("MODELS.build('no dict')", "got <class 'str'> (from {own}, raised in "),
    ],
)
def test_an_error_of_the_users_code_names_its_line(command, tmp_path, body, said) -> None:
    status, err = command(BUILDING['audit'], body)
    assert status == 2
    line = OWN.format(body=body).splitlines().index(f'        {body}') + 1
    assert said.format(own=f'{tmp_path}/own_net.py:{line}') in last_line(err)
    assert last_line(err).endswith('; --traceback shows the whole traceback')
    assert 'Traceback' not in err
    status, err = command([*BUILDING['audit'], '--traceback'], body)
    assert status == 2
    assert 'Traceback (most recent call last)' in err
    assert f'    {body}\n' in err
    assert '--traceback shows' not in err


def test_each_command_has_the_option(words) -> None:
    parser: CommandParser = cli.build_parser()
    for word in words:
        parser.load()
        parser = parser.commands[word]
    parser.load()
    assert '--traceback' in parser.format_help()


def test_a_mistake_that_nothing_raised_has_no_advice(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(['train', 'no.py']) == 2
    assert '--traceback' not in capsys.readouterr().err
