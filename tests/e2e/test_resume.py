import torch

from mmfixnorm.launch import build_runner


def test_one_epoch_and_one_resumed_equal_two_straight_bit_for_bit(digits_config, tmp_path):
    """With random crops, momentum, warm-up and cosine, through the committed config."""

    def run(name, **options):
        saving = {'default_hooks.checkpoint.interval': 1, 'default_hooks.checkpoint.max_keep_ckpts': -1}
        cfg = digits_config('fixnorm', **{'train_cfg.max_epochs': 2, **saving})
        cfg.work_dir = str(tmp_path / name)
        cfg.update(options)
        torch.manual_seed(len(name))  # what ran before must not matter
        build_runner(cfg).train()
        return torch.load(tmp_path / name / 'epoch_2.pth', weights_only=False)

    straight = run('straight')
    # What a run killed after its first epoch leaves behind is that run's first checkpoint.
    resumed = run('resumed', load_from=str(tmp_path / 'straight' / 'epoch_1.pth'), resume=True)
    for name, value in straight['state_dict'].items():
        assert torch.equal(value, resumed['state_dict'][name]), name
    assert straight['optimizer']['fix_norm'] == resumed['optimizer']['fix_norm']
    assert straight['optimizer']['fix_norm']['target'] > 0
