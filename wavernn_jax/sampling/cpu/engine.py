"""An export as a sampler of mel frames, with the interface of `scan.Sampler`.

The conditioning stack runs in JAX at frame rate, in blocks of fixed size; its
gate inputs are interpolated and everything at sample rate is done in the
compiled loop. Each utterance is computed by itself, on whichever thread is
free, so neither batch nor threads change a sample.
"""

import concurrent.futures
import functools
import os

import jax
import numpy as np

from wavernn_jax import audio, backend, draw
from wavernn_jax.config import Config
from wavernn_jax.data import corpus
from wavernn_jax.errors import InputError
from wavernn_jax.models import conditioning, wavernn
from wavernn_jax.sampling import scan
from wavernn_jax.sampling.cpu import layout, loop
from wavernn_jax.sampling.export import Export

_UNITS, _PROJECTION = 32, 16  # multiples that the kernels need


def fits(config: Config) -> bool:
  """Whether the CPU engine can run a model."""
  model = config.model
  return (model.kind in ('wavernn', 'subscale') and model.lanes == 1
          and model.units % _UNITS == 0 and model.projection % _PROJECTION == 0)


class Sampler:
  """A packed model without lanes, ready to turn mel frames into audio.

  The caller holds the state, which is that of models/wavernn.py, in numpy.
  Activations are float32 (int16 beside int8 weights), whatever
  config.model.compute_dtype.
  """

  def __init__(self, export: Export, temperatures=(1.0, 1.0), block_frames: int = 16,
               threads: int = 0):
    """Args:
      export: of sampling/export.py.
      temperatures: of the coarse and the fine byte; 0 takes the most probable.
      block_frames: frames a call; the latency of a stream beyond `lookahead`.
      threads: utterances computed at a time; 0 for all cores.

    Raises:
      InputError: if the sizes of the model do not fit the kernels.
    """
    model = export.config.model
    if not fits(export.config):
      raise InputError(
          f'--engine=cpu: found a {model.kind} model of {model.lanes} lanes, {model.units} units '
          f'and projection {model.projection}, expected a model without lanes whose units are a '
          f'multiple of {_UNITS} and projection of {_PROJECTION}; use --engine=scan.')
    self.block_frames = block_frames
    self.threads = threads or _cores()
    self._options = loop.Options(0, 0, *(float(t) for t in temperatures))
    self._conditioning = export.params('conditioning')
    self._gates = backend.jit(functools.partial(
        conditioning.frame_gates, config=model, mel=export.config.mel))
    self._pool = concurrent.futures.ThreadPoolExecutor(self.threads)
    self.model = wavernn.WaveRNN(export.config.model, export.config.mel)
    self.network = layout.build(weights(export))

  @property
  def lookahead(self) -> int:
    """Frames after a block that must be known before it is made."""
    return self.model.timing.margin

  @property
  def latency(self) -> float:
    """Seconds of audio whose mel a stream must know before its first sample comes."""
    return scan.latency(self)

  def initial_state(self, batch: int):
    return jax.tree.map(np.array, self.model.sampling_state(batch))

  def warm_up(self, batch: int) -> None:
    """Compiles, or loads what an earlier process compiled."""
    del batch  # one utterance's code serves any number
    before, after = scan.around(self)
    frames = np.zeros((1, before + self.block_frames + after, self.model.mel.bands), np.float32)
    self.next_block(self.initial_state(1), frames, draw.keys(0, [0]))

  def next_block(self, state, mel_BxFxM, keys_Bx2):
    """As `scan.Sampler.next_block`; the state that is given stays as it is."""
    states = [{name: value[i] for name, value in state.items()} for i in range(len(keys_Bx2))]
    made = list(self._pool.map(self._utterance_block, states, mel_BxFxM, keys_Bx2))
    return np.stack([pcm for pcm, _ in made]), {
        name: np.stack([state[name] for _, state in made]) for name in state}

  def gates(self, mel_FxM) -> np.ndarray:
    """Gate inputs of the frames, but the first and last `lookahead` − 1 of them, [F, 3 * H]."""
    # A copy: numba compiles anew for arrays that cannot be written.
    return np.array(self._gates(self._conditioning, mel_FxM[None]))[:, 0]

  @property
  def position(self) -> int:
    """Samples from the first frame of `gates` to the first sample of a block."""
    mel = self.model.mel
    return (self.model.timing.lag + 1) * mel.hop - audio.frame_offset(mel)

  def lane_nats(self, utterances, progress=lambda samples: None):
    """As `evaluation.Evaluator.lane_nats`, in the very arithmetic of the draws."""
    nats_UxSx2 = np.zeros((len(utterances), self.model.timing.lanes, 2))
    for i, nats_Sx2 in enumerate(self._pool.map(self._nats, utterances)):
      nats_UxSx2[i] = nats_Sx2
      progress(utterances[i].samples)
    sums = {byte: nats_UxSx2[..., side] for side, byte in enumerate(wavernn.BYTES)}
    return sums, np.array([u.samples for u in utterances])

  def _known(self, utterance):
    """Bytes uint8 Tx2 of a recording, and its windows of mel frames, block after block."""
    mel, block, (before, after) = self.model.mel, self.block_frames, scan.around(self)
    pcm_T = utterance.read(0, utterance.samples, mel.sample_rate)
    mel_FxM = corpus.utterance_mel(utterance, mel)
    blocks = -(-(len(pcm_T) + self.model.timing.delay) // (block * mel.hop))
    padded = np.full((before + blocks * block + after, mel.bands), audio.mel_floor(mel),
                     np.float32)
    padded[before:before + len(mel_FxM)] = mel_FxM
    windows = [padded[b * block:before + (b + 1) * block + after] for b in range(blocks)]
    return np.stack(audio.split_bytes(pcm_T), axis=1).astype(np.uint8), windows

  def _nats(self, utterance):
    """Nats of the coarse and the fine bytes of one utterance, Sx2."""
    codes_Tx2, windows = self._known(utterance)
    state, nats_2 = loop.initial_state(self.network), np.zeros(2)
    step = self.block_frames * self.model.mel.hop
    for b, window in enumerate(windows):
      scores, state = loop.score(
          self.network, self.gates(window), codes_Tx2[b * step:(b + 1) * step],
          self.model.mel.hop, state, self.position)
      nats_2 -= scores.log_likelihood.sum(axis=0, dtype=np.float64)
    return nats_2[None]

  def _utterance_block(self, state, mel_FxM, key_2):
    """One utterance of `next_block`."""
    hop = self.model.mel.hop
    seed, utterance = (int(word) for word in key_2)
    codes_Tx2, after = loop.sample(
        self.network, self.gates(mel_FxM), self.block_frames * hop, hop, stream_state(state),
        self._options._replace(seed=seed, utterance=utterance), self.position)
    pcm_T = audio.join_bytes(codes_Tx2[:, 0], codes_Tx2[:, 1])
    return pcm_T, {'h': after.h, 'pcm': pcm_T[-1:], 'index': np.uint32(after.index % 2**32)}


def _cores() -> int:
  if hasattr(os, 'sched_getaffinity'):  # Linux: those that this process may use
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def stream_state(state) -> loop.State:
  """The compiled loop's form of one utterance's state."""
  coarse, fine = audio.split_bytes(state['pcm'][-1])
  return loop.State(np.asarray(state['h']), int(coarse), int(fine), int(state['index']))


def weights(export: Export) -> layout.Weights:
  """The tensors of an export by their part in the network."""
  tensors, units = export.tensors, export.config.model.units

  def outputs(part):
    return tuple(tensors[f'outputs.{byte}.{part}'] for byte in wavernn.BYTES)

  return layout.Weights(
      recurrent=tuple(tensors[f'recurrent.{gate}'] for gate in 'ure'),
      project=outputs('hidden.kernel'), project_bias=np.stack(outputs('hidden.bias')),
      logits=outputs('output.kernel'), logits_bias=np.stack(outputs('output.bias')),
      input=tensors['previous'].reshape(2, 3, units), current=tensors['coarse'])
