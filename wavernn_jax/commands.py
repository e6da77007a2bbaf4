"""One function for each mode of launch.py. Each returns the JSON object that it printed."""

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
from wavernn_jax.data import corpus, mel_files
from wavernn_jax.errors import InputError
from wavernn_jax.evaluation import evaluate as evaluation, free_running, pictures
from wavernn_jax.sampling import export as export_lib
from wavernn_jax.sampling.engine import Engine
from wavernn_jax.synthesis import bulk, sources as sources_lib
from wavernn_jax.training import checkpoints, journal, loop, world
from wavernn_jax.voice import Voice

DEMO_SPEECH = pathlib.Path(__file__).parent / 'demo_speech'
DEMO_MELS = pathlib.Path(__file__).parent / 'demo_mels'
PRETRAINED = pathlib.Path(__file__).parent / 'pretrained' / 'kathleen192.safetensors'
DEMO_TEMPERATURES = 1.0, 1.0


def train(config: Config, workdir: str, mel_preset: str = '') -> dict:
  """Starts or continues the run in `workdir`. See `training.loop.train`.

  Args:
    config: of the run.
    workdir: its folder.
    mel_preset: name of a mel convention that replaces `config.mel`.
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
  """Reports what `config.data.dir` holds and whether a run can train on it.

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
    raise InputError(f'--mel={name} and --config.mel.… are both set; give one of them.')
  config.mel = config_lib.mel_preset(name)


def evaluate(workdir: str, split: str = 'test', data_dir: str = '', model: str = '',
             engine: str = 'auto', temperatures=(1.0, 1.0)) -> dict:
  """Likelihood and free-running metrics of a run's EMA weights on a held-out split.

  Args:
    workdir: of the run, unless `model` is given.
    split: train, valid or test.
    data_dir: the corpus, if not the run's own; an export does not name one.
    model: an export; its weights are evaluated as they are stored.
    engine: as for `synthesize`; 'cpu' needs an export, and computes likelihoods in the
      arithmetic in which that engine samples.
    temperatures: for the free-running metrics; likelihoods have no temperature.

  Returns:
    The result. For a run it is also written to RUN/evaluation_SPLIT.json, where
    `by_utterance` adds the nats of each utterance.
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
  """The likelihood that `evaluate` reports: over all utterances, and for each of them."""
  with sources_lib.progress_bar(sum(u.samples for u in held_out), config.mel, 'likelihood') as bar:
    lane_sums, samples = evaluation.lane_nats(engine, held_out, config.evaluation.batch, bar)
  sums = {byte: s.sum(axis=1) for byte, s in lane_sums.items()}
  return (evaluation.summary(sums, samples, config.evaluation)
          | evaluation.lane_summary(lane_sums, samples),
          evaluation.by_utterance(held_out, sums, samples))


def _voice(workdir: str, model: str) -> Voice:
  """The voice of the export `model`, or of the run if no export is given."""
  return export_lib.read(model) if model else checkpoints.load(workdir)


def synthesize(workdir: str, inputs: str, output: str, temperatures=(1.0, 1.0), seed: int = 0,
               batch: int = 16, model: str = '', engine: str = 'auto',
               weights: str = 'bfloat16', executor: str = 'process',
               overwrite: bool = False) -> dict:
  """Speech from recordings (copy-synthesis) or .npy mels: a file, a folder or a manifest.

  Inputs whose wav already exists are skipped. One that cannot be used is reported at
  the end and does not stop the others.

  Args:
    workdir: of the run, unless `model` is given.
    inputs: file, folder or manifest (see `bulk.find_inputs`).
    output: folder of the wavs.
    temperatures: for the coarse and the fine byte.
    seed: of the random numbers.
    batch: number of utterances at a time.
    model: an export.
    engine: 'scan', 'cpu', 'pallas', or 'auto': cpu for an export where JAX has no
      accelerator, else scan.
    weights: number type to which --engine=cpu and pallas pack a run, as --mode=export does.
    executor: see `executors.create`.
    overwrite: synthesise again what is already there.

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
                     'command tries these again, and only these.')
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
  """Lets the bundled voice speak held-out sentences, and copy other voices.

  Args:
    output: folder for voice/NAME.wav and NAME.png (target above synthesis) from the
      bundled mels, and other_voices/NAME.wav and NAME.png from the bundled speech.
  """
  folder, model = pathlib.Path(output), str(PRETRAINED)
  spoken = {name: synthesize('', str(inputs), str(folder / name), DEMO_TEMPERATURES, model=model,
                             overwrite=True)
            for name, inputs in (('voice', DEMO_MELS), ('other_voices', DEMO_SPEECH / 'test'))}
  mel = export_lib.read(model).config.mel
  for name, target_FxM in _demo_targets(mel).items():
    made_FxM = audio.utterance_log_mel(
        audio.read_audio(folder / f'{name}.wav', mel.sample_rate), mel)
    pictures.save(pictures.spectrogram_pair(target_FxM, made_FxM, mel, name),
                  folder / f'{name}.png')
  sentences = (DEMO_MELS / 'sentences.tsv').read_text().splitlines()[1:]
  print('\n' + '\n'.join(f'{folder}/voice/{line.replace(chr(9), ".wav  ")}' for line in sentences))
  seconds = {key: sum(result[key] for result in spoken.values())
             for key in ('audio_seconds', 'seconds')}
  factor = seconds['audio_seconds'] / seconds['seconds']
  print(f'\n{seconds["audio_seconds"]:.1f} s of speech in {seconds["seconds"]:.1f} s: '
        f'{factor:.1f} times real time.\n'
        f'Listen to {folder}/voice/*.wav; the pictures beside them have the target above the '
        f'synthesis.\n{folder}/other_voices has copies of voices that the model was not trained '
        f'on.\n{_DEMO_NEXT}')
  return _print({'folder': output, 'realtime_factor': factor})


_DEMO_NEXT = f"""Your own recordings:
  launch.py --mode=synthesize --model={PRETRAINED} --input=FILE|DIR --output=DIR
Train on the bundled minute of speech (some three minutes on two cores):
  launch.py --mode=train --config=experiments/configs/demo.py --workdir=RUN
and on your own:
  launch.py --mode=train --config=experiments/configs/dense.py:small --config.data.dir=DIR \\
      --workdir=RUN"""


def _demo_targets(mel) -> dict:
  """The log mel FxM of each sentence of the demo, keyed by the name of its wav."""
  recordings = sorted((DEMO_SPEECH / 'test').glob('*.flac'))
  return {
      **{f'voice/{path.stem}': mel_files.read_mel(path, mel)
         for path in sorted(DEMO_MELS.glob('*.npy'))},
      **{f'other_voices/{path.stem}': audio.utterance_log_mel(
          audio.read_audio(path, mel.sample_rate), mel) for path in recordings}}


def _print(result: dict) -> dict:
  print(json.dumps(result, default=np.ndarray.item), flush=True)
  return result
