"""Semi-supervised medical image segmentation on nnU-Net.

This module is imported at every start of the interpreter (see ``_bootstrap.py``): nothing heavy belongs here.
"""

import os.path

TYPE_CHECKING = False  # typing would take more time than all of this
if TYPE_CHECKING:
    from nnunet_ssl.method import Labeled, Method, Now, Unlabeled
    from nnunet_ssl.networks.net import Net, Output
    from nnunet_ssl.networks.teacher import Teacher
    from nnunet_ssl.task import Target, Task
    from nnunet_ssl.training.trainer import SemiSupervisedTrainer

# All that the author of a method imports; each name is fetched from its module when it is first asked for.
__all__ = [
    "Labeled",
    "Method",
    "Net",
    "Now",
    "Output",
    "SemiSupervisedTrainer",
    "Target",
    "Task",
    "Teacher",
    "Unlabeled",
]
_MODULES = {
    "Net": "networks.net",
    "Output": "networks.net",
    "SemiSupervisedTrainer": "training.trainer",
    "Target": "task",
    "Task": "task",
    "Teacher": "networks.teacher",
}

__version__ = "0.1.0"

# A wheel carries trainers/ and dataset_conversion/ inside the package; in a checkout they lie beside it.
if not os.path.isdir(os.path.join(os.path.dirname(__file__), "trainers")):
    __path__.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'method')}"), name)
