"""Operations over the page pool: tensors in, tensors out."""
