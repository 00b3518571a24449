_base_ = ['./imagenet_bs64_autoaug.py']

# The crops of the reference implementation: a margin of 32 pixels, bicubic.
size = 224
load, _, flip, auto_augment, pack = _base_.train_pipeline
train_pipeline = [load, dict(type='EfficientNetRandomCrop', scale=size), flip, auto_augment, pack]
test_pipeline = [load, dict(type='EfficientNetCenterCrop', crop_size=size), pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
