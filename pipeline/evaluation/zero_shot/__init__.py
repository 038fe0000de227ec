"""Zero-shot tasks: texts, whose perplexity is measured, and passages, whose last word is predicted."""
