"""The models that describe pictures, and those that translate descriptions, by family; transformers does the modelling."""
