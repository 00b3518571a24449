# For Fig. 4: lr and alpha as in the paper, at this network's size.
_base_ = ['./resnet8_fixnorm_1xb64-10e_cifar10-2k.py']

search = dict(
    _delete_=True,
    type='GridSearch',
    lrs=(0.4, 1.0, 1.6, 2.2, 2.8),
    alphas=(0.5, 1.0, 2.0, 4.0, 8.0),
    metric='accuracy/top1',
    rule='greater',
)
