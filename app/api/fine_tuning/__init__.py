"""Files and fine-tuning as OpenAI's clients call them, and the training API that trainers call."""
