# What a detector needs besides default_runtime.py. Logs and checkpoints count iterations.
_base_ = ['./default_runtime.py']

default_scope = 'mmdet'
custom_imports = dict(imports=['mmfixnorm.det'])

default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=10000),
    visualization=dict(_delete_=True, type='DetVisualizationHook'),
)
custom_hooks = [
    dict(type='WeightNormLoggerHook', interval=100, per_layer=False),
    dict(type='WNScaleInitHook'),
    dict(type='ClassCheckHook'),
]
log_processor = dict(type='LogProcessor', by_epoch=False)
visualizer = dict(type='DetLocalVisualizer')
