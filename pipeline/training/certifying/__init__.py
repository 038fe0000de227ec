"""The certificate of a growth in a run: the grown model beside its source, on held-out text and in float64."""
