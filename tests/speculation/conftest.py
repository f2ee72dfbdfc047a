import pytest
from sequence import GREEDY, PROMPT, N

import lsplit_kit as lk


@pytest.fixture(scope="module")
def llama():
    return lk.load("toy-llama")


@pytest.fixture(scope="module")
def ids(llama):
    return llama[1](PROMPT, return_tensors="pt")["input_ids"]


@pytest.fixture(scope="module")
def sequential(llama, ids):
    return llama[0].generate(ids, min_new_tokens=N, **GREEDY)
