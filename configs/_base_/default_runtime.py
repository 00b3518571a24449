default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmfixnorm.cls'])

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    epoch_seed=dict(type='EpochSeedHook'),  # a resumed run draws what an uninterrupted one does
    visualization=dict(type='VisualizationHook', enable=False),
)

custom_hooks = [
    dict(type='WeightNormLoggerHook', interval=100, per_layer=False),
    dict(type='CrossBoundaryRiskHook', interval=100),
    dict(type='ClassCheckHook'),
]

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)

vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='UniversalVisualizer', vis_backends=vis_backends)

log_level = 'INFO'
load_from = None
resume = False

# A seed makes runs on a CPU repeat bit for bit. `deterministic=True` would refuse the backward
# pass of global average pooling on a GPU.
randomness = dict(seed=0, deterministic=False)
