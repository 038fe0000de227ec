"""From texts to ids, in arrays: by a fast library where it gives Hugging Face's ids, by Hugging Face's own where not."""
