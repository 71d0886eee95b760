"""How providers differ: which header carries a credential, and how an error looks.  Pure."""

from aigw.dialects.base import DIALECTS, Dialect, credential_line, error_body

__all__ = ["DIALECTS", "Dialect", "credential_line", "error_body"]
