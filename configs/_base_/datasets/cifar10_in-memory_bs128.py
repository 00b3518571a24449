# cifar10_bs128.py with every image decoded once and whole batches cropped and flipped, on the device.
_base_ = ['./cifar10_bs128.py']

load = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
batch_transforms = [
    dict(type='BatchRandomCrop', crop_size=32, padding=4),
    dict(type='BatchRandomFlip', prob=0.5),
]

loader = dict(num_workers=0, pin_memory=False, collate_fn=dict(type='whole_batch'))
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='InMemoryDataset',
        dataset=dict(_base_.train_set, pipeline=load),
        batch_transforms=batch_transforms,
    ),
    **loader,
)
val_dataloader = dict(dataset=dict(_delete_=True, type='InMemoryDataset', dataset=_base_.val_set), **loader)
test_dataloader = dict(dataset=dict(_delete_=True, type='InMemoryDataset', dataset=_base_.test_set), **loader)
