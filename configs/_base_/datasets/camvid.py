# CamVid's street scenes, 240 x 180, 11 classes: img/{train,val,test}/*.jpg and ann/{train,val,test}/*.png; 255 is void.
data_root = 'data/camvid'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(240, 180), ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(160, 160), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]

stuff = ['Sky', 'Building', 'Pole', 'Road', 'Pavement', 'Tree', 'SignSymbol', 'Fence']
things = ['Car', 'Pedestrian', 'Bicyclist']
colours = ['808080', '800000', 'c0c080', '804080', '3c28de', '808000', 'c08080', '404080', '400080', '404000', '0080c0']
palette = [list(bytes.fromhex(colour)) for colour in colours]
scenes = dict(type='BaseSegDataset', data_root=data_root, metainfo=dict(classes=stuff + things, palette=palette))

loader = dict(num_workers=0, persistent_workers=False)  # trials that run side by side share the cores
in_order = dict(type='DefaultSampler', shuffle=False)
endless = dict(type='InfiniteSampler', shuffle=True)
train_set = dict(data_prefix=dict(img_path='img/train', seg_map_path='ann/train'), pipeline=train_pipeline, **scenes)
train_dataloader = dict(batch_size=8, sampler=endless, dataset=train_set, **loader)
val_set = dict(data_prefix=dict(img_path='img/val', seg_map_path='ann/val'), pipeline=test_pipeline, **scenes)
val_dataloader = dict(batch_size=8, sampler=in_order, dataset=val_set, **loader)
test_set = dict(data_prefix=dict(img_path='img/test', seg_map_path='ann/test'), pipeline=test_pipeline, **scenes)
test_dataloader = dict(batch_size=8, sampler=in_order, dataset=test_set, **loader)
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
