"""A reader written from the page of sampling/export_format.py alone, in numpy.

float64, but exact integers where the page has them; filters of librosa, as it says.
"""

import json
import types

import librosa
import numpy as np
import scipy.interpolate
import scipy.linalg

_NUMPY = {'F32': '<f4', 'I8': 'i1', 'U16': '<u2', 'U32': '<u4', 'BF16': '<u2', 'U8': 'u1'}


def read(data: bytes):
  """Header and float64 arrays by name; matrices unpacked, outputs first."""
  start = 8 + int.from_bytes(data[:8], 'little')
  entries = json.loads(data[8:start])
  header, arrays = json.loads(entries.pop('__metadata__')['header']), {}
  for name, entry in entries.items():
    begin, end = (start + at for at in entry['data_offsets'])
    array = np.frombuffer(data[begin:end], _NUMPY[entry['dtype']]).reshape(entry['shape'])
    if entry['dtype'] == 'BF16':
      array = (array.astype(np.uint32) << 16).view(np.float32)
    arrays[name] = array
  header = json.loads(json.dumps(header), object_hook=lambda d: types.SimpleNamespace(**d))
  for name in [n.removesuffix('.offsets') for n in arrays if n.endswith('.offsets')]:
    arrays[name] = _unpack(name, arrays, header)
  return header, {name: a.astype(np.float64) for name, a in arrays.items()}


def _unpack(name, arrays, header):
  m, (outputs, inputs) = header.model, header.block
  size = {'hidden': (m.projection, m.units // 2), 'output': (256, m.projection),
          'gates': (3 * m.units, m.channels)}.get(name.split('.')[-2], (m.units, m.units))
  offsets, dense = arrays[f'{name}.offsets'].astype(int), np.zeros(size)
  for row, (first, last) in enumerate(zip(offsets, offsets[1:], strict=False)):
    for k in range(first, last):
      column = int(arrays[f'{name}.indices'][k])
      dense[row * outputs:(row + 1) * outputs, column * inputs:(column + 1) * inputs] = (
          arrays[f'{name}.values'][k].reshape(outputs, inputs))
  return dense * arrays.get(f'{name}.scales', np.ones(1))[:, None]


def frame_gates(header, a, mel_FxM):
  """Gate inputs g of the frames −1 .. F, as a dict by frame."""
  m, wide = header.model, 200
  floor = np.log(header.mel.clamp) if header.mel.log == 'e' else np.log10(header.mel.clamp)
  y = np.pad(mel_FxM.astype(np.float64), ((wide, wide), (0, 0)), constant_values=floor)
  y, j = (y - floor / 2) * 2 / (-floor / 2), (m.kernel - 1) // 2
  for layer in range(m.layers):
    around = np.concatenate([np.roll(y, j - k, axis=0) for k in range(m.kernel)], axis=1)
    new = np.maximum(around @ a[f'conditioning.layers.{layer}.kernel']
                     + a[f'conditioning.layers.{layer}.bias'], 0)
    y = new if layer == 0 else y + new
  g = y @ a['conditioning.gates.kernel'].T + a['conditioning.gates.bias']
  return {f: g[wide + f] for f in range(-1, len(mel_FxM) + 1)}


def predictions(header, mel_FxM):
  """ν -> (weights int, shift, σ, τ); Σ ρ w = ρ by a general solver."""
  c, taps = header.mel, header.model.taps
  log = np.log if c.log == 'e' else np.log10
  frames = np.pad(mel_FxM.astype(np.float64), ((3, 3), (0, 0)), constant_values=log(c.clamp))
  filters = librosa.filters.mel(
      sr=c.sample_rate, n_fft=c.n_fft, n_mels=c.bands, fmin=c.fmin, fmax=c.fmax,
      htk=c.mel_scale == 'htk', norm=None if c.mel_norm == 'none' else c.mel_norm)
  filters = filters.astype(np.float64)
  found = {}
  hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(c.window) / c.window)
  kappa = 2.0**30 / (hann**2).sum()
  for frame in range(-2, len(mel_FxM) + 2):
    own = frames[frame + 3]
    if (own <= log(c.clamp) + 1e-6).all():
      own = frames[frame + 2]
    own = own if c.log == 'e' else own * np.log(10)
    rho = np.fft.irfft(power(own, filters, c.power), c.n_fft)[:taps + 1]
    rho = rho * np.exp(-(2 * np.pi * 5 * np.arange(taps + 1) / c.sample_rate)**2 / 2)
    rho[0] *= 1 + 1e-5
    overlaps = np.array([hann[n:] @ hann[:c.window - n] for n in range(taps + 1)])
    corrected = rho * np.minimum(4, overlaps[0] / np.maximum(overlaps, 1e-9))
    rho = corrected if least_error(corrected) >= 5e-6 * rho[0] else rho
    distance = np.abs(np.subtract.outer(np.arange(taps), np.arange(taps)))
    w = np.linalg.solve(rho[distance], rho[1:])
    room = min((2**16 - 8 - taps / 2) / np.abs(w).sum(), (2**15 - 1) / np.abs(w).max())
    m = int(np.floor(np.log2(room)))
    shift = min(max(m, 0), 12)
    sigma, tau = (np.float32(np.sqrt(v * kappa + 1 / 12)) for v in (rho[0] - w @ rho[1:], rho[0]))
    found[frame] = np.rint(w * 2.0**min(m, shift)).astype(int), shift, sigma, tau
  return found


