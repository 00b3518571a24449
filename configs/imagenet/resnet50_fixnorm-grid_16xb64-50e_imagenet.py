# Fig. 4: lr and alpha, 25 trainings of 50 epochs.
_base_ = ['./resnet50_fixnorm_16xb64-100e_imagenet.py']

param_scheduler = [
    dict(begin=0, end=4, **_base_.warmup),
    dict(begin=4, end=50, T_max=46, **_base_.cosine),
]
train_cfg = dict(max_epochs=50)
search = dict(
    _delete_=True,
    type='GridSearch',
    lrs=(0.4, 1.0, 1.6, 2.2, 2.8),
    alphas=(0.5, 1.0, 2.0, 4.0, 8.0),
    metric='accuracy/top1',
    rule='greater',
)
