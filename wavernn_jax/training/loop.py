"""The training loop: batches, steps, evaluations, checkpoints, and clean stops."""

import contextlib
import functools
import pathlib
import signal

import jax
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from wavernn_jax import audio, backend, corpus, data, draw, models, rules
from wavernn_jax.config import Config
from wavernn_jax.errors import InputError
from wavernn_jax.evaluation import evaluate, pictures
from wavernn_jax.sampling import scan
from wavernn_jax.training import (
  checkpoints,
  journal,
  step as step_lib,
  workdir as workdir_lib,
  world,
)


def train(config: Config, workdir) -> int:
  """Trains, or goes on with, the run in `workdir`; returns the last step done.

  SIGTERM and SIGINT save a checkpoint and return early; in a world of several
  processes one that gets the signal is enough.

  Raises:
    InputError: for bad input, before anything is written, and if the loss or
      a gradient stops being finite.
    world.LostPeer: if another process of the world went away.
  """
  with world.noticing_lost_peers():
    train_set, valid_set = world.together(lambda: _checked(config))
    world.check_agreement(config, workdir_lib.order_digest(train_set, valid_set))
    lock = world.together(lambda: _claim(workdir, config, train_set))
    world.check_shared(pathlib.Path(workdir) / 'run.json')
  with lock, _StopOnSignal() as stop, world.noticing_lost_peers():
    return _Run(config, workdir, train_set, valid_set, stop).loop()


def _checked(config: Config):
  """The corpus of a config that is in order."""
  rules.check(config)
  world.check_devices(config)
  return load_corpus(config)


def _claim(workdir, config: Config, train_set):
  """The lock of the run, which the first process of a world holds."""
  if not world.is_first():
    return contextlib.nullcontext()
  return workdir_lib.claim(workdir, config, workdir_lib.corpus_digest(train_set))


def load_corpus(config: Config):
  """Utterances of train and valid, checked together with test."""
  files = corpus.split_files(config.data)
  least = dict.fromkeys(files, audio.edge_padding(config.mel) + 1)
  least['train'] = max(config.train.crop, least['train'])
  splits = corpus.load_splits(files, config.data, config.mel, least,
                            () if config.data.workers else ('train', 'valid'))
  corpus.check_disjoint(splits)
  return splits['train'], splits['valid']


class _StopOnSignal:
  """True once SIGTERM or SIGINT has come; a second SIGINT interrupts as usual."""

  def __enter__(self):
    self._stopping = False
    self._previous = {s: signal.signal(s, self._handle)
                      for s in (signal.SIGTERM, signal.SIGINT)}
    return self

  def _handle(self, number, frame):
    del frame
    self._stopping = True
    signal.signal(number, self._previous[number])

  def __bool__(self):
    return self._stopping

  def __exit__(self, *_):
    for number, handler in self._previous.items():
      signal.signal(number, handler)


