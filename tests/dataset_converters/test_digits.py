"""The digits on disk: all of them, each once, the same bytes every time."""

from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from mmpretrain.datasets import CustomDataset
from PIL import Image
from sklearn.datasets import load_digits


@pytest.fixture(scope='module')
def folder(digits: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('data') / 'digits'
    assert digits.main(['--out', str(out)]) == 0
    return out


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob('*') if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def test_each_of_the_1797_images_is_in_one_split_with_its_own_pixels_and_class(folder):
    source = load_digits()
    files = sorted(folder.rglob('*.png'), key=lambda p: p.stem)
    assert [int(p.stem) for p in files] == list(range(1797))
    assert [int(p.parent.name) for p in files] == source.target.tolist()
    pixels = np.stack([np.asarray(Image.open(p)) for p in files])
    np.testing.assert_array_equal(pixels / 15, source.images)


def test_no_image_of_one_split_is_a_copy_of_one_in_another(folder):
    images: dict[bytes, set[str]] = {}
    for path in folder.rglob('*.png'):
        split = path.relative_to(folder).parts[0]
        images.setdefault(np.asarray(Image.open(path)).tobytes(), set()).add(split)
    assert all(len(splits) == 1 for splits in images.values())


def test_classes_are_balanced(folder):
    counts = Counter(p.relative_to(folder).parts[:2] for p in folder.rglob('*.png'))
    for digit in '0123456789':
        assert counts['val', digit] == counts['test', digit] == 40
        assert 94 <= counts['train', digit] <= 103


def test_a_second_conversion_gives_the_same_bytes(digits, folder, tmp_path):
    assert digits.convert(tmp_path / 'again')
    assert contents(tmp_path / 'again') == contents(folder)


def test_a_complete_folder_is_left_as_it_is(digits, folder, capsys):
    before = {p: p.stat().st_mtime_ns for p in folder.rglob('*')}
    assert digits.main(['--out', str(folder)]) == 0
    assert 'complete already' in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in folder.rglob('*')} == before


def test_the_stock_dataset_reads_it(folder):
    for split, count in (('train', 997), ('val', 400), ('test', 400)):
        dataset = CustomDataset(data_root=str(folder / split))
        assert (len(dataset), dataset.CLASSES) == (count, tuple('0123456789'))


def test_a_folder_of_something_else_is_refused_and_kept(digits, tmp_path, capsys):
    (tmp_path / 'mine.txt').write_text('precious')
    assert digits.main(['--out', str(tmp_path)]) == 2
    assert f'{tmp_path} exists and is not the complete digits folder' in capsys.readouterr().err
    assert contents(tmp_path) == {'mine.txt': b'precious'}


def test_a_folder_with_a_missing_image_is_refused(digits, tmp_path, capsys):
    digits.convert(tmp_path / 'digits')
    next((tmp_path / 'digits').rglob('*.png')).unlink()
    assert digits.main(['--out', str(tmp_path / 'digits')]) == 2
    assert 'remove it' in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_refused(digits, tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    assert digits.main(['--out', str(tmp_path / 'file' / 'digits')]) == 2
    assert '--out: cannot write' in capsys.readouterr().err


def test_an_interrupted_conversion_leaves_nothing(digits, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(digits.Image.Image, 'save', interrupt)
    with pytest.raises(KeyboardInterrupt):
        digits.convert(tmp_path / 'digits')
    assert list(tmp_path.iterdir()) == []


def test_a_faster_process_wins_the_race_without_an_error(digits, folder, tmp_path, monkeypatch):
    out, rename = tmp_path / 'digits', Path.rename

    def rename_too_late(self, target):
        monkeypatch.setattr(Path, 'rename', rename)
        digits.convert(out)  # the other process
        return rename(self, target)

    monkeypatch.setattr(Path, 'rename', rename_too_late)
    assert digits.convert(out) is False
    assert contents(out) == contents(folder)
    assert list(tmp_path.iterdir()) == [out]
