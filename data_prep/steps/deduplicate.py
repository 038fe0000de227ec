"""Step `deduplicate`: the place of deduplication among the steps."""

from data_prep.steps.base import Step
from data_prep.text.document import Document


class Deduplicate(Step, name="deduplicate"):
    """Deduplication, as `dedupe` and `dedupe_spans` ask for it: steps behind it see only what stays."""

    def __call__(self, document: Document) -> None:
        """Do nothing: which documents are copies is decided with all of them at hand."""
