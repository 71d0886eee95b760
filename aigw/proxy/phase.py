"""The phases of an exchange; what a passed deadline or a lost peer means depends on them."""

from enum import Enum


class Phase(Enum):
    """Where an exchange stands."""

    UPLOADING = "the request's body is arriving"
    AWAITING = "the request is complete, no answer yet"
    ANSWERING = "the answer is passing"
    OVER = "finished"
