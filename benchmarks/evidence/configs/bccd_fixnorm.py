_base_ = ['./bccd_wd.py']

model = dict(bbox_head=dict(type='FixNormRetinaHead', alpha=1.0))
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(weight_decay=0.0),
)
search = dict(alpha_key='model.bbox_head.alpha')
