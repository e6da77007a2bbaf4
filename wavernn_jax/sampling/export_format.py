"""The file of an export, format 4: this page is all that a program needs to speak from one.

File. safetensors: the length N of the JSON header as 8 bytes, N bytes of JSON, the
tensors; numbers are little-endian. 8 + N and the place of each tensor in the file are
multiples of 64: the JSON ends in spaces, and tensors `padding.1`, `padding.3`, .. (U8)
stand between those whose sizes are not. `__metadata__` holds two texts:

  sha256   64 hexadecimal digits: SHA-256 of the whole file with 0 in place of each digit
  header   a JSON object, see below

A reader refuses a greater `version` and ignores fields and tensors that it does not know.
Version 3 had another p̂, and is the same with "none". Versions 1 and 2 (which had `config` for
`model`, an int8 scale for each block row, and another checksum) are read by export_checks.py.

Header
  format       "wavernn-jax"
  version      4
  weights      type of the packed matrices: "float32", "bfloat16" or "int8"
  block        [b_o, b_n]: outputs and inputs of a block, [16, 1] or [4, 4]
  parameters   weights that are not pruned
  sample_rate  Hz, that of mel
  model        kind         "wavernn"; "subscale" and "fused" have more fields and tensors:
                            models/subscale.py, models/context.py, models/fused.py
               units        H, even: the first H/2, coarse, predict the high byte of a
                            sample, the others, fine, the low byte
               projection   P
               channels     C      layers  L      kernel  k, odd
               prediction   "none" or "spectral"; of the latter taps, D, with lanes taps_ahead,
                            and without them residuals, R; 4 where it is absent
               reset_bias   whether R_e has a bias; false where it is absent
               compute_dtype   "float32", or "bfloat16": the inputs of all products were
                            rounded so in training, sums are float32. The sampler of XLA
                            does the same, the others here do not round: either will do
               activations  "float32", or "int8": the inputs of R and O_1 .. O_4 were rounded in
                            training, h to multiples of 1/127, relu(..) to those of its
                            greatest / 127. XLA's sampler and runtime/ with int8 weights
                            round, the others do not: either will do. "float32" where absent
  mel          of which spectrograms are (config.MelConfig): band b of frame f is
               log(max(Σ_k M_bk (|X_f[k]|² + power_floor)^(power/2), clamp)), log of base
               e or 10 by `log`; X: n_fft points of samples in [−1, 1] under a periodic
               Hann window of `window`; M: librosa.filters.mel (bands, fmin, fmax,
               mel_scale, mel_norm), float32. Frame f is centred on sample hop·f + o,
               o = 0 where `center`, else hop/2. pad_mode: beyond the ends of a recording

Tensors, beside the packed matrices F32. Those have their outputs first, [O, N]:
  recurrent.u|r|e                     [H, H]    R_u, R_r, R_e
  outputs.coarse|fine.hidden.kernel   [P, H/2]  O_1, O_3
  outputs.coarse|fine.output.kernel   [256, P]  O_2, O_4
  conditioning.gates.kernel           [3H, C]   W_g, its outputs: gates u, r, e
  context.gates.kernel                of subscale models
Each, NAME, is four tensors; there are O/b_o block rows and K blocks in all:
  NAME.offsets   U32 [O/b_o + 1]   row r has the blocks offsets[r] .. offsets[r + 1] − 1
  NAME.indices   U16 [K]           their block columns, growing in a row; U32 beyond 65536
  NAME.values    F32|BF16|I8 [K, 16]   weights of a block, outputs outermost
  NAME.scales    F32 [O]           I8 alone: weight = value · scale of its output
With "int8" conditioning.gates.kernel is BF16. Other tensors have their inputs first:
  conditioning.layers.0.kernel        [k·M, C]  W_1; layers.l.kernel [k·C, C]; frames outermost
  conditioning.layers.l.bias          [C]       b_1 ..
  conditioning.gates.bias             [3H]      b_g
  previous                            [n, 3H]   V, on all units: n inputs v; u, r, e side by side
  coarse                              [3, H/2]  V_c, of c_t on the fine units, by gate
  recurrent.e.bias                    [H]       b, with reset_bias
  outputs.coarse|fine.hidden.bias     [P]       a_1, a_3
  outputs.coarse|fine.output.bias     [256]     a_2, a_4
  prior                               [1]       π, with "spectral"

At each frame, those outside the utterance being log(clamp) in every band, with
φ = −log(clamp)/2 and j = (k − 1)/2:

  y⁰ = (mel + φ) · 2/φ
  y¹_f = relu(W_1 [y⁰_{f−j} .. y⁰_{f+j}] + b_1)
  yˡ_f = yˡ⁻¹_f + relu(W_l [yˡ⁻¹_{f−j} .. yˡ⁻¹_{f+j}] + b_l),  l = 2 .. L
  g_f = W_g yᴸ_f + b_g

At sample t = 0, 1, .. with q = (t − o)/hop, f = ⌊q⌋ (−1 and more), a = q − f, and for a
byte β(c) = (2c − 255)/255:

  x = (1 − a) g_f + a g_{f+1} + v V;  on the fine units also + v_c V_c
  u = σ(R_u h_{t−1} + x_u)    r = σ(R_r h_{t−1} + x_r)
  e = tanh(r ∘ (R_e h_{t−1} + b) + x_e)
  h_t = u ∘ h_{t−1} + (1 − u) ∘ e
  P(c_t) = softmax(O_2 relu(O_1 h_t[:H/2] + a_1) + a_2 + prior_c)
  P(f_t) = softmax(O_4 relu(O_3 h_t[H/2:] + a_3) + a_4 + prior_f)

The coarse half of h_t comes first and c_t is drawn from it, then the fine half, from the
same h_{t−1}. h_{−1} = 0. A temperature divides the logits, priors included.

"none": the sample is s_t = 256 c_t + f_t − 2¹⁵. v = β(c_{t−1}), β(f_{t−1}) and v_c = β(c_t);
before the first sample c = 128, f = 0. No priors.

"spectral": x_t = 256 c_t + f_t − 2¹⁵ is drawn of s_t = clip(p̂_t + x_t) to 16 bits. 2R + 2 inputs
v = z_1 .. z_R, |z_1| .. |z_R|, ⟨s_{t−1} / τ_t⟩, ⟨p̂_t / τ_t⟩, where ⟨ ⟩ is clipped to −8 .. 8 and
z_i = ⟨(s_{t−i} − p̂_{t−i}) / σ_{t−i}⟩ of the difference modulo 2¹⁶, an int16; and
v_c = ⟨(256 c_t − 32640.5) / σ_t⟩. Before the first sample s, p̂ and z are 0. With λ = exp(−π)/σ_t,

  prior_c[c] = λ · 256 (128 − c) if c ≥ 128, else λ · (256 (c − 127) − 1)
  prior_f[f] = −λ f if c_t ≥ 128, else λ f

p̂_t, σ_t, τ_t are of frame ν = ⌊(t − o)/hop + 1/2⌋, or of ν − 1 where all bands of ν are at
log(clamp), to 1e−6. In float64:

  area_b = Σ_k M_bk;  centre_b = Σ_k k M_bk / area_b;  bands without a bin are left out
  β_k: the number 0, 1, .. of a bin among the bands: linear between centres, outside constant
  S(c)_k: the natural cubic spline through c_0, c_1, .. at 0, 1, .., taken at β_k, clipped to
      −25 .. 25
  y_b = ln-mel_b − ln area_b, and four times, from c = y:
      c_b ← c_b + y_b − ln Σ_k M_bk / area_b · exp(S(c)_k), all b at once
  A_k = exp(S(c)_k / power)
  ρ_n = irfft(A²)_n · exp(−(2π · 5 n / sample_rate)² / 2), n = 0 .. D;  ρ_0 · (1 + 1e−5)
  ρ_n is multiplied with min(4, Σ_t hann_t² / Σ_t hann_t hann_{t+n}), but not in a frame where
      that makes v of 1, 2, .. or D taps less than 5e−6 ρ_0
  Σ_j ρ_|i−j| w_j = ρ_i, i = 1 .. D;  v = ρ_0 − Σ_j w_j ρ_j     (Levinson-Durbin)
  σ = √(v · κ + 1/12), τ = √(ρ_0 · κ + 1/12), float32; κ = 2³⁰ / Σ hann(window)²
  m = ⌊log2 min((2¹⁶ − 8 − D/2) / Σ|w|, (2¹⁵ − 1) / max|w|)⌋;  shift = clip(m, 0, 12)
  w̃_j = w_j · 2^min(m, shift), rounded to the nearest integer, halves to even
  p̂_t = clip((Σ_j w̃_j s_{t−j} + ⌊2^(shift − 1)⌋) >> shift) to 16 bits; int32 suffices
"""

