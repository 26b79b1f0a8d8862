"""The chat page: files that the server hands out as they are."""

from perfxlm_core.serve.page.files import File, files, routes

__all__ = ["File", "files", "routes"]
