"""The configs of the page on fine-tuning: converted by its commands, loaded and trained, on a few small images."""

import json
import re
import runpy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from mmfixnorm.config import load_config
from mmfixnorm.core.membership import flagged
from mmfixnorm.core.norms import global_norm
from mmfixnorm.launch import build_model, build_runner
from tests.e2e.test_doc_commands import COMMANDS, FENCE
from tests.tiny.own import write_boxes, write_masks, write_photos

DOCS = Path(__file__).parents[2] / 'docs'


class AtTheStart(Hook):
    """Keeps the weights that the training starts from, and the norm of the set."""

    def __init__(self, start):
        self.start = start

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if not self.start:
            self.start.update({key: value.clone() for key, value in runner.model.state_dict().items()})
            self.start['norm'] = global_norm(flagged(runner.optim_wrapper.optimizer)).item()


def blocks(page):
    """The Python blocks of a page."""
    return [m['text'] for m in FENCE.finditer((DOCS / page).read_text()) if m['language'] == 'python']


def block(page, words):
    (text,) = [text for text in blocks(page) if words in text]
    return text


def named_blocks():
    return {re.match(r'# (\w+\.py)\n', text)[1]: text for text in blocks('fine_tuning.md')}


# Block: the stock config of its checkpoint, pixels of the audit, the layers that are not loaded, weights in the set.
TASKS = {
    'my_photos.py': ('mmpretrain::resnet/resnet18_8xb32_in1k.py', 64, {'head.fc'}, 21),
    'my_small.py': ('mmpretrain::resnet/resnet18_8xb32_in1k.py', 32, {'head.fc', 'backbone.conv1'}, 21),
    'my_few.py': ('mmpretrain::resnet/resnet18_8xb32_in1k.py', 64, {'head.fc'}, 11),
    'my_boxes_tuned.py': ('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', 64, {'bbox_head.retina_cls'}, 33),
    'my_masks_tuned.py': (
        'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
        64,
        {'decode_head.conv_seg', 'auxiliary_head.conv_seg'},
        30,
    ),
}


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """Writes the configs of the pages, a checkpoint with fresh weights, and data."""
    monkeypatch.chdir(tmp_path)

    def write(name, stock):
        Path('my_config.py').write_text(block('own_config.md', 'my_images'))
        Path('my_boxes.py').write_text(block('own_boxes.md', 'my_boxes'))
        Path('my_masks.py').write_text(block('own_masks.md', 'my_masks'))
        for file, text in named_blocks().items():
            Path(file).write_text(text)
        cfg = load_config(stock)
        torch.manual_seed(5)
        model = build_model(Config(dict(cfg.to_dict(), model=without_downloads(cfg.model.to_dict()))))
        model.init_weights()
        Path('checkpoints').mkdir()
        torch.save(dict(state_dict=model.state_dict(), meta={}), load_config(name).load_from)
        write_photos(Path('data/my_images'))
        write_boxes(Path('data/my_boxes'))
        write_masks(Path('data/my_masks'), num=10)
        return model.state_dict()

    return write


def without_downloads(model):
    model['pretrained'] = None
    model['backbone'].pop('init_cfg', None)
    return {key: value for key, value in model.items() if value is not None}


def shortened(config):
    """A training of two steps on small images, without validation."""
    cfg = load_config(config)
    cfg.update(work_dir='run', launcher='none', randomness=dict(seed=0))
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=2)
    cfg.param_scheduler = None
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=2)
    loader = cfg.train_dataloader
    loader.update(batch_size=2, num_workers=0, persistent_workers=False)
    loader.sampler = dict(type='InfiniteSampler', shuffle=True)
    loader.pop('batch_sampler', None)
    for step in loader.dataset.pipeline:
        for key in {'scale', 'crop_size'} & step.keys():
            step[key] = 64 if isinstance(step[key], int) else (64, 64)
    for key in ('val', 'test'):
        for part in ('dataloader', 'evaluator', 'cfg'):
            cfg[f'{key}_{part}'] = None
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize('name', TASKS)
def test_a_config_of_the_page_is_converted_loads_its_checkpoint_and_trains(name, prepare, capsys, forget_runs):
    from mmfixnorm.cli.convert import main

    stock, size, fresh, in_set = TASKS[name]
    state = prepare(name, stock)
    assert main([name, '-o', 'new.py', '--size', str(size)]) == 0
    assert f'{in_set} weights in the norm-fixing set' in capsys.readouterr().out
    forget_runs()
    runner = build_runner(shortened('new.py'))
    start = {}
    runner.register_hook(AtTheStart(start))
    runner.train()
    log = capsys.readouterr().out
    mismatched = {
        line.split()[3].rstrip(':').rpartition('.')[0] for line in log.splitlines() if 'size mismatch' in line
    }
    assert mismatched == fresh
    loaded = [k for k in state if k.rpartition('.')[0] not in fresh and not k.startswith('data_preprocessor')]
    assert all(torch.equal(start[key], state[key]) for key in loaded)
    assert 'missing keys' not in log
    fixer = runner.optim_wrapper.norm_fixer
    assert fixer.target == pytest.approx(start['norm'], rel=1e-6)
    assert global_norm(flagged(runner.optim_wrapper.optimizer)).item() == pytest.approx(fixer.target, rel=1e-5)
    assert len(flagged(runner.optim_wrapper.optimizer)) == in_set