import hashlib
import json

import ml_dtypes
import numpy as np
import safetensors

FORMAT, VERSION = 'wavernn-jax', 4
ALIGNMENT = 64  # bytes
PADDING = 'padding.'
_NO_DIGEST = '0' * 64
_NAMES = {np.dtype(t): name for t, name in (
    (np.float32, 'F32'), (ml_dtypes.bfloat16, 'BF16'), (np.int8, 'I8'), (np.uint16, 'U16'),
    (np.uint32, 'U32'))}


def to_bytes(header: dict, tensors: dict[str, np.ndarray]) -> bytes:
  """The file of a header and tensors."""
  text = json.dumps({'format': FORMAT, 'version': VERSION} | header)
  entries, pieces, at = {'__metadata__': {'sha256': _NO_DIGEST, 'header': text}}, [], 0

  def add(name, dtype, shape, data):
    nonlocal at
    entries[name] = {'dtype': dtype, 'shape': shape, 'data_offsets': [at, at + len(data)]}
    pieces.append(data)
    at += len(data)

  for name, array in sorted(tensors.items()):
    add(name, _NAMES[array.dtype], array.shape, array.tobytes())
    if gap := -at % ALIGNMENT:
      add(f'{PADDING}{len(pieces)}', 'U8', [gap], bytes(gap))
  found = json.dumps(entries, separators=(',', ':')).encode()
  found += b' ' * (-(8 + len(found)) % ALIGNMENT)
  data = b''.join([len(found).to_bytes(8, 'little'), found, *pieces])
  return data.replace(_NO_DIGEST.encode(), digest(data, _NO_DIGEST).encode(), 1)


