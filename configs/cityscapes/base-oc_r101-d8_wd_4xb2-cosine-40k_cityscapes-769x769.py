_base_ = [
    '../_base_/models/base-oc_r101-d8.py',
    '../_base_/datasets/cityscapes_769x769.py',
    '../_base_/schedules/sgd_bs8_cosine-40k.py',
    '../_base_/seg_runtime.py',
]
