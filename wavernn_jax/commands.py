"""One function a mode of launch.py. Each returns the JSON object it printed."""

import json
import pathlib

import jax
import numpy as np

from wavernn_jax import audio, config as config_lib, corpus, files, models, synthesis
from wavernn_jax.config import Config
from wavernn_jax.errors import InputError
from wavernn_jax.evaluation import evaluate as evaluation, metrics, pictures
from wavernn_jax.sampling import cpu, export as export_lib, pallas, scan
from wavernn_jax.training import checkpoints, journal, loop, workdir as workdir_lib

DEMO_SPEECH = pathlib.Path(__file__).parent / 'demo_speech'


def train(config: Config, workdir: str, mel_preset: str = '') -> dict:
  """Trains the run in `workdir`, or goes on with it. See `training.loop.train`.

  Args:
    config: of the run.
    workdir: its folder.
    mel_preset: replaces `config.mel` by a named convention.
  """
  if mel_preset:
    if config.mel != config_lib.MelConfig():
      raise InputError(f'--mel={mel_preset} would undo --config.mel.…; give one of them.')
    config.mel = config_lib.mel_preset(mel_preset)
  step = loop.train(config, workdir)
  rows = journal.read_rows(pathlib.Path(workdir) / 'metrics.jsonl')
  picture = pathlib.Path(workdir) / 'learning_curve.png'
  pictures.save(pictures.learning_curve(rows), picture)
  evaluated = [row for row in rows if 'valid_nll' in row]
  return _print({'step': step, **(evaluated[-1] if evaluated else {})})


def evaluate(workdir: str, split: str = 'test', data_dir: str = '') -> dict:
  """Likelihood and free-running metrics of a run's EMA weights on a held-out split.

  Args:
    workdir: of the run.
    split: train, valid or test.
    data_dir: another corpus than the run's.

  Returns:
    Also written to RUN/evaluation_SPLIT.json.
  """
  config = workdir_lib.read_config(workdir)
  config.data.dir = data_dir or config.data.dir
  model, params = models.build(config), checkpoints.load_weights(workdir)
  paths = corpus.split_files(config.data)
  held_out = corpus.load_utterances(paths[split], config.data, config.mel,
                                  audio.edge_padding(config.mel) + 1)
  with synthesis.progress_bar(sum(u.samples for u in held_out), config.mel, 'likelihood') as bar:
    sums, samples = evaluation.Evaluator(model, config.evaluation).utterance_nats(
        params, held_out, bar)
  result = {'split': split, **evaluation.summary(sums, samples, config.evaluation)}
  train_set = corpus.load_utterances(paths['train'], config.data, config.mel, 1, keep_pcm=False)
  result['baselines'] = evaluation.baseline_summary(train_set, held_out, config.mel.sample_rate)
  chosen = held_out[:config.evaluation.free_running]
  if chosen:
    result['free_running'] = _free_running(model, params, chosen, config)
  files.write_text(pathlib.Path(workdir) / f'evaluation_{split}.json', json.dumps(result, indent=1))
  return _print(result)


def _free_running(model, params, utterances, config: Config) -> dict:
  sampler = scan.Sampler(model, params, block_frames=config.evaluation.block_frames)
  targets = {u.name: u.read(0, u.samples, config.mel.sample_rate) for u in utterances}
  sources = [synthesis.Source(u.name, corpus.utterance_mel(u, config.mel), u.samples)
             for u in utterances]
  pairs = synthesis.synthesize(sampler, sources, config.train.seed, config.evaluation.batch)
  return metrics.average(metrics.compare(targets[s.name], pcm, config.mel) for s, pcm in pairs)


def synthesize(workdir: str, inputs: str, output: str, temperatures=(1.0, 1.0), seed: int = 0,
               batch: int = 16, model: str = '', engine: str = 'auto',
               weights: str = 'bfloat16') -> dict:
  """Speech from recordings (copy-synthesis) or .npy mels, one file or a folder.

  Args:
    workdir: of the run, unless `model` is given.
    inputs: file or folder.
    output: folder of the wavs.
    temperatures: of the coarse and the fine byte.
    seed: of the draws.
    batch: utterances at a time.
    model: an export.
    engine: 'scan', 'cpu', 'pallas', or 'auto': cpu for exports where JAX has no accelerator.
    weights: type to which --engine=cpu and pallas pack a run, as --mode=export would.
  """
  if min(temperatures) < 0:
    raise InputError(f'--temperature_coarse, --temperature_fine: found {temperatures}, '
                     'expected 0 (most probable) or more.')
  packed = export_lib.read(model) if model else None
  config = packed.config if packed else workdir_lib.read_config(workdir)
  if engine == 'auto':
    on_cpu = jax.default_backend() == 'cpu'
    engine = 'cpu' if packed and on_cpu and cpu.fits(config) else 'scan'
  sources = synthesis.load_sources(inputs, config.mel)
  if engine == 'cpu':
    packed = packed or _pack(workdir, config, weights)
    sampler = cpu.Sampler(packed, temperatures, config.evaluation.block_frames)
    batch = min(batch, sampler.threads)  # a lane more would only wait for a core
  else:
    network = models.build(config)
    params = packed.params() if packed else checkpoints.load_weights(workdir)
    options = temperatures, config.evaluation.block_frames
    if engine == 'pallas':
      weights = packed.weights if packed else weights
      sampler = pallas.open_sampler(
          network, params, *options, weights, min(batch, len(sources)))
      engine = 'pallas' if isinstance(sampler, pallas.Sampler) else 'scan'
    else:
      sampler = scan.Sampler(network, params, *options, donate=jax.default_backend() != 'cpu')
  return _print({'engine': engine, **synthesis.write_all(sampler, sources, output, seed, batch)})


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


def demo(config: Config, workdir: str) -> dict:
  """The main job on the bundled speech: train, evaluate, synthesise, show.

  Leaves wavs, pictures and metrics in `workdir`; what is already done there
  is not done again.
  """
  folder = pathlib.Path(workdir)
  config.data.dir = str(DEMO_SPEECH)
  trained = train(config, workdir)
  if trained['step'] < config.train.steps:  # stopped by a signal
    return trained
  result = evaluate(workdir, 'test')
  speed = synthesize(workdir, str(DEMO_SPEECH / 'test'), str(folder / 'synthesis'))
  for target in sorted((DEMO_SPEECH / 'test').glob('*.flac')):
    mels = [audio.utterance_log_mel(audio.read_audio(path, config.mel.sample_rate), config.mel)
            for path in (target, folder / 'synthesis' / f'{target.stem}.wav')]
    pictures.save(pictures.spectrogram_pair(*mels, config.mel, target.stem),
                  folder / f'{target.stem}.png')
  print(f'\nListen to {folder}/synthesis/*.wav, look at {folder}/*.png;\n'
        f'metrics are in {folder}/metrics.jsonl and evaluation_test.json.')
  return _print({'folder': str(folder), 'nll': result['nll'],
                 'realtime_factor': speed['realtime_factor']})


def _print(result: dict) -> dict:
  print(json.dumps(result, default=np.ndarray.item), flush=True)
  return result
