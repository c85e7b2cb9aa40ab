"""Tables as inputs: rows that name images, or have them: text, Parquet, Arrow, Hugging Face data sets."""
