"""Stock configs of mmpretrain, mmdet and mmseg: each converted to FixNorm, and the child trained for 20 steps.

A config is one that its package installs. It is converted by ``mmfixnorm.convert``, which writes no child that fails
the audit. Then the child's model and optim wrapper are trained on generated batches, without a data set, and the norm
of the set is summed in float64 after each step. One JSON line per config goes to ``--out``; a config that is there
already is left out, so an interrupted run goes on. A config that is refused has a line with the reason. The lines
hold: ``px``, height and width of the images; ``in_set``, weights in the norm-fixing set; ``wn``, layers
weight-normalised, and ``held`` in newer lines, those among them whose scale is held; ``fixnorm``, the layers with a
bound; ``left_out``, trainable weights outside the set, counted by reason; ``lines`` of the child; ``notes`` of the
converter; ``untrained``, weights of the set that had no gradient; ``finite``, whether all losses are; ``drift``, the
largest relative change of the norm in 20 steps; ``seconds`` of processor time to convert and to train; ``peak_mb`` of
the process, and in newer lines ``convert_mb`` until the child was written::

    python benchmarks/convert_stock.py [NAME ...] [--threads 2] [--out FILE]
    python benchmarks/convert_stock.py --families [--toolbox mmdet] --out FILE

NAME is one of ``STOCK``, or any other config as ``mmdet/fcos/fcos_r50-...``, at the audit's size or ``--size``. With
``--families`` it is one config of each folder that the installed toolboxes have, the one whose name says that it is the
smallest. A line then may hold ``failed`` instead, the error of a fault of ours, or ``stopped``: after ``--limit``, or
the signal that ended the process.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import logging
import math
import multiprocessing
import platform
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from torch import Tensor

from mmfixnorm.config import PARTS, load_config
from mmfixnorm.convert import convert
from mmfixnorm.convert.audit import adapt, first_epoch, images_of, norm_fixing_set, prepared_model, with_usual_images
from mmfixnorm.core.audit.calibration import calibrate
from mmfixnorm.core.membership import flagged
from mmfixnorm.errors import ConfigError

STEPS = 20
# Where a package is on this machine, and where it raised its error.
_WHERE = re.compile(r' \(raised in [^()]*\)|(?<=[\s\'"])/\S*/site-packages/')
# What a name says of the size of a model, the smallest first.
_SIZES: tuple[set[str], ...] = (
    {'r18', 'resnet18', 'tiny', 'nano', 'atto', 'xxs', 't', 'b0', 's0', 'hr18s', 'r26'},
    {'r50', 'resnet50', 'small', 's', 'hr18', 'mit', 'b1', 'swin', 'xs', 's1', '18', '26'},
    {'r101', 'base', 'b', 'm'},
)
# Side of the images: as small as the model takes, for time.
STOCK = {
    'mmpretrain/resnet/resnet18_8xb32_in1k': 64,
    'mmpretrain/resnet/resnet50_8xb32_in1k': 64,
    'mmpretrain/seresnet/seresnet50_8xb32_in1k': 64,
    'mmpretrain/mobilenet_v3/mobilenet-v3-small-050_8xb128_in1k': 64,
    'mmpretrain/convnext/convnext-tiny_32xb128_in1k': 64,
    'mmpretrain/deit/deit-tiny_4xb256_in1k': 224,
    'mmdet/retinanet/retinanet_r18_fpn_1x_coco': 64,
    'mmdet/fcos/fcos_r50-caffe_fpn_gn-head_1x_coco': 64,
    'mmdet/faster_rcnn/faster-rcnn_r50_fpn_1x_coco': 64,
    'mmdet/detr/detr_r18_8xb2-500e_coco': 64,
    'mmseg/fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024': 32,
    'mmseg/pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024': 32,
    'mmseg/deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024': 64,
    'mmseg/segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512': 64,
}


def stock_config(name: str) -> Path:
    """The file of ``'toolbox/folder/config'``, as the package of the toolbox installs it."""
    toolbox, _, path = name.partition('/')
    spec = importlib.util.find_spec(toolbox)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f'{name}: {toolbox} is not installed')
    file = Path(spec.origin).parent / '.mim/configs' / f'{path}.py'
    if not file.is_file():
        raise FileNotFoundError(f'{name}: {toolbox} installs no such config: {file}')
    return file


def families(toolbox: str) -> list[str]:
    """One config of each folder of a toolbox's configs."""
    spec = importlib.util.find_spec(toolbox)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f'{toolbox} is not installed')
    root = Path(spec.origin).parent / '.mim/configs'
    chosen = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and path.name != '_base_'):
        files = [f for f in folder.glob('*.py') if not f.stem.startswith('_')]
        if files:
            chosen.append(f'{toolbox}/{folder.name}/{min(files, key=_size_by_name).stem}')
    return chosen


