"""Everything to be measured on a GPU or TPU, in one go of less than ten minutes.

    python -m experiments.benchmarks.accelerator --folder=runs/accelerator

Order: the persistent kernel against the model on the device, dense 896 at
batch 1 and 16 beside the XLA sampler, the same with a spectral prediction, sparse
streams, subscale lanes on both, other plans, a curve of streams, a training step. A section
that the machine cannot run is skipped, and says why; so is one that would begin after
--minutes. Without an accelerator the kernel for TPUs runs a tiny model in interpret mode.

Writes accelerator.json, .md and .png into --folder; the last line is the JSON
object. Rows: `samples_per_second` of all lanes together.
"""

import dataclasses
import functools
import json
import pathlib
import time

from absl import flags
import jax
from matplotlib import figure
import numpy as np

from experiments import cli
from experiments.benchmarks import measure, train_step
from wavernn_jax import config as config_lib, draw, models, pruning
from wavernn_jax.sampling import scan
from wavernn_jax.sampling.persistent import checks, chips, cuda, engine, lanes as lanes_lib
from wavernn_jax.voice import Voice

_FOLDER = flags.DEFINE_string('folder', 'runs/accelerator', 'Folder of the results.')
_MINUTES = flags.DEFINE_float('minutes', 8.0, 'Minutes within which a section may begin.')
_FRAMES = flags.DEFINE_integer('frames', 64, 'Frames of a timed block.')
_TIMED = flags.DEFINE_integer('blocks', 3, 'Timed blocks of each row.')

TYPES = 'float32', 'bfloat16', 'int8'  # of weights; TPUs have the first two
TARGETS = {1: 192_000, 16: 1_500_000}  # samples a second of 896 units on an H200
TRAINING_TARGET = 3_000_000
_SPARSITY = 0.95


class Skipped(Exception):
  """A section that this machine cannot run; the message says why."""


@functools.cache
def voice_of(units: int, projection: int, sparsity: float = 0.0, tiny: bool = False,
             prediction: str = 'none'):
  """A voice whose logits are far from uniform."""
  config = config_lib.Config()
  config.model.units, config.model.projection = units, projection
  config.model.prediction = prediction
  if tiny:
    config.model.channels, config.mel.hop = 8, 20
  config.pruning = config_lib.PruningConfig(recurrent=sparsity, hidden=sparsity, output=sparsity)
  rng, params = np.random.default_rng(0), models.build(config).init(0)

  def mask(whole):
    kept = np.zeros(whole.size, bool)
    kept[rng.permutation(whole.size)[round(sparsity * whole.size):]] = True
    return kept.reshape(whole.shape)

  def change(path, leaf):
    names, leaf = [key.key for key in path], np.asarray(leaf)
    if leaf.ndim < 2 or names[0] not in ('recurrent', 'outputs'):
      return leaf
    if not leaf.any():  # of a layer that is silent before training
      leaf = rng.standard_normal(leaf.shape, np.float32) / np.float32(np.sqrt(len(leaf)))
    return leaf * np.float32((3 if names[0] == 'outputs' else 1) / np.sqrt(1 - sparsity))
  masks = jax.tree.map(mask, pruning.initial_masks(params, config.pruning))
  params = pruning.apply_masks(jax.tree_util.tree_map_with_path(change, params), masks)
  return Voice(config, jax.tree.map(np.asarray, params), masks, 'random')


def speed(sampler, lanes: int) -> float:
  """Samples a second of all lanes, with the conditioning and the way to the host."""
  mel, frames = sampler.model.mel, sampler.block_frames
  rng = np.random.default_rng(0)
  shape = lanes, sampler.window, mel.bands
  inputs = rng.normal(-5, 2, shape).astype(np.float32), draw.keys(0, range(lanes))
  seconds = measure.interleaved(
      {0: lambda: sampler.next_block(sampler.initial_state(lanes), *inputs)}, _TIMED.value)[0]
  return lanes * frames * mel.hop / seconds


def kernel(voice, weights: str = 'bfloat16', chip=None, frames: int = 0):
  """The persistent kernel, without its fallback."""
  kinds = {'wavernn': engine.PersistentEngine, 'subscale': lanes_lib.PersistentLanes}
  return kinds[voice.config.model.kind](
      voice.model, voice.params, chip or engine.open_chip(voice, weights),
      block_frames=frames or _FRAMES.value)


def _accelerator() -> str:
  platform = jax.default_backend()
  if platform not in engine.PLATFORMS:
    raise Skipped(f'needs a GPU or a TPU, found the platform {platform!r}')
  return platform


def _row(sampler, name, lanes, **more):
  return {'what': name, 'lanes': lanes, 'samples_per_second': speed(sampler, lanes), **more}


# Sections: each yields rows.


