"""The token store: Parquet parts that know their tokenizer and check their own bytes."""
