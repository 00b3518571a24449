"""Each test of a regime records its row; docs/regimes_table.py makes the table of docs/regimes.md from them."""

import pytest
from mmengine.runner import Runner

from tests.regimes.rows import ROWS
from tests.regimes.toy import WRAPPER, batches, data_of, start_of

BOUND = 1e-9


@pytest.fixture
def record(record_property):
    """``record(row, actual, expected)``: equal within ``bound``, written down. Both are name -> tensor, of size 1."""

    def equal(row, actual, expected, bound=BOUND):
        assert actual.keys() == expected.keys()
        assert row in ROWS
        worst = {name: (actual[name].double() - value).abs().max().item() for name, value in expected.items()}
        assert max(worst.values()) <= bound, worst
        record_property('regime', row)
        record_property('result', f'equal within {bound:g}')

    return equal


@pytest.fixture
def refused(record_property):
    """``refused(row, error, message)``: the message of a regime that is refused, written down."""

    def check(row, error, message):
        assert message in str(error)
        assert row in ROWS
        record_property('regime', row)
        record_property('result', f'refused: "{message}"')

    return check


@pytest.fixture
def run_epoch(tmp_path):
    """Trains 6 iterations with a runner and returns the weights after it."""

    def train(model, runner=Runner, wrapper=WRAPPER, hooks=(), **kwargs):
        built = runner(
            model=model,
            work_dir=str(tmp_path),
            train_dataloader=dict(
                batch_size=1,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=[data_of(batch) for batch in batches()],
                collate_fn=lambda items: items[0],
            ),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            optim_wrapper=wrapper,
            default_hooks=dict(checkpoint=None),
            custom_hooks=list(hooks),
            experiment_name='regimes',
            log_level='WARNING',
            **kwargs,
        )
        built.train()
        return start_of(built.model)

    return train
