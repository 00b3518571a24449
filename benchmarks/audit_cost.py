"""How long the audit of a config takes. Prints one line of JSON. Run it on an otherwise idle machine::

python benchmarks/audit_cost.py [CONFIG] [--size 224] [--threads 2] [--device cpu]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence

import torch

from mmfixnorm.convert.audit import audit_model, prepared_model
from mmfixnorm.launch import load_config


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', nargs='?', default='configs/imagenet/resnet50_fixnorm_16xb64-100e_imagenet.py')
    parser.add_argument('--size', type=int, default=224)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--device', default='cpu')
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    cfg = load_config(args.config)
    model = prepared_model(cfg).to(args.device)
    wall, cpu = time.perf_counter(), time.process_time()
    audit = audit_model(model, cfg, size=args.size)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    weights = len(audit.report.weights)
    print(json.dumps(dict(vars(args), wall_s=wall, cpu_s=cpu, weights=weights, passes=audit.passes)))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
