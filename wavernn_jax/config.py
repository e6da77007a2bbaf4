"""Configuration dataclasses, the dimension glossary and mel conventions.

Dimension glossary (suffixes of array names, letters of einsums):

  B  batch (crops or utterances)
  T  audio samples (time)
  N  samples of a window around a crop; in free functions, any leading axes
  F  mel frames
  M  mel bands
  X  bins of a spectrum, n_fft/2 + 1
  C  conditioning channels, and those of the context network
  H  hidden units: the first H/2 predict the coarse byte, the rest the fine one
  G  gate pre-activations, G = 3H, ordered u (update), r (reset), e (candidate)
  P  projection width of the output layers
  V  values of a byte, V = 256
  K  numbers that a step hears of the samples before it (models/hearing.py)
  D  known samples of a spectral prediction, at as many offsets (models/prediction.py)
  R  residuals that a step hears; in WaveNet, residual channels between blocks
  S  lanes of a subscale model (the paper's B); lane s holds the samples S·i + s
  I  positions i of a lane, T = S·I
  L  positions that a sampler's context network runs over at once
  W  steps of a fused model: its positions and those by which its lanes are apart
  Q  units of one of its softmaxes, H/(4S)
  E  numbers that a step of a fused model or of WaveNet hears
  U  blocks of WaveNet
  Y  pre-activations of the gates of one of them, Y = 2H; all of them are G = U·Y
  A  past inputs of all blocks that their dilations reach
  J  components of a mixture of logistics
  Z  rows of a batch that are lanes of utterances, Z = S·B

Defaults are the paper's where it gives them; every choice of ours says so.
"""

import dataclasses

from wavernn_jax.errors import InputError


@dataclasses.dataclass
class MelConfig:
  """A mel convention: everything two programs must agree on to share spectrograms.

  A frame is log(max(mel, clamp)) of a Hann-windowed magnitude spectrogram.
  `center` frames are centred on sample f·hop and the audio is padded by
  n_fft/2; otherwise the padding is (n_fft - hop)/2 and frames are centred on
  f·hop + hop/2 (HiFi-GAN's convention).
  """

  name: str = 'wavernn24k'
  sample_rate: int = 24_000  # Hz
  n_fft: int = 2048
  window: int = 1200  # samples
  hop: int = 300  # samples
  bands: int = 80
  fmin: float = 40.0  # Hz
  fmax: float = 12_000.0  # Hz
  power: float = 1.0  # 1: magnitude, 2: power
  power_floor: float = 0.0  # added to |STFT|² before the root (HiFi-GAN: 1e-9)
  mel_scale: str = 'slaney'  # or 'htk'
  mel_norm: str = 'slaney'  # area normalisation; 'none' for unit peaks
  log: str = 'e'  # or '10'
  clamp: float = 1e-5  # in the linear domain
  center: bool = True
  pad_mode: str = 'reflect'  # or 'constant' (zeros)


def _preset(**changes) -> MelConfig:
  return dataclasses.replace(MelConfig(), **changes)


def mel_presets() -> dict[str, MelConfig]:
  """The named conventions.

  Sources: `tacotron2` is NVIDIA/tacotron2's, `hifigan` jik876/hifi-gan's
  config_v1, `parallel_wavegan24k` kan-bayashi/ParallelWaveGAN's and ESPnet's
  24 kHz recipes (before their mean-variance normalisation), `vocos24k`
  charactr/vocos-mel-24khz's, `matcha` shivammehta25/Matcha-TTS's for LJSpeech,
  which is HiFi-GAN's (before its normalisation by mel_mean and mel_std).
  """
  presets = (
      MelConfig(),
      _preset(name='tacotron2', sample_rate=22_050, n_fft=1024, window=1024,
              hop=256, fmin=0.0, fmax=8_000.0),
      _preset(name='hifigan', sample_rate=22_050, n_fft=1024, window=1024,
              hop=256, fmin=0.0, fmax=8_000.0, power_floor=1e-9, center=False),
      _preset(name='parallel_wavegan24k', fmin=80.0, fmax=7_600.0, log='10',
              clamp=1e-10),
      _preset(name='vocos24k', n_fft=1024, window=1024, hop=256, bands=100, fmin=0.0,
              mel_scale='htk', mel_norm='none', clamp=1e-7),
  )
  presets += (dataclasses.replace(presets[2], name='matcha'),)
  return {p.name: p for p in presets}


