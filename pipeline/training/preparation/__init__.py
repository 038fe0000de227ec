"""All that a run needs before its first step; whatever may be refused is refused here."""
