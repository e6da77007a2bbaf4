"""The ablation of §4: lanes S and horizon F at one size, data and number of updates.

    python -m experiments.sweeps.subscale --data_dir=DIR --workdir=RUNS

Not the whole grid: every number of lanes at F = 64, and every horizon at 16
lanes, in the order in which they decide. One lane is the plain model; `fused2x2`
is the fused model of two lanes (§4.4), which has no context network. A row has
the held-out NLL with its interval and by lane, the free-running metrics, and
the speed of the scan sampler for one utterance: `samples_per_second` once all
lanes run, and `latency_seconds`, the audio whose mel must be known before its
first sample comes. Rows go to experiments/results/subscale/runs.csv; finished ones
are skipped and a stopped run goes on, so the command may be repeated at will.
"""

import json
import pathlib

from absl import app, flags

from experiments.benchmarks import measure
from experiments.sweeps import sweep
from wavernn_jax import config as config_lib, executors, models
from wavernn_jax.sampling import scan
from wavernn_jax.training import checkpoints

_DATA = flags.DEFINE_string('data_dir', None, 'Corpus with train, valid and test.')
_WORKDIR = flags.DEFINE_string('workdir', 'runs/subscale', 'Folder of the runs.')
_RESULTS = flags.DEFINE_string('results', str(
    pathlib.Path(__file__).parent.parent / 'results' / 'subscale' / 'runs.csv'), 'CSV.')
_GRID = flags.DEFINE_list(
    'grid', ['1x0', '16x64', 'fused2x2', '4x64', '16x0', '8x64', '2x64', '16x8', '16x32'],
    'Lanes x horizon of each run, after `fused` if it is a fused model.')
_UNITS = flags.DEFINE_integer('units', 64, 'H; the projection is as wide.')
_CONTEXT = flags.DEFINE_integer('context_channels', 48, 'Of the context network.')
_CHANNELS = flags.DEFINE_integer('channels', 32, 'Of the conditioning.')
_UPDATES = flags.DEFINE_integer('updates', 2_000, 'Training steps of every run.')
_BATCH = flags.DEFINE_integer('batch', 4, 'Crops.')
_CROP = flags.DEFINE_integer('crop', 1_920, 'Samples; 16 lanes have 120 positions of them.')
_SEED = flags.DEFINE_integer('train_seed', 0, 'Seed.')
_EXECUTOR = flags.DEFINE_string('executor', 'process', 'Or ray,cpus=2,…: executors.create.')
_FREE_RUNNING = flags.DEFINE_integer('free_running', 16, 'Utterances synthesised for metrics.')


def configuration(kind: str, lanes: int, horizon: int) -> config_lib.Config:
  """A run of the ablation; everything but kind, lanes and horizon is the same in all."""
  updates, units = _UPDATES.value, _UNITS.value
  context = {'context_channels': _CONTEXT.value,
             'context_layers': max(6, horizon.bit_length() - 1)}
  return config_lib.Config(
      model=config_lib.ModelConfig(kind=kind, lanes=lanes, horizon=horizon, units=units,
                                   projection=units, channels=_CHANNELS.value, layers=2,
                                   **(context if kind == 'subscale' else {})),
      data=config_lib.DataConfig(dir=_DATA.value),
      optimizer=config_lib.OptimizerConfig(learning_rate=4e-3, final_learning_rate=4e-5),
      train=config_lib.TrainConfig(
          steps=updates, batch=_BATCH.value, crop=_CROP.value, burn_in=240,
          seed=_SEED.value, eval_every=max(1, updates // 4), save_every=max(1, updates // 20),
          log_every=100),
      evaluation=config_lib.EvaluationConfig(synthesize=0, free_running=_FREE_RUNNING.value))


def runs():
  """The runs of the grid."""
  for cell in _GRID.value:
    fused = cell.startswith('fused')
    lanes, horizon = (int(n) for n in cell.removeprefix('fused').split('x'))
    kind = 'fused' if fused else 'subscale' if lanes > 1 else 'wavernn'
    name = (f'{"fused_" * fused}lanes{lanes}_horizon{horizon}'
            f'_u{_UPDATES.value}_s{_SEED.value}')
    yield sweep.Run(name,
                    {'kind': kind, 'lanes': lanes, 'horizon': horizon},
                    configuration(kind, lanes, horizon))


def figures(config: config_lib.Config, folder, split: str) -> dict:
  """Columns of this study beside those of every sweep."""
  sampler = scan.Sampler(models.build(config), checkpoints.load(folder).params,
                         block_frames=config.evaluation.block_frames)
  seconds = measure.interleaved({'block': measure.next_block(sampler, 1)}, 5)['block']
  samples = config.evaluation.block_frames * config.mel.hop
  result = json.loads((pathlib.Path(folder) / f'evaluation_{split}.json').read_text())
  return {'nll_lanes': ' '.join(f'{n:.4f}' for n in result.get('nll_lanes', ())),
          'samples_per_second': samples / seconds,
          'latency_seconds': sampler.latency,
          **result.get('free_running', {})}


def main(_):
  sweep.execute(list(runs()), _RESULTS.value, _WORKDIR.value, figures=figures,
                executor=executors.create(_EXECUTOR.value))


if __name__ == '__main__':
  flags.mark_flag_as_required('data_dir')
  app.run(main)