def _size_by_name(file: Path) -> tuple[int, int, str]:
    words = set(re.split(r'[-_]', file.stem))
    rank = next((i for i, sizes in enumerate(_SIZES) if words & sizes), len(_SIZES))
    return rank, len(file.stem), file.stem


def joint_norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(t.detach().double().square().sum().item() for t in tensors))


def train(cfg: Config, size: int) -> dict[str, Any]:
    """Train a converted config on generated batches.

    Returns:
        dict: ``norms``, of the set before and after each step; ``losses``, the sum of each step; ``untrained``, names
        of the weights of the set without a gradient in the first step, which leave the set, and of those whose
        gradient is zero in all steps.
    """
    toolbox = importlib.import_module(f'{PARTS[cfg.default_scope]}.generated_batch')
    torch.manual_seed(0)
    model = revert_sync_batchnorm(prepared_model(cfg)).train()
    adapt(model, toolbox)
    cfg.optim_wrapper.optimizer.lr *= 0.1  # where a warm-up would be
    if not torch.cuda.is_available():  # mixed precision needs an accelerator
        cfg.optim_wrapper.type = 'FixNormOptimWrapper'
        for key in ('loss_scale', 'dtype'):
            cfg.optim_wrapper.pop(key, None)
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    optim_wrapper.initialize_count_status(model, 0, STEPS)
    names = {id(model.get_parameter(name)): name for name in norm_fixing_set(model, cfg) or []}
    trained: set[str] = set()
    norms: list[float] = []
    losses: list[float] = []

    def before_step(optimizer: torch.optim.Optimizer, *args: Any) -> None:
        with_grad = [(p, p.grad) for p in flagged(optimizer) if p.grad is not None]  # the others leave the set here
        trained.update(names[id(p)] for p, grad in with_grad if grad.any())
        if not norms:
            norms.append(joint_norm(p for p, _ in with_grad))

    optim_wrapper.optimizer.register_step_pre_hook(before_step)

    def batch_of(step: int) -> dict[str, Any]:
        images = images_of(toolbox, size)
        return toolbox.generate_batch(model, images=images, size=(size, size), dtype=torch.float32, seed=step)

    with first_epoch(model):
        # In place of the statistics of pretrained weights, without which frozen normalisations let the loss overflow.
        calibrate(model, lambda: model._run_forward(model.data_preprocessor(batch_of(0), True), mode='loss'))
        for step in range(STEPS):
            losses.append(model.train_step(batch_of(step), optim_wrapper)['loss'].item())
            norms.append(joint_norm(flagged(optim_wrapper.optimizer)))
    return dict(norms=norms, losses=losses, untrained=[name for name in names.values() if name not in trained])


