"""The digits as scenes: the same every time, boxes and labels that agree with each other and with the pixels."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmseg.datasets import BaseSegDataset
from PIL import Image
from pycocotools.coco import COCO
from sklearn.datasets import load_digits

FEW = {'train': 50, 'val': 10, 'test': 10}
ROOT = Path(__file__).parents[2]
CLASSES = tuple('0123456789')


@pytest.fixture(autouse=True, scope='module')
def _few(digits: ModuleType):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, 'SCENES', FEW)
        yield


@pytest.fixture(scope='module')
def folders(digits: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for task in ('det', 'seg'):
        made[task] = tmp_path_factory.mktemp(task) / 'digits'
        assert digits.main(['--task', task, '--out', str(made[task])]) == 0
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def annotations(folder: Path, split: str) -> dict:
    return json.loads((folder / f'annotations/instances_{split}.json').read_text())


def labels(folder: Path, split: str, number: int) -> np.ndarray:
    stem = f'{split}/digits/digits_{number:06d}_000000'
    return np.asarray(Image.open(folder / f'gtFine/{stem}_gtFine_labelTrainIds.png'))


def crossing(a: list[int], b: list[int], reach: int = 3) -> bool:
    """Whether two boxes come so close that the soft edge of one may reach the other."""
    return all(a[i] < b[i] + b[i + 2] + reach and b[i] < a[i] + a[i + 2] + reach for i in (0, 1))


@pytest.fixture(scope='module')
def seen(folders) -> list[tuple[str, dict, np.ndarray, bool]]:
    """Each digit that is the only one of its class in its scene: split, annotation, places of the pixels that are
    seen of it, and whether nothing is near."""
    found = []
    for split in FEW:
        by_image: dict[int, list[dict]] = {}
        for ann in annotations(folders['det'], split)['annotations']:
            by_image.setdefault(ann['image_id'], []).append(ann)
        for number, anns in by_image.items():
            for ann in anns:
                others = [a for a in anns if a is not ann]
                if all(a['category_id'] != ann['category_id'] for a in others):
                    places = np.argwhere(labels(folders['seg'], split, number) == ann['category_id'] - 1)
                    alone = not any(crossing(ann['bbox'], a['bbox']) for a in others)
                    found.append((split, ann, places, alone))
    return found


@pytest.mark.slow
def test_a_process_of_its_own_writes_the_same_bytes_to_the_default_folders(folders, tmp_path):
    code = f"""
