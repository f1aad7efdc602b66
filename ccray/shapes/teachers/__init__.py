"""The three small pretrained parts of the shapes world, and the command that remakes them: `python -m ccray.shapes.teachers`.

    vae/         diffusers AutoencoderKL            32 px RGB <-> 4 x 8 x 8 latents
    captioner/   transformers Blip2ForConditionalGeneration with its Blip2Processor
    text/        transformers CLIPTextModel with its tokenizer

They stand for the models that a large run takes from elsewhere, so they learn from labelled pictures that no catalog holds.
"""
