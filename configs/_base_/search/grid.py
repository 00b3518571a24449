# Five learning rates, evenly spaced with both ends, each at full length.
search = dict(
    type='GridSearch',
    lr_range=(0.2, 3.2),
    num_splits=5,
    metric='accuracy/top1',
    rule='greater',
)
