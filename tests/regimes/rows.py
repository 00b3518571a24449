"""The rows of the table in docs/regimes.md; every one is the name of a test's record."""

from typing import NamedTuple


class Row(NamedTuple):
    regime: str
    how: str
    note: str = ''


ROWS = {
    'sgd': Row('SGD, Nesterov momentum', 'optim wrapper'),
    'sgd_foreach': Row('SGD, foreach', 'optim wrapper'),
    'sgd_fused': Row('SGD, fused', 'optim wrapper'),
    'adamw': Row('AdamW', 'optim wrapper'),
    'rmsprop': Row('RMSprop', 'optim wrapper'),
    'lamb': Row('LAMB', "optim wrapper, mmpretrain's `Lamb`", 'clips gradients to joint norm 1 by default'),
    'hook': Row('any optim wrapper', '`FixNormHook`, mmengine Runner'),
    'fix_norm': Row('plain PyTorch loop', '`mmfixnorm.core.fix_norm`'),
    'accumulation': Row('gradient accumulation', '3 micro-batches to a step', 'no other iteration moves a weight'),
    'clipping': Row('gradient clipping', '`clip_grad=dict(max_norm=0.05)`', 'clipped before the step, fixed after it'),
    'amp': Row('AMP with skipped steps', 'loss scaler on the CPU, 2 of 6 steps with infinite gradients'),
    'amp_fused': Row(
        'AMP with skipped steps, fused SGD', 'loss scaler on the CPU, 2 of 6', 'the optimizer skips by itself'
    ),
    'ema': Row(
        'EMA of weights',
        '`FixNormEMAHook`, the set of the average at validation',
        'rescaled to the target',
    ),
    'load_from_loaded': Row('`load_from`', "`target='loaded'`, the default", 'the norm of the loaded weights'),
    'load_from_init': Row('`load_from`', "`target='init'`", 'the norm after the initialisation, before loading'),
    'load_from_number': Row('`load_from`', '`target=2.5`'),
    'flexible_runner': Row('FlexibleRunner', 'SingleDeviceStrategy'),
    'compile': Row('torch.compile', 'inductor on the CPU, forward and backward'),
    'compile_step': Row('torch.compile of the train step', 'inductor on the CPU, `compile=True` of the Runner'),
    'checkpointing': Row('activation checkpointing', '`torch.utils.checkpoint` of the backbone'),
    'shared': Row('shared layer', 'one convolution used twice', 'counts once in the norm'),
    'frozen': Row(
        'layer frozen in mid-training',
        '`requires_grad=False` from step 3 on',
        'stays as it is; the others share what is left of the target',
    ),
    'thawed': Row(
        'layer frozen for the first steps',
        '`requires_grad=False` before the optimizer is built, thawed at step 3',
        'waits; then its norm joins the target',
    ),
    'thawed_hook': Row(
        'layer frozen for the first steps, any optim wrapper',
        '`FixNormHook`, mmengine Runner, frozen by a hook',
        'the same',
    ),
    'frozen_and_thawed': Row('layer frozen for two steps in mid-training', 'steps 2 and 3', 'held, then moves again'),
    'thawed_resumed': Row(
        'layer frozen for the first steps, resumed',
        'stopped and resumed before and after it is thawed',
        'the same bits',
    ),
    'late': Row(
        'branch taken late', 'without a gradient until step 3', 'as a layer that is frozen for the first steps'
    ),
    'lr_mult_zero': Row('layer frozen by its learning rate', '`custom_keys`, `lr_mult=0`', 'stays to the bit'),
    'closure': Row('`optimizer.step(closure)`', '`fix_norm`; gradients exist only during the step'),
    'angle_set': Row("`update='angle'`, `per='set'`", 'optim wrapper, `other_lr=20`'),
    'angle_layer': Row("`update='angle'`, `per='layer'`", 'optim wrapper, `other_lr=20`'),
    'angle_filter': Row("`update='angle'`, `per='filter'`", 'optim wrapper, `other_lr=20`', 'linear layers as a whole'),
    'angle_adamw': Row("`update='angle'`, AdamW", 'optim wrapper'),
    'angle_hook': Row("`update='angle'`, any optim wrapper", '`FixNormHook`, mmengine Runner'),
    'angle_amp': Row(
        "`update='angle'`, AMP with skipped steps", 'loss scaler on the CPU, 2 of 6 steps with infinite gradients'
    ),
    'angle_amp_fused': Row("`update='angle'`, AMP with skipped steps, fused SGD", 'loss scaler on the CPU, 2 of 6'),
    'angle_accumulation': Row("`update='angle'`, gradient accumulation", '3 micro-batches to a step'),
    'angle_clipping': Row(
        "`update='angle'`, gradient clipping",
        '`clip_grad=dict(max_norm=0.05)`',
        'changes what momentum gathers and the other parameters, not the angle',
    ),
    'angle_thawed': Row("`update='angle'`, layer frozen for the first steps", 'thawed at step 3'),
    'angle_resumed': Row("`update='angle'`, resumed", 'stopped and resumed after 1, 2, 4 and 5 steps', 'the same bits'),
    'angle_shared': Row("`update='angle'`, shared layer", 'two modules with one weight', 'turns once'),
    'angle_ema': Row("`update='angle'`, EMA of weights", '`FixNormEMAHook`, the average at validation'),
    'syncbn': Row(
        'SyncBN', '2 gloo processes', 'SyncBN needs a GPU: on the CPU mmengine turns it into BN, each with its batch'
    ),
    'ddp': Row('DDP', '2 gloo processes'),
    'fsdp': Row(
        'FSDP, FULL_SHARD', '2 gloo processes, `use_orig_params=True`', 'two all-reduces of one and two numbers'
    ),
    'fsdp_grad_op': Row('FSDP, SHARD_GRAD_OP', '2 gloo processes, `use_orig_params=True`'),
    'fsdp_hybrid': Row('FSDP, HYBRID_SHARD', '2 gloo processes as 1 x 2', 'reduces over the shard group only'),
    'fsdp_no_shard': Row('FSDP, NO_SHARD', '2 gloo processes, `use_orig_params=True`', 'no communication'),
    'fsdp_thawed': Row('FSDP, layer frozen for the first steps', '2 gloo processes, FULL_SHARD, thawed at step 3'),
    'fsdp_flat': Row('FSDP without original parameters', '2 gloo processes, `use_orig_params=False`'),
    'fsdp2': Row('FSDP2 (DTensor)', '2 gloo processes, `fully_shard`, `fix_norm`'),
    'fsdp2_thawed': Row('FSDP2, layer frozen for the first steps', '2 gloo processes, thawed at step 3'),
    'fsdp2_replicated': Row('FSDP2, replicated and sharded', '2 gloo processes as a 2 x 1 mesh, `fix_norm`'),
    'angle_ddp': Row("`update='angle'`, DDP", '2 gloo processes'),
    'angle_fsdp': Row("`update='angle'`, FSDP, FULL_SHARD", '2 gloo processes', 'one more number a layer is reduced'),
    'angle_fsdp2': Row("`update='angle'`, FSDP2", '2 gloo processes'),
    'zero1': Row(
        'DeepSpeed ZeRO-1',
        '2 gloo processes, SGD of torch, `fix_norm`, float32',
        'the set must be a parameter group of its own',
    ),
    'zero2': Row('DeepSpeed ZeRO-2', '2 gloo processes, SGD of torch, `fix_norm`, float32', 'as ZeRO-1'),
    'angle_zero1': Row(
        "`update='angle'`, DeepSpeed ZeRO-1", "2 gloo processes, `per='set'`, float32", "`per='layer'` is refused"
    ),
    'angle_zero2': Row("`update='angle'`, DeepSpeed ZeRO-2", "2 gloo processes, `per='set'`, float32", 'as ZeRO-1'),
    'zero3': Row('DeepSpeed ZeRO-3', '2 gloo processes, SGD of torch, `fix_norm`'),
}
