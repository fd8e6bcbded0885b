"""Hooks on the modules of a network that is or will be compiled."""

import torch


def let_compile_see_hooks() -> None:
    """Call after hooks were registered: torch.compile then makes new graphs, and tells networks apart by their hooks.

    By itself it takes hooks for fixed: a network would run without them in the graph of another one of its architecture
    that has none, or in its own of an earlier forward.
    """
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    torch.compiler.reset()
