"""The examples in the docstrings, which docs/api.md shows, run and give what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

import mmfixnorm

PACKAGE = Path(mmfixnorm.__file__).parent
WITH_EXAMPLES = sorted(path for path in PACKAGE.glob('**/[a-z]*.py') if '>>> ' in path.read_text())


def names_for(module: str, folder: Path) -> dict[str, object]:
    """What the examples of a module take for granted: names, and files in a folder."""
    if module == 'mmfixnorm.det.heads':
        return {'ATSSHead': pytest.importorskip('mmdet.models.dense_heads').ATSSHead}
    if module == 'mmfixnorm.seg.heads':
        return {'UPerHead': pytest.importorskip('mmseg.models.decode_heads').UPerHead}
    if module == 'mmfixnorm.cls.in_memory':
        return {'load': [dict(type='LoadImageFromFile')]}
    if module == 'mmfixnorm.cls.datasets':
        images = folder / 'data/cifar10/train/cat'
        images.mkdir(parents=True)
        for number in range(500):
            (images / f'{number}.png').touch()
    if module == 'mmfixnorm.search.trial.schedule':
        stock = "_base_ = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'\n"
        (folder / 'resnet50_8xb32_in1k.py').write_text(stock)
    return {}


@pytest.mark.parametrize('path', WITH_EXAMPLES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_examples_of_a_module_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parts = path.relative_to(PACKAGE.parent).with_suffix('').parts
    module = importlib.import_module('.'.join(parts))
    given = names_for(module.__name__, tmp_path)
    if hasattr(module, 'MODELS'):  # heads of an example are not to stay
        monkeypatch.setattr(module.MODELS, '_module_dict', dict(module.MODELS._module_dict))
    failed, attempted = doctest.testmod(module, extraglobs=given)
    assert attempted
    assert not failed
