"""docs/export.md as it stands there: fold, load into the stock config, export to ONNX, run with onnxruntime."""

import functools
import inspect
import re

import pytest
import torch
from torch import Tensor

from mmfixnorm.cli import fold
from tests.tools.families import ROOT, config_file, distance, images, outputs, trained_model, write_child

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript', reason='could not import onnxscript: the exporter of torch >= 2.9 needs it')

WN = dict(type='WNConv2d')
FIXNORM = {
    'mmdet/retinanet/retinanet_r18_fpn_1x_coco': dict(
        neck=dict(conv_cfg=WN), bbox_head=dict(type='FixNormRetinaHead', alpha=1.0, conv_cfg=WN)
    ),
    'mmseg/deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024': dict(
        decode_head=dict(type='FixNormDepthwiseSeparableASPPHead', alpha=1.0),
        auxiliary_head=dict(type='FixNormFCNHead', alpha=1.0),
    ),
}
# The stock config, and what was trained: a config of this package, or the stock one with changes to its model.
MODELS = {
    'EfficientNet': (
        'mmpretrain/efficientnet/efficientnet-b0_8xb32_in1k',
        'imagenet/efficientnet-b0_fixnorm_16xb64-350e_imagenet',
    ),
    'RetinaNet': ('mmdet/retinanet/retinanet_r18_fpn_1x_coco', None),
    'DeepLabV3+': ('mmseg/deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024', None),
    'Base-OC': (
        'camvid/base-oc_r18-thin-d8_wd_1xb8-240i_camvid',
        'camvid/base-oc_r18-thin-d8_fixnorm_1xb8-240i_camvid',
    ),
}
# torch before 2.5 has the one exporter that is called legacy today.
EXPORTERS = [{}, dict(dynamo=False)] if 'dynamo' in inspect.signature(torch.onnx.export).parameters else [{}]


@pytest.fixture
def work_dir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def export():
    """The function that the page gives its reader."""
    (code,) = re.findall(r'```python\n(.*?)```', (ROOT / 'docs/export.md').read_text(), re.DOTALL)
    scope: dict = {}
    exec(compile(code, 'docs/export.md', 'exec'), scope)
    return scope['export']


def run(filename: str, batch: Tensor, options=None) -> list[Tensor]:
    session = onnxruntime.InferenceSession(filename, options, providers=['CPUExecutionProvider'])
    return [torch.from_numpy(value) for value in session.run(None, {'images': batch.numpy()})]


@pytest.mark.slow
@pytest.mark.parametrize('name', MODELS)
def test_a_folded_model_in_the_stock_config_exports_with_the_outputs_of_training(
    work_dir, export, monkeypatch, name
) -> None:
    stock, ours = MODELS[name]
    config = config_file(ours) if ours else write_child(stock, FIXNORM[stock], work_dir / 'ours.py')
    trained = trained_model(config, images(size=224))
    torch.save(dict(state_dict=trained.state_dict()), 'fixnorm.pth')
    assert fold.main([str(config), 'fixnorm.pth', 'plain.pth']) == 0
    batch = images(3, 224, seed=7)
    expected = outputs(trained, batch)
    for kwargs in EXPORTERS:
        with monkeypatch.context() as patch:
            patch.setattr(torch.onnx, 'export', functools.partial(torch.onnx.export, **kwargs))
            export(config_file(stock), 'plain.pth', 'model.onnx')
        difference = distance(run('model.onnx', batch), expected)
        print(f'{name}, {kwargs or "default exporter"}: {difference:.1e} of the largest output')  # noqa: T201, shown by -rP
        assert difference < 1e-4


@pytest.mark.slow
def test_an_unfolded_model_exports_and_onnxruntime_folds_it_when_it_loads_it(work_dir) -> None:
    # The scales of training, not those of the start: g is no longer ||W||, and above its bound in the classifier.
    model = trained_model(config_file('digits/retinanet_r18-thin-fpn_fixnorm_1xb16-1200i_digits-det'), images())
    torch.onnx.export(model, (images(),), 'model.onnx', input_names=['images'])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = 'loaded.onnx'
    batch = images(seed=7)
    assert distance(run('model.onnx', batch, options), outputs(model, batch)) < 1e-4
    norms = {
        name: sum(node.op_type == 'ReduceL2' for node in onnx.load(name).graph.node)
        for name in ('model.onnx', 'loaded.onnx')
    }
    assert norms['model.onnx'] > 0
    assert norms['loaded.onnx'] == 0
