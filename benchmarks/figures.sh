#!/usr/bin/env bash
# The runs behind docs/figures.md: a small residual network on 2000 images of CIFAR-10, in data/cifar10. Every command
# goes on where it was interrupted. About 45 minutes on two cores that had other work to do.
set -euo pipefail
cd "$(dirname "$0")/.."
workers=${WORKERS:-2}
runs=work_dirs/figures

search() {
    python tools/fixnorm_search.py run "configs/cifar10/resnet8_$1_1xb64-10e_cifar10-2k.py" --workers "$workers" \
        --work-dir "$runs/$2"
}
search wd-grid wd-grid
search fixnorm-grid grid
search fixnorm search

# Learning rates: the best of the two grids above.
train() {  # config, work dir, learning rate, weight decay
    OMP_NUM_THREADS=1 python tools/train.py "configs/cifar10/resnet8_$1_1xb64-40e_cifar10-2k.py" \
        --work-dir "work_dirs/figures/$2" --resume \
        --cfg-options optim_wrapper.optimizer.lr="$3" optim_wrapper.optimizer.weight_decay="$4" \
        default_hooks.logger.interval=4 custom_hooks.0.interval=4 custom_hooks.0.fc=False
}
export -f train
best_lr() {  # the last line: some installations greet on import
    python -c "from mmengine.config import Config; print(Config.fromfile('$1').optim_wrapper.optimizer.lr)" | tail -n 1
}
wd=$(best_lr $runs/wd-grid/best_config.py)
ours=$(best_lr $runs/grid/best_config.py)
printf '%s\n' "wd wd $wd 1e-4" "wd wd-strong $wd 2e-3" "alg1 alg1 $ours 0" "wn-fc wn-fc $ours 0" "fixnorm fixnorm $ours 0" |
    xargs -P "$workers" -L 1 bash -c 'train "$@"' _
