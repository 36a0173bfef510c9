"""Process text before it is tokenized: cleaning, words, emphasis, names."""