import runpy, sys
script = runpy.run_path({str(ROOT / 'tools/dataset_converters/digits.py')!r})
script['scenes'].__globals__['SCENES'] = {FEW}
sys.exit(script['main'](['--task', 'det']) or script['main'](['--task', 'seg']))
"""
    subprocess.run([sys.executable, '-c', code], check=True, cwd=tmp_path)
    for task, folder in folders.items():
        assert contents(tmp_path / f'data/digits_{task}') == contents(folder)


def test_both_tasks_show_the_same_scenes(folders):
    for split, count in FEW.items():
        for number in range(count):
            left = folders['det'] / f'{split}/{number:06d}.png'
            right = folders['seg'] / f'leftImg8bit/{split}/digits/digits_{number:06d}_000000_leftImg8bit.png'
            assert left.read_bytes() == right.read_bytes()


def test_boxes_are_tight_around_the_strokes_that_the_labels_show(seen):
    checked = 0
    for _, ann, places, alone in seen:
        x, y, width, height = ann['bbox']
        (top, left), (bottom, right) = places.min(axis=0), places.max(axis=0)
        assert x <= left <= right < x + width
        assert y <= top <= bottom < y + height
        if alone:
            assert (left, top, right + 1 - left, bottom + 1 - top) == (x, y, width, height)
            assert len(places) == ann['area']
            checked += 1
    assert checked > 50


def test_some_digits_overlap_and_each_keeps_most_of_its_strokes(seen):
    shares = [len(places) / ann['area'] for _, ann, places, _ in seen]
    assert 0.6 <= min(shares) < 0.9
    assert max(shares) == 1


def test_a_stroke_has_the_look_of_its_source(seen):
    digits = load_digits()
    for _, ann, places, alone in seen:
        assert digits.target[ann['source']] == ann['category_id'] - 1
        if not alone:
            continue
        x, y, width, height = ann['bbox']
        mask = np.zeros((height, width))
        mask[places[:, 0] - y, places[:, 1] - x] = 1
        ink = digits.images[ann['source']]
        rows, columns = (np.flatnonzero((ink > ink.max() / 2).any(axis=axis)) for axis in (1, 0))
        cut = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        small = np.asarray(Image.fromarray(mask).resize(cut.shape[::-1], Image.Resampling.BOX))
        assert cut.size < 6 or np.corrcoef(small.ravel(), cut.ravel())[0, 1] > 0.5


def test_scenes_of_a_split_show_digits_of_that_split_only(digits, folders):
    split_of = digits.split_of_each(load_digits().target)
    for split in FEW:
        sources = {ann['source'] for ann in annotations(folders['det'], split)['annotations']}
        assert {split_of[source] for source in sources} == {split}


def test_strokes_stand_out_from_the_canvas_and_no_canvas_is_flat(folders, seen):
    for split, count in FEW.items():
        for number in range(count):
            mask = labels(folders['seg'], split, number)
            image = np.asarray(Image.open(folders['det'] / f'{split}/{number:06d}.png'), dtype=float)
            assert image[mask == 10].std() > 1
            assert {10, 255} <= set(np.unique(mask)) <= {*range(11), 255}
            for ann in (a for s, a, _, alone in seen if alone and (s, a['image_id']) == (split, number)):
                x, y, width, height = ann['bbox']
                window = np.s_[max(y - 2, 0) : y + height + 2, max(x - 2, 0) : x + width + 2]
                ground = image[window][mask[window] == 10].mean(axis=0)
                stroke = image[window][mask[window] == ann['category_id'] - 1].mean(axis=0)
                assert np.abs(stroke - ground).max() > 30


def test_pycocotools_and_mmdet_read_the_detection_set(folders):
    for split, count in FEW.items():
        file = f'annotations/instances_{split}.json'
        coco = COCO(str(folders['det'] / file))
        assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
        dataset = CocoDataset(
            data_root=str(folders['det']),
            ann_file=file,
            data_prefix=dict(img=f'{split}/'),
            metainfo=dict(classes=CLASSES),
        )
        assert len(dataset) == count
        read = [dataset.get_data_info(i) for i in range(count)]
        assert sum(len(info['instances']) for info in read) == len(coco.anns) == max(coco.anns)
        assert all(Image.open(info['img_path']).size == (info['width'], info['height']) for info in read)
        assert all(1 <= len(info['instances']) <= 6 for info in read)


def test_mmseg_reads_the_segmentation_set_as_it_reads_cityscapes(folders):
    for split, count in FEW.items():
        dataset = BaseSegDataset(
            data_root=str(folders['seg']),
            data_prefix=dict(img_path=f'leftImg8bit/{split}', seg_map_path=f'gtFine/{split}'),
            img_suffix='_leftImg8bit.png',
            seg_map_suffix='_gtFine_labelTrainIds.png',
            metainfo=dict(classes=(*CLASSES, 'background')),
        )
        assert len(dataset) == count
        for i in range(count):
            info = dataset.get_data_info(i)
            mask = Image.open(info['seg_map_path'])
            assert (mask.mode, mask.size) == ('L', Image.open(info['img_path']).size)


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_a_complete_folder_is_left_as_it_is_and_any_other_refused(digits, folders, task, capsys, tmp_path):
    assert digits.main(['--task', task, '--out', str(folders[task])]) == 0
    assert 'complete already' in capsys.readouterr().out
    other = 'seg' if task == 'det' else 'det'
    assert digits.main(['--task', other, '--out', str(folders[task])]) == 2
    assert 'exists and is not the complete digits folder' in capsys.readouterr().err
    (tmp_path / 'mine.txt').write_text('precious')
    assert digits.main(['--task', task, '--out', str(tmp_path)]) == 2
    assert contents(tmp_path) == {'mine.txt': b'precious'}


def test_an_unknown_task_is_refused_with_the_known_ones(digits, capsys):
    with pytest.raises(SystemExit, match='2'):
        digits.main(['--task', 'pose'])
    assert "invalid choice: 'pose'" in capsys.readouterr().err
