"""CIFAR-10 from a made-up archive of each format, and from the real one where there is one."""

import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CLASSES = ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck']
PER_CLASS = {'train': 10, 'test': 2}


@pytest.fixture(autouse=True)
def _small(cifar10, monkeypatch):
    monkeypatch.setattr(cifar10, 'IMAGES_PER_CLASS', PER_CLASS)


def batches() -> dict[str, tuple[np.ndarray, list[int]]]:
    """Two images of each class in each of the six official batches, in mixed order."""
    random = np.random.RandomState(0)
    return {
        name: (
            random.randint(0, 256, (20, 3072), dtype=np.uint8),
            random.permutation(np.repeat(range(10), 2)).tolist(),
        )
        for name in [f'data_batch_{i}' for i in range(1, 6)] + ['test_batch']
    }


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, f'w:{path.suffix[1:]}') as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def pickled(pixels: np.ndarray, labels: list[int]) -> bytes:
    """As Python 2 with the NumPy of that time wrote it."""
    batch = {b'data': pixels, b'labels': labels, b'batch_label': b'a batch'}
    return pickle.dumps(batch, protocol=2).replace(b'numpy._core.multi', b'numpy.core.multi')


def python_archive(folder: Path) -> Path:
    members = {f'cifar-10-batches-py/{k}': pickled(*v) for k, v in batches().items()}
    members['cifar-10-batches-py/batches.meta'] = b'not read'
    return write_tar(folder / 'cifar-10-python.tar.gz', members)


def binary_archive(folder: Path) -> Path:
    members = {
        f'cifar-10-batches-bin/{k}.bin': np.column_stack([labels, pixels]).astype('u1').tobytes()
        for k, (pixels, labels) in batches().items()
    }
    return write_tar(folder / 'cifar-10-binary.tar.gz', members)


def image_archive(folder: Path, prefix: str = '') -> Path:
    members = {
        f'{prefix}{split}/{name}/{i:04d}.jpg': f'{split} {name} {i}'.encode()
        for split, count in PER_CLASS.items()
        for name in CLASSES
        for i in range(count)
    }
    return write_tar(folder / 'cifar10.tar.xz', members | {'README.md': b'not an image'})


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file()}


@pytest.mark.parametrize('make', [python_archive, binary_archive])
def test_official_archives_become_lossless_images_of_the_right_class(cifar10, tmp_path, make):
    out = tmp_path / 'cifar10'
    assert cifar10.main([str(make(tmp_path)), '--out', str(out)]) == 0
    expected: dict[tuple[str, str], list[np.ndarray]] = {}
    for batch, (pixels, labels) in batches().items():
        split = 'test' if batch == 'test_batch' else 'train'
        for row, label in zip(pixels, labels, strict=True):
            red, green, blue = row.reshape(3, 32, 32)
            expected.setdefault((split, CLASSES[label]), []).append(np.dstack([red, green, blue]))
    assert len(expected) == 20
    for (split, name), images in expected.items():
        found = sorted((out / split / name).iterdir())
        assert [p.name for p in found] == [f'{i:04d}.png' for i in range(len(images))]
        for path, image in zip(found, images, strict=True):
            np.testing.assert_array_equal(np.asarray(Image.open(path)), image)


@pytest.mark.parametrize('prefix', ['', './', 'cifar10/'])
def test_an_archive_of_an_image_folder_is_taken_as_it_is(cifar10, tmp_path, prefix):
    out = tmp_path / 'out'
    assert cifar10.main([str(image_archive(tmp_path, prefix)), '--out', str(out)]) == 0
    assert len(files(out)) == 120
    assert (out / 'train' / 'cat' / '0003.jpg').read_bytes() == b'train cat 3'


def test_a_complete_folder_is_left_as_it_is(cifar10, tmp_path, capsys):
    archive, out = image_archive(tmp_path), tmp_path / 'out'
    assert cifar10.convert(archive, out) is True
    archive.unlink()
    assert cifar10.main([str(archive), '--out', str(out)]) == 0
    assert 'complete already' in capsys.readouterr().out


def test_a_member_that_points_outside_is_not_written(cifar10, tmp_path):
    archive = write_tar(tmp_path / 'bad.tar.xz', {'../../evil.txt': b'x', '/train/cat/a.jpg': b'x'})
    assert cifar10.main([str(archive), '--out', str(tmp_path / 'in' / 'out')]) == 2
    assert files(tmp_path) == {'bad.tar.xz'}


def test_an_archive_cannot_run_code(cifar10, tmp_path, capsys):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'evil'),)

    content = pickle.dumps(Evil(), protocol=2)
    archive = write_tar(tmp_path / 'a.tar.gz', {'cifar-10-batches-py/data_batch_1': content})
    assert cifar10.main([str(archive), '--out', str(tmp_path / 'out')]) == 2
    assert 'mkdir has no place in a CIFAR-10 batch' in capsys.readouterr().err
    assert not (tmp_path / 'evil').exists()


def missing(folder: Path) -> Path:
    return folder / 'cifar-10-python.tar.gz'


def not_an_archive(folder: Path) -> Path:
    (folder / 'a.tar.gz').write_text('<html>not found</html>')
    return folder / 'a.tar.gz'


def cut_short(folder: Path) -> Path:
    whole = python_archive(folder)
    (folder / 'cut.tar.gz').write_bytes(whole.read_bytes()[:-20000])
    return folder / 'cut.tar.gz'


def cut_short_xz(folder: Path) -> Path:
    whole = image_archive(folder)
    (folder / 'cut.tar.xz').write_bytes(whole.read_bytes()[:-200])
    return folder / 'cut.tar.xz'


def another_data_set(folder: Path) -> Path:
    return write_tar(folder / 'mnist.tar.gz', {'train/7/0000.png': b'x'})


def one_batch_less(folder: Path) -> Path:
    members = {f'c/{k}': pickled(*v) for k, v in batches().items() if k != 'data_batch_3'}
    return write_tar(folder / 'less.tar.gz', members)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (missing, 'no such file; download cifar-10-python.tar.gz'),
        (not_an_archive, 'damaged'),
        (cut_short, 'damaged'),
        (cut_short_xz, 'damaged'),
        (another_data_set, 'not all of CIFAR-10'),
        (one_batch_less, "'train/cat': 8"),
    ],
)
def test_a_wrong_archive_is_refused_and_nothing_is_left(cifar10, tmp_path, capsys, make, message):
    archive = make(tmp_path)
    before = files(tmp_path)
    assert cifar10.main([str(archive), '--out', str(tmp_path / 'out')]) == 2
    assert message in capsys.readouterr().err
    assert files(tmp_path) == before
    assert not (tmp_path / 'out').exists()


def test_a_folder_of_something_else_is_refused_and_kept(cifar10, tmp_path, capsys):
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'mine.txt').write_text('precious')
    assert cifar10.main([str(image_archive(tmp_path)), '--out', str(out)]) == 2
    assert 'is not all of CIFAR-10' in capsys.readouterr().err
    assert files(out) == {'mine.txt'}


@pytest.mark.slow
@pytest.mark.skipif('MMFIXNORM_DATA' not in os.environ, reason='MMFIXNORM_DATA is not set')
def test_the_real_images_are_all_there(cifar10, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, 'IMAGES_PER_CLASS', {'train': 5000, 'test': 1000})
    archive = Path(os.environ['MMFIXNORM_DATA']) / 'cifar10.tar.xz'
    assert cifar10.convert(archive, tmp_path / 'cifar10')
    assert Image.open(tmp_path / 'cifar10/train/frog/0000.jpg').size == (32, 32)