def digest(data: bytes, digits: str) -> str:
  """`sha256` of a file in which these digits stand for it."""
  return hashlib.sha256(data.replace(digits.encode(), _NO_DIGEST.encode(), 1)).hexdigest()


def from_bytes(data: bytes) -> tuple[dict, dict]:
  """Header and tensors (dicts of dtype, shape and data by name) of a file of any version.

  Raises:
    ValueError, RecursionError, SafetensorError: if it is damaged, of something else or
      of a newer version.
  """
  tensors = dict(safetensors.deserialize(data))
  start = 8 + int.from_bytes(data[:8], 'little')
  metadata = json.loads(data[8:start]).get('__metadata__') or {}
  if 'header' not in metadata:
    raise ValueError('has no entry `header` in its metadata')
  header = json.loads(metadata['header'])
  if not isinstance(header, dict) or header.get('format') != FORMAT:
    raise ValueError(f'its header does not say that its format is {FORMAT!r}')
  version = header.get('version')
  if type(version) is not int or version < 1:
    raise ValueError(f'its format version is {version!r}, expected 1..{VERSION}')
  if version > VERSION:
    raise ValueError(f'is of format version {version}, newer than {VERSION}, the last that '
                     'this program knows: update the program')
  digits = metadata.get('sha256', '')
  expected = digest(data, digits) if version > 2 else _old_digest(metadata['header'], tensors)
  if len(digits) != len(expected) or digits != expected:
    raise ValueError('its checksum is of other contents: it is damaged or was changed')
  return header, tensors


def _old_digest(text: str, tensors: dict) -> str:
  """Of versions 1 and 2: of the header, then of the data of all tensors by name."""
  found = hashlib.sha256(text.encode())
  for name in sorted(tensors):
    found.update(tensors[name]['data'])
  return found.hexdigest()
