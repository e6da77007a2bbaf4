"""WaveRNN (Kalchbrenner et al., 2018) in JAX."""

import os

# Of many small matrices, which a prediction solves (models/prediction.py), the threads of
# LAPACK only wait for each other: 40 times the work on a busy machine. Set before it is loaded.
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
