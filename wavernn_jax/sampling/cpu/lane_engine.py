"""An export of a subscale model as a sampler (§4), with the interface of `engine.Sampler`.

As in models/skew.py a block of L positions of all lanes is drawn at a time: the
context network of the block in JAX, then one call of the compiled loop. The
state is that of models/skew.py, in numpy.
"""

import dataclasses
import functools

import numpy as np

from wavernn_jax import audio, backend, models
from wavernn_jax.models import skew
from wavernn_jax.sampling.cpu import engine, lane_layout, lane_loop
from wavernn_jax.sampling.export import Export

_BATCH_AXES = {'index': 0, 'end': 0, 'h': 1, 'sample': 1, 'pcm': 2, 'caches': 2}


class LaneSampler(engine.Sampler):
  """A packed model of 2 to 16 lanes, ready to turn mel frames into audio."""

  def _open(self, export: Export) -> None:
    self.model = models.build(export.config)
    self.model.check_block(self.block_frames * self.model.mel.hop)
    self.network = lane_layout.build(engine.weights(export))
    self.schedule = skew.schedule(export.config.model)
    # The gates' kernel is the network's: it works at the rate of samples.
    self._context = {'context': {
        name: part for name, part in export.params('context').items() if name != 'gates'}}
    exact = dataclasses.replace(export.config.model, compute_dtype='float32')
    self._begin = backend.jit(functools.partial(skew.with_silence, config=exact))
    self._block_context = backend.jit(
        lambda params, state: skew.context_block(params['context'], state, self.schedule, exact))

  def utterance_states(self, state):
    def part(value, i, axis):
      return np.take(value, [i], axis)
    return [{name: [part(v, i, axis) for v in state[name]] if name == 'caches'
             else part(state[name], i, axis) for name, axis in _BATCH_AXES.items()}
            for i in range(len(state['index']))]

  def _join(self, states):
    def joined(name):
      values = [state[name] for state in states]
      if name == 'caches':
        return [np.concatenate(layer, 2) for layer in zip(*values, strict=True)]
      return np.concatenate(values, _BATCH_AXES[name])
    return {name: joined(name) for name in _BATCH_AXES}

  def _utterance_block(self, state, mel_FxM, key_2):
    seed, utterance = (int(word) for word in key_2)
    options = self._options._replace(seed=seed, utterance=utterance)
    codes_IxSx2 = np.zeros((self._positions, self.model.lanes, 2), np.uint8)
    pcm_IxS, state, _ = self._run(state, mel_FxM, options, codes_IxSx2)
    return pcm_IxS.reshape(-1), state

  def _nats(self, utterance):
    codes_Tx2, windows = self._known(utterance)
    state = self.model.ended(self.initial_state(1), [utterance.samples])
    state['end'] = np.array(state['end'])
    nats_Sx2 = np.zeros((self.model.lanes, 2))
    for window in windows:
      time_IxS = self.model.lanes * state['index'] + self.schedule.times(self._positions)
      codes_IxSx2 = codes_Tx2[np.clip(time_IxS, 0, len(codes_Tx2) - 1)]
      _, state, log_likelihood = self._run(
          state, window, self._options, codes_IxSx2, forced=True)
      nats_Sx2 -= log_likelihood.sum(axis=0, dtype=np.float64)
    return nats_Sx2

  @property
  def _positions(self) -> int:
    """Of each lane in a block of frames."""
    return self.block_frames * self.model.mel.hop // self.model.lanes

  def context(self, state):
    """What the lanes of an utterance see at their next positions, and the next state.

    Returns:
      float32 LxSx(C + 2K), context and nearest bytes; the state with its next caches.
    """
    *seen, caches = self._block_context(
        self._context, {'pcm': state['pcm'], 'caches': state['caches']})
    return np.concatenate(seen, axis=-1)[:, :, 0], state | {'caches': caches}

  def _run(self, state, mel_FxM, options, codes_IxSx2, forced=False):
    """Draws or scores a block of frames of one utterance, by blocks of L positions.

    Args:
      state: of the utterance; its arrays keep a batch axis of 1.
      mel_FxM: frames of `next_block`.
      options: of loop.py.
      codes_IxSx2: bytes by position and lane, written, or read if forced.

    Returns:
      samples IxS of `delay` samples ago, in order; the next state; and, if
      forced, log-likelihoods IxSx2.
    """
    plan, mel = self.schedule, self.model.mel
    memory, frames_FxG = lane_loop.scratch(self.network), self.gates(mel_FxM)
    lane_loop.load_state(self.network, memory, state['h'][:, 0],
                         np.stack(audio.split_bytes(state['sample'][:, 0]), axis=1))
    if state['index'][0] == 0:
      state = self._begin(self._context, state)
    now, made, scores = 0, [], []
    for start in range(0, len(codes_IxSx2), plan.block):
      seen_LxSxC, state = self.context(state)
      first_S = plan.lanes * start + plan.times(1)[0]
      times = lane_loop.Times(
          plan.lanes * int(state['index'][0]) + first_S, int(state['end'][0]),
          self.position + first_S, mel.hop)
      codes_LxSx2 = codes_IxSx2[start:start + plan.block]
      now, scored = lane_loop.run(self.network, memory, now, frames_FxG, seen_LxSxC, times,
                                  options, codes_LxSx2, forced)
      pcm_LxS = audio.join_bytes(codes_LxSx2[..., 0], codes_LxSx2[..., 1])
      drawn, state = self._written(state, pcm_LxS)
      made.append(drawn)
      scores.append(scored.log_likelihood)
    h_SxH = lane_loop.state(memory, now, plan.lanes)
    return np.concatenate(made), state | {
        'index': state['index'] + np.int32(len(codes_IxSx2)), 'h': h_SxH[:, None],
        'sample': pcm_LxS[-1][:, None]}, np.concatenate(scores)

  def _written(self, state, pcm_LxS):
    """The samples LxS that all lanes have now drawn, and the state with those just drawn."""
    plan = self.schedule
    pcm = np.concatenate([state['pcm'], np.zeros_like(pcm_LxS)[..., None]])
    pcm[plan.write_rows(), np.arange(plan.lanes), 0] = pcm_LxS
    first = plan.reach.near
    return pcm[first:first + plan.block, :, 0], state | {'pcm': pcm[plan.block:]}
