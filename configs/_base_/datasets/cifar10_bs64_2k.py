_base_ = ['./cifar10_bs128.py']

# 200 images per class to train on and 200 others to rank on
train_dataloader = dict(batch_size=64, dataset=dict(subset=200))
val_dataloader = dict(dataset=dict(subset=(4500, 4700)))
