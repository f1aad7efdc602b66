"""What a recipe will take before anything is bought: days, GPU-hours, dollars and bytes, from a table of measured rates. Neither Ray nor torch."""
