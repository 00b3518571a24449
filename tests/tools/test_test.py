"""mmfixnorm test: the checkpoint that training left, tested again."""

import json
import pickle

import pytest


@pytest.fixture
def trained(train, toy, in_tmp) -> str:
    assert train([toy, '--work-dir', 'run']) == 0
    return 'run/epoch_1.pth'


def logged_hit_rate(in_tmp) -> float:
    (scalars,) = in_tmp.glob('run/*/vis_data/scalars.json')
    records = [json.loads(line) for line in scalars.read_text().splitlines()]
    return next(record['hit_rate'] for record in records if 'hit_rate' in record)


def test_metrics_are_those_of_the_last_validation(test_tool, toy, trained, in_tmp) -> None:
    out = ['--out', 'metrics.json', '--out-item', 'metrics']
    assert test_tool([toy, trained, '--work-dir', 'test', *out]) == 0
    metrics = json.loads((in_tmp / 'metrics.json').read_text())
    assert metrics == {'hit_rate': pytest.approx(logged_hit_rate(in_tmp))}


def test_out_holds_one_prediction_per_image(test_tool, toy, trained, in_tmp) -> None:
    assert test_tool([toy, trained, '--work-dir', 'test', '--out', 'pred.pkl']) == 0
    predictions = pickle.loads((in_tmp / 'pred.pkl').read_bytes())
    hits = [prediction['hit'] for prediction in predictions]
    assert len(hits) == 16
    assert sum(hits) / 16 == pytest.approx(logged_hit_rate(in_tmp))


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (['no.pth'], "no such checkpoint: 'no.pth'; there are 'x.pth'"),
        (['no/no.pth'], "no such checkpoint: 'no/no.pth'\n"),
        (['x.pth', '--out', 'pred.txt'], "a .pkl file, got 'pred.txt'"),
        (['x.pth', '--out', 'm.txt', '--out-item', 'metrics'], ".pkl file, got 'm.txt'"),
        (['x.pth', '--show-dir', 'images'], 'no default_hooks.visualization'),
        (['x.pth', '--cfg-options', 'test_dataloader.dataset.data_root=no'], "data_root: no such file or folder: 'no'"),
    ],
)
def test_bad_input_ends_with_a_message_and_status_2(test_tool, toy, in_tmp, capsys, argv, message) -> None:
    (in_tmp / 'x.pth').write_bytes(pickle.dumps({}))
    assert test_tool([toy, *argv]) == 2
    assert message in capsys.readouterr().err
