"""`perfxlm.distributed.parallel_state`: programs tear down what was never set up."""


def destroy_model_parallel() -> None:
    """Nothing: there are no process groups."""


def destroy_distributed_environment() -> None:
    """Nothing: there are no process groups."""


def cleanup_dist_env_and_memory(shutdown_ray: bool = False) -> None:
    """Nothing: an `LLM` gives its memory back when it is deleted."""


def get_tensor_model_parallel_world_size() -> int:
    """1."""
    return 1


def get_tensor_model_parallel_rank() -> int:
    """0."""
    return 0
