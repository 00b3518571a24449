# Hyperball around Muon (Wen et al. 2026): convolutions and a weight-normalised classifier keep their own norms and step
# by a share of them, the learning rate; norm layers, biases and g step by AdamW with a tenth of it.
_base_ = ['./resnet20_wd_1xb128-20e_cifar10-5k.py', '../_base_/search/grid.py']

custom_imports = dict(imports=['mmfixnorm.cls', 'mmfixnorm.peers'])
model = dict(head=dict(type='WNLinearClsHead'))
optim_wrapper = dict(
    type='HyperballOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(_delete_=True, type='Muon', lr=0.04),
    other_lr=0.1,
)
search = dict(lr_range=(5e-3, 0.32))
