# Fig. 2: Algorithm 1@WN-FC. The paper names no learning rate for it: this is that of ResNet50-D.
_base_ = ['./resnet50_wd_16xb64-100e_imagenet.py', '../_base_/search/grid.py']

model = dict(head=dict(type='WNLinearClsHead'))
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(lr=1.4, weight_decay=0.0),
)