def interpreted():
  """The kernel for TPUs as JAX on the CPU, on a tiny model."""
  if jax.default_backend() in engine.PLATFORMS:
    raise Skipped('there is an accelerator')
  voice = voice_of(32, 32, tiny=True)
  for weights in ('float32', 'bfloat16'):
    chip = chips.Tpu(voice.params, weights, voice.config.mel.hop, interpret=True)
    sampler = kernel(voice, chip=chip, frames=1)
    yield {'what': f'interpret mode, {weights}', 'lanes': 2,
           **sampler.check(2, checks.rounded(voice.params, weights))}
  voice = voice_of(32, 32, tiny=True, prediction='spectral')
  chip = chips.Tpu(voice.params, 'float32', voice.config.mel.hop, interpret=True,
                   taps=voice.config.model.taps)
  sampler = kernel(voice, chip=chip, frames=1)
  yield {'what': 'interpret mode, float32, spectral', 'lanes': 2,
         **sampler.check(2, checks.rounded(voice.params, 'float32'))}


def correctness():
  """The check that every synthesis begins with, for each type and batch."""
  platform = _accelerator()
  for weights in TYPES[:2] if platform == 'tpu' else TYPES:
    voice = voice_of(896, 448)
    sampler = kernel(voice, weights)
    for lanes in (1, 16):
      yield {'what': f'896 units, {weights}', 'lanes': lanes,
             **sampler.check(lanes, checks.rounded(voice.params, weights))}


def dense():
  """896 units: the persistent kernel."""
  _accelerator()
  voice = voice_of(896, 448)
  sampler = kernel(voice)
  for lanes, target in TARGETS.items():
    yield _row(sampler, 'kernel, 896 units', lanes, target=target)


def xla():
  """The same by the scan sampler, with loops unrolled and donated state."""
  _accelerator()
  voice = voice_of(896, 448)
  half = models.build(config_lib.Config(
      model=dataclasses.replace(voice.config.model, compute_dtype='bfloat16')))
  for unroll in (1, 4, 16):
    for lanes in TARGETS:
      sampler = scan.ScanEngine(half, voice.params, block_frames=_FRAMES.value, unroll=unroll,
                             donate=True)
      yield _row(sampler, f'XLA, 896 units, unroll {unroll}', lanes)


def spectral():
  """896 units that code the residual of 192 taps: what the prediction costs, and by XLA."""
  _accelerator()
  voice = voice_of(896, 448, prediction='spectral')
  sampler = kernel(voice)
  plain = scan.ScanEngine(voice.model, voice.params, block_frames=_FRAMES.value, donate=True)
  for lanes in TARGETS:
    agreement = sampler.check(lanes, checks.rounded(voice.params, 'bfloat16'))
    yield _row(sampler, 'kernel, 896 units, spectral', lanes, **agreement)
    yield _row(plain, 'XLA, 896 units, spectral', lanes)


def sparse():
  """95% sparse, 1024 units: one stream for each multiprocessor (int8), or for two (bfloat16)."""
  if _accelerator() == 'tpu':
    raise Skipped('the kernel for TPUs has no sparse products')
  voice = voice_of(1024, 512, _SPARSITY)
  for weights in ('int8', 'bfloat16'):
    sampler = kernel(voice, weights)
    for lanes in (1, sampler._chip.chip.processors):
      plan = dataclasses.asdict(sampler._chip.plan(lanes))
      yield _row(sampler, f'kernel, 1024 units, 95% sparse, {weights}', lanes,
                 **sampler.check(lanes, checks.rounded(voice.params, weights)),
                 plan={name: plan[name] for name in ('team', 'streams', 'teams')})


def subscale():
  """896 units, 16 lanes, F = 64: one utterance and four, by the kernel and by XLA (§4)."""
  _accelerator()
  config = config_lib.Config()
  config.model = dataclasses.replace(config.model, kind='subscale', units=896, projection=448,
                                     lanes=16, horizon=64, compute_dtype='bfloat16')
  params = jax.tree.map(np.asarray, models.build(config).init(0))
  voice = Voice(config, params, None, 'random')
  sampler = kernel(voice)
  plain = scan.ScanEngine(voice.model, params, block_frames=_FRAMES.value)
  for utterances in (1, 4):
    agreement = sampler.check(utterances, checks.rounded(voice.params, 'bfloat16'))
    yield _row(sampler, 'kernel, 896 units, 16 lanes of an utterance', utterances, **agreement)
    yield _row(plain, 'XLA, 896 units, 16 lanes of an utterance', utterances)


