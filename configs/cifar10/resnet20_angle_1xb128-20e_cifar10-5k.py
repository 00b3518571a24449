# FixNorm by angle: each layer turns by the learning rate, in radians, which the schedule scales from warm-up to 0.
_base_ = ['./resnet20_fixnorm_1xb128-20e_cifar10-5k.py']

optim_wrapper = dict(update='angle', per='layer', optimizer=dict(lr=0.02))
search = dict(lr_range=(0.004, 0.064))
