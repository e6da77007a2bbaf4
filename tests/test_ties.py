"""The comparison of ties.py: what it lets pass, and what it does not."""

import jax
import numpy as np
import pytest
from random_models import build, build_fused, build_wavenet, log_mel, parameters
import ties

from wavernn_jax import draw
from wavernn_jax.sampling import scan, stream

FRAMES, KEY = 6, draw.keys(3, [0])




@pytest.fixture(params=['wavernn', 'subscale', 'fused', 'wavenet'])
def sampler(request):
  model = {'wavernn': lambda: build(kind='wavernn', lanes=1, horizon=0), 'subscale': build,
           'fused': build_fused, 'wavenet': build_wavenet}[request.param]()
  return scan.ScanEngine(model, parameters(model), block_frames=2)


@pytest.fixture
def drawn(sampler):
  """Moves of numbers -> samples."""
  moved = ties.Moved(sampler, (1.0, 1.0))
  return lambda moves: moved.drawn(log_mel(sampler.model.mel, FRAMES), KEY, moves)


def compared(found, sampler):
  mels = [log_mel(sampler.model.mel, FRAMES)]
  ties.assert_same([found], stream.batch(sampler, mels, KEY), sampler, mels, KEY)


def test_a_tie_is_followed_to_the_end_of_the_utterance(sampler, drawn, monkeypatch):
  monkeypatch.setattr(ties, 'ROUNDING', 0.02)  # as if arithmetic were as coarse
  whole = drawn({})
  compared(whole, sampler)
  sample, found = next((n, other) for n in range(2, 9) for move in ((0, -1), (0, 1), (1, 1))
                       for other in [drawn({n: move})] if other[n] != whole[n])
  compared(found, sampler)
  last = max(range(len(whole)), key=lambda n: ties.drawn_at(sampler.model.timing, n))
  wrong = found.copy()
  wrong[last] ^= np.int16(-2**15)  # after the tie
  with pytest.raises(AssertionError, match=f'sample {last}: '):
    compared(wrong, sampler)
  monkeypatch.setattr(ties, 'ROUNDING', 1e-9)
  with pytest.raises(AssertionError, match=f'sample {sample}: {found[sample]} is not drawn'):
    compared(found, sampler)


def test_other_weights_are_not_taken_for_ties(sampler):
  params = jax.tree.map(lambda a: a * np.float32(1.01), sampler.params)
  other = scan.ScanEngine(sampler.model, params, block_frames=2)
  with pytest.raises(AssertionError, match='is not drawn of any number|differs after'):
    compared(stream.batch(other, [log_mel(sampler.model.mel, FRAMES)], KEY)[0], sampler)
