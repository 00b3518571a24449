_base_ = [
    '../_base_/models/retinanet_r50-fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/sgd_bs16_step-90k.py',
    '../_base_/det_runtime.py',
]
