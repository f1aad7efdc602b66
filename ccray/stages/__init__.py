"""The Ray floor: one file a stage, each `run(recipe, root)`. Stages never import each other; they meet through storage."""
