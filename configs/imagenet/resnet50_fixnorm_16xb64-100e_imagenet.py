# Fig. 2: Algorithm 1@FixNorm-FC. The paper names neither number: these are those of ResNet50-D.
_base_ = ['./resnet50_wd_16xb64-100e_imagenet.py', '../_base_/search/fixnorm.py']

model = dict(head=dict(type='FixNormLinearClsHead', alpha=0.5))
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(lr=1.4, weight_decay=0.0),
)
