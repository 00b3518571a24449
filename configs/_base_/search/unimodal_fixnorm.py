# Tuned FixNorm in fewer trainings than Algorithm 4: learning rate and alpha are explored in short trainings.
search = dict(
    type='UnimodalFixNormSearch',
    lr_range=(0.2, 3.2),
    lr_factor=2.0,
    schedule_fractions=(0.2, 1.0),
    alphas=(0.5, 1.0, 2.0, 4.0, 8.0, 16.0),
    metric='accuracy/top1',
    rule='greater',
)
