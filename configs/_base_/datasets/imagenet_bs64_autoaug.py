_base_ = ['./imagenet_bs64.py']

# AutoAugment after crop and flip; borders are filled with the mean, in the order of the loaded image.
load, crop, flip, pack = _base_.train_pipeline
auto_augment = dict(type='AutoAugment', policies='imagenet', hparams=dict(pad_val=[104, 116, 124]))
train_pipeline = [load, crop, flip, auto_augment, pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
