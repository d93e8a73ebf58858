"""The exception by which a faster way hands its work to the library it stands in for."""


class NotProvenEqual(Exception):
    """A case in which equal bytes are not proven; the text says why, and the library does the work.

    The text is stored as the result's `because` (see docs/concepts/reports.md).
    """
