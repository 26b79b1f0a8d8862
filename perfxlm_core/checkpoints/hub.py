"""Models of the Hugging Face hub: from huggingface_hub's own cache, else fetched into it."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from pathlib import Path

from perfxlm_core.errors import ModelError

_PATTERNS = ["*.json", "*.safetensors", "*.jinja", "additional_chat_templates/*", "LICENSE*"]
_IGNORED = ["*/*.safetensors", "consolidated*", "onnx/*", "original/*"]


def model_of_repository(
    repo: str, tag: str | None, revision: str | None, progress: Callable[[str], None]
) -> Path:
    """The folder of a repository, or one GGUF file of it.

    Args:
        repo: `org/name`.
        tag: Part of a GGUF file's name, such as `Q4_K_M`; None for the safetensors folder, or for
            the GGUF file of a repository that has only one.
        revision: Branch, tag or commit.
        progress: Called with one line before anything is fetched.

    Raises:
        ModelError: it is neither cached nor to be fetched.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise ModelError(
            f"model {repo!r}: no such path, and huggingface_hub is not installed to fetch it; "
            "run: pip install huggingface_hub"
        ) from error
    cached = _cached(repo, tag, revision)
    if cached is not None:
        return cached
    progress(f"fetching {repo} from the Hugging Face hub")
    try:
        if tag is None and not _is_gguf_only(repo, revision):
            return Path(
                huggingface_hub.snapshot_download(
                    repo, revision=revision, allow_patterns=_PATTERNS, ignore_patterns=_IGNORED
                )
            )
        files = huggingface_hub.list_repo_files(repo, revision=revision)
        name = choose_gguf(repo, files, tag)
        return Path(huggingface_hub.hf_hub_download(repo, name, revision=revision))
    except ModelError:
        raise
    except Exception as error:  # network, authorization, missing repository: many types
        raise ModelError(
            f"model {repo!r}: no such path, not in the Hugging Face cache, and it could not be "
            f"fetched: {type(error).__name__}: {_first_line(error)}; check the name, the network "
            "and, for gated models, `hf auth login`"
        ) from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no details")


def _is_gguf_only(repo: str, revision: str | None) -> bool:
    import huggingface_hub

    files = huggingface_hub.list_repo_files(repo, revision=revision)
    return not fnmatch.filter(files, "*.safetensors") and bool(fnmatch.filter(files, "*.gguf"))


def _cached(repo: str, tag: str | None, revision: str | None) -> Path | None:
    """The model in the local cache, if it is complete there."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(
            huggingface_hub.snapshot_download(repo, revision=revision, local_files_only=True)
        )
    except (LocalEntryNotFoundError, ValueError):
        return None
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.gguf")]
    if tag is None and _is_complete(folder):
        return folder
    if names and (tag is not None or len(names) == 1):
        matching = _matching(names, tag)
        return folder / matching[0] if len(matching) == 1 else None
    return None


def _is_complete(folder: Path) -> bool:
    """Whether configuration and all listed weights are there."""
    from perfxlm_core.checkpoints.json_file import read_json
    from perfxlm_core.checkpoints.safetensors import INDEX

    if not (folder / "config.json").exists():
        return False
    placed = read_json(folder / INDEX).get("weight_map")
    if not isinstance(placed, dict):
        return (folder / "model.safetensors").exists()
    return all((folder / str(shard)).exists() for shard in set(placed.values()))


def _matching(names: Sequence[str], tag: str | None) -> list[str]:
    """GGUF files whose name ends with the tag, whatever its case."""
    files = [name for name in names if name.lower().endswith(".gguf")]
    if tag is None:
        return files
    wanted = tag.lower().removesuffix(".gguf")
    stems = {name: name.lower().rsplit("/", 1)[-1].removesuffix(".gguf") for name in files}
    return [
        name
        for name, stem in stems.items()
        if stem == wanted or stem.endswith(("-" + wanted, "." + wanted, "_" + wanted))
    ]


def choose_gguf(repo: str, files: Sequence[str], tag: str | None) -> str:
    """The one GGUF file of a repository that a tag means.

    Raises:
        ModelError: no file or several files match; the message lists what there is.
    """
    found = _matching(files, tag)
    if len(found) == 1:
        return found[0]
    listed = ", ".join(_matching(files, None)) or "no GGUF file at all"
    problem = "several GGUF files" if found else "no GGUF file"
    suffix = f" called {tag}" if tag is not None else ""
    raise ModelError(
        f"model {repo!r}: the repository has {problem}{suffix}; it has: {listed}; "
        f"name one as {repo}:TAG, for instance {repo}:Q4_K_M"
    )