def plans():
  """Teams of other sizes, one lane each: how `cuda.choose` should choose."""
  if _accelerator() == 'tpu':
    raise Skipped('plans are of the kernel for GPUs')
  voice = voice_of(896, 448)
  for team, lanes in ((132, 1), (66, 1), (44, 1), (33, 1), (66, 2), (66, 4), (66, 8), (33, 4)):
    def choose(operands, matrices, chip, batch, team=team, lanes=lanes):
      macros, shared = cuda.layout(operands, matrices, team, lanes)
      return cuda.Plan(team, lanes, min(-(-batch // lanes), chip.processors // team), macros,
                       shared)
    sampler = kernel(voice, chip=chips.Cuda(voice.params, 'bfloat16', choose=choose))
    processors = sampler._chip.chip.processors
    if team <= processors:
      yield _row(sampler, f'kernel, 896 units, teams of {team}, {lanes} lanes each',
                 lanes * (processors // team))


def streams():
  """Samples per second that this many streams make together."""
  _accelerator()
  voice = voice_of(896, 448)
  sampler = kernel(voice)
  for lanes in (2, 4, 8, 32, 64, 128):
    yield _row(sampler, 'kernel, 896 units', lanes)


def training_step():
  """896 units, batch 256 x 960, bfloat16: the whole step, its parts, its share of the peak."""
  _accelerator()
  result = train_step.device_step()
  yield {'what': 'training, 896 units, 256 x 960, bfloat16', 'lanes': 256,
         'target': TRAINING_TARGET, **result}


SECTIONS = (interpreted, correctness, dense, xla, spectral, sparse, subscale, streams, plans,
            training_step)


def run(sections=SECTIONS) -> list[dict]:
  """Rows of all sections; of one that was skipped or failed, a row that says why."""
  rows, begin = [], time.monotonic()
  for section in sections:
    start = time.monotonic()
    try:
      if start - begin > 60 * _MINUTES.value:
        raise Skipped(f'more than --minutes={_MINUTES.value:g} had passed')
      for row in section():
        rows.append({'section': section.__name__, **row})
        print(json.dumps(rows[-1]), flush=True)
    except Skipped as reason:
      rows.append({'section': section.__name__, 'what': 'skipped', 'reason': str(reason)})
    except Exception as error:  # the other sections still count
      reason = f'{type(error).__name__}: {error}'.strip()[:500]
      rows.append({'section': section.__name__, 'what': 'failed', 'reason': reason})
    print(f'{section.__name__}: {time.monotonic() - start:.1f} s', flush=True)
  return rows


# Reports


def table(rows: list[dict], source: dict) -> str:
  """Markdown: figures beside their targets, and what was skipped."""
  lines = [f'{source["hardware"]}, jax {source["jax"]}, commit {source["commit"]}, '
           f'{source["date"]}', '',
           '| section | what | lanes | samples/s | target | × real time a lane | remarks |',
           '|---|---|---|---|---|---|---|']
  for row in rows:
    found, shown = row.get('samples_per_second'), {'section', 'what', 'lanes', 'target',
                                                   'samples_per_second'}
    remarks = '; '.join(f'{name} {_brief(value)}' for name, value in row.items()
                        if name not in shown)
    figures = [f'{found:,.0f}' if found else '',
               f'{row["target"]:,}' if 'target' in row else '',
               f'{found / row["lanes"] / 24_000:.1f}' if found and row['section'] !=
               'training_step' else '']
    lines.append(' | '.join(['| ' + row['section'], row['what'], str(row.get('lanes', '')),
                             *figures, remarks]) + ' |')
  return '\n'.join([*lines, ''])


def _brief(value):
  return f'{value:.4g}' if isinstance(value, float) else value


def picture(rows: list[dict]) -> figure.Figure:
  """Samples a second against lanes, a line for each sampler."""
  drawing = figure.Figure(figsize=(7, 4.5), layout='constrained')
  axes = drawing.add_subplot(xlabel='streams', ylabel='samples/s, all streams', xscale='log',
                             yscale='log')
  timed = [row for row in rows if row.get('samples_per_second')
           and row['section'] not in ('plans', 'training_step')]
  for name in dict.fromkeys(row['what'] for row in timed):
    points = sorted((r['lanes'], r['samples_per_second']) for r in timed if r['what'] == name)
    axes.plot(*zip(*points, strict=True), marker='o', label=name)
  axes.plot(*zip(*TARGETS.items(), strict=True), 'k*', label='target, 896 units')
  reasons = {row['reason'] for row in rows if row['section'] == 'dense' and 'reason' in row}
  axes.set_title(f'not measured: {reasons.pop()[:80]}' if reasons else '')
  axes.legend(fontsize='small')
  return drawing


def main():
  folder = pathlib.Path(_FOLDER.value)
  folder.mkdir(parents=True, exist_ok=True)
  rows, source = run(), measure.source()
  (folder / 'accelerator.json').write_text(json.dumps({'rows': rows, **source}, indent=1))
  (folder / 'accelerator.md').write_text(table(rows, source))
  picture(rows).savefig(folder / 'accelerator.png', dpi=120)
  print(table(rows, source))
  measure.report({'rows': rows})


if __name__ == '__main__':
  cli.run(main)
