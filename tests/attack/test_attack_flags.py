"""Values of flags that cannot be: each refused before anything is written or computed."""

import json
import os

import attacks
from processes_to_kill import HERE, Zygote

DEMO = HERE.parents[1] / 'wavernn_jax' / 'demo_speech'
MODEL = HERE.parents[1] / 'wavernn_jax' / 'pretrained' / 'kathleen192.safetensors'

_COUNTS = {'-1', '0', '1000000000000', 'nan', 'x'}
_SIZES = ('model.units', 'model.projection', 'model.channels', 'model.layers', 'train.steps',
          'train.batch', 'train.crop', 'train.log_every', 'train.keep', 'evaluation.batch')
CONFIG = {  # field of the config -> values
    **dict.fromkeys(_SIZES, _COUNTS),
    'model.kernel': {'-1', '0', '4'}, 'model.kind': {'x', ''}, 'model.compute_dtype': {'int8'},
    'optimizer.learning_rate': {'nan', 'inf', '-1', '0'}, 'optimizer.clip_norm': {'nan', '-1', '0'},
    'optimizer.ema_decay': {'nan', '1', '-0.1'}, 'optimizer.b1': {'nan', '-1', '1'},
    'optimizer.eps': {'nan', 'inf', '-1'}, 'optimizer.warmup_steps': {'-1', 'nan'},
    'evaluation.synthesize_seconds': {'nan', 'inf', '-1'}, 'train.input_noise': {'nan', '-1'},
    'train.burn_in': {'-1', '1000000000'}, 'train.seed': {'-1'},
    'pruning.recurrent': {'nan', '1', '-0.5', 'inf'}, 'pruning.interval': {'0'},
    'data.valid_fraction': {'nan', '0', '0.7'}, 'data.workers': {'-1'},
    'data.mels': {'x', ''}, 'data.dir': {'', '/nowhere', '/dev/null', 'x' * 5_000},
    'mel.clamp': {'nan', '0', '-1'}, 'mel.fmin': {'nan', '-1'}, 'mel.fmax': {'nan', 'inf', '1e9'},
    'mel.sample_rate': {'0', '-1'}, 'mel.hop': {'0', '100000'}, 'mel.log': {'2'},
    'mel.pad_mode': {'x'}, 'nothing': {'1'}, 'model': {'1'}, 'init_from': {'/nowhere', '/dev/null'}}
SYNTHESIZE = {  # flag of --mode=synthesize -> values
    'temperature_coarse': {'nan', 'inf', '-1', 'x'}, 'temperature_fine': {'nan', 'inf', '-1'},
    'seed': {'-1', '4294967296', '1.5', ''}, 'batch': {'0', '-1', 'x'}, 'engine': {'gpu', ''},
    'weights': {'int4'}, 'executor': {'dask', 'ray,x=1', 'process,1', ''},
    'input': {'/nowhere', '/dev/zero', '/dev/null', 'x' * 5_000, '', 'FOLDER/pipe', 'FOLDER/empty'},
    'output': {'/dev/null', '/proc/x', '', 'FOLDER/text', 'FOLDER/text/deeper'},
    'model': {'/nowhere', '/dev/zero', 'FOLDER', 'FOLDER/text', 'FOLDER/pipe', 'x' * 5_000}}
OTHERS = (
    '--mode=x', '--mode=', '--x=1', 'x', '--mode=train --config=nowhere.py',
    '--mode=train --config=/dev/null', '--mode=train --config=experiments/configs/dense.py:huge',
    '--mode=train --mel=x', '--mode=train --num_processes=0', '--mode=train --process_id=-1',
    '--mode=evaluate --workdir=/nowhere', '--mode=evaluate --workdir=/dev/null',
    '--mode=evaluate --split=x', '--mode=evaluate --model=MODEL --workdir=FOLDER',
    '--mode=evaluate --model=MODEL', '--mode=evaluate --model=MODEL --data_dir=/dev/null',
    '--mode=export --workdir=/nowhere --output=FOLDER/a', '--mode=export',
    '--mode=synthesize', '--mode=synthesize --num_processes=2', '--workdir=FOLDER/x')


TRAIN = ['--mode=train', '--config=experiments/configs/dense.py:tiny',
         f'--config.data.dir={DEMO}', '--workdir=FOLDER/run']


def lines() -> list[tuple[list[str], str]]:
  """Command lines, arguments of launch.py, and what the error must name."""
  synthesize = {'model': str(MODEL), 'input': str(DEMO / 'test'), 'output': 'FOLDER/out'}
  found = [([*TRAIN, f'--config.{field}={value}'], field) for field in CONFIG
           for value in sorted(CONFIG[field])]
  found += [(['--mode=synthesize', *(f'--{k}={v}' for k, v in (
      synthesize | {name: value}).items())], value if name in synthesize and value else name)
            for name in SYNTHESIZE for value in sorted(SYNTHESIZE[name])]
  return found + [(line.split(), '') for line in OTHERS]


@attacks.counts(30, 130)
def test_flags(tmp_path, count):
  tally, folder = attacks.Tally('flags'), tmp_path / 'folder'
  (folder / 'empty').mkdir(parents=True)
  os.mkfifo(folder / 'pipe')
  (folder / 'text').write_text('text')
  before = sorted(folder.rglob('*'))

  def filled(text):
    return text.replace('FOLDER', str(folder)).replace('MODEL', str(MODEL))
  given = [([filled(argument) for argument in line], filled(name)) for line, name in lines()]
  assert len(given) >= 130
  if count < 130:
    given = given[::len(given) // count][:count]
  control = [filled(argument) for argument in TRAIN]
  with Zygote(tmp_path / 'log') as zygote:
    ended, log = zygote.run('launch', [control, *(line for line, _ in given)], str(tmp_path))
  assert ended == 'ended' and 'Traceback' not in log, log
  first, *outcomes = map(json.loads, (tmp_path / 'outcomes.jsonl').read_text().splitlines())
  assert first == ['accepted', ''], first
  wrong = []
  for (line, name), (outcome, message) in zip(given, outcomes, strict=True):
    tally.count('clear errors')
    if outcome != 'refused' or name not in message or 'Traceback' in message:
      wrong.append(f'{outcome}: {" ".join(line)[-300:]}\n{message[-600:]}')
  assert not wrong, '\n'.join([f'{len(wrong)} of {len(given)}:', *wrong])
  assert sorted(folder.rglob('*')) == before
  tally.report(len(given))