def power(mel_M, filters, exponent):
  """A² at each bin; the spline is scipy's."""
  mel_M, filters = mel_M[filters.any(axis=1)], filters[filters.any(axis=1)]
  area, bins, numbers = filters.sum(axis=1), np.arange(filters.shape[1]), np.arange(len(filters))
  beta = np.interp(bins, filters @ bins / area, numbers)
  y = c = mel_M - np.log(area)

  def spline(c):
    curve = scipy.interpolate.CubicSpline(numbers, c, bc_type='natural')
    return np.clip(curve(beta), -25, 25)
  for _ in range(4):
    c = c + y - np.log(filters @ np.exp(spline(c)) / area)
  return np.exp(spline(c) / exponent)**2


def least_error(rho):
  """The least error of any number of taps, by Cholesky; 0 if there is none."""
  try:
    factor = np.linalg.cholesky(scipy.linalg.toeplitz(rho))
  except np.linalg.LinAlgError:
    return 0.0
  return (np.diag(factor)**2).min()


def score(data: bytes, mel_FxM, pcm_T):
  """Logits Tx2x256 of known samples from the start of an utterance, priors included, and h."""
  header, a = read(data)
  c, units, offset = header.mel, header.model.units, 0 if header.mel.center else header.mel.hop // 2
  spectral = header.model.prediction == 'spectral'
  g = frame_gates(header, a, mel_FxM)
  known = predictions(header, mel_FxM) if spectral else {}
  history = np.concatenate([np.zeros(5_000, int), pcm_T])  # silence before
  h, z, logits = np.zeros(units), [0.0] * getattr(header.model, 'residuals', 4), []
  for t in range(len(pcm_T)):
    q = (t - offset) / c.hop
    frame, past, s = int(np.floor(q)), history[:5_000 + t], int(pcm_T[t])
    x = (1 - (q - frame)) * g[frame] + (q - frame) * g[frame + 1]
    if spectral:
      w, shift, sigma, tau = known[int(np.floor((t - offset) / c.hop + 0.5))]
      p = int(w @ past[:-len(w) - 1:-1]) + (2**shift >> 1) >> shift
      p = min(max(p, -2**15), 2**15 - 1)
      code = (s - p) % 2**16
      residual = code - 2**16 * (code >= 2**15)
      byte = residual + 2**15
      v = [*z, *np.abs(z), *np.clip([past[-1] / tau, p / tau], -8, 8)]
      v_c = np.clip((256 * (byte >> 8) - 32640.5) / sigma, -8, 8)
      z = [np.clip(residual / sigma, -8, 8), *z[:-1]]
    else:
      last, byte = past[-1] + 2**15, s + 2**15
      v, v_c = [(2 * b - 255) / 255 for b in (last >> 8, last & 255)], (2 * (byte >> 8) - 255) / 255
    x = (x + v @ a['previous']).reshape(3, units)
    x[:, units // 2:] += v_c * a['coarse']
    u, r = (1 / (1 + np.exp(-(a[f'recurrent.{gate}'] @ h + x[i]))) for i, gate in enumerate('ur'))
    e = np.tanh(r * (a['recurrent.e'] @ h + a.get('recurrent.e.bias', 0)) + x[2])
    h = u * h + (1 - u) * e
    halves = []
    for name, y in zip(('coarse', 'fine'), np.split(h, 2), strict=True):
      layer = f'outputs.{name}'
      hidden = np.maximum(a[f'{layer}.hidden.kernel'] @ y + a[f'{layer}.hidden.bias'], 0)
      halves.append(a[f'{layer}.output.kernel'] @ hidden + a[f'{layer}.output.bias'])
    if spectral:
      slope, value = np.exp(-a['prior'][0]) / sigma, np.arange(256)
      halves[0] += slope * np.where(value >= 128, 256 * (128 - value), 256 * (value - 127) - 1)
      halves[1] += slope * value * (-1 if byte >> 8 >= 128 else 1)
    logits.append(halves)
  return np.array(logits), h
