# Tuned FixNorm, Algorithm 4, as in the paper: 5 trainings of 0.2 T_max and 10 of T_max.
search = dict(
    type='FixNormSearch',
    lr_range=(0.2, 3.2),
    num_rounds=2,
    num_splits=5,
    schedule_fractions=(0.2, 1.0),
    alphas=(0.5, 1.0, 2.0, 4.0, 8.0, 16.0),
    metric='accuracy/top1',
    rule='greater',
)
