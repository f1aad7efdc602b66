"""What each figure of metrics.json means; the report and the model card print these sentences."""

DEFINITIONS = {
    "caption_exact_match": "Share of the catalog's images whose telephoned caption is, word for word, the caption of the scene they were drawn from; of several captioners the recipe's first.",
    "prompt_fidelity": "Share of pictures in which a pixel oracle (no network) finds what the prompt says, attribute by attribute; `all`: all five at once.",
    "prompt_fidelity_mean": "Mean of the five attributes' fidelity.",
    "untrained": "The same figures for the same model before training, with the same noise.",
    "shuffled": "The same pictures scored against other prompts: what is left when picture and prompt have nothing to do with each other.",
    "chance": "Expected figures of true pictures of unrelated prompts.",
    "ceiling": "The same figures for true pictures of the prompts after the VAE's encoder and decoder.",
    "frechet_distance": "Fréchet distance of feature Gaussians between the pictures and real images; 0 is equal. Falls as the number of pictures grows.",
    "kernel_distance": "Unbiased squared maximum mean discrepancy with a cubic kernel (as KID) between the features of the pictures and of real images; around 0 is equal.",
}

# Of `captioners`, a table by itself: the report alone prints it.
CAPTIONERS = (
    "By captioner, over all its captions of the catalog's images in a language of the shapes world: the share that are, word for word, what the scene "
    "is called in that language; the share that tell each attribute right, and all five at once (with two things, of both); the share flagged. "
    "A flagged caption counts as wrong in every figure, as does one that is no sentence of the grammar."
)
