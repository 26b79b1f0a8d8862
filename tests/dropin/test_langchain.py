"""LangChain's VLLM class, unmodified, answers through perfxlm."""

import json
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("langchain_program.py")


def test_it_answers(as_vllm, gguf):
    pytest.importorskip("langchain_community")
    found = json.loads(as_vllm(PROGRAM, gguf).splitlines()[-1])
    assert "Paris" in found["answers"][0]
    assert "Tokyo" in found["answers"][1]
    assert [a.partition(".")[0] for a in found["answers"]] == found["both"]
