"""Semi-supervised medical image segmentation on nnU-Net.

This module is imported at every start of the interpreter (see ``_bootstrap.py``): nothing heavy belongs here.
"""

import os.path

__version__ = "0.1.0"

# A wheel carries trainers/ and dataset_conversion/ inside the package; in a checkout they lie beside it.
if not os.path.isdir(os.path.join(os.path.dirname(__file__), "trainers")):
    __path__.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
