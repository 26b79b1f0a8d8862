"""`perfxlm.lora.request`: a request can be made, and is refused where it is used."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LoRARequest:
    """An adapter to use; two are equal where their names are.

    Raises:
        ValueError: the id is below 1, or there is no path.
    """

    lora_name: str
    lora_int_id: int = field(compare=False)
    lora_path: str = field(default="", compare=False)
    base_model_name: str | None = field(default=None, compare=False)
    load_inplace: bool = field(default=False, compare=False)
    is_3d_lora_weight: bool = field(default=False, compare=False)
    lora_local_path: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.lora_local_path and not self.lora_path:
            object.__setattr__(self, "lora_path", self.lora_local_path)
        if self.lora_int_id < 1:
            raise ValueError(f"lora_int_id must be at least 1, got {self.lora_int_id}")
        if not self.lora_path:
            raise ValueError("lora_path cannot be empty")

    @property
    def adapter_id(self) -> int:
        """`lora_int_id`."""
        return self.lora_int_id

    @property
    def name(self) -> str:
        """`lora_name`."""
        return self.lora_name

    @property
    def path(self) -> str:
        """`lora_path`."""
        return self.lora_path


__all__ = ["LoRARequest"]
