# FixNorm by angle with SGD: its momentum chooses the direction, and each layer turns by the learning rate, in radians.
_base_ = ['./deit-thin_fixnorm_1xb128-20e_cifar10-5k.py']

optim_wrapper = dict(
    update='angle',
    per='layer',
    optimizer=dict(_delete_=True, type='SGD', lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.0),
)
search = dict(lr_range=(0.004, 0.064))
