import pytest
import torch

from .tiny import MODELS, make


@pytest.fixture(scope="session", autouse=True)
def _few_threads():
    """Our own threads spin between steps; torch's would fight them for the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", params=MODELS)
def tiny(request, tmp_path_factory):
    """Each of the small models, made once."""
    return make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    """A plain Llama."""
    return make("llama", tmp_path_factory.mktemp("plain"))
