"""What is derived from an operator's annotations, and the form that all operators share."""

import inspect
import pickle
from typing import Annotated

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfxlm_core import ops
from perfxlm_core.errors import OperatorError
from perfxlm_core.ops.spec import Op, TensorType, op
from perfxlm_core.ops.types import I32, Array, Dim, T, W, concrete

OPERATORS = {n: getattr(ops, n) for n in ops.__all__ if isinstance(getattr(ops, n), Op)}
GLOSSARY = {
    "tokens", "seqs", "rows", "rows_in", "hidden", "heads", "kv_heads", "head_dim", "v_head_dim",
    "half", "blocks", "block_size", "max_blocks", "vocab", "in_features", "out_features", "*batch",
    "k", "q_features", "k_features", "v_features",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_every_operator_is_documented_and_uses_known_words(name: str) -> None:
    operator = OPERATORS[name]
    assert operator.name == name
    doc = inspect.getdoc(operator) or ""
    assert "Source:" in doc
    words = {w.removesuffix("+1") for p in (*operator.params, *operator.outputs) for w in p.dims}
    assert words - {"..."} <= GLOSSARY, words - GLOSSARY
    assert pickle.loads(pickle.dumps(operator)) is operator
    assert set(operator.tolerance) >= {"float32"}


def test_all_is_sorted_and_complete() -> None:
    assert list(ops.__all__) == sorted(ops.__all__)
    public = {n for n, v in vars(ops).items() if isinstance(v, Op)}
    assert public == set(OPERATORS)


def test_messages_say_what_was_wanted() -> None:
    x = np.ones((3, 4), np.float32)
    with pytest.raises(
        OperatorError, match=r"rms_norm: weight has shape \(5,\), want 'hidden' = 4"
    ):
        ops.rms_norm(x, np.ones(5, np.float32))
    with pytest.raises(OperatorError, match="rms_norm: x has dtype int32, want float64, float32"):
        ops.rms_norm(x.astype(np.int32), np.ones(4, np.float32))
    with pytest.raises(OperatorError, match="weight has dtype float16, but T is float32 here"):
        ops.rms_norm(x, np.ones(4, np.float16))
    with pytest.raises(OperatorError, match="missing a required argument: 'weight'"):
        ops.rms_norm(x)  # type: ignore[call-arg]
    with pytest.raises(OperatorError, match=r"rms_norm: .*unexpected keyword argument 'epsilon'"):
        ops.rms_norm(x, x[0], epsilon=1.0)  # type: ignore[call-arg]


def test_a_leading_one_is_checked() -> None:
    q, cache = np.zeros((2, 3, 4), np.float32), np.zeros((1, 4, 2, 4), np.float32)
    ints = np.zeros(2, np.int32)
    with pytest.raises(OperatorError, match="heads=3 is not a multiple of kv_heads=2"):
        ops.paged_attention(q, cache, cache, ints[None], ints[:1], ints)
    with pytest.raises(OperatorError, match=r"query_starts has shape \(3,\), want 'seqs\+1' = 2"):
        ops.paged_attention(
            np.zeros((2, 2, 4), np.float32), cache, cache, ints[None], ints[:1],
            np.zeros(3, np.int32),
        )  # fmt: skip


@given(
    st.lists(st.integers(1, 5), max_size=3),
    st.integers(1, 9),
    st.sampled_from(["float32", "float16"]),
)
def test_inferred_types_are_the_real_ones(batch: list[int], hidden: int, dtype: str) -> None:
    x, w = np.ones((*batch, hidden), dtype), np.ones(hidden, dtype)
    (kind,) = ops.rms_norm.infer(
        {"x": TensorType(x.shape, dtype), "weight": TensorType(w.shape, dtype)}, {"eps": 1e-6}
    )
    out = ops.rms_norm(x, w)
    assert (kind.shape, kind.dtype) == (out.shape, out.dtype.name)


def test_symbols_flow_through_inference() -> None:
    tokens = Dim.symbol("tokens")
    types = {
        "x": TensorType((tokens, 8), "float32"),
        "weight": TensorType((6, 8), "q4_1"),
        "bias": None,
    }
    (kind,) = ops.linear.infer(types, {"exact": True})
    assert kind == TensorType((tokens, 6), "float32")
    (kind,) = ops.reshape.infer({"x": kind}, {"shape": (-1, 3, 2)})
    assert kind.shape == (tokens, 3, 2)
    (kind,) = ops.reshape.infer({"x": kind}, {"shape": (-1, 2)})
    assert kind.shape == (tokens * 3, 2)
    assert concrete(kind.shape, {"tokens": 5}) == (15, 2)


def test_annotations_are_checked_when_an_operator_is_made() -> None:
    with pytest.raises(TypeError, match="must be an annotated array or keyword-only"):

        @op()
        def wrong(x: int) -> Annotated[Array, "hidden", T]:
            """No."""
            return np.zeros(x)

    with pytest.raises(TypeError, match="annotation must be"):

        @op()
        def worse(x: Annotated[Array, "hidden!", T]) -> Annotated[Array, "hidden", T]:
            """No."""
            return x


def test_weights_may_have_any_format() -> None:
    assert W.accepts("q4_1")
    assert not T.accepts("q4_1")
    assert not I32.accepts("int64")


@given(st.integers(-3, 3), st.integers(-3, 3), st.integers(0, 50))
def test_dimensions_compute_like_integers(a: int, b: int, n: int) -> None:
    expression = Dim.symbol("n") * a + b
    value = expression.value({"n": n}) if isinstance(expression, Dim) else expression
    assert value == a * n + b
