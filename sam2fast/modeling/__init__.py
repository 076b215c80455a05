"""The SAM 2 model: image encoder, prompt encoder, mask decoder, memory attention, memory encoder."""