@pytest.mark.slow
def test_the_learning_rate_of_the_steps_of_a_fine_tuned_base(prepare, capsys):
    from mmfixnorm.cli.convert import main

    prepare('my_photos.py', TASKS['my_photos.py'][0])
    (words,) = [c.words[1:] for c in COMMANDS if c.page == 'fine_tuning.md' and '--lr-from' in c.words]
    trained = build_model(load_config('my_photos.py'))
    start = torch.load('checkpoints/resnet18_8xb32_in1k.pth', weights_only=False)['state_dict']
    state = {key: start.get(key, value) for key, value in trained.state_dict().items()}
    state |= {key: value for key, value in trained.state_dict().items() if key.startswith('head.')}
    state = {key: value * 0.5 if value.ndim > 1 else value for key, value in state.items()}
    Path(words[-1]).parent.mkdir(parents=True)
    torch.save(dict(state_dict=state, meta={}), words[-1])
    assert main([*words, '--size', '64']) == 0, capsys.readouterr()
    assert load_config(words[2]).optim_wrapper.optimizer.lr == pytest.approx(0.01 * 2**2, rel=1e-2)


def test_the_table_of_the_page_is_of_the_measured_lines():
    benchmark = runpy.run_path(str(DOCS.parent / 'benchmarks/lr_from.py'))
    lines = [json.loads(line) for line in (DOCS.parent / 'benchmarks/lr_from_cpu_202611.jsonl').open()]
    assert len(lines) == len(benchmark['BASES']) * len(benchmark['SEEDS'])
    assert benchmark['table'](lines) in (DOCS / 'fine_tuning.md').read_text()
    # The learning rate is the formula's; the norm at the start is the same in all of them.
    starts = [line['norm'] * (line['lr_child'] / line['lr']) ** 0.5 for line in lines]
    assert starts == pytest.approx([starts[0]] * len(lines), rel=0.01)
    networks = [json.loads(line) for line in (DOCS.parent / 'benchmarks/lr_from_networks_cpu_202611.jsonl').open()]
    assert benchmark['networks_table'](networks) in (DOCS / 'fine_tuning.md').read_text()


def test_the_page_has_these_configs_and_they_are_short():
    configs = named_blocks()
    assert configs.keys() == TASKS.keys()
    assert all(len(text.splitlines()) < 40 for text in configs.values())


def test_each_checkpoint_is_of_the_stock_config_that_the_page_means():
    for name, (stock, *_) in TASKS.items():
        text = named_blocks()[name]
        own = re.search(r"load_from = 'checkpoints/(.*)\.pth'", text)
        if own:
            assert own[1] == Path(stock.partition('::')[2]).stem
        else:
            assert "_base_ = ['./my_photos.py']" in text


def test_the_commands_of_the_page_name_its_configs_and_their_last_checkpoint():
    commands = [c.words for c in COMMANDS if c.page == 'fine_tuning.md' and c.program.startswith('tools/')]
    assert [words[0] for words in commands] == [
        'tools/fixnorm_convert.py',
        'tools/train.py',
        'tools/fixnorm_convert.py',
    ]
    assert {words[1] for words in commands} == {'my_photos.py', 'my_photos_fixnorm.py'}
    epochs = re.search(r'max_epochs=(\d+)', named_blocks()['my_photos.py'])[1]
    assert commands[-1][-1] == f'work_dirs/my_photos/epoch_{epochs}.pth'
