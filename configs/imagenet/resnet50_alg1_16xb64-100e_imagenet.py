# Fig. 1 right, Fig. 2: Algorithm 1. The paper names no learning rate for it: this is that of ResNet50-D.
_base_ = ['./resnet50_wd_16xb64-100e_imagenet.py', '../_base_/search/grid.py']

optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(lr=1.4, weight_decay=0.0),
    paramwise_cfg=dict(lambda_fc=1e-4),
)
