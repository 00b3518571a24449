"""mmfixnorm test --show-dir: the pictures lie in the given folder, and what was predicted is painted."""

import pickle

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from mmfixnorm.launch import load_config

GREY = 120


def grey_pictures(folder) -> None:
    """Replace the pictures by plain grey ones, so that whatever is not grey was painted."""
    for path in folder.glob('*.png'):
        Image.fromarray(np.full((64, 64, 3), GREY, dtype=np.uint8)).save(path)


def untrained(config, change, path='model.pth') -> str:
    """Save the state of the config's model, after a change."""
    cfg = load_config(config)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    model.init_weights()
    with torch.no_grad():
        change(model)
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return path


def painted(folder) -> list[np.ndarray]:
    """Which pixels of each picture are not grey."""
    pictures = [np.asarray(Image.open(path).convert('RGB')).astype(int) for path in sorted(folder.iterdir())]
    return [abs(picture - GREY).max(axis=2) > 20 for picture in pictures]


def share_of(colour: tuple[int, int, int], picture: np.ndarray) -> float:
    """The part of a picture that has a colour of the palette, painted over grey at an opacity of 0.8."""
    return float((abs(picture - (0.2 * GREY + 0.8 * np.array(colour))).max(axis=2) < 12).mean())


@pytest.fixture(params=['shown', 'absolute'])
def show_dir(request, tmp_path):
    """The folder as given: relative to where the tool runs, or absolute."""
    return 'shown' if request.param == 'shown' else str(tmp_path / 'shown')


def test_boxes_are_painted_into_the_given_folder(test_tool, tiny_task, tmp_path, show_dir) -> None:
    config = tiny_task('detection')
    grey_pictures(tmp_path / 'data/val')

    def see_blue_everywhere(model) -> None:
        # Whatever comes in, class 1 at each place with a score near 1, the box being the anchor itself.
        for conv in (model.bbox_head.retina_cls, model.bbox_head.retina_reg):
            conv.g.zero_()
        model.bbox_head.retina_cls.bias.copy_(torch.tensor([-5.0, 5.0]))
        model.bbox_head.retina_reg.bias.zero_()

    checkpoint = untrained(config, see_blue_everywhere)
    options = ['--work-dir', 'test', '--out', 'pred.pkl', '--show-dir', show_dir]
    assert test_tool([config, checkpoint, *options]) == 0
    assert sorted(p.name for p in (tmp_path / 'shown').iterdir()) == [f'{i}.png' for i in range(4)]
    predictions = pickle.loads((tmp_path / 'pred.pkl').read_bytes())
    for mask, prediction in zip(painted(tmp_path / 'shown'), predictions):
        truth, found = np.hsplit(mask, 2)  # side by side
        assert 0.05 < truth.mean() < 0.6  # the outlines of two boxes and their labels
        boxes = prediction['pred_instances']['bboxes'].round().int().clamp(1, 62).tolist()
        assert boxes
        for x1, _, x2, y2 in boxes:
            assert found[y2 - 1 : y2 + 2, x1:x2].any(axis=0).mean() > 0.7  # the lower edge, under labels
        assert not found[max(y2 for *_, y2 in boxes) + 4 :].any()


def test_masks_are_painted_into_the_given_folder(test_tool, tiny_task, tmp_path, show_dir) -> None:
    config = tiny_task('segmentation')
    grey_pictures(tmp_path / 'data/img/val')

    def see_blue_everywhere(model) -> None:
        model.decode_head.conv_seg.g.zero_()
        model.decode_head.conv_seg.bias.copy_(torch.tensor([0.0, 0.0, 9.0]))

    checkpoint = untrained(config, see_blue_everywhere)
    assert test_tool([config, checkpoint, '--work-dir', 'test', '--show-dir', show_dir]) == 0
    pictures = sorted((tmp_path / 'shown').iterdir())
    assert [p.name.rsplit('_', 1)[0] for p in pictures] == [f'test_{i}.png' for i in range(4)]
    for path in pictures:
        truth, prediction = np.hsplit(np.asarray(Image.open(path).convert('RGB')), 2)  # side by side
        assert share_of((0, 0, 200), prediction) > 0.7  # but for the label's text
        assert share_of((0, 0, 200), truth) < 0.2 < 0.5 < share_of((0, 200, 0), truth)


def test_a_folder_that_cannot_be_made_ends_with_status_2(test_tool, tiny_task, tmp_path, capsys) -> None:
    config = tiny_task('segmentation')
    (tmp_path / 'model.pth').write_bytes(pickle.dumps({}))
    assert test_tool([config, 'model.pth', '--show-dir', 'model.pth']) == 2
    assert '--show-dir: cannot write to' in capsys.readouterr().err
