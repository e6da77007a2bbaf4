"""Speech drawn from the prediction alone."""

import numpy as np
import pytest
import utterances

from experiments.benchmarks import closed_form
from wavernn_jax.errors import InputError
from wavernn_jax.evaluation import linear_prediction


def test_the_residuals_of_a_recording_speak_the_recording(tmp_path, speech, mel):
  utterance = utterances.load(utterances.write(tmp_path, speech), mel)[0]
  pcm_T = utterance.read(0, utterance.samples, mel.sample_rate)
  code = linear_prediction.LinearPrediction([utterance], mel, taps=24)
  x_T, scale_T = code.residuals(utterance)
  found = closed_form.filters(pcm_T, 24, mel)
  np.testing.assert_array_equal(closed_form.speak(found, x_T, mel), pcm_T)
  row = closed_form.drawn(pcm_T, 24, code.log_width, mel, np.random.default_rng(0))
  assert 0.3 < row['level'] < 3
  assert np.abs(x_T).mean() < 0.7 * np.abs(pcm_T).mean() and scale_T.min() > 0


@pytest.mark.parametrize('size', ['80', '80:x', '0:192', '80:192:3'])
def test_a_size_is_bands_and_taps(size):
  with pytest.raises(InputError, match='expected bands:taps'):
    closed_form.parse(size)
