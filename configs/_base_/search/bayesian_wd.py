# BO + WD of Table 1: learning rate and weight decay of plain training, both on a log scale.
search = dict(
    type='BayesianSearch',
    lr_range=(0.2, 3.2),
    weight_decay_range=(1e-5, 5e-4),
    num_trials=25,
    metric='accuracy/top1',
    rule='greater',
)
