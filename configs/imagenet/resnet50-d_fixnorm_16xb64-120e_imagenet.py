_base_ = ['./resnet50-d_wd_16xb64-120e_imagenet.py', '../_base_/search/fixnorm.py']

model = dict(head=dict(type='FixNormLinearClsHead', alpha=0.5))
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(lr=1.4, weight_decay=0.0),
)
# The paper's 16 GPUs: two nodes of eight.
search = dict(executor=dict(type='slurm', nodes_per_trial=2, gpus_per_trial=16))
