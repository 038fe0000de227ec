"""Fine-tuning on GLUE and SQuAD, in the settings of bert2BERT's Table 2 (Chen et al. 2022)."""
