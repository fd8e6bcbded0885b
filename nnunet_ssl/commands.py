"""The commands of this Python environment."""

import os
import shutil
import sysconfig

from nnunet_ssl.errors import InputError


def find_command(name: str) -> str:
    """The path of a command such as `nnUNetv2_train` of this environment, whatever the caller's PATH says.

    Raises:
        InputError: it is not installed here.
    """
    scripts = sysconfig.get_path("scripts")
    found = shutil.which(name, path=os.pathsep.join((scripts, os.environ.get("PATH", ""))))
    if found is None:
        raise InputError(f"The command {name} is not in {scripts}: install nnunet-ssl with pip in this environment.")
    return found
