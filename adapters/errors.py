"""What can go wrong in the sidecar, as a tree. Every message says what was expected and what to do next.

SidecarError
├── ConfigurationError       a setting or an option cannot be used
├── MissingLibraryError      an optional part of the package is not installed
├── SourceError              a source cannot be opened or read
├── BadFileError             a file has more broken rows than it may have
├── TooFewExamplesError      what is left is too little to learn from
├── StageError               a stage cannot run on what it was given
├── TeacherError             the teacher route did not give usable answers
├── EmbeddingError           the embeddings endpoint did not answer as it should
└── StorageFullError         the disk is full
"""

from __future__ import annotations


class SidecarError(Exception):
    """Anything the sidecar says to its user; the command line prints it without a traceback."""


class ConfigurationError(SidecarError):
    """A setting or an option cannot be used."""


class MissingLibraryError(SidecarError):
    """An optional part of the package is not installed."""

    @classmethod
    def of(cls, library: str, extra: str) -> MissingLibraryError:
        """Name the library and the extra that brings it."""
        return cls(f"{library} is not installed: run `pip install 'tunegate[{extra}]'`")


class SourceError(SidecarError):
    """A source cannot be opened or read."""


class BadFileError(SidecarError):
    """A file has more broken rows than it may have."""


class TooFewExamplesError(SidecarError):
    """What is left is too little to learn from."""


class StageError(SidecarError):
    """A stage cannot run on what it was given."""


class TeacherError(SidecarError):
    """The teacher route did not give usable answers."""


class EmbeddingError(SidecarError):
    """The embeddings endpoint did not answer as it should."""


class StorageFullError(SidecarError):
    """The disk is full."""
