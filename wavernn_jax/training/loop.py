"""The training loop: batches, steps, evaluations, checkpoints, and clean stops."""

import functools
import pathlib
import signal

import jax
from jax.sharding import NamedSharding, PartitionSpec

from wavernn_jax import audio, backend, config as config_lib, corpus, data, draw, models
from wavernn_jax.config import Config
from wavernn_jax.errors import InputError
from wavernn_jax.evaluation import evaluate, pictures
from wavernn_jax.sampling import scan
from wavernn_jax.training import checkpoints, journal, step as step_lib, workdir as workdir_lib


def train(config: Config, workdir) -> int:
  """Trains, or goes on with, the run in `workdir`; returns the last step done.

  SIGTERM and SIGINT save a checkpoint and return early.

  Raises:
    InputError: for bad input, before anything is written, and if the loss or
      a gradient stops being finite.
  """
  config_lib.check(config)
  audio.check_mel_config(config.mel)
  if config.train.batch % jax.device_count():
    raise InputError(f'--config.train.batch: found {config.train.batch}, expected a multiple '
                     f'of the {jax.device_count()} devices.')
  train_set, valid_set = load_corpus(config)
  lock = workdir_lib.claim(workdir, config, workdir_lib.corpus_digest(train_set))
  with lock, _StopOnSignal() as stop:
    return _Run(config, workdir, train_set, valid_set).loop(stop)


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

  def __init__(self, config: Config, workdir, train_set, valid_set):
    self.config, self.workdir = config, pathlib.Path(workdir)
    self.model = models.build(config)
    self.valid_set = valid_set[:config.evaluation.max_valid_utterances or None]
    mesh = jax.make_mesh((jax.device_count(),), ('data',),
                         axis_types=(jax.sharding.AxisType.Auto,))
    self.replicated = NamedSharding(mesh, PartitionSpec())
    self.split = NamedSharding(mesh, PartitionSpec('data'))
    crop = config.train.crop
    self.batches = data.crop_batches(
        train_set, data.crop_shape(self.model, crop), config.mel, config.train.batch,
        config.train.seed, config.data.workers)
    self.checkpoints = checkpoints.Checkpoints(workdir, config.train.keep)
    if self.checkpoints.latest() is None:
      self.state = self._first_state()
    else:
      self.state, position = self.checkpoints.restore(
          step_lib.abstract_state(self.model, config, self.replicated))
      self.batches.set_state(position)
    self.step = int(self.state['step'])
    self.journal = journal.Journal(workdir, self.step)
    self.train_step = backend.jit(
        functools.partial(step_lib.train_step, self.model, config), donate_argnums=0,
        out_shardings=(self.replicated, self.replicated))
    self.evaluator = evaluate.Evaluator(self.model, config.evaluation)
    self.sampler = scan.Sampler(
        self.model, self.state['ema'], block_frames=config.evaluation.block_frames)

  def _first_state(self):
    params = self.model.init(self.config.train.seed)
    if self.config.init_from:
      params = checkpoints.load_weights(self.config.init_from, self.config)
    return jax.device_put(step_lib.initial_state(params, self.config), self.replicated)

  def loop(self, stop) -> int:
    train = self.config.train
    progress = journal.Progress(self.step, train.steps, train.batch * train.crop,
                                self.config.mel.sample_rate)
    try:
      while self.step < train.steps and not stop:
        batch = self._next_batch(stop)
        if batch is None:
          break
        self.state, metrics = self.train_step(self.state, batch)
        self.step += 1
        progress.advance()
        if self.step % train.log_every == 0:
          self._log(metrics, progress)
        last = self.step == train.steps
        evaluated = None
        if last or self.step % train.eval_every == 0:
          evaluated = self._evaluate(progress, stop)
        if evaluated is not None or self.step % train.save_every == 0:
          self._save(evaluated)
          progress.pause(self.step)
      self._save()
      self.checkpoints.wait()
      if stop:
        progress.write(f'stopped at step {self.step}; the same command goes on from there.')
    finally:
      progress.close()
      self.journal.close()
      self.batches.close()
      self.checkpoints.close()
    return self.step

  def _next_batch(self, stop):
    """A batch on the devices; None if a signal to the whole group ended the workers."""
    try:
      return jax.device_put(next(self.batches), self.split)
    except Exception:
      if stop:
        return None
      raise

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

  def _evaluate(self, progress, stop) -> float:
    """Valid NLL, nats/sample; also when about to stop, so that the curve has no gap."""
    self._guard()
    sums, samples = self.evaluator.utterance_nats(self.state['ema'], self.valid_set)
    result = evaluate.summary(sums, samples, self.config.evaluation)
    scalars = {f'valid_{k}': result[k] for k in ('nll', 'nll_coarse', 'nll_fine')}
    self.journal.scalars(self.step, scalars)
    progress.write(f'step {self.step}: valid {result["nll_coarse"]:.4f} coarse + '
                   f'{result["nll_fine"]:.4f} fine = {result["nll"]:.4f} nats/sample')
    if not stop:
      self._synthesize()
    return result['nll']

  def _synthesize(self):
    """Free-running copies of a few valid utterances, for TensorBoard."""
    mel, evaluation = self.config.mel, self.config.evaluation
    frames = int(evaluation.synthesize_seconds * mel.sample_rate / mel.hop)
    chosen = self.valid_set[:evaluation.synthesize]
    if not chosen:
      return
    mels = [corpus.utterance_mel(u, mel)[:frames] for u in chosen]
    self.sampler.params = self.state['ema']
    pcms = scan.synthesize(self.sampler, mels,
                           draw.keys(self.config.train.seed, range(len(mels))))
    for u, target_FxM, pcm in zip(chosen, mels, pcms, strict=True):
      self.journal.audio(self.step, u.name, pcm, mel.sample_rate)
      figure = pictures.spectrogram_pair(
          target_FxM, audio.utterance_log_mel(pcm, mel), mel, f'{u.name}, step {self.step}')
      self.journal.picture(self.step, u.name, pictures.to_array(figure))
