"""Where tests marked `gpu` run: on a GPU if there is one, else on the CPU as far as it can."""

import pytest
import torch

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
LONG_ON_CPU = () if ON_GPU else pytest.mark.long
needs_gpu = pytest.mark.skipif(not ON_GPU, reason="there is no GPU")
