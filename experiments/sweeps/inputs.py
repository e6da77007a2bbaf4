"""What a step should hear beside a spectral prediction: an ablation at a small budget.

    python -m experiments.sweeps.inputs NAME UPDATES [model.FIELD=VALUE | optimizer.FIELD=VALUE ...]

Trains 128 units on updates of 4 × 1,920 samples and prints one JSON line: valid NLL of
16 utterances in nats/sample.
"""

import json
import os
import sys
import time

from wavernn_jax import config as config_lib
from wavernn_jax.training import loop

name, steps = sys.argv[1], int(sys.argv[2])
config = config_lib.Config(
    model=config_lib.ModelConfig(units=128, projection=128, channels=64, prediction='spectral'),
    data=config_lib.DataConfig(dir=os.environ['KATHLEEN24']),
    optimizer=config_lib.OptimizerConfig(learning_rate=4e-3, final_learning_rate=4e-5,
                                         warmup_steps=100, ema_decay=0.99),
    train=config_lib.TrainConfig(steps=steps, batch=4, crop=1920, burn_in=240, eval_every=10**6,
                                 save_every=10**6, log_every=100),
    evaluation=config_lib.EvaluationConfig(synthesize=0, max_valid_utterances=16))
for setting in sys.argv[3:]:
  path, value = setting.split('=')
  part, field = path.split('.')
  section = getattr(config, part)
  setattr(section, field, type(getattr(section, field))(value))
start = time.time()
loop.train(config, f'runs/inputs/{name}')
with open(f'runs/inputs/{name}/metrics.jsonl') as file:
  rows = [json.loads(line) for line in file]
valid = [r for r in rows if 'valid_nll' in r][-1]
print(json.dumps({'name': name, **valid, 'seconds': time.time() - start}))
