"""One function a mode of launch.py. Each returns the JSON object it printed."""

import functools
import json
import pathlib

import numpy as np

from wavernn_jax import (
  audio,
  check as check_lib,
  config as config_lib,
  executors,
  files,
  rules,
  sampling,
)
from wavernn_jax.config import Config
from wavernn_jax.data import corpus
from wavernn_jax.errors import InputError
from wavernn_jax.evaluation import evaluate as evaluation, free_running, pictures
from wavernn_jax.sampling import export as export_lib
from wavernn_jax.sampling.engine import Engine
from wavernn_jax.synthesis import bulk, sources as sources_lib
from wavernn_jax.training import checkpoints, journal, loop, world
from wavernn_jax.voice import Voice

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
  rules.check_temperatures(temperatures)
  voice = _voice(workdir, model)
  config = voice.config
  config.data.dir = data_dir or config.data.dir
  if model and not config.data.dir:
    raise InputError('--data_dir is not set: an export does not know its corpus; give a folder '
                     'of recordings to evaluate it on.')
  if engine == 'cpu' and not model:
    raise InputError('--engine=cpu evaluates exports; write one with --mode=export and give it '
                     'as --model.')
  runs_on = sampling.open(voice, engine, temperatures, batch=config.evaluation.batch)
  paths = corpus.split_files(config.data)
  held_out = corpus.load_utterances(paths[split], config.data, config.mel,
                                    audio.edge_padding(config.mel) + 1)
  likelihood, by_utterance = _likelihood(runs_on, held_out, config)
  train_set = corpus.load_utterances(paths['train'], config.data, config.mel, 1, keep_pcm=False)
  result = {'split': split, 'engine': runs_on.name, **likelihood,
            'baselines': evaluation.baseline_summary(train_set, held_out, config.mel)}
  if chosen := held_out[:config.evaluation.free_running]:
    result['temperatures'] = list(temperatures)
    result['free_running'] = free_running.measure(
        runs_on, chosen, config.train.seed, config.evaluation.batch)
  if model:
    return _print({'model': model, 'weights': voice.packed.weights, **result})
  _print(result)  # first: a full disk must not cost the result of hours
  files.write_text(pathlib.Path(workdir) / f'evaluation_{split}.json',
                   json.dumps(result | {'by_utterance': by_utterance}, indent=1))
  return result


def _likelihood(engine: Engine, held_out, config: Config) -> tuple[dict, dict]:
  """What `evaluate` reports of the nats of utterances: of all of them, and of each."""
  with sources_lib.progress_bar(sum(u.samples for u in held_out), config.mel, 'likelihood') as bar:
    lane_sums, samples = evaluation.lane_nats(engine, held_out, config.evaluation.batch, bar)
  sums = {byte: s.sum(axis=1) for byte, s in lane_sums.items()}
  return (evaluation.summary(sums, samples, config.evaluation)
          | evaluation.lane_summary(lane_sums, samples),
          evaluation.by_utterance(held_out, sums, samples))


def _voice(workdir: str, model: str) -> Voice:
  """The voice of an export, or of a run where none is given."""
  return export_lib.read(model) if model else checkpoints.load(workdir)


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
  runs_on = executors.create(executor)  # before JAX takes the accelerators of Ray's workers
  voice = _voice(workdir, model)
  sources = bulk.find_inputs(inputs)
  batch = min(batch, len(sources))
  record = {'model': voice.identity, 'seed': seed, 'temperatures': temperatures,
            'engine': engine, 'weights': weights}
  result = _print(bulk.synthesize(
      sources, output,
      functools.partial(sampling.open, voice, engine, temperatures, weights, batch),
      voice.config.mel, record, runs_on, seed, batch, overwrite))
  if failed := result['failed']:
    problems = corpus.listed(dict.fromkeys(failed.values()))
    raise InputError(f'{len(failed)} of {len(sources)} inputs failed:\n{problems}\nThe same '
                     'command tries only these again.')
  return result


def export(workdir: str, output: str, weights: str = 'bfloat16',
           sparse_only: bool = False) -> dict:
  """Writes the EMA weights of a run as one file. See sampling/export.py."""
  voice = checkpoints.load(workdir)
  packed = export_lib.pack(voice.params, voice.masks, voice.config, weights, sparse_only)
  export_lib.write(output, packed)
  return _print({'file': output, 'bytes': pathlib.Path(output).stat().st_size,
                 'parameters': packed.parameters, 'weights': weights,
                 'block': 'x'.join(map(str, packed.block))})


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