def mel_preset(name: str) -> MelConfig:
  """One of `mel_presets`.

  Raises:
    InputError: if there is no such preset.
  """
  presets = mel_presets()
  if name not in presets:
    raise InputError(
        f'mel convention {name!r} is unknown; expected one of '
        f'{sorted(presets)}, or set the fields of config.mel one by one.')
  return presets[name]


@dataclasses.dataclass
class DataConfig:
  """Where audio comes from and how crops are read."""

  dir: str = ''  # folders train/valid/test, or one folder split by name hash
  mels: str = 'audio'  # 'audio': computed; 'paired': STEM.npy beside STEM.wav
  valid_fraction: float = 0.05  # of the files, when one folder is split
  test_fraction: float = 0.05
  skip_bad: bool = False  # leave out unusable files instead of stopping
  check: bool = True  # decode every file once before training
  workers: int = 0  # loader processes; 0 reads in threads of this process
  cache_mb: int = 2048  # a corpus that fits is held decoded when workers == 0


@dataclasses.dataclass
class ModelConfig:
  """§2. The conditioning network is our choice: the paper does not give one.

  §4 gives the subscale fields but not their sizes; those of the context network
  are ours (models/context.py).
  """

  kind: str = 'wavernn'  # or 'subscale', 'fused', 'wavenet'
  units: int = 896  # H, even
  projection: int = 448  # P; the paper does not give it: half of H
  channels: int = 128  # C
  layers: int = 3  # convolutions of the conditioning stack
  kernel: int = 3  # frames, odd
  output: str = 'dual_softmax'  # §2; 'mixture': of J logistics, of kind wavernn only
  compute_dtype: str = 'float32'  # or 'bfloat16': matmul inputs; float32 sums
  activations: str = 'float32'  # or 'int8': h and the relu's outputs in 8 bits; wavernn only
  prediction: str = 'none'  # the paper; 'spectral': code the residual of models/prediction.py
  taps: int = 192  # D: past samples that a spectral prediction uses
  taps_ahead: int = 48  # samples ahead that lanes know besides, where F allows
  residuals: int = 4  # R: past ones that a step of kind wavernn hears, and their sizes
  reset_bias: bool = False  # b in e = tanh(r ∘ (R_e h + b) + x_e), which other GRUs have
  lanes: int = 1  # S; subscale and fused only
  horizon: int = 0  # F of §4: how many positions ahead a lane sees the lanes before it
  context_layers: int = 6  # dilated layers after the first; subscale only, as all below
  context_channels: int = 128
  context_kernel: int = 5  # positions of the first layer, odd
  context_block: int = 50  # L: positions of a block of the sampler
  blocks: int = 30  # U, paper; WaveNet only, as all below; H are units of a block
  cycles: int = 3  # paper: dilations 1, 2, .. 512 three times
  residual: int = 512  # R; the paper does not give its channels
  skip: int = 256  # channels into the output layer
  mixtures: int = 10  # J, of output 'mixture', too


@dataclasses.dataclass
class OptimizerConfig:
  """Adam. The paper gives neither optimiser, batch nor learning rate."""

  learning_rate: float = 1e-3
  final_learning_rate: float = 1e-5
  warmup_steps: int = 500
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  clip_norm: float = 1.0  # global gradient norm
  ema_decay: float = 0.999  # of the weights that are evaluated and synthesised


