"""What becomes of images that somebody asks about: takedowns, who holds them, purging, and where each went. Neither Ray nor torch."""
