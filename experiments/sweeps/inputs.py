"""What a step hears: one change at a time of the `spectral` model of sweeps/prediction.py.

    CHANGED=NAME[,NAME] python -m experiments.sweeps.inputs DATA_DIR ROWS.jsonl WORKDIR UPDATES SEED

NAME: pastR (R past residuals), noabs (without their sizes), nowave (without the waveform),
bytes, embedded, tanh, adaptive (the prediction of an NLMS filter of the residuals is heard),
coded (what it leaves is coded). Rate 4e-3, not tuned anew.
"""

import json
import os
import sys
import time

from experiments.sweeps import prediction
from wavernn_jax import commands

data, rows, workdir, updates, seed = sys.argv[1:]
config = prediction.configure('spectral', int(updates))
config.data.dir, config.train.seed = data, int(seed)
config.optimizer.learning_rate, config.optimizer.final_learning_rate = 4e-3, 4e-5
config.train.eval_every = int(updates)
config.evaluation.free_running = config.evaluation.synthesize = 0
start = time.time()
commands.train(config, workdir)
result = commands.evaluate(workdir, 'test')
with open(rows, 'a') as file:
  file.write(json.dumps({
      'changed': os.environ.get('CHANGED', ''), 'updates': int(updates), 'seed': int(seed),
      **{name: result[name] for name in ('nll', 'nll_coarse', 'nll_fine')},
      'seconds': time.time() - start}) + '\n')