class _Run:
  """One run: its state, iterator and outputs."""

  def __init__(self, config: Config, workdir, train_set, valid_set, stop):
    """`stop`: true once this process was told to."""
    self.config, self.workdir = config, pathlib.Path(workdir)
    self.model = models.build(config)
    self.valid_set = valid_set[:config.evaluation.max_valid_utterances or None]
    mesh = world.data_mesh()
    self.replicated = NamedSharding(mesh, PartitionSpec())
    self.split = NamedSharding(mesh, PartitionSpec('data'))
    crop = config.train.crop
    self.batches = data.crop_batches(
        train_set, data.crop_shape(self.model, crop), config.mel, config.train.batch,
        config.train.seed, config.data.workers, (jax.process_index(), jax.process_count()))
    self.checkpoints = checkpoints.Checkpoints(workdir, config.train.keep)
    if self.checkpoints.latest() is None:
      self.state = self._first_state()
    else:
      self.state, position = self.checkpoints.restore(
          step_lib.abstract_state(self.model, config, self.replicated))
      self.batches.set_state(position)
    self.step = int(self.state['step'])
    self.journal = (journal.Journal(workdir, self.step) if world.is_first()
                    else journal.Nothing())
    self.local_stop, self.stop = stop, stop
    train_step = functools.partial(
        step_lib.train_step, self.model, config, mesh=mesh if mesh.size > 1 else None)
    if not world.alone():
      self.stop = world.Stop(stop, mesh)
      train_step = self.stop.wrap(train_step)
    self.train_step = backend.jit(
        train_step, donate_argnums=0, out_shardings=self.replicated)
    self.evaluator = evaluate.Evaluator(self.model, config.evaluation)
    self.sampler = scan.Sampler(
        self.model, world.local(self.state['ema']), block_frames=config.evaluation.block_frames)

  def _first_state(self):
    params = self.model.init(self.config.train.seed)
    if self.config.init_from:
      params = checkpoints.load_weights(self.config.init_from, self.config)
    return world.replicate(step_lib.initial_state(params, self.config), self.replicated)

  def loop(self) -> int:
    """Trains to the end or to a stop; returns the last step done."""
    train = self.config.train
    progress = journal.Progress(self.step, train.steps, train.batch * train.crop,
                                self.config.mel.sample_rate, world.is_first())
    peers = True
    try:
      self._train(progress)
    except jax.errors.JaxRuntimeError:
      peers = world.alone()  # in a world others may be gone, for whom a close would wait
      raise
    finally:
      progress.close()
      self.journal.close()
      self.batches.close()
      if peers:
        self.checkpoints.close()
    return self.step

  def _train(self, progress):
    train = self.config.train
    while self.step < train.steps and not self.stop:
      batch = self._next_batch()
      if batch is None:
        break
      metrics = self._update(batch)
      progress.advance()
      if self.step % train.log_every == 0:
        self._log(metrics, progress)
      last = self.step == train.steps
      evaluated = None
      if last or self.step % train.eval_every == 0:
        evaluated = self._evaluate(progress)
      if evaluated is not None or self.step % train.save_every == 0:
        self._save(evaluated)
        progress.pause(self.step)
    self._save()
    self.checkpoints.wait()
    if self.stop:
      progress.write(f'stopped at step {self.step}; the same command goes on from there.')

  def _update(self, batch):
    """One step on a batch; returns its metrics."""
    if world.alone():
      self.state, metrics = self.train_step(self.state, batch)
    else:
      self.state, metrics, stop = self.train_step(self.state, batch, self.stop.flags())
      self.stop.read(stop)
    self.step += 1
    return metrics

  def _next_batch(self):
    """A batch on the devices; None if a signal to the whole group ended the workers."""
    try:
      crops = next(self.batches)
    except Exception:
      if not self.local_stop:
        raise
      if world.alone():
        return None
      # The others still wait for our part of the next steps.
      self.batches.set_state(self.batches.get_state())
      crops = next(self.batches)
    return world.split(crops, self.split)

  def _log(self, metrics, progress):
    metrics = {name: float(value) for name, value in metrics.items()}
    self._guard()
    rate = progress.report(self.step, metrics)
    self.journal.scalars(self.step, metrics | {'samples_per_second': rate})

  def _guard(self):
    """Stops a run whose loss or gradient was not finite."""
    bad = int(self.state['nonfinite_step'])
    if bad >= 0:
      good = self.checkpoints.latest()
      kept = ('There is no checkpoint yet' if good is None else
              f'The last good checkpoint is of step {good}')
      go_on = '' if good is None else f' with --config.init_from={self.workdir}'
      raise InputError(
          f'{self.workdir}: loss or gradient was not finite at step {bad}. {kept}. Try a lower '
          '--config.optimizer.learning_rate, a smaller --config.optimizer.clip_norm or a '
          f'longer --config.optimizer.warmup_steps in a new --workdir{go_on}; look for '
          'damaged audio too.')

  def _save(self, valid_nll=None):
    self._guard()
    self.checkpoints.save(self.state, self.batches.get_state(), self.config, valid_nll)

  def _evaluate(self, progress) -> float:
    """Valid NLL, nats/sample; also when about to stop, so that the curve has no gap."""
    self._guard()
    sums, samples = self._valid_nats(world.local(self.state['ema']))
    result = evaluate.summary(sums, samples, self.config.evaluation)
    scalars = {f'valid_{k}': result[k] for k in ('nll', 'nll_coarse', 'nll_fine')}
    self.journal.scalars(self.step, scalars)
    progress.write(f'step {self.step}: valid {result["nll_coarse"]:.4f} coarse + '
                   f'{result["nll_fine"]:.4f} fine = {result["nll"]:.4f} nats/sample')
    if world.is_first() and not self.local_stop:
      self._synthesize()
    return result['nll']

  def _valid_nats(self, params):
    """As `Evaluator.utterance_nats`; every process takes its share of the utterances."""
    share = slice(jax.process_index(), None, jax.process_count())
    sums, _ = self.evaluator.utterance_nats(params, self.valid_set[share])
    of_all = {byte: np.zeros(len(self.valid_set)) for byte in sums}
    for byte, nats in sums.items():
      of_all[byte][share] = nats
    return ({byte: world.add_up(nats) for byte, nats in of_all.items()},
            np.array([u.samples for u in self.valid_set]))

  def _synthesize(self):
    """Free-running copies of a few valid utterances, for TensorBoard."""
    mel, evaluation = self.config.mel, self.config.evaluation
    frames = int(evaluation.synthesize_seconds * mel.sample_rate / mel.hop)
    chosen = self.valid_set[:evaluation.synthesize]
    if not chosen:
      return
    mels = [corpus.utterance_mel(u, mel)[:frames] for u in chosen]
    self.sampler.params = world.local(self.state['ema'])
    pcms = scan.synthesize(self.sampler, mels,
                           draw.keys(self.config.train.seed, range(len(mels))))
    for u, target_FxM, pcm in zip(chosen, mels, pcms, strict=True):
      self.journal.audio(self.step, u.name, pcm, mel.sample_rate)
      figure = pictures.spectrogram_pair(
          target_FxM, audio.utterance_log_mel(pcm, mel), mel, f'{u.name}, step {self.step}')
      self.journal.picture(self.step, u.name, pictures.to_array(figure))
