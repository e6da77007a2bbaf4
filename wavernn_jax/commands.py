"""One function a mode of launch.py. Each returns the JSON object it printed."""

import functools
import hashlib
import json
import pathlib
import sys

import jax
import numpy as np

from wavernn_jax import (
  audio,
  check as check_lib,
  config as config_lib,
  executors,
  files,
  models,
  rules,
)
from wavernn_jax.config import Config
from wavernn_jax.data import corpus
from wavernn_jax.errors import InputError
from wavernn_jax.evaluation import evaluate as evaluation, metrics, pictures
from wavernn_jax.sampling import cpu, export as export_lib, persistent, scan
from wavernn_jax.synthesis import bulk, sources as sources_lib
from wavernn_jax.training import checkpoints, journal, loop, workdir as workdir_lib, world

DEMO_SPEECH = pathlib.Path(__file__).parent / 'demo_speech'
PRETRAINED = pathlib.Path(__file__).parent / 'pretrained' / 'sparse192.safetensors'
# Below 1 the model keeps its pitch where at 1 it often falls into a whisper
# (experiments/results: voicing F1).
DEMO_TEMPERATURES = 0.8, 0.8


def train(config: Config, workdir: str, mel_preset: str = '') -> dict:
  """Trains the run in `workdir`, or goes on with it. See `training.loop.train`.

  Args:
    config: of the run.
    workdir: its folder.
    mel_preset: replaces `config.mel` by a named convention.
  """
  _take_preset(config, mel_preset)
  step = loop.train(config, workdir)
  if not world.is_first():
    return {'step': step}
  rows = journal.read_rows(pathlib.Path(workdir) / 'metrics.jsonl')
  picture = pathlib.Path(workdir) / 'learning_curve.png'
  pictures.save(pictures.learning_curve(rows), picture)
  voice = pictures.voice_curve(rows, config.train.batch * config.train.crop)
  pictures.save(voice, picture.with_name('voice_curve.png'))
  evaluated = [row for row in rows if 'valid_nll' in row]
  return _print({'step': step, **(evaluated[-1] if evaluated else {})})


def check(config: Config, output: str = 'runs/check', mel_preset: str = '') -> dict:
  """Says what is in `config.data.dir` and whether the config can be trained on it.

  Args:
    config: of a run.
    output: folder of the picture.
    mel_preset: as for `train`.

  Raises:
    InputError: after the result is printed, if there are problems.
  """
  _take_preset(config, mel_preset)
  result = check_lib.report(config, output)
  for kind in ('remarks', 'options'):
    print(*(f'{kind}: {text}' for text in result[kind]), sep='\n', end='\n' * bool(result[kind]))
  if 'picture' in result:
    print(f'picture: {result["picture"]}')
  _print(result)
  if result['problems']:
    raise InputError('\n'.join(result['problems']))
  return result


def _take_preset(config: Config, name: str) -> None:
  """Replaces `config.mel` by a named convention, if one is named."""
  if not name:
    return
  if config.mel != config_lib.MelConfig():
    raise InputError(f'--mel={name} would undo --config.mel.…; give one of them.')
  config.mel = config_lib.mel_preset(name)


