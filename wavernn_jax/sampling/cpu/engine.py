"""An export as a sampler of mel frames, with the interface of `scan.Sampler`.

The conditioning stack runs in JAX at frame rate, in blocks of fixed size; its
gate inputs are interpolated and everything at sample rate is done in the
compiled loop. Each utterance is computed by itself, on whichever thread is
free, so neither batch nor threads change a sample.
"""

import concurrent.futures
import functools
import os

import numpy as np

from wavernn_jax import audio, backend, corpus, draw, models
from wavernn_jax.config import Config
from wavernn_jax.errors import InputError
from wavernn_jax.models import conditioning
from wavernn_jax.sampling.cpu import layout, loop
from wavernn_jax.sampling.export import Export

_UNITS, _PROJECTION = 32, 16  # multiples that the kernels need


def fits(config: Config) -> bool:
  """Whether the sampler can run a model."""
  model = config.model
  return (model.kind == 'wavernn' and model.units % _UNITS == 0
          and model.projection % _PROJECTION == 0)


class Sampler:
  """A packed model, ready to turn mel frames into audio. The caller holds the state.

  The state is that of models/wavernn.py, in numpy. Activations are float32
  (int16 beside int8 weights), whatever config.model.compute_dtype.
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
    if not fits(export.config):
      raise InputError(
          f'--engine=cpu: found a {export.config.model.kind} model of '
          f'{export.config.model.units} units and projection {export.config.model.projection}, '
          f'expected kind wavernn and multiples of {_UNITS} and {_PROJECTION}; use '
          '--engine=scan.')
    self.model = models.build(export.config)
    self.block_frames = block_frames
    self.threads = threads or _cores()
    self.network = layout.build(_weights(export))
    self._options = loop.Options(0, 0, *(float(t) for t in temperatures))
    self._conditioning = export.params('conditioning')
    self._gates = backend.jit(functools.partial(
        conditioning.frame_gates, config=export.config.model, mel=export.config.mel))
    self._pool = concurrent.futures.ThreadPoolExecutor(self.threads)

  @property
  def lookahead(self) -> int:
    """Frames after a block that must be known before it is made."""
    return self.model.context

  def initial_state(self, batch: int):
    return {name: np.array(value) for name, value in self.model.initial_state(batch).items()}

  def warm_up(self, batch: int) -> None:
    """Compiles, or loads what an earlier process compiled."""
    del batch  # one utterance's code serves any number
    mel = self.model.mel
    frames = np.zeros((1, self.block_frames + 2 * self.lookahead, mel.bands), np.float32)
    self.next_block(self.initial_state(1), frames, draw.keys(0, [0]))

  def next_block(self, state, mel_BxFxM, keys_Bx2):
    """(int16 B x block·hop, next state) from block frames and the context around them."""
    lanes = [{name: value[lane] for name, value in state.items()}
             for lane in range(len(mel_BxFxM))]
    made = list(self._pool.map(self._lane, lanes, mel_BxFxM, keys_Bx2))
    pcm_BxT = np.stack([pcm for pcm, _ in made])
    return pcm_BxT, {name: np.stack([lane[name] for _, lane in made]) for name in state}

  def gates(self, mel_FxM) -> np.ndarray:
    """Gate inputs of the frames −1 to block_frames around a block, [F, 3 * H]."""
    # A copy: numba compiles anew for arrays that cannot be written.
    return np.array(self._gates(self._conditioning, mel_FxM[None]))[:, 0]

  @property
  def position(self) -> int:
    """Samples from the first frame of `gates` to the first sample of a block."""
    return self.model.mel.hop - audio.frame_offset(self.model.mel)

  def utterance_nats(self, utterances, progress=lambda samples: None):
    """As `evaluation.Evaluator.utterance_nats`, in the very arithmetic of the draws."""
    nats_Ux2 = np.zeros((len(utterances), 2))
    for i, nats_2 in enumerate(self._pool.map(self._nats, utterances)):
      nats_Ux2[i] = nats_2
      progress(utterances[i].samples)
    sums = {byte: nats_Ux2[:, side] for side, byte in enumerate(('coarse', 'fine'))}
    return sums, np.array([u.samples for u in utterances])

  def _nats(self, utterance):
    """Nats of the coarse and the fine bytes of one utterance, [2]."""
    mel, context, block = self.model.mel, self.lookahead, self.block_frames
    pcm_T = utterance.read(0, utterance.samples, mel.sample_rate)
    codes_Tx2 = np.stack(audio.split_bytes(pcm_T), axis=1)
    mel_FxM = corpus.utterance_mel(utterance, mel)
    blocks = -(-len(pcm_T) // (block * mel.hop))
    padded = np.full((blocks * block + 2 * context, mel.bands), audio.mel_floor(mel), np.float32)
    padded[context:context + len(mel_FxM)] = mel_FxM
    state, nats_2 = loop.initial_state(self.network), np.zeros(2)
    for b in range(blocks):
      gates = self.gates(padded[b * block:(b + 1) * block + 2 * context])
      codes = codes_Tx2[b * block * mel.hop:(b + 1) * block * mel.hop]
      scores, state = loop.score(self.network, gates, codes, mel.hop, state, self.position)
      nats_2 -= scores.log_likelihood.sum(axis=0, dtype=np.float64)
    return nats_2

  def _lane(self, state, mel_FxM, key_2):
    """One utterance of `next_block`."""
    hop = self.model.mel.hop
    seed, utterance = (int(word) for word in key_2)
    codes_Tx2, after = loop.sample(
        self.network, self.gates(mel_FxM), self.block_frames * hop, hop, stream_state(state),
        self._options._replace(seed=seed, utterance=utterance), self.position)
    pcm_T = audio.join_bytes(codes_Tx2[:, 0], codes_Tx2[:, 1])
    return pcm_T, {'h': after.h, 'sample': pcm_T[-1], 'index': np.uint32(after.index % 2**32)}


def _cores() -> int:
  if hasattr(os, 'sched_getaffinity'):  # Linux: those that this process may use
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def stream_state(state) -> loop.State:
  """The compiled loop's form of one utterance's state."""
  coarse, fine = audio.split_bytes(state['sample'])
  return loop.State(np.asarray(state['h']), int(coarse), int(fine), int(state['index']))


def _weights(export: Export) -> layout.Weights:
  tensors, units = export.tensors, export.config.model.units

  def outputs(part):
    return tuple(tensors[f'outputs.{byte}.{part}'] for byte in ('coarse', 'fine'))

  return layout.Weights(
      recurrent=tuple(tensors[f'recurrent.{gate}'] for gate in 'ure'),
      project=outputs('hidden.kernel'), project_bias=np.stack(outputs('hidden.bias')),
      logits=outputs('output.kernel'), logits_bias=np.stack(outputs('output.bias')),
      input=tensors['previous'].reshape(2, 3, units), current=tensors['coarse'])
