# FixNorm by angle: each layer turns by the learning rate, in radians, which the schedule scales from warm-up to 0.
_base_ = ['./resnet8_fixnorm_1xb64-40e_cifar10-2k.py']

optim_wrapper = dict(update='angle', per='layer', optimizer=dict(lr=0.02))
search = dict(lr_range=(0.004, 0.064))
