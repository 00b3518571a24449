# FixNorm with a set norm for each weight: the first one, but for the classifier, which starts at 0.26 where the
# convolutions start at 2.6 to 11.4. Its norm becomes 8.1, its effective learning rate about a thousandth.
_base_ = ['./resnet20_fixnorm-per-layer_1xb128-20e_cifar10-5k.py']

optim_wrapper = dict(targets={r'^head\.fc': 32.0})
