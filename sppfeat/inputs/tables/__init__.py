"""Tables as inputs, whose rows name images or contain them: text, Parquet, Arrow and Hugging Face data sets."""
