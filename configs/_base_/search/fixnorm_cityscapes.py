_base_ = ['./fixnorm.py']

# Training starts from a pretrained backbone: a lower range (A.4.2).
search = dict(
    lr_range=(0.005, 0.1),
    metric='mIoU',
    alpha_key=['model.decode_head.alpha', 'model.auxiliary_head.alpha'],
)
