"""The small pretrained parts of the shapes world, and the command that remakes them: `python -m ccray.shapes.teachers`.

    vae/         diffusers AutoencoderKL            32 px RGB <-> 4 x 8 x 8 latents
    captioner/   transformers Blip2ForConditionalGeneration with its Blip2Processor
    text/        transformers CLIPTextModel with its tokenizer
    translator/  transformers MarianMTModel with its tokenizer: English captions to Japanese ones

They stand for the models that a large run takes from elsewhere, so they learn from labelled pictures that no catalog holds.
The text encoder knows English words alone: a model that is to draw for Japanese prompts needs another.
"""
