"""Packed matrices as an engine: the conditioning in JAX, all at sample rate compiled.

The conditioning stack runs at frame rate, in blocks of fixed size; its gate inputs are
interpolated and everything at sample rate is done in the compiled loop. Each utterance
is computed by itself, on whichever thread is free, so neither batch nor threads change
a sample.
"""

import concurrent.futures
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np

from wavernn_jax import audio, backend, rules
from wavernn_jax.models import conditioning, hearing, prediction, wavernn
from wavernn_jax.sampling.cpu import hear, layout, levinson, loop
from wavernn_jax.sampling.engine import Engine
from wavernn_jax.sampling.export import Export

_RAMPS = np.float32([hearing.COARSE_RAMP, hearing.FINE_RAMP]).ravel()


class CpuEngine(Engine):
  """A packed model without lanes.

  States are those of models/wavernn.py, in numpy. Activations are float32 (int16 beside
  int8 weights), whatever config.model.compute_dtype.
  """

  name = 'cpu'

  def __init__(self, export: Export, temperatures=(1.0, 1.0), block_frames: int = 16,
               threads: int = 0):
    """Args:
      export: of sampling/export.py.
      temperatures: of the coarse and the fine byte; 0 takes the most probable.
      block_frames: frames a call.
      threads: utterances computed at a time; 0 for all cores.

    Raises:
      InputError: if the kernels do not suit the model.
    """
    model = export.config.model
    rules.check_suits(export.config, 'cpu')
    self.block_frames = block_frames
    # On this engine an utterance more than threads would only wait for a core.
    self.at_once = threads or _cores()
    self.model = wavernn.WaveRNN(model, export.config.mel)
    self.network = layout.build(weights(export))
    self._options = loop.Options(0, 0, *(float(t) for t in temperatures))
    self._conditioning = export.params('conditioning')
    self._gates = backend.jit(functools.partial(
        conditioning.frame_gates, config=model, mel=export.config.mel))
    self._predictions = None
    if model.prediction == 'spectral':
      self._predictions = _Predictions(self.model, export.tensors['prior'][0])
    self._pool = concurrent.futures.ThreadPoolExecutor(self.at_once)

  def initial_state(self, batch: int):
    return jax.tree.map(np.array, self.model.sampling_state(batch))

  def warm_up(self, batch: int) -> None:
    del batch  # one utterance's code serves any number
    super().warm_up(1)

  def next_block(self, state, mel_BxFxM, keys_Bx2):
    return self._of_each(self._draw, state, mel_BxFxM, keys_Bx2)

  def score(self, state, pcm_BxN, mel_BxFxM):
    nats_BxTx2, state = self._of_each(self._score, state, pcm_BxN, mel_BxFxM)
    return {byte: nats_BxTx2[..., side] for side, byte in enumerate(wavernn.BYTES)}, state

  def gates(self, mel_FxM) -> np.ndarray:
    """Gate inputs of the frames, but the first and last `margin` − 1 of them, [F, 3 * H]."""
    # A copy: numba compiles anew for arrays that cannot be written.
    return np.array(self._gates(self._conditioning, mel_FxM[None]))[:, 0]

  @property
  def position(self) -> int:
    """Samples from the first frame of `gates` to the first sample of a block."""
    mel = self.model.mel
    return mel.hop - audio.frame_offset(mel)

  def _of_each(self, function, state, *arguments):
    """Results of a function of one utterance and their states, both stacked again."""
    states = [{name: np.asarray(value)[i] for name, value in state.items()}
              for i in range(len(arguments[0]))]
    made = list(self._pool.map(function, states, *arguments))
    return np.stack([result for result, _ in made]), {
        name: np.stack([state[name] for _, state in made]) for name in state}

  def predictor(self, mel_FxM) -> hear.Predictor | None:
    """The predictions of the frames of `gates`, None for a model without."""
    return None if self._predictions is None else self._predictions(mel_FxM)

  def _draw(self, state, mel_FxM, key_2):
    """One utterance of `next_block`."""
    hop = self.model.mel.hop
    seed, utterance = (int(word) for word in key_2)
    pcm_T, after = loop.sample(
        self.network, self.gates(mel_FxM), self.block_frames * hop, hop, stream_state(state),
        self._options._replace(seed=seed, utterance=utterance), self.position,
        self.predictor(mel_FxM))
    return pcm_T, _state(after)

  def _score(self, state, pcm_T, mel_FxM):
    """One utterance of `score`."""
    scores, after = loop.score(
        self.network, self.gates(mel_FxM), pcm_T, self.model.mel.hop, stream_state(state),
        self.position, predictor=self.predictor(mel_FxM))
    return -scores.log_likelihood, _state(after)


def _cores() -> int:
  if hasattr(os, 'sched_getaffinity'):  # Linux: those that this process may use
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _state(after: loop.State):
  """One utterance's state after samples."""
  return {'h': after.h, 'pcm': after.pcm, 'index': np.uint32(after.index % 2**32)}


def stream_state(state) -> loop.State:
  """The compiled loop's form of one utterance's state."""
  return loop.State(np.asarray(state['h']), np.asarray(state['pcm']), int(state['index']))


class _Predictions:
  """mel window -> hear.Predictor: the frames −1, 0, .., as of the gate inputs."""

  def __init__(self, model: wavernn.WaveRNN, prior):
    self._model = model
    self._autocorrelation = backend.jit(self._before)
    self._correction = prediction.window_correction(model.config.taps, model.mel)
    self._filters = backend.jit(functools.partial(self._after, prior))

  def _before(self, mel_FxM):
    hears = self._model.hearing
    frames_FxM = hears.frames(mel_FxM[None])[:, 0]
    return prediction.autocorrelation(
        frames_FxM.astype(jnp.float64), hears.config.taps, hears.mel)

  def _after(self, prior, w_FxD, v_F, r_F):
    taps, *rest = prediction.filter_of(w_FxD, v_F, r_F, self._model.mel)
    missing = hear.padded(taps.shape[1]) - taps.shape[1]
    slope, _ = hearing.priors(jnp.float32(prior), rest[1], 0)['coarse']
    return jnp.pad(taps, ((0, 0), (missing, 0))).astype(jnp.int16), *rest, slope

  def __call__(self, mel_FxM) -> hear.Predictor:
    with jax.enable_x64(True):
      r_FxN = np.asarray(self._autocorrelation(mel_FxM))
      solved = levinson.solve_without_window(r_FxN, self._correction)
      found = self._filters(*solved, r_FxN[:, 0])
    taps, *rest = (np.array(a) for a in found)
    lags = tuple(range(self._model.config.residuals))
    return hear.Predictor(taps, *rest, _RAMPS, taps.shape[1], lags)


def weights(export: Export) -> layout.Weights:
  """The tensors of an export by their part in the network."""
  tensors, units = export.tensors, export.config.model.units

  def outputs(part):
    return tuple(tensors[f'outputs.{byte}.{part}'] for byte in wavernn.BYTES)

  return layout.Weights(
      recurrent=tuple(tensors[f'recurrent.{gate}'] for gate in 'ure'),
      project=outputs('hidden.kernel'), project_bias=np.stack(outputs('hidden.bias')),
      logits=outputs('output.kernel'), logits_bias=np.stack(outputs('output.bias')),
      input=tensors['previous'].reshape(-1, 3, units), current=tensors['coarse'],
      reset_bias=tensors.get('reset_bias'))
