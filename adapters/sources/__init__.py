"""Where adapters come from: an upload, a directory, the Hugging Face Hub, a bucket."""
