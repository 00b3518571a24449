data_root = 'data/cityscapes/'

load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
train_pipeline = [
    *load,
    dict(type='RandomResize', scale=(2049, 1025), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(769, 769), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    # OCNet's brightness jitter alone. hue_delta takes no 0; with 1 the hue moves by 2 degrees at most.
    dict(
        type='PhotoMetricDistortion',
        brightness_delta=10,
        contrast_range=(1.0, 1.0),
        saturation_range=(1.0, 1.0),
        hue_delta=1,
    ),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    load[0],
    dict(type='Resize', scale=(2049, 1025), keep_ratio=True),
    load[1],  # after Resize: masks are compared in the size of the file
    dict(type='PackSegInputs'),
]

cityscapes = dict(type='CityscapesDataset', data_root=data_root)
train_prefix = dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train')
val_prefix = dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val')
train_set = dict(data_prefix=train_prefix, pipeline=train_pipeline, **cityscapes)
val_set = dict(data_prefix=val_prefix, pipeline=test_pipeline, **cityscapes)

loader = dict(num_workers=2, persistent_workers=True)
train_dataloader = dict(batch_size=2, dataset=train_set, sampler=dict(type='InfiniteSampler', shuffle=True), **loader)
val_dataloader = dict(batch_size=1, dataset=val_set, sampler=dict(type='DefaultSampler', shuffle=False), **loader)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
