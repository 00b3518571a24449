"""The pooling with dropout against torch's two functions."""

import torch

from mmfixnorm.cls.necks import GlobalAveragePoolingDropout


def test_it_pools_then_drops_in_training_and_only_pools_in_evaluation():
    neck, maps = GlobalAveragePoolingDropout(dropout_ratio=0.3), torch.rand(4, 500, 3, 3)
    pooled = maps.mean((2, 3))
    (out,) = neck.eval()((maps,))
    torch.testing.assert_close(out, pooled)
    torch.manual_seed(0)
    (out,) = neck.train()(maps)
    torch.manual_seed(0)
    torch.testing.assert_close(out, torch.nn.functional.dropout(pooled, 0.3))
    assert 0.2 < (out == 0).float().mean() < 0.4
