"""Writes the table of docs/suits.md: ``python docs/suits_table.py``.

The numbers of weights are those that the converter found, in ``benchmarks/convert_stock_cpu_202611.jsonl``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs/suits.md'
LINES = ROOT / 'benchmarks/convert_stock_cpu_202611.jsonl'


class Row(NamedTuple):
    """A kind of network: an example that was converted, what to do, and which accuracy was measured."""

    kind: str
    example: str
    advice: str
    accuracy: str


ROWS = [
    Row(
        'classifier with BN',
        'mmpretrain/resnet/resnet50_8xb32_in1k',
        '**yes**: convert and search',
        'small networks: as accurate as tuned weight decay within the noise, cheaper to tune ([table](evidence.md))',
    ),
    Row(
        'BN and SE blocks',
        'mmpretrain/mobilenet_v3/mobilenet-v3-small-050_8xb128_in1k',
        '**yes**: the layers of the blocks become WN',
        'not with SE; a small MobileNetV2 is best at 0.4 '
        '([table](rotation_measured.md#where-is-the-best-learning-rate))',
    ),
    Row(
        'LN: ConvNeXt',
        'mmpretrain/convnext/convnext-tiny_32xb128_in1k',
        'try it, keep your recipe: every layer becomes WN ([why](convert.md#without-batch-normalisation))',
        'a thin one on CIFAR-10: 1.04 points below AdamW, by angle level with it; '
        'AdamW with clipped gradients is 1.43 above AdamW, LAMB 2.23 '
        '([table](rotation_measured.md#does-it-gain))',
    ),
    Row(
        'LN: vision transformer',
        'mmpretrain/deit/deit-tiny_4xb256_in1k',
        'the same',
        'a thin DeiT on CIFAR-10: level with AdamW, clipped or not, by angle level with AdamW that is not clipped '
        '([table](rotation_measured.md#does-it-gain))',
    ),
    Row(
        'detector, frozen BN, head without norm',
        'mmdet/retinanet/retinanet_r18_fpn_1x_coco',
        '**yes**: BN stays, scales are held ([how](convert.md#bn-on-stored-statistics)); try LARS, clipped '
        'gradients, [by angle](rotation.md)',
        'a small one with trained BN on blood cells: the winner of Algorithm 4 is unstable, by angle it gains; '
        'frozen BN: [as unstable](fine_tuning.md#measured-does-it-gain)',
    ),
    Row(
        'detector, frozen BN, head with GN',
        'mmdet/fcos/fcos_r50-caffe_fpn_gn-head_1x_coco',
        '**yes**: convolutions before GN stay as they are',
        'a small one on blood cells, nothing frozen: by angle it gains '
        '([table](rotation_measured.md#networks-that-had-no-say))',
    ),
    Row(
        'two-stage detector',
        'mmdet/faster_rcnn/faster-rcnn_r50_fpn_1x_coco',
        'converts and trains; measure yourself',
        'not measured',
    ),
    Row(
        'DETR',
        'mmdet/detr/detr_r18_8xb2-500e_coco',
        'hardly: attention stays outside the set, with your weight decay',
        'not measured',
    ),
    Row(
        'segmentor with BN',
        'mmseg/pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024',
        '**yes**: convert and search',
        'a small Base-OC on street scenes: above weight decay of the same search, not above seven more learning rates '
        'of it; by angle it gains, on UPerNet too ([table](rotation_measured.md#does-it-gain))',
    ),
    Row(
        'SegFormer',
        'mmseg/segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512',
        'hardly: attention stays outside the set',
        'not measured',
    ),
]


def table() -> str:
    """The table in Markdown."""
    found = {line['config']: line for line in map(json.loads, LINES.open())}
    rows = [
        '| your network | e.g. | in the set | become WN (scale held) | left out | advice | accuracy |',
        '|---|---|---|---|---|---|---|',
    ]
    for row in ROWS:
        line = found[row.example]
        wn = f'{line["wn"]} ({line["held"]})' if line['held'] else f'{line["wn"]}'
        left_out = sum(line['left_out'].values())
        name = Path(row.example).name.partition('_')[0]
        cells = (row.kind, f'`{name}`', line['in_set'], wn, left_out, row.advice, row.accuracy)
        rows.append(f'| {" | ".join(map(str, cells))} |')
    return '\n'.join(rows) + '\n'


def with_table(page: str) -> str:
    """A page with its table replaced."""
    begin, end = '<!-- begin of the table -->\n', '<!-- end of the table -->'
    return re.sub(f'({begin}).*?({end})', lambda m: m[1] + table() + m[2], page, flags=re.DOTALL)


if __name__ == '__main__':
    PAGE.write_text(with_table(PAGE.read_text()))
