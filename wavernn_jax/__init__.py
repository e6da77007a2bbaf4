"""WaveRNN (Kalchbrenner et al., 2018) in JAX."""

import os

# Of many small matrices, which a prediction solves (models/prediction.py), the threads of
# LAPACK wait for each other: on a busy machine 0.9 s instead of 0.03 s of processor time an
# update of 16 lanes. Set before it is loaded.
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
