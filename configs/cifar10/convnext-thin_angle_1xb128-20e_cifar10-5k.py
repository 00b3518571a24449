# FixNorm by angle: AdamW chooses the direction, and each layer turns by the learning rate, in radians. Biases, norm
# layers and the rest outside the set have 0.4 times the angle as AdamW's learning rate: 4 times that of its own config.
_base_ = ['./convnext-thin_fixnorm_1xb128-20e_cifar10-5k.py']

optim_wrapper = dict(update='angle', per='layer', other_lr=0.4, optimizer=dict(lr=0.02))
search = dict(lr_range=(0.004, 0.064))