def measure(name: str, size: int | None, threads: int) -> dict[str, Any]:
    """Convert one config and train the child."""
    torch.set_num_threads(threads)
    MMLogger.get_instance('mmengine', log_level=logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / 'new.py')
        start = time.process_time()
        try:
            done = convert(str(stock_config(name)), out, size=size)
        except ConfigError as err:
            return dict(
                config=name,
                px=size,
                refused=_WHERE.sub('', str(err)),
                seconds=dict(convert=round(time.process_time() - start, 1)),
            )
        except Exception as err:  # a fault of this project: the sweep is to find it, and go on
            return dict(config=name, px=size, failed=f'{type(err).__name__}: {err}')
        converted, convert_mb = time.process_time(), peak_rss_mb()
        try:
            child = load_config(out)
            run = train(child if size else with_usual_images(child), done.size)
        except Exception as err:
            return dict(config=name, px=size, failed=f'in training, {type(err).__name__}: {err}')
        trained = time.process_time()
    return dict(
        config=name,
        px=done.size,
        in_set=len(done.in_set),
        wn=len(done.weight_normalized),
        held=len(done.scale_held),
        fixnorm=list(done.classifiers),
        left_out=dict(Counter(done.left_out.values())),
        lines=len(done.text.splitlines()),
        notes=list(done.notes),
        untrained=run['untrained'],
        finite=all(map(math.isfinite, run['losses'])),
        drift=max(abs(norm / run['norms'][0] - 1) for norm in run['norms']),
        seconds=dict(convert=round(converted - start, 1), train=round(trained - converted, 1)),
        convert_mb=round(convert_mb),
        peak_mb=round(peak_rss_mb()),
        versions={package: importlib.import_module(package).__version__ for package in ('torch', name.split('/')[0])},
        machine=f'{platform.system()} {platform.machine()}, {threads} thread{"s" * (threads > 1)}',
    )


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The lines of a sweep as a Markdown table, and a sentence that counts them."""
    converted = [row for row in rows if 'in_set' in row]
    refused = [row for row in rows if 'refused' in row]
    others = [row for row in rows if 'failed' in row or 'stopped' in row]
    lines = ['| config | px | in set | WN | FixNorm | left out | drift in 20 steps | s | GB |', '|' + '---|' * 9]
    for row in converted:
        cells = [
            f'`{row["config"]}`',
            row['px'] or '',
            row['in_set'],
            row['wn'],
            ', '.join(f'`{name}`' for name in row['fixnorm']),
            sum(row['left_out'].values()),
            f'{row["drift"]:.0e}' if row['finite'] else 'loss not finite',
            f'{row["seconds"]["convert"]:.0f}',
            f'{row["peak_mb"] / 1024:.1f}',
        ]
        lines.append(f'| {" | ".join(map(str, cells))} |')
    if refused or others:
        lines += ['', '| not converted | reason |', '|---|---|']
        for row in [*refused, *others]:
            reason = row.get('refused') or row.get('failed') or row['stopped']
            lines.append(f'| `{row["config"]}` | {" ".join(reason.split()).replace("|", "/")} |')
    seconds = sorted(row['seconds']['convert'] for row in converted)
    median = f'; median {seconds[len(seconds) // 2]:.0f} s, largest {seconds[-1]:.0f} s' if seconds else ''
    counts = f'{len(rows)} configs: {len(converted)} converted, {len(refused)} refused, {len(others)} failed or stopped'
    return '\n'.join([f'{counts}{median}.', '', *lines])


def peak_rss_mb() -> float:
    """The largest resident memory that this process ever had."""
    # Not resource.getrusage: its value is never below that of the parent process at the start.
    with open('/proc/self/status') as file:
        return next(int(line.split()[1]) for line in file if line.startswith('VmHWM')) / 1024


def in_own_process(name: str, size: int | None, threads: int, limit: float) -> dict[str, Any]:
    """Measure one config in a process of its own, for the peak of its memory, which also may be its end."""
    context = multiprocessing.get_context('spawn')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, name, size, threads))
    process.start()
    sender.close()
    try:
        if not receiver.poll(limit):
            return dict(config=name, px=size, stopped=f'after {limit:g} s')
        return receiver.recv()
    except EOFError:
        process.join()
        code = process.exitcode
        how = f'signal {-code}, such as that for lack of memory' if code and code < 0 else f'exit status {code}'
        return dict(config=name, px=size, stopped=f'the process was ended by {how}')
    finally:
        process.kill()
        process.join()


def _send(sender: Connection, *args: Any) -> None:
    sender.send(measure(*args))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', metavar='NAME')
    parser.add_argument('--families', action='store_true', help='one config of each folder instead')
    parser.add_argument('--toolbox', choices=sorted(PARTS), action='append', help='with --families: of these alone')
    parser.add_argument('--size', type=int, help="for a NAME that is not one of STOCK (default: the audit's)")
    parser.add_argument('--limit', type=float, default=900.0, help='seconds for a config (default: %(default)s)')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--out', type=Path, help='file to append the JSON lines to, and to read what is done')
    parser.add_argument('--table', type=Path, metavar='FILE', help='print the lines of FILE as a table, and do nothing')
    args = parser.parse_args(argv)
    if args.table:
        print(table([json.loads(line) for line in args.table.read_text().splitlines()]))
        return 0
    lines = args.out.read_text().splitlines() if args.out and args.out.exists() else []
    done = {json.loads(line)['config'] for line in lines}
    names = args.names or list(STOCK)
    if args.families:
        names = [name for toolbox in args.toolbox or sorted(PARTS) for name in families(toolbox)]
    for name in names:
        if name in done:
            continue
        size = args.size or (None if args.families else STOCK.get(name))
        row = in_own_process(name, size, args.threads, args.limit)
        print(json.dumps(row), flush=True)
        if args.out:
            with open(args.out, 'a') as file:
                file.write(json.dumps(row) + '\n')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