@dataclasses.dataclass
class PruningConfig:
  """§3. Sparsities are final zero fractions; 0 leaves a matrix dense."""

  recurrent: float = 0.0  # of each of R_u, R_r, R_e
  hidden: float = 0.0  # of O_1 and O_3
  output: float = 0.0  # of O_2 and O_4
  conditioning: float = 0.0  # of the maps from conditioning and context (§4) to gate inputs
  block_outputs: int = 16  # 16×1: sixteen outputs of one input
  block_inputs: int = 1
  start: int = 1_000  # t0, paper
  steps: int = 200_000  # S, paper
  interval: int = 500  # steps between updates of the masks, paper
  regrow: bool = False  # pruned weights keep their values, so that a block may come back


@dataclasses.dataclass
class TrainConfig:
  steps: int = 500_000  # paper
  batch: int = 32  # crops of an update, over all devices together
  accumulate: int = 1  # micro-batches that an update is computed in: saves memory
  crop: int = 960  # samples, paper
  burn_in: int = 0  # first samples of a crop that carry no loss
  input_noise: float = 0.0  # std of noise on the inputs c, f in [-1, 1]
  flip_polarity: bool = False  # inverts a random half of the crops
  seed: int = 0
  log_every: int = 50  # steps
  eval_every: int = 2_000  # steps; also writes TensorBoard audio
  save_every: int = 1_000  # steps
  keep: int = 3  # last checkpoints; the best one by valid NLL is kept, too


@dataclasses.dataclass
class EvaluationConfig:
  batch: int = 16  # utterances
  block_frames: int = 16  # frames of an evaluation or synthesis block
  max_valid_utterances: int = 0  # during training; 0: all
  synthesize: int = 2  # valid utterances synthesised at each evaluation
  synthesize_seconds: float = 3.0  # of each of them
  bootstrap: int = 2_000  # resamplings of utterances
  free_running: int = 16  # utterances of --mode=evaluate that are synthesised too


@dataclasses.dataclass
class Config:
  model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
  mel: MelConfig = dataclasses.field(default_factory=MelConfig)
  data: DataConfig = dataclasses.field(default_factory=DataConfig)
  optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
  pruning: PruningConfig = dataclasses.field(default_factory=PruningConfig)
  train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
  evaluation: EvaluationConfig = dataclasses.field(
      default_factory=EvaluationConfig)
  init_from: str = ''  # a run or an export whose weights start this run (fine-tuning)


def to_dict(config) -> dict:
  """A configuration as nested dicts, for JSON."""
  return dataclasses.asdict(config)


def from_dict(values: dict, kind=Config, where: str = 'config'):
  """The configuration that `to_dict` gave; fields added since then get their defaults.

  Raises:
    InputError: naming fields that do not exist or have another type.
  """
  if not isinstance(values, dict):
    raise InputError(f'{where}: found {values!r}, expected an object with fields.')
  unknown = sorted(set(values) - {f.name for f in dataclasses.fields(kind)})
  if unknown:
    raise InputError(f'{where}: has the unknown fields {unknown}; was it written by a newer '
                     'version? Then use that one.')
  default = kind()
  return kind(**{
      name: from_dict(value, type(getattr(default, name)), f'{where}.{name}')
            if dataclasses.is_dataclass(getattr(default, name))
            else _of_type(value, type(getattr(default, name)), f'{where}.{name}')
      for name, value in values.items()})


def _of_type(value, kind: type, where: str):
  """The value, if it has the type of a field; a whole number will do for a float."""
  exact = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
  whole = kind is float and isinstance(value, int) and not isinstance(value, bool)
  if not (exact or whole) or (kind in (int, float) and not abs(value) < 2**63):
    raise InputError(f'{where}: found {str(value)[:80]!r}, expected {kind.__name__}.')
  return value


def differences(a: dict, b: dict, where: str = 'config') -> dict[str, tuple]:
  """The fields in which two results of `to_dict` differ: name -> (in a, in b)."""
  found = {}
  for key in {**a, **b}:
    name, left, right = f'{where}.{key}', a.get(key), b.get(key)
    if isinstance(left, dict) and isinstance(right, dict):
      found |= differences(left, right, name)
    elif left != right:
      found[name] = (left, right)
  return found