def evaluate(workdir: str, split: str = 'test', data_dir: str = '', model: str = '',
             engine: str = 'auto', temperatures=(1.0, 1.0)) -> dict:
  """Likelihood and free-running metrics of a run's EMA weights on a held-out split.

  Args:
    workdir: of the run, unless `model` is given.
    split: train, valid or test.
    data_dir: another corpus than the run's; an export knows none.
    model: an export, whose weights are those of its type.
    engine: as for `synthesize`; 'cpu' needs an export and takes likelihoods in the
      arithmetic with which that engine draws.
    temperatures: of the draws of the free-running metrics; likelihoods have none.

  Returns:
    Of a run also written to RUN/evaluation_SPLIT.json, there with the nats of
    each utterance as `by_utterance`.
  """
  packed = export_lib.read(model) if model else None
  config = packed.config if packed else workdir_lib.read_config(workdir)
  config.data.dir = data_dir or config.data.dir
  if packed and not config.data.dir:
    raise InputError('--data_dir is not set: an export does not know its corpus; give a folder '
                     'of recordings to evaluate it on.')
  engine = _engine(engine, packed)
  if engine == 'cpu' and not packed:
    raise InputError('--engine=cpu evaluates exports; write one with --mode=export and give it '
                     'as --model.')
  sampler = _sampler(engine, packed, workdir, config, rules.check_temperatures(temperatures))
  paths = corpus.split_files(config.data)
  held_out = corpus.load_utterances(paths[split], config.data, config.mel,
                                    audio.edge_padding(config.mel) + 1)
  with sources_lib.progress_bar(sum(u.samples for u in held_out), config.mel, 'likelihood') as bar:
    if engine == 'cpu':
      lane_sums, samples = sampler.lane_nats(held_out, bar)
    else:
      lane_sums, samples = evaluation.Evaluator(sampler.model, config.evaluation).lane_nats(
          sampler.params, held_out, bar)
  sums = {byte: s.sum(axis=1) for byte, s in lane_sums.items()}
  result = {'split': split, 'engine': engine,
            **evaluation.summary(sums, samples, config.evaluation),
            **evaluation.lane_summary(lane_sums, samples)}
  train_set = corpus.load_utterances(paths['train'], config.data, config.mel, 1, keep_pcm=False)
  result['baselines'] = evaluation.baseline_summary(train_set, held_out, config.mel)
  chosen = held_out[:config.evaluation.free_running]
  if chosen:
    result['temperatures'] = list(temperatures)
    result['free_running'] = _free_running(sampler, chosen, config)
  if packed:
    return _print({'model': model, 'weights': packed.weights, **result})
  _print(result)  # first: a full disk must not cost the result of hours
  by_utterance = evaluation.by_utterance(held_out, sums, samples)
  files.write_text(pathlib.Path(workdir) / f'evaluation_{split}.json',
                   json.dumps(result | {'by_utterance': by_utterance}, indent=1))
  return result


def _engine(engine: str, packed) -> str:
  """The sampler that 'auto' means: cpu for exports where JAX has no accelerator."""
  if engine != 'auto':
    return engine
  on_cpu = jax.default_backend() == 'cpu'
  return 'cpu' if packed and on_cpu and cpu.fits(packed.config) else 'scan'


def _sampler(engine: str, packed, workdir: str, config: Config, temperatures=(1.0, 1.0),
             weights: str = 'float32', batch: int = 1):
  """The sampler of an export, or, but for the CPU engine, of a run."""
  options = temperatures, config.evaluation.block_frames
  if engine == 'cpu':
    return cpu.Sampler(packed, *options)
  model = models.build(config)
  params = packed.params() if packed else checkpoints.load_weights(workdir)
  if engine == 'pallas':
    return persistent.open_sampler(
        model, params, *options, packed.weights if packed else weights, batch)
  return scan.Sampler(model, params, *options, donate=True)


def _free_running(sampler, utterances, config: Config) -> dict:
  targets = {u.name: u.read(0, u.samples, config.mel.sample_rate) for u in utterances}
  sources = [sources_lib.Source(u.name, corpus.utterance_mel(u, config.mel), u.samples)
             for u in utterances]
  pairs = sources_lib.synthesize(sampler, sources, config.train.seed,
                                 min(config.evaluation.batch, len(sources)))
  return metrics.average(metrics.compare(targets[s.name], pcm, config.mel) for s, pcm in pairs)


def synthesize(workdir: str, inputs: str, output: str, temperatures=(1.0, 1.0), seed: int = 0,
               batch: int = 16, model: str = '', engine: str = 'auto',
               weights: str = 'bfloat16', executor: str = 'process',
               overwrite: bool = False) -> dict:
  """Speech from recordings (copy-synthesis) or .npy mels: a file, a folder or a manifest.

  Inputs whose wav is there already are left out; those that cannot be used do
  not keep the others from being done.

  Args:
    workdir: of the run, unless `model` is given.
    inputs: file, folder or manifest (see `bulk.find_inputs`).
    output: folder of the wavs.
    temperatures: of the coarse and the fine byte.
    seed: of the draws.
    batch: utterances at a time.
    model: an export.
    engine: 'scan', 'cpu', 'pallas', or 'auto': cpu for exports where JAX has no accelerator.
    weights: type to which --engine=cpu and pallas pack a run, as --mode=export would.
    executor: see `executors.create`.
    overwrite: make anew what is there already.

  Raises:
    InputError: after the result is printed, if an input failed.
  """
  rules.check_temperatures(temperatures)
  config = export_lib.read(model).config if model else workdir_lib.read_config(workdir)
  runs_on = executors.create(executor)
  sources = bulk.find_inputs(inputs)
  batch = min(batch, len(sources))
  sampler = functools.partial(
      open_sampler, workdir, model, engine, weights, temperatures, batch)
  record = {'model': _identity(workdir, model), 'seed': seed, 'temperatures': temperatures,
            'engine': engine, 'weights': weights}
  result = _print(bulk.synthesize(
      sources, output, functools.partial(sampler, record['model']), config.mel, record, runs_on,
      seed, batch, overwrite))
  if failed := result['failed']:
    problems = corpus.listed(dict.fromkeys(failed.values()))
    raise InputError(f'{len(failed)} of {len(sources)} inputs failed:\n{problems}\nThe same '
                     'command tries only these again.')
  return result


def open_sampler(workdir: str, model: str, engine: str, weights: str, temperatures,
                 batch: int, expected: str):
  """Engine, sampler of a run or an export, and how many utterances it takes at a time.

  Args:
    workdir, model, engine, weights, temperatures, batch: of `synthesize`.
    expected: identity of the weights.

  Raises:
    InputError: if the weights have changed meanwhile.
  """
  if _identity(workdir, model) != expected:
    raise InputError(f'{model or workdir}: its weights have changed since the synthesis began; '
                     'export those you want with --mode=export, then --model=FILE.')
  packed = export_lib.read(model) if model else None
  config = packed.config if packed else workdir_lib.read_config(workdir)
  engine = _engine(engine, packed)
  if engine == 'cpu':
    packed = packed or _pack(workdir, config, weights)
  sampler = _sampler(engine, packed, workdir, config, temperatures, weights, batch)
  if engine == 'pallas' and type(sampler) is scan.Sampler:  # what it falls back to
    engine = 'scan'
  # On the CPU engine a lane more than threads would only wait for a core.
  return engine, sampler, sampler.threads if engine == 'cpu' else sys.maxsize


def _identity(workdir: str, model: str) -> str:
  """Tells the weights that a synthesis uses from all others."""
  if not model:
    return checkpoints.identity(workdir)
  try:
    return hashlib.blake2b(pathlib.Path(model).read_bytes(), digest_size=16).hexdigest()
  except OSError as error:
    raise InputError(f'{model}: cannot be read ({error.strerror}); expected a file that '
                     '--mode=export has written.') from error


def export(workdir: str, output: str, weights: str = 'bfloat16',
           sparse_only: bool = False) -> dict:
  """Writes the EMA weights of a run as one file. See sampling/export.py."""
  packed = _pack(workdir, workdir_lib.read_config(workdir), weights, sparse_only)
  export_lib.write(output, packed)
  return _print({'file': output, 'bytes': pathlib.Path(output).stat().st_size,
                 'parameters': packed.parameters, 'weights': weights,
                 'block': 'x'.join(map(str, packed.block))})


def _pack(workdir: str, config: Config, weights: str, sparse_only: bool = False):
  state = checkpoints.load(workdir)
  return export_lib.pack(state['ema'], state['masks'], config, weights, sparse_only)


def demo(output: str) -> dict:
  """Held-out sentences of the bundled speech, spoken by the bundled sparse model.

  Args:
    output: folder; gets NAME.wav and NAME.png (target above synthesis) of each.
  """
  folder, inputs = pathlib.Path(output), DEMO_SPEECH / 'test'
  speed = synthesize('', str(inputs), output, DEMO_TEMPERATURES, model=str(PRETRAINED),
                     overwrite=True)
  config = export_lib.read(str(PRETRAINED)).config
  for target in sorted(inputs.glob('*.flac')):
    mels = [audio.utterance_log_mel(audio.read_audio(path, config.mel.sample_rate), config.mel)
            for path in (target, folder / f'{target.stem}.wav')]
    pictures.save(pictures.spectrogram_pair(*mels, config.mel, target.stem),
                  folder / f'{target.stem}.png')
  print(f'\n{speed["audio_seconds"]:.1f} s of speech in {speed["seconds"]:.1f} s: '
        f'{speed["realtime_factor"]:.1f} times real time.\n'
        f'Listen to {folder}/*.wav, look at {folder}/*.png (target above synthesis).\n'
        'Your own recordings: launch.py --mode=synthesize --model='
        f'{PRETRAINED} --input=FILE|DIR --output=DIR\n'
        'Train on the bundled minute of speech (some three minutes on two cores):\n'
        '  launch.py --mode=train --config=experiments/configs/demo.py --workdir=RUN\n'
        'and on your own:\n'
        '  launch.py --mode=train --config=experiments/configs/dense.py:small '
        '--config.data.dir=DIR --workdir=RUN')
  return _print({'folder': output, 'realtime_factor': speed['realtime_factor']})


def _print(result: dict) -> dict:
  print(json.dumps(result, default=np.ndarray.item), flush=True)
  return result
